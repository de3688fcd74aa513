"""Latent diffusion models: Stable Diffusion 1.x, 2.x, XL and 3, unCLIP, upscaler, refiners, and flow transformers."""

from __future__ import annotations

from editkit.common.moved import forward

__getattr__ = forward(__name__)  # the names it had when it was one module, for one release
