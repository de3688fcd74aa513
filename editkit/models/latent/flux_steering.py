"""The ControlNets of FLUX.1: their inputs, and how their residuals reach the transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.control import Control, ControlInputs, Given, Residuals
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models.latent.controls import FluxControl, fill_missing, flux_controlnet, on_first
from editkit.models.latent.transformer import FlowTransformer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.diffusion.noise import Stream

GUIDANCE = 3.5
"""The guidance scale of a ControlNet if its model takes none."""


def pooled_prompt(prompt: Prompt, model: str) -> Tensor:
    """Return CLIP's pooled output.

    Raises:
        ModelError: there is none.
    """
    if prompt.pooled is None:
        raise ModelError(f"model {model} needs the pooled text embedding in addition")
    return prompt.pooled


class FluxSteering(FlowTransformer):
    """Implements ControlNets for FLUX.1 (`BringsControl`)."""

    def steering(self, added: Residuals | None, tokens: int, dtype: torch.dtype) -> dict[str, list[Tensor] | None]:
        """Return residuals by the transformer's argument names; reference tokens, after the noise, get none."""
        if added is None:
            return {}
        double = len(self.transformer.transformer_blocks)
        parts = [None if part is None else on_first(part, tokens).to(dtype) for part in added.down]
        return {
            "controlnet_block_samples": fill_missing(parts[:double]),
            "controlnet_single_block_samples": fill_missing(parts[double:]),
        }

    def given(self, x_t: Tensor, level: Level, cond: Conditioning) -> Given:
        import torch

        batch, device, dtype, prompt = len(x_t), x_t.device, self.transformer.dtype, self.words(cond)
        scale = self.info.guidance if cond.guidance is None else cond.guidance
        guidance = (
            scale if "guidance" in self.info.takes else GUIDANCE
        )  # schnell takes none; ControlNets are made for dev
        return Given(
            x_t, torch.full((batch,), level.t, dtype=torch.float32, device=device),
            prompt.embeds.expand(batch, -1, -1).to(device, dtype),
            {
                "pooled_projections": pooled_prompt(prompt, self.info.name).expand(batch, -1).to(device, dtype),
                "guidance": torch.full((batch,), guidance, dtype=torch.float32, device=device),
            },
        )  # fmt: skip

    def controlnet(self, config: Mapping[str, Any]) -> type[Any]:
        return flux_controlnet(config, self.transformer.config, self.info.name)

    def steered(
        self, network: Any, shown: ControlInputs, scale: float, wanted_only: bool, stream: Stream | None
    ) -> Control:
        """Return the ControlNet with its hint. The hint is encoded by a draw from the VAE's posterior, as in diffusers'
        pipelines; a network with its own layers for the hint takes the picture.
        """
        hint = shown.hint if network.input_hint_block is not None else self.encode(shown.hint, stream)
        counts = len(self.transformer.transformer_blocks), len(self.transformer.single_transformer_blocks)
        return FluxControl(network, hint, scale, wanted_only, counts, shown.kind)
