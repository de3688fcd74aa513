"""Parts of diffusers' networks that a tracer would freeze to its example, in a form that holds for any number of rows.

Chroma's embedding of times makes its column of zeros of a Python list, `torch.tensor([0] * batch_size)`: a constant to
a tracer, as long as the example's batch. Converted from one row and given two, OpenVINO answered with wrong numbers.
"""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_chroma import ChromaCombinedTimestepTextProjEmbeddings
from torch import Tensor, nn


class OfAnyNumber(ChromaCombinedTimestepTextProjEmbeddings):  # type: ignore[misc]
    """diffusers' embedding, (batch,) to (batch, modulations, width), of no constant but the table of modulations."""

    def forward(self, timestep: Tensor) -> Tensor:
        times, zeros = self.time_proj(timestep), self.guidance_proj(torch.zeros_like(timestep))
        table = self.mod_proj.to(times)  # below, `len(timestep)` would be a constant to a tracer too
        told = torch.cat([times, zeros], dim=1).unsqueeze(1).expand(-1, len(table), -1)
        return torch.cat([told, table.expand(timestep.shape[0], -1, -1)], dim=-1).to(timestep.dtype)


def traceable(network: nn.Module) -> nn.Module:
    """`network` with such parts in the place of diffusers' own: the same results."""
    for module in network.modules():
        if type(module) is ChromaCombinedTimestepTextProjEmbeddings:
            module.__class__ = OfAnyNumber
    return network
