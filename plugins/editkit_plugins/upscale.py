"""Super-resolution, by a model conditioned on the small picture or as an inverse problem with the model as prior.

Conditioned: SR3 (Saharia et al. 2021, arXiv:2104.07636) and cascaded diffusion (Ho et al. 2022, arXiv:2106.15282),
whose noise conditioning augmentation is `noise_level`, on models that take it. Inverse problem: y = A x, where A is the
downscaling that made the picture small (see `editkit_plugins.restoring.methods`). The estimates of conditioned models
are also projected onto y (`project`): the truth explains y, so the closest picture that does is no further from it.

A cascade is a chain: `upscale --scale 2 then upscale --scale 2`. Large pictures are computed in windows that are
blended on x0 within one process (`editkit.diffusion.windows`). The projection sees the whole picture, so no seams
appear.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from editkit.plugin import Notify, Options, Picture, Run, Section, Slot, UsageError, to_unit
from editkit_plugins.restoring.solving import Solver
from editkit_plugins.sizes import Size, Times, sides

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import Conditioning, ModelInfo
    from editkit_plugins.restoring.problem import Problem


class Upscale(Solver):
    """Enlarge the picture by any factor above 1.

    The built-in network returns one picture, the mean of all that are possible: edges become sharp, and fine texture
    that the small picture does not show stays soft, clearly so from x4 on. Another model that takes `lowres` is
    conditioned on the small picture, which can invent texture; with others an inverse problem is solved. In all cases
    the result, downscaled again, is the input picture (the remaining distance is reported).
    """

    holds: ClassVar[frozenset[Slot]] = frozenset({"mask", "size"})
    name: ClassVar[str] = "upscale"
    group: ClassVar[Section] = "grow"
    usage: ClassVar[tuple[str, ...]] = (
        "upscale small.png --scale 2",
        "upscale small.png --size 1920x1080 --model pocket",
        "upscale small.png --scale 2 --model pocket --estimate mean --samples 8",
    )
    offers: ClassVar[frozenset[str]] = frozenset({"lowres"})
    needs_picture: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"scale": 2}

    scale: Times = Field(2.0, gt=1.0, le=64.0, description="Factor of enlargement, as 4 or 4x.")
    size: Size | None = Field(None, description="Instead: the largest size within this width and height, as 1920x1080.")
    method: Literal["auto", "conditioned", "ddnm", "ddrm", "diffpir", "dps", "pigdm"] = Field(
        "auto", description="Condition the model, or solve with it as prior; auto: as the model allows."
    )
    kernel: Literal["bicubic", "average"] = Field("bicubic", description="Assumed downscaling of the small picture.")
    sigma: float = Field(0.0, ge=0.0, le=255.0, description="Noise of the small picture, in levels of 255.")
    noise_level: int | None = Field(
        None, ge=0, description="Noise added to the small picture before conditioning, on the model's own scale."
    )

    def default_model(self) -> str:
        """Return the network that is closest to the truth (benchmarks/defaults.py); where it cannot serve, `pocket`.

        `upconv` returns a mean of what a small picture without noise may show, and is no prior for other solvers.
        """
        told = self.chosen() == "conditioned" and self.share() == 1.0 and not self.noisy()
        return "upconv" if told else "pocket"

    def default_options(self, info: ModelInfo) -> Options:
        """Use one step on `pocket`, conditioned: its mean estimate is closest to the truth."""
        return Options(steps=1) if self.nearest(info) else super().default_options(info)

    def _target_size(self, picture: Picture) -> tuple[int, int]:
        """Return the width and height of the result.

        Raises:
            UsageError: the options contradict each other, or the result is no larger than the picture.
        """
        if self.size is None:
            return round(picture.width * self.scale), round(picture.height * self.scale)
        if "scale" in self.model_fields_set:
            raise UsageError("upscale takes --scale or --size, not both")
        if self.kernel == "average":
            raise UsageError("upscale: --kernel average needs a whole --scale, not a --size; use --kernel bicubic")
        wide, high = sides(self.size)
        factor = min(wide / picture.width, high / picture.height)
        if factor <= 1.0:
            size = f"{picture.width}x{picture.height}"
            raise UsageError(f"upscale: --size {self.size} is no larger than the picture, {size}")
        return round(picture.width * factor), round(picture.height * factor)

    def open(self, picture: Picture, notify: Notify) -> Picture:
        width, height = self._target_size(picture)
        if (width, height) == picture.size:
            raise UsageError(
                f"upscale: {picture.width}x{picture.height} times {self.scale} is the same size; use a larger --scale"
            )
        if self.kernel == "average" and self.scale != int(self.scale):
            raise UsageError(f"upscale: --kernel average needs a whole scale, got {self.scale}; use --kernel bicubic")
        self.afford(width, height)
        return picture.resized(width, height)

    def noise(self) -> float:
        return self.sigma

    def noisy(self) -> bool:
        return self.sigma > 0.0

    def problem(self, run: Run) -> Problem:
        from editkit_plugins.restoring.degradations import average, bicubic
        from editkit_plugins.restoring.problem import Problem

        y, size = observed_picture(run)
        _, _, h, w = y.shape
        A = average(size, int(self.scale)) if self.kernel == "average" else bicubic(size, h, w)
        return Problem(A, y, self.sigma / 127.5)

    def condition_on(self, run: Run, y: Tensor) -> Callable[[Conditioning], Conditioning]:
        from editkit.diffusion.model import NoisesLowres, Sharpens
        from editkit.plugin import capability, resize

        state = tuple(run.shape[-2:])
        lowres = y if tuple(y.shape[-2:]) == state else resize(run.inputs.place(y), *state)
        sharpens, noises = capability(run.model, Sharpens), capability(run.model, NoisesLowres)
        if sharpens is not None:
            lowres = sharpens.sharpened(lowres)
        level = self.noise_level
        if noises is not None:
            level = 20 if level is None else level
            if level >= noises.noise_levels:
                raise UsageError(f"upscale: --noise-level is {level}; this model has 0 to {noises.noise_levels - 1}")
            lowres = noises.noised(lowres, level, run.randn_like(lowres))
        elif level is not None:
            raise UsageError(f"upscale: {run.model.info.name} does not take a noise level; leave --noise-level out")
        return lambda cond: replace(cond, lowres=lowres, noise_level=level)


def observed_picture(run: Run) -> tuple[Tensor, tuple[int, int, int]]:
    """Return the stage's input picture, (1, 3, h, w) in [-1, 1], and the size of the result, (3, H, W)."""
    assert run.inputs.source is not None
    assert run.inputs.original is not None
    _, _, height, width = run.inputs.original.shape
    if run.inputs.source is run.inputs.whole and run.inputs.source.shape[:2] == (height, width):
        return run.inputs.original, (3, height, width)  # the same picture: keep one copy in memory
    return to_unit(run.inputs.source).to(run.device), (3, height, width)
