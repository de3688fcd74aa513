"""The likelihood of a picture under a model, in bits per dimension, and a map of where it is unlikely.

An 8-bit picture stands for a cube of side 2 / 255 from which a value is drawn (dequantisation), so that a density
corresponds to a probability (Theis et al. 2016, arXiv:1511.01844). The map is the norm of the score at each pixel,
which says how strongly the model would move it: sigma |score(x)| = |eps(x)|, root mean square over channels and over
noise levels from sigma / alpha = 0.05 to 1 (Mahmood et al. 2021, arXiv:2010.13132). For N(m, s^2) this is r |x - m| /
(r^2 + s^2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from editkit.common.device import pick_device, pick_dtype
from editkit.common.notify import Notify, silent
from editkit.diffusion.capability import capability
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.model import Model, ReadsText
from editkit.diffusion.noise import Streams
from editkit.diffusion.space import space_of
from editkit.editing.density import LEVELS, Likelihood, log_likelihood
from editkit.editing.in_python import in_python
from editkit.errors import ModelError, UsageError
from editkit.models import describe
from editkit.models.leasing import Models
from editkit.models.memory import afford_backward
from editkit.models.setup import Setup
from editkit.pictures.picture import Picture
from editkit.pictures.tensors import to_unit
from editkit.plugin.options import Options, RunOptions
from editkit.plugin.params import PictureSource

DEFAULT_MODEL = "pocket"
"""The meaning of `--model auto` here: under a prior learnt from the picture itself, every picture is most likely."""

SCALES = (0.05, 1.0)
"""Range of sigma / alpha for the map."""


@dataclass(frozen=True, eq=False)
class Density:
    """The likelihood of a picture under a model.

    Args:
        bits: -log2 p for each value: pixels with 256 levels, or continuous values of latents.
        error: standard error of `bits` over the probes; None for a single probe.
        size: shape of the values, (channels, h, w).
        latent: whether it is the density of the model's latent, not of the picture.
        map: (H, W) float32, the norm of the score at each pixel, over noise levels.
    """

    bits: float
    error: float | None
    size: tuple[int, ...]
    latent: bool
    map: NDArray[np.float32]

    def picture(self) -> Picture:
        """Return the map as a grey picture: black is likely, white is the value that one pixel in 200 exceeds."""
        top = max(float(np.quantile(self.map, 0.995)), 1e-12)
        grey = np.rint(np.clip(self.map / top, 0.0, 1.0) * 255.0).astype(np.uint8)
        return Picture(np.repeat(grey[..., None], 3, axis=2))


def density(
    picture: PictureSource,
    *,
    model: str | Model = "auto",
    probes: int = 4,
    notify: Notify = silent,
    models: Models | None = None,
    **options: Unpack[RunOptions],
) -> Density:
    """Compute the likelihood of `picture` under a model: `density("photo.png", steps=50)`.

    Args:
        picture: as for `editkit.edit`.
        model: a name as for `--model`, or a model object; auto: `pocket`.
        probes: random sign vectors for each trace.
        notify: called with messages for the user.
        models: cache of loaded models.
        options: `steps` (noise levels, 50), `prompt`, `seed`, `device` and `offline` are used.

    Raises:
        ModelError: the model's prior is the picture itself.
        UsageError: there are fewer than 4 steps, or no probes.
    """
    with in_python("density"):
        chosen, photo = Options(**options), Picture.read(picture)
        models, device = models or Models(most=1), pick_device(chosen.device)
        if not isinstance(model, str):
            with models.borrow(model) as lease:
                return _density_of(lease.model, photo, chosen, probes, device, notify)
        info = describe(
            DEFAULT_MODEL if model == "auto" else model, offline=chosen.offline, transformer=chosen.transformer
        )
        if info.own_picture:
            raise ModelError(f"{info.name} learns from the picture itself, so its likelihood says nothing; use pocket")
        dtype = pick_dtype("fp32", device)  # a trace needs full precision
        with models.lease(info, device, dtype, Setup.of(chosen), offline=chosen.offline) as lease:
            return _density_of(lease.model, photo, chosen, probes, device, notify)


def _density_of(
    model: Model, photo: Picture, options: Options, probes: int, device: torch.device, notify: Notify
) -> Density:
    image = _crop_to_multiple(to_unit(photo.visible).to(device), model.info.multiple, notify)
    afford_backward(model, image.shape[-2], image.shape[-1], 4, device)
    latent = not space_of(model).is_pixels
    if not latent:
        draw = Streams((options.seed,)).stream("cube").normal(image.shape)
        image = image + (2.0 * torch.special.ndtr(draw).to(device) - 1.0) / 255.0
    with torch.no_grad():
        x = model.encode(image, Streams((options.seed,)).stream("encode")).float()
    conditioning = _conditioning(model, options, notify)
    model = model.attach(None, None)
    found = log_likelihood(model, x, steps=options.steps or 50, probes=probes, seed=options.seed, told=conditioning)
    if latent:
        shape = " x ".join(str(n) for n in x.shape[1:])
        notify(f"{model.info.name} works on latents: this is the density of the latent, {shape} values, not of pixels")
    bits, error = _in_bits(found, latent)
    return Density(
        bits, error, tuple(x.shape[1:]), latent, _map(model, x, conditioning, photo, (image.shape[-2], image.shape[-1]))
    )


def _in_bits(found: Likelihood, latent: bool) -> tuple[float, float | None]:
    """Return (bits for each value, standard error) of one item. Latents have no levels, so no bits are added."""
    error = float(found.error[0]) / (found.size * np.log(2.0))
    return float(found.bits_per_dim[0]) - (7.0 if latent else 0.0), None if np.isnan(error) else error


def _conditioning(model: Model, options: Options, notify: Notify) -> Conditioning:
    if "prompt" not in model.info.takes:
        if options.prompt is not None:
            raise UsageError(f"--prompt is given, but {model.info.name} takes no text; choose another --model")
        return Conditioning()
    reads = capability(model, ReadsText)
    if reads is None:
        raise ModelError(f"model {model.info.name} says that it takes text, but has no encode_text")
    prompt, dropped = reads.encode_text(options.prompt or "")
    if dropped:
        notify(f"the prompt is longer than the model can read; left out: {dropped}")
    return Conditioning(prompt=prompt)


def _crop_to_multiple(image: Tensor, multiple: int, notify: Notify) -> Tensor:
    """Crop `image` to the model's multiple, since padded pixels would change the likelihood."""
    height, width = image.shape[-2:]
    kept = height // multiple * multiple, width // multiple * multiple
    if not all(kept):
        raise UsageError(f"the picture is {width}x{height}, and the model works on multiples of {multiple} pixels")
    if kept != (height, width):
        notify(f"only {kept[1]}x{kept[0]} of {width}x{height} pixels are used: the model needs multiples of {multiple}")
    return image[..., : kept[0], : kept[1]]


def _map(
    model: Model, x: Tensor, conditioning: Conditioning, photo: Picture, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the map of where the picture is unlikely, (H, W). `size`: the part of it that is used."""
    levels = model.schedule.levels(24, "log-snr", LEVELS)
    within = [v for v in levels if v.sigma > 0.0 and SCALES[0] <= v.sigma / max(v.alpha, 1e-9) <= SCALES[1]]
    squares = torch.zeros(x.shape[-2:], dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for level in within:
            squares += model(level.alpha * x, level, (conditioning,))[0].eps[0].double().square().mean(0)
    norm = (squares / len(within)).sqrt()[None, None].float()
    if norm.shape[-2:] != size:
        norm = torch.nn.functional.interpolate(norm, size, mode="nearest")
    beyond = (0, photo.width - size[1], 0, photo.height - size[0])
    made: NDArray[np.float32] = torch.nn.functional.pad(norm, beyond, mode="replicate")[0, 0].cpu().numpy()
    return made
