"""Upscalers that are no diffusion models: ESRGAN and its family, SwinIR, HAT, SPAN and what else spandrel loads.

One network, one pass over the picture, by overlapping tiles whose weights fade into each other and sum to one. It is a
stage like any other, so it can be compared with `upscale`, and chained: `spandrel ... then sdedit --strength 0.2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from editkit.models.files.layout import mistaken
from editkit.plugin import Hooks, ModelError, Notify, Picture, Plugin, Run, Section, Slot, UsageError, Weights
from editkit_plugins.restoring.memory import afford
from editkit_plugins.sizes import Times
from editkit_plugins.upscale import observed

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor


class Spandrel(Plugin):
    """Enlarge the picture by a network of the ESRGAN kind, without diffusion: any architecture that spandrel knows.

    Where --scale is not the network's own, its result is resized. Needs `pip install 'editkit[upscalers]'`.
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
    scale: Times = Field(4.0, gt=0.0, le=64.0, description="How many times as large.")
    tile: int = Field(192, ge=16, le=4096, description="Side of the tiles it works on, in pixels.")

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
        self.network = loaded = run.lease.network(_loaded, plugin.weights, run.device)
        if loaded.scale != plugin.scale:
            wanted = f"its result is resized to {plugin.scale:g}"
            run.notify(f"spandrel: the network enlarges {loaded.scale} times; {wanted}")

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        from editkit.plugin import resize

        source, (_, height, width) = observed(self.run)
        return resize(self._enlarged(source), height, width)

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Mapping[str, float]:
        """The distance of the result, made small again, to the picture that came, as `upscale` tells it."""
        from editkit_plugins.restoring.degradations import bicubic
        from editkit_plugins.restoring.methods import consistency
        from editkit_plugins.restoring.problem import Problem

        source, size = observed(self.run)
        _, _, h, w = source.shape
        return consistency(image, Problem(bicubic(size, h, w), source)) if self.plugin.scale > 1.0 else {}

    def _enlarged(self, source: Tensor) -> Tensor:
        """The network's result for (1, 3, h, w) in [-1, 1], by blended tiles."""
        import torch

        from editkit.diffusion.windows import starts, weights

        side, scale = self.plugin.tile, self.network.scale
        _, _, height, width = source.shape
        made = source.new_zeros(1, 3, height * scale, width * scale)
        axes = []
        for length in (height, width):
            begins = starts(length, side, side // 4)
            shares = weights([b * scale for b in begins], min(side, length) * scale, length * scale)
            axes.append([(b, min(side, length), share.to(source)) for b, share in zip(begins, shares, strict=True)])
        for top, high, down in axes[0]:
            for left, wide, across in axes[1]:
                with torch.inference_mode():
                    part = self.network(source[..., top : top + high, left : left + wide] / 2.0 + 0.5)
                area = (..., slice(top * scale, (top + high) * scale), slice(left * scale, (left + wide) * scale))
                made[area] += down[:, None] * across[None, :] * (2.0 * part.clone() - 1.0)
        return made.clamp(-1.0, 1.0)


def _loaded(weights: str, device: torch.device) -> Any:
    """The network in the file `weights`, as spandrel describes it.

    Raises:
        UsageError: spandrel is not installed.
        ModelError: it is none that takes a colour picture.
    """
    try:
        import spandrel
    except ImportError as error:
        raise UsageError("spandrel is not installed: pip install 'editkit[upscalers]'") from error
    try:
        loaded = spandrel.ModelLoader(device=device).load_from_file(weights)
    except Exception as error:  # its own errors and those of the file's reader
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        wrong = mistaken(Path(weights))
        raise ModelError(f"{weights}: {wrong or f'is not an upscaler that spandrel knows: {reason}'}") from error
    if not isinstance(loaded, spandrel.ImageModelDescriptor) or loaded.input_channels != 3:
        raise ModelError(f"{weights}: {loaded.architecture.name} does not take a colour picture alone")
    return loaded.eval()
