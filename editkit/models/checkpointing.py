"""Gradient checkpointing: activations are computed again in the backward pass instead of being kept (Chen et al. 2016,
arXiv:1604.06174). The numbers stay the same; guidance through a large network needs a fraction of the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editkit.models.base import Model


def checkpoint(model: Model) -> bool:
    """Turn it on in every diffusers network that `model`, or the model it wraps, holds; False where there is none."""
    held = list(vars(model).values())
    inner = getattr(model, "model", None)
    networks = [part for part in held if getattr(part, "_supports_gradient_checkpointing", False)]
    for network in networks:
        network.enable_gradient_checkpointing()
    return bool(networks) or (inner is not None and checkpoint(inner))
