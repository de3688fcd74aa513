"""Parts of diffusers' networks that a tracer would specialise to its example, rewritten for any number of rows.

Chroma's time embedding makes its column of zeros from a Python list, `torch.tensor([0] * batch_size)`. A tracer records
it as a constant of the example's batch size. Converted with one row and called with two, OpenVINO returned wrong
numbers.
"""

from __future__ import annotations

import torch
from diffusers.models.transformers.transformer_chroma import ChromaCombinedTimestepTextProjEmbeddings
from torch import Tensor, nn


class AnyBatchEmbedding(ChromaCombinedTimestepTextProjEmbeddings):  # type: ignore[misc]
    """diffusers' embedding, (batch,) to (batch, modulations, width); its only constant is the table of modulations."""

    def forward(self, timestep: Tensor) -> Tensor:
        times, zeros = self.time_proj(timestep), self.guidance_proj(torch.zeros_like(timestep))
        table = self.mod_proj.to(times)  # below, a tracer would also record `len(timestep)` as a constant
        stacked = torch.cat([times, zeros], dim=1).unsqueeze(1).expand(-1, len(table), -1)
        return torch.cat([stacked, table.expand(timestep.shape[0], -1, -1)], dim=-1).to(timestep.dtype)


def make_traceable(network: nn.Module) -> nn.Module:
    """Replace such parts of `network` by these, with the same results, and return it."""
    for module in network.modules():
        if type(module) is ChromaCombinedTimestepTextProjEmbeddings:
            module.__class__ = AnyBatchEmbedding
    return network
