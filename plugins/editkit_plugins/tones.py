"""Guide copied content: move its tones to a wanted colour, brightness or palette, and keep its texture.

A model whose prior is the picture itself only copies: no gradient makes it draw another colour. So the tones of its
result are changed by smooth curves of the colour of each pixel alone, in Oklab. Structure and texture stay, equal
colours stay equal, and nothing depends on blocks:

- brightness: L' = L^g. Black and white stay, nothing is cut off, and g meets the mean.
- color: L' = L s where the picture gets darker, L^g where it gets lighter; the mean of the chroma becomes the wanted
  one, which is fainter in shadows, and part of its variation stays.
- palette: the chroma is a mean of the palette's, weighted by softmax(-d^2 / 2 T^2), where d is the distance of the
  pixel to a colour of the palette; the range of L moves towards that of the palette.

In a hole, the change fades out at the rim. Chroma that a screen cannot show is reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from editkit_plugins.oklab import from_oklab_in_gamut, to_oklab

if TYPE_CHECKING:
    from torch import Tensor

    Change = Callable[[Tensor], Tensor]
    """Oklab colours (1, 3, h, w) -> changed ones."""

HALF = 0.03
"""Amount that goes half of the way. Twice that goes three quarters of it, and so on."""

RIM, LEAST = 0.25, 3.0
"""Width of the fade at the rim, relative to the depth of the hole, and its least value in pixels."""

INNER = 0.9
"""What the mean is taken over is adjusted by at least this fraction."""

SAMPLES = 1 << 16
"""The curves are found from about this many pixels."""

HALVINGS, ROUNDS = 24, 10
"""Steps of the search for the curve of brightness, and rounds of the search for the mean colour."""

VARIATION = 0.6
"""Fraction of the variation of chroma that a wanted colour leaves."""

MOST_CHROMA = 1.12
"""Largest chroma of a pixel, relative to that of the wanted colour."""

SOFTNESS = 0.35
"""T in the weights of a palette, relative to the mean distance between neighbouring colours of it."""

TOWARDS = 0.7
"""How far the darkest and the lightest tones move towards those of the palette."""

NEAR = 0.08
"""Chroma within this distance of the palette's, or of a blend of two of its colours, is close to it."""


def match_brightness(image: Tensor, hole: Tensor | None, wanted: float, amount: float) -> Tensor:
    """Move the mean of `image` (1, 3, h, w), in [-1, 1], to `wanted` (0 black, 1 white), in `hole` (h, w) if given."""
    lab, fade = _sample(image, hole)
    share = _share(amount)
    start = float(image[..., interior(hole)].mean() if hole is not None else image.mean())
    target = start + share * (2.0 * wanted - 1.0 - start)
    low, high = -4.0, 4.0  # logarithms of g; the mean falls with g
    for _ in range(HALVINGS):
        middle = (low + high) / 2.0
        made = from_oklab_in_gamut(lab + fade * (_curve(lab, middle) - lab))
        low, high = (middle, high) if float(made.mean()) > target else (low, middle)
    g = (low + high) / 2.0
    return _apply(image, hole, lambda lab: _curve(lab, g), share)


def _curve(lab: Tensor, log_g: float) -> Tensor:
    """Return L' = L^g; chroma falls with L, and rises with its square root."""
    import math

    import torch

    before = lab[:, :1].clamp(1e-4, 1.0)
    after = before ** math.exp(log_g)
    ratio = after / before
    return torch.cat([after, lab[:, 1:] * torch.minimum(ratio, ratio.sqrt())], 1)


def match_color(image: Tensor, hole: Tensor | None, wanted: tuple[int, int, int], amount: float) -> Tensor:
    """Move the mean colour of `image` (1, 3, h, w), in [-1, 1], to `wanted`, three bytes, in `hole` (h, w) if given."""
    lab, fade = _sample(image, hole)
    share = _share(amount)
    mean = lab.mean((0, 2, 3))
    goal = _oklab_of(wanted, image)
    most = MOST_CHROMA * float(goal[1:].norm())
    aim = goal.clone()
    for _ in range(ROUNDS):
        made = from_oklab_in_gamut(lab + fade * (_recolour(lab, mean, aim, most) - lab))
        aim = aim + goal - to_oklab(made.mean((0, 2, 3)).view(3, 1, 1)).flatten()
        aim[0] = aim[0].clamp(0.01, 0.995)
    return _apply(image, hole, lambda lab: _recolour(lab, mean, aim, most), share)


def _recolour(lab: Tensor, mean: Tensor, aim: Tensor, most: float) -> Tensor:
    """Return `lab` (1, 3, h, w) with its mean moved from `mean` to about `aim` (3,), and a chroma of at most `most`."""
    import torch

    light, wanted = lab[:, :1], aim[1:].view(1, 2, 1, 1)
    if aim[0] <= mean[0]:
        light = light * (aim[0] / mean[0])
    else:
        light = light.clamp(1e-4, 1.0) ** (aim[0].log() / mean[0].clamp(1e-4, 0.999).log())
    shade = (light / aim[0]).clamp(max=1.0)
    chroma = wanted * shade + VARIATION * (lab[:, 1:] - mean[1:].view(1, 2, 1, 1))
    length = chroma.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return torch.cat([light, chroma * (most / length).clamp(max=1.0)], 1)


def match_palette(image: Tensor, hole: Tensor | None, palette: Sequence[tuple[int, int, int]], amount: float) -> Tensor:
    """Move the colours of `image` (1, 3, h, w), in [-1, 1], into `palette`, in `hole` (h, w) if given."""
    import torch

    lab, _ = _sample(image, hole)
    colours = torch.stack(sorted((_oklab_of(colour, image) for colour in palette), key=lambda colour: float(colour[0])))
    dark, light = (float(torch.quantile(lab[:, 0].flatten(), q)) for q in (0.02, 0.98))
    return _apply(image, hole, lambda lab: _into_palette(lab, colours, dark, light), _share(amount))


def _into_palette(lab: Tensor, colours: Tensor, dark: float, light: float) -> Tensor:
    """Return `lab` (1, 3, h, w) in `colours` (k, 3), dark ones first; `dark` and `light` are its extreme tones."""
    import torch

    darkest, lightest = float(colours[0, 0]), float(colours[-1, 0])
    place = (lab[:, :1] - dark) / max(light - dark, 0.05)
    tone = darkest + place.clamp(-0.1, 1.1) * (lightest - darkest)
    at = torch.cat([tone, lab[:, 1:]], 1)
    d = torch.stack([(at - colour.view(1, 3, 1, 1)).square().sum(1) for colour in colours], 1)
    apart = torch.cdist(colours, colours).fill_diagonal_(torch.inf).amin(1)
    width = SOFTNESS * max(float(apart.mean()), 0.02) if len(colours) > 1 else 1.0
    weights = (-d / (2.0 * width**2)).softmax(1)
    low, high = dark + TOWARDS * (darkest - dark), light + TOWARDS * (lightest - light)
    after = (low + place * (high - low)).clamp(0.0, 1.0)
    chroma = torch.zeros_like(lab[:, 1:])
    for weight, colour in zip(weights.unbind(1), colours, strict=True):  # fainter towards black and white
        shade = torch.minimum(after / colour[0].clamp(min=0.01), (1.02 - after) / (1.02 - colour[0]))
        chroma = chroma + weight[:, None] * shade.clamp(0.0, 1.0) * colour[1:].view(1, 2, 1, 1)
    return torch.cat([after, chroma], 1)


def fraction_near(pixels: Tensor, palette: Sequence[tuple[int, int, int]]) -> float:
    """Return the fraction of `pixels` (1, 3, h, w), in [-1, 1], whose chroma is close to the palette's, or to a blend.

    Close is within `NEAR` in Oklab. Lightness does not count, and colours of the palette may be fainter.
    """
    import torch

    chroma = to_oklab(pixels)[0, 1:].flatten(1).T
    corners = [_oklab_of(colour, pixels)[1:] for colour in palette]
    corners.append(torch.zeros_like(corners[0]))
    nearest = torch.full_like(chroma[:, 0], torch.inf)
    for k, a in enumerate(corners):
        for b in corners[k + 1 :]:
            along = ((chroma - a) @ (b - a) / (b - a).square().sum().clamp(min=1e-12)).clamp(0.0, 1.0)
            nearest = torch.minimum(nearest, (chroma - a - along[:, None] * (b - a)).norm(dim=1))
    return float((nearest <= NEAR).float().mean())


def interior(hole: Tensor) -> Tensor:
    """Return the part of `hole` (h, w) that is almost entirely adjusted: what a target is met in.

    Over the whole hole, the middle would overshoot to make up for the rim.
    """
    fade = _fade(hole)
    return fade >= min(INNER, float(fade.max()))


def _apply(image: Tensor, hole: Tensor | None, change: Change, share: float) -> Tensor:
    """Return `image` (1, 3, h, w) with `change` applied in `hole`, fading out at its rim."""
    if share == 0.0 or (hole is not None and not bool(hole.any())):
        return image
    lab = to_oklab(image.float())
    fade = share if hole is None else share * _fade(hole)
    made = from_oklab_in_gamut(lab + fade * (change(lab) - lab)).to(image)
    return made if hole is None else made.where(hole, image)


def _share(amount: float) -> float:
    """Return the fraction of the way that `amount` goes."""
    return float(1.0 - 0.5 ** (amount / HALF))


def _sample(image: Tensor, hole: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return Oklab colours (1, 3, 1, n) of pixels that are adjusted most, and how much they are, (n,)."""
    if hole is None or not bool(hole.any()):
        pixels, fade = image.flatten(2), image.new_ones(image[0, 0].numel())
    else:
        at = interior(hole)
        pixels, fade = image[..., at], _fade(hole)[at].to(image)
    step = max(1, fade.numel() // SAMPLES)
    return to_oklab(pixels[:, :, None, ::step].float()), fade[::step]


def _oklab_of(colour: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return the Oklab values (3,) of three bytes."""
    return to_oklab(like.new_tensor(colour).float().view(3, 1, 1) / 127.5 - 1.0).flatten()


def _fade(hole: Tensor) -> Tensor:
    """Return weights (h, w): 0 outside `hole`, rising smoothly to 1 inside; corners are rounded."""
    import cv2
    import torch

    depth = cv2.distanceTransform(hole.byte().cpu().numpy(), cv2.DIST_L2, 5)
    width = max(LEAST, RIM * float(depth.max()))
    rise = _smoothstep(torch.from_numpy(depth / width)).numpy()
    soft = torch.from_numpy(cv2.GaussianBlur(rise, (0, 0), width / 4.0))
    return (soft * _smoothstep(torch.from_numpy(depth / (width / 2.0)))).to(hole.device)


def _smoothstep(x: Tensor) -> Tensor:
    x = x.clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)
