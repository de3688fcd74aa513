"""Models of latents: Stable Diffusion 1.x, 2.x, XL, 3, the x4 upscaler, refiners."""

from __future__ import annotations

from editkit.common.moved import forward

__getattr__ = forward(__name__)  # the names it had when it was one module, for one release
