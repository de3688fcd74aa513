"""The built-in losses of `guide`.

Each factory takes the declaration and the run, and returns a loss of pixels in [-1, 1].

| loss | of pixels x (b, 3, h, w) |
|---|---|
| brightness | (mean x - target)^2 |
| color | mean over channels of (mean over pixels of x - colour)^2 |
| palette | mean over pixels of the squared distance to the nearest colour (soft minimum) |
| reference | mean (x - reference)^2 |
| features | 1 - cosine similarity of a network's feature maps of x and of the reference, mean over positions |
| symmetry | mean (x - mirrored x)^2 |
| smooth | total variation: mean |dx| + mean |dy| |
| sharpness | (root mean square of the Laplacian - target)^2 |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from editkit.pictures.colors import rgb
from editkit.plugin import Picture, UsageError, to_unit

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.plugin import PictureSource, Run

Loss = Callable[["Tensor"], "Tensor"]
"""Pixels (batch, 3, h, w) -> (batch,)."""

Seen = Callable[["Tensor"], "Tensor"]
"""Pixels at the size of the pass -> the part of them that the loss sees."""


class LossOptions(Protocol):
    """The options that the losses read; see the fields of `guide`."""

    @property
    def loss(self) -> object: ...

    @property
    def brightness(self) -> float: ...

    @property
    def color(self) -> str: ...

    @property
    def palette(self) -> str: ...

    @property
    def symmetry(self) -> str: ...

    @property
    def sharpness(self) -> float: ...

    @property
    def reference(self) -> PictureSource | None: ...

    @property
    def network(self) -> str: ...


def to_hex(colour: Tensor) -> str:
    """Format three values in [-1, 1] as #rrggbb."""
    r, g, b = (round(127.5 * (min(max(float(value), -1.0), 1.0) + 1.0)) for value in colour)
    return f"#{r:02x}{g:02x}{b:02x}"


def _brightness(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    wanted = 2.0 * plugin.brightness - 1.0
    return lambda image: (image.flatten(1).mean(1) - wanted) ** 2


def _color(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    import torch

    colour = torch.tensor(rgb(plugin.color), device=run.device) / 127.5 - 1.0
    return lambda image: ((image.mean((2, 3)) - colour) ** 2).mean(1)


def palette_of(plugin: LossOptions) -> list[tuple[int, int, int]]:
    """Return the colours of --palette, three bytes each.

    Raises:
        UsageError: there are none.
    """
    colours = [rgb(colour) for colour in filter(None, plugin.palette.split(","))]
    if not colours:
        raise UsageError("guide: the loss `palette` needs --palette, colours such as #102030,#c0a060")
    return colours


def _palette(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    import torch

    wanted = torch.tensor(palette_of(plugin), device=run.device) / 127.5 - 1.0

    def loss(image: Tensor) -> Tensor:
        apart = (image[:, None] - wanted[None, :, :, None, None]).square().mean(2)
        return (apart.mul(-20.0).softmax(1) * apart).sum(1).mean((1, 2))

    return loss


def _target(plugin: LossOptions, run: Run, seen: Seen) -> Tensor:
    """Return the part of the reference that the loss sees, aligned with the edited picture: (1, 3, h, w)."""
    if plugin.reference is None:
        raise UsageError(f"guide: the loss `{plugin.loss}` needs --reference, the target picture")
    reference = Picture.read(plugin.reference).coloured_as(run.inputs.file)
    return seen(run.inputs.place(to_unit(reference.visible).to(run.device)))


def _reference(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    target = _target(plugin, run, seen)
    return lambda image: ((image - target) ** 2).flatten(1).mean(1)


def _features(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    import torch
    import torch.nn.functional as F

    from editkit.models.classifiers import load_classifier
    from editkit.models.classifiers.kinds import Clean

    if not plugin.network:
        raise UsageError("guide: the loss `features` needs --network, such as timm:resnet18 or torchvision:NAME:FILE")
    classifier = run.lease.network(load_classifier, plugin.network, run.device, offline=run.options.offline)
    trunk = getattr(getattr(classifier, "network", None), "forward_features", None) or getattr(
        getattr(classifier, "network", None), "features", None
    )
    if not isinstance(classifier, Clean) or trunk is None:
        raise UsageError(f"guide: {plugin.network} gives no feature maps; use a convolutional network of timm")
    maps = classifier.through(trunk)
    with torch.no_grad():
        wanted = F.normalize(maps(_target(plugin, run, seen)), dim=1)
    return lambda image: 1.0 - (F.normalize(maps(image), dim=1) * wanted).sum(1).flatten(1).mean(1)


def _symmetry(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    axes = {"left-right": (-1,), "top-bottom": (-2,), "turned": (-2, -1)}[plugin.symmetry]
    return lambda image: ((image - image.flip(axes)) ** 2).flatten(1).mean(1)


def _smooth(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    return lambda image: image.diff(dim=-1).abs().flatten(1).mean(1) + image.diff(dim=-2).abs().flatten(1).mean(1)


def _sharpness(plugin: LossOptions, run: Run, seen: Seen) -> Loss:
    import torch.nn.functional as F

    def loss(image: Tensor) -> Tensor:
        kernel = image.new_tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]])[None, None]
        edges = F.conv2d(image.mean(1, keepdim=True), kernel).square().flatten(1).mean(1)
        return ((edges + 1e-8).sqrt() - plugin.sharpness).square()

    return loss


LOSSES: dict[str, Callable[[LossOptions, Run, Seen], Loss]] = {
    "brightness": _brightness,
    "color": _color,
    "palette": _palette,
    "reference": _reference,
    "features": _features,
    "symmetry": _symmetry,
    "smooth": _smooth,
    "sharpness": _sharpness,
}
"""Name -> factory, for `guide --loss NAME`."""

TONES = frozenset({"brightness", "color", "palette"})
"""Losses that depend on colours alone, not on where they are."""
