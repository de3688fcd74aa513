"""Upscaling by networks that are not diffusion models: the ESRGAN family, SwinIR, HAT, SPAN and others in spandrel.

One network makes one pass over the picture, in overlapping tiles whose blending weights sum to one. It is a stage like
any other, so it can be compared with `upscale`, and chained: `spandrel ... then sdedit --strength 0.2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from editkit.models.files.layout import explain_mistake
from editkit.plugin import Hooks, ModelError, Notify, Picture, Plugin, Run, Section, Slot, UsageError, Weights
from editkit_plugins.restoring.memory import afford
from editkit_plugins.sizes import Times
from editkit_plugins.upscale import observed_picture

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor


class Spandrel(Plugin):
    """Enlarge the picture by an upscaling network without diffusion, such as ESRGAN: any architecture of spandrel.

    If --scale is not the network's own factor, the result is resized. Needs `pip install 'editkit[upscalers]'`.
    """

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask", "size"})
    name: ClassVar[str] = "spandrel"
    group: ClassVar[Section] = "grow"
    usage: ClassVar[tuple[str, ...]] = (
        "spandrel small.png --weights esrgan.safetensors",
        "spandrel small.png --weights esrgan.safetensors --scale 2",
        "spandrel small.png --weights esrgan.safetensors then sdedit --strength 0.2",
    )
    needs_picture: ClassVar[bool] = True
    diffuses: ClassVar[bool] = False

    weights: Annotated[str, Weights()] = Field("", description="The network: a .safetensors file.")
    scale: Times = Field(4.0, gt=0.0, le=64.0, description="Factor of enlargement.")
    tile: int = Field(192, ge=16, le=4096, description="Side of the tiles, in pixels of the small picture.")

    def hooks(self) -> type[Hooks[Spandrel]]:
        return _SpandrelHooks

    def open(self, picture: Picture, notify: Notify) -> Picture:
        width, height = (max(1, round(n * self.scale)) for n in picture.size)
        afford(f"spandrel to {width}x{height}", width, height)
        return picture.resized(width, height)


class _SpandrelHooks(Hooks[Spandrel]):
    def __init__(self, plugin: Spandrel, run: Run) -> None:
        if not plugin.weights:
            raise ModelError("spandrel needs --weights, an upscaler's .safetensors file")
        path = Path(plugin.weights)
        if path.suffix != ".safetensors":
            raise ModelError(
                f"{path}: weights are read from .safetensors only; a pickle can run code. If you trust it, convert it "
                "once: safetensors.torch.save_file(torch.load(FILE, weights_only=True), ...)"
            )
        if not path.is_file():
            raise ModelError(f"{path}: is not a file")
        super().__init__(plugin, run)
        self.network = loaded = run.lease.network(_load_upscaler, plugin.weights, run.device)
        if loaded.scale != plugin.scale:
            wanted = f"its result is resized to {plugin.scale:g}"
            run.notify(f"spandrel: the network enlarges {loaded.scale} times; {wanted}")

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        from editkit.plugin import resize

        source, (_, height, width) = observed_picture(self.run)
        return resize(self._upscale(source), height, width)

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float]:
        """Report the distance of the result, downscaled again, to the input, as `upscale` does."""
        from editkit_plugins.restoring.degradations import bicubic
        from editkit_plugins.restoring.methods import consistency
        from editkit_plugins.restoring.problem import Problem

        source, size = observed_picture(self.run)
        _, _, h, w = source.shape
        return consistency(image, Problem(bicubic(size, h, w), source)) if self.plugin.scale > 1.0 else {}

    def _upscale(self, source: Tensor) -> Tensor:
        """Run the network on (1, 3, h, w) in [-1, 1], in blended tiles: (1, 3, scale h, scale w) in [-1, 1]."""
        import torch

        from editkit.diffusion.windows import window_starts, window_weights

        side, scale = self.plugin.tile, self.network.scale
        _, _, height, width = source.shape
        made = source.new_zeros(1, 3, height * scale, width * scale)
        axes = []
        for length in (height, width):
            begins = window_starts(length, side, side // 4)
            shares = window_weights([b * scale for b in begins], min(side, length) * scale, length * scale)
            axes.append([(b, min(side, length), share.to(source)) for b, share in zip(begins, shares, strict=True)])
        for top, high, down in axes[0]:
            for left, wide, across in axes[1]:
                with torch.inference_mode():
                    part = self.network(source[..., top : top + high, left : left + wide] / 2.0 + 0.5)
                area = (..., slice(top * scale, (top + high) * scale), slice(left * scale, (left + wide) * scale))
                made[area] += down[:, None] * across[None, :] * (2.0 * part.clone() - 1.0)
        return made.clamp(-1.0, 1.0)


def _load_upscaler(weights: str, device: torch.device) -> Any:
    """Load the network from the file `weights`.

    Raises:
        UsageError: spandrel is not installed.
        ModelError: spandrel does not know the network, or its input is not a colour picture alone.
    """
    try:
        import spandrel
    except ImportError as error:
        raise UsageError("spandrel is not installed: pip install 'editkit[upscalers]'") from error
    try:
        loaded = spandrel.ModelLoader(device=device).load_from_file(weights)
    except Exception as error:  # errors of spandrel and of the file reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        wrong = explain_mistake(Path(weights))
        raise ModelError(f"{weights}: {wrong or f'is not an upscaler that spandrel knows: {reason}'}") from error
    if not isinstance(loaded, spandrel.ImageModelDescriptor) or loaded.input_channels != 3:
        raise ModelError(f"{weights}: {loaded.architecture.name} does not take a colour picture alone")
    return loaded.eval()
