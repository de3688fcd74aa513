"""`patches`: the picture as its own prior, with nothing to train.

This is the exact denoiser of the empirical distribution of the picture's known patches p. A noisy patch x_t with known
pixels y becomes

    E[p | x_t, y] = sum_p w_p p / sum_p w_p,   log w_p = - |x_t - alpha_t p|^2 / 2 sigma_t^2 - |y - p|^2 / 2 tau_t^2,

where the first norm is over its unknown pixels and the second over its known ones. Overlapping patches vote for every
pixel (the local score of Kamb & Ganguli 2024, arXiv:2412.20292; coarse to fine as in Granot et al. 2022, "Drop the
GAN", arXiv:2103.15545). At high noise this is a soft average. At low noise it is the nearest patch, and the reverse
process becomes the alternation of search and vote of Wexler et al. 2007. A guiding low-resolution picture L (`lowres`:
the enlarged coarser pass) adds - |L(x) - L(p)|^2 / 2 tau_L^2: blurred patches are compared with blurred ones, and sharp
patches are copied, as in image analogies (Hertzmann et al. 2001).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Example, Model, ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models.memory import available
from editkit.models.patches.binding import Smooth, bind
from editkit.models.patches.denoise import Bound, Settings
from editkit.models.patches.info import PATCHES, Ladder
from editkit.models.patches.redraw import Redrawn
from editkit.models.patches.threads import row_threads
from editkit.pictures.picture import Fill

__all__ = ["Ladder", "Patches"]

WINDOW = 96
"""Side of the windows in which enlargements are computed; it bounds their memory."""


@dataclass(frozen=True, eq=False)
class Patches(PixelSpace):
    """The denoiser; `attach` binds it to a picture.

    Args:
        settings: sizes and precisions; benchmarks/holes.py was run with the defaults.
        examples: other pictures to learn from.
        fill: the guide if there is no coarser pass; None: pieces of the picture, or smooth with `examples`.
        barred: (1, 1, h, w), > 0 where nothing is learned from the picture; None: nowhere.
    """

    settings: Settings = field(default_factory=Settings)
    examples: Sequence[Example] = ()
    fill: Fill | None = None
    barred: Tensor | None = None
    _bound: tuple[Bound | Smooth | Redrawn, ...] = ()

    @property
    def info(self) -> ModelInfo:
        return PATCHES

    @property
    def schedule(self) -> Ladder:
        return Ladder()

    def given(self, examples: Sequence[Example], fill: Fill | None, barred: Tensor | None = None) -> Patches:
        """Return this model with the patches of `examples`, the first guide `fill`, and without the `barred` pixels."""
        return replace(self, examples=tuple(examples), fill=fill, barred=barred)

    def afford(self, height: int, width: int, examples: Sequence[tuple[int, int]]) -> None:
        """Refuse pictures that do not fit into memory."""
        beside = sum(across for across, _ in examples) * max([height, *(down for _, down in examples)])
        needed, free = self.settings.bytes(height, width, beside), available(torch.device("cpu"))
        if needed > free:
            more = f" and {len(examples)} other picture{'s' * (len(examples) > 1)}" if examples else ""
            raise ModelError(
                f"the patches of {width}x{height} pixels{more} need about {math.ceil(needed / 2**20)} MiB, and "
                f"{free // 2**20} MiB are free: use smaller pictures{' or fewer' * bool(examples)}, or a smaller mask"
            )

    def enlarging(self, small: Tensor, scale: float) -> Model:
        """Return the denoiser of enlargements of `small`, in windows: its sharp detail is copied, stage by stage."""
        from editkit.models.patches.enlarging import enlarging_model

        return enlarging_model(small, scale, WINDOW)

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Patches:
        """Return this model with the known patches of `picture` (b, 3, h, w); `mask` (b, 1, h, w), 1 = unknown.

        Without a mask, every patch is known, and every pixel is still estimated from x_t (`Redrawn`). If pixels but no
        whole patch are known (dust, a mesh), the unknown pixels become the membrane between the known ones.

        Raises:
            ModelError: nothing is known, the picture is smaller than a patch, or memory is short.
        """
        if picture is None:
            raise ModelError("patches takes its prior from a picture, and there is none: give one, or another --model")
        height, width = picture.shape[-2:]
        self.afford(height, width, [(e.image.shape[-1], e.image.shape[-2]) for e in self.examples])
        flags = None if mask is None else (mask > 0).expand(len(picture), 1, *picture.shape[-2:])[:, 0]
        unknown = [None if flags is None else flags[k] for k in range(len(picture))]
        pairs = zip(picture, unknown, strict=True)
        barred = None if self.barred is None else self.barred[0, 0] > 0
        bound = tuple(bind(p, u, self.settings, self.examples, self.fill, barred) for p, u in pairs)
        return replace(self, _bound=bound)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        """Return E[x | x_t, known pixels] for each conditioning; x_t (b, 3, h, w). Known pixels are unchanged."""
        if not self._bound:
            raise ModelError("patches is not bound to a picture: call attach(picture, mask) first")
        guides = {id(c.lowres): c.lowres for c in conds}
        made: dict[int, Prediction] = {}
        for key, guide in guides.items():
            bound = self._bound if len(self._bound) > 1 else self._bound * len(x_t)
            lowres = [None] * len(x_t) if guide is None else guide.expand(len(x_t), -1, -1, -1)
            with row_threads():
                x0 = torch.stack([b.denoise(x, level, g) for b, x, g in zip(bound, x_t, lowres, strict=True)])
            made[key] = Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-8))
        return tuple(made[id(c.lowres)] for c in conds)
