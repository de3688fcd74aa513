"""`pocket`: the embedded network of four tasks (Palette, Saharia et al. 2022, arXiv:2111.05826).

One UNet behind a pixel-unshuffle takes z, a condition picture and a mask and predicts F; the task is its class label.
z and F are x_t and v of the residual around the condition picture (`editkit.models.pocket.residual`). The conditions
are those of its training (`editkit.training.conditions`); this module converts the conditions of a run to that form:

| given | task | condition picture | mask |
|---|---|---|---|
| nothing | prior | 0 | 1 |
| known, mask | inpaint | the known pixels, a smooth fill in the hole | 1 in the hole |
| known, mask, lowres | inpaint | the known pixels, the coarser picture in the hole | 0.5 in the hole |
| lowres | upscale | the small picture enlarged | 1 |
| known, task "colorize" | colorize | its luma | 1 |

It works on windows of one size; `editkit.diffusion.windows` combines them for pictures of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.diffusion.conditioning import Conditioning, residuals
from editkit.diffusion.control import Given
from editkit.diffusion.model import Model, ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction, convert
from editkit.diffusion.schedule import Level, Schedule
from editkit.errors import ModelError
from editkit.models import assets
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network
from editkit.models.schedules import make_schedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

KNOWN = "pocket (pixel-space tasks)"
_CLASS = "EditkitPocket"
STEPS = 8
"""More steps make the holes of benchmarks/holes.py worse (docs/pocket.md)."""

FORMAT = 2
"""Format of pocket.json; networks of format 1 predicted v of x0 itself."""


def matches(layout: Layout) -> bool:
    """Whether the folder was exported by `editkit train prior`."""
    return layout.index.get("_class_name") == _CLASS


def describe(layout: Layout) -> ModelInfo:
    """Describe window and tasks by pocket.json."""
    wiring = layout.json("pocket.json")
    return ModelInfo(
        layout.name,
        KNOWN,
        takes=frozenset({"known", "mask", "lowres", "task", "control"}),
        sampler="ddim",
        steps=int(wiring.get("steps", STEPS)),  # a distilled network has its own default
        window=int(wiring["window"]),
        multiple=int(wiring["unshuffle"]) * 2 ** (len(layout.config("unet")["block_out_channels"]) - 1),
    )


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the network in `dtype`, applied to windows of its own size."""
    from editkit.diffusion.windows import Windowed
    from editkit.models.pocket.unet import PocketUNet

    wiring, scheduler = layout.json("pocket.json"), layout.config("scheduler")
    if wiring.get("format") != FORMAT:
        raise ModelError(
            f"model {layout.name}: pocket.json is of format {wiring.get('format')}, this editkit reads {FORMAT}; "
            f"train it again, or use the editkit that made it"
        )
    network = load_network(layout, "unet", PocketUNet, dtype, device)
    window = int(wiring["window"])
    return Windowed(Pocket(info, network, make_schedule(scheduler), wiring), window, window // 4)


def info() -> ModelInfo:
    """Describe the embedded network."""
    return describe(assets.layout("pocket", "patches"))


def make(info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the embedded network."""
    return load(assets.layout("pocket", "patches"), info, device, dtype)


def weights() -> Path | None:
    """Return the embedded network's folder."""
    return assets.folder("pocket")


class Pocket(PixelSpace):
    """The network as a `Model`.

    Args:
        info: from `describe`.
        unet: a `PocketUNet`, on its device, in its dtype.
        schedule: its noise schedule of training.
        wiring: pocket.json.
    """

    held = 640
    """Rounded up from the measured 620 and 626, in half and single precision (docs/reliability.md)."""

    def __init__(self, info: ModelInfo, unet: Any, schedule: Schedule, wiring: Any) -> None:
        self.info, self.unet, self.schedule = info, unet, schedule
        self.unshuffle = int(wiring["unshuffle"])
        self.tasks: dict[str, int] = wiring["tasks"]
        self.coarse, self.hole = float(wiring["mask"]["coarse"]), float(wiring["mask"]["hole"])

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        import torch
        import torch.nn.functional as F

        from editkit.models.pocket.residual import Residual, deviation

        n = len(conds)
        inputs = [self._network_inputs(cond, x_t) for cond in conds]
        pictures = torch.cat([picture for _, picture, _ in inputs])
        masks = torch.cat([mask for _, _, mask in inputs])
        task = torch.tensor([k for k, _, _ in inputs], device=x_t.device).repeat_interleave(len(x_t))
        residual = Residual(pictures, deviation(task, pictures, masks), level.alpha, level.sigma)
        z = residual.seen(torch.cat([x_t] * n))
        x = torch.cat([F.pixel_unshuffle(part, self.unshuffle) for part in (z, pictures, masks)], 1)
        t = torch.full((len(x),), level.t, dtype=torch.float32, device=x_t.device)
        control = residuals(conds, Given(x, t, label=task))
        dtype = self.unet.dtype
        out = self.unet(
            x.to(dtype, memory_format=torch.channels_last),
            t,
            task,
            None if control is None else [part.to(dtype) for part in control.tensors],
            None if control is None or control.mid is None else control.mid.to(dtype),
        )
        f = F.pixel_shuffle(out.float(), self.unshuffle)
        v = level.alpha * residual.eps(z, f) - level.sigma * residual.x0(z, f)
        return tuple(convert(part, x_t, level, "v_prediction") for part in torch.chunk(v, n))

    def _network_inputs(self, cond: Conditioning, x_t: Tensor) -> tuple[int, Tensor, Tensor]:
        """Return (task, condition picture, mask) for the network, as in the table above."""
        from editkit.models.pocket.residual import luma
        from editkit.pictures.filling import smooth_fill

        ones = x_t.new_ones(len(x_t), 1, *x_t.shape[-2:])
        if cond.task is not None and cond.task not in self.tasks:
            raise ModelError(f"model {self.info.name} has no task {cond.task!r}; it has: {', '.join(self.tasks)}")
        if cond.task == "colorize" and cond.known is not None:
            return self.tasks["colorize"], luma(cond.known.expand_as(x_t)), ones
        if cond.known is not None and cond.mask is not None:
            known, mask = cond.known.expand_as(x_t), cond.mask.expand_as(ones)
            if cond.lowres is None:
                return self.tasks["inpaint"], smooth_fill(known, mask), mask * self.hole
            filled = known.where(mask == 0, cond.lowres.expand_as(x_t))
            return self.tasks["inpaint"], filled, mask * self.coarse
        if cond.lowres is not None:
            return self.tasks["upscale"], cond.lowres.expand_as(x_t), ones
        return self.tasks["prior"], x_t.new_zeros(x_t.shape), ones

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Pocket:
        return self
