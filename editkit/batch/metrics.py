"""Metrics that compare results with references, using torchmetrics (`editkit[score]`).

Nothing is downloaded: metrics with weights read a file of the user. psnr and ssim need none. `lpips` (Zhang et al.
2018) uses the linear layers that come with torchmetrics, and AlexNet's convolutions from a file; `clip` (Hessel et al.
2021) an open_clip folder; `fid` (Heusel et al. 2017) and `kid` (Binkowski et al. 2018) the Inception network of the
FID authors, through torch-fidelity.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.errors import ModelError, UsageError
from editkit.pictures.picture import Picture

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS: Mapping[str, tuple[str, str]] = {
    "lpips": ("--lpips-weights", "torchvision's alexnet-owt-7be5be79.pth"),
    "clip": ("--clip-model", "a folder with open_clip_config.json and open_clip_model.safetensors"),
    "fid": ("--inception", "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"),
    "kid": ("--inception", "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"),
}
"""Metric -> the option for its weights, and a description of the file."""

EACH = ("psnr", "ssim", "lpips", "clip")
"""Metrics of each picture."""

ALL = ("fid", "kid")
"""Metrics that compare two sets."""

METRICS = (*EACH, *ALL)

BETTER = {"psnr": "higher", "ssim": "higher", "lpips": "lower", "clip": "higher", "fid": "lower", "kid": "lower"}

LEAST = {"ssim": 11, "lpips": 32}
"""Smallest picture side for these metrics, in pixels."""

One = Callable[[Picture, Picture | None, str | None], float]
"""(result, reference, prompt) -> figure."""

Seen = Callable[[Picture], "Tensor"]
"""Returns a picture's features (width,)."""


@dataclass(frozen=True)
class Files:
    """The user's paths to the weights."""

    lpips: str | None = None
    clip: str | None = None
    inception: str | None = None

    def of(self, metric: str) -> str:
        """Return the checked path for `metric`.

        Raises:
            UsageError: none was given; the message names the option and the file.
        """
        path = {"lpips": self.lpips, "clip": self.clip, "fid": self.inception, "kid": self.inception}[metric]
        option, what = WEIGHTS[metric]
        if path is None:
            raise UsageError(f"{metric} needs weights, which are not downloaded: {option} FILE, {what}")
        if not Path(path).expanduser().exists():
            raise UsageError(f"{option} {path}: is not there; {metric} needs {what}")
        return str(Path(path).expanduser())


def metric_function(metric: str, files: Files) -> One:
    """Return the function that computes `metric` for one picture.

    Raises:
        ExtraError: torchmetrics is not installed.
        UsageError, ModelError: the weights were not given, or cannot be loaded.
    """
    made: dict[str, Callable[[], One]] = {
        "psnr": _psnr,
        "ssim": _ssim,
        "lpips": lambda: _lpips(files.of("lpips")),
        "clip": lambda: _clip(files.of("clip")),
    }
    return made[metric]()


def _to_unit_tensor(picture: Picture) -> Tensor:
    """Convert to (1, 3, h, w) in [0, 1], without transparency."""
    import numpy as np
    import torch

    most = np.iinfo(picture.pixels.dtype).max
    return torch.from_numpy(picture.pixels.astype(np.float32) / most).permute(2, 0, 1)[None]


def _pair(result: Picture, reference: Picture | None) -> tuple[Tensor, Tensor]:
    assert reference is not None  # checked by `scoring`
    return _to_unit_tensor(result), _to_unit_tensor(reference)


def _psnr() -> One:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    return lambda result, reference, prompt: float(peak_signal_noise_ratio(*_pair(result, reference), data_range=1.0))


def _ssim() -> One:
    from torchmetrics.functional.image import structural_similarity_index_measure as ssim

    return lambda result, reference, prompt: float(ssim(*_pair(result, reference), data_range=1.0))


def _lpips(path: str) -> One:
    from torchmetrics.functional.image.lpips import _LPIPS

    network = _LPIPS(pretrained=True, net="alex", pnet_rand=True)
    state = _load_state(path, "lpips")
    for name, value in network.net.state_dict().items():  # slice1.0.weight is features.0.weight
        theirs = f"features.{name.partition('.')[2]}"
        if theirs not in state or state[theirs].shape != value.shape:
            raise ModelError(f"lpips: {path} has no {theirs} of shape {tuple(value.shape)}; {WEIGHTS['lpips'][1]} has")
        value.copy_(state[theirs])
    network.requires_grad_(False).eval()

    def figure(result: Picture, reference: Picture | None, prompt: str | None) -> float:
        one, two = _pair(result, reference)
        return float(network(2.0 * one - 1.0, 2.0 * two - 1.0))

    return figure


def _clip(path: str) -> One:
    import torch

    from editkit.models.clip import load_clip

    model = load_clip(path, torch.device("cpu"), offline=True)

    @torch.no_grad()
    def figure(result: Picture, reference: Picture | None, prompt: str | None) -> float:
        assert prompt is not None  # checked by `scoring`
        cosine = model.images(2.0 * _to_unit_tensor(result) - 1.0) @ model.texts([prompt], torch.device("cpu")).T
        return 100.0 * max(float(cosine), 0.0)

    return figure


def inception(path: str) -> Seen:
    """Return the function for features (2048,) of the network that defines FID and KID."""
    import tempfile

    import torch
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    state = _load_state(path, "fid")
    with tempfile.TemporaryDirectory() as folder:  # torch-fidelity would run a pickle's code: pass the loaded tensors
        copy = str(Path(folder) / "inception.pth")
        torch.save(dict(state), copy)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=copy)
        except RuntimeError as error:
            raise ModelError(f"--inception {path}: is of another network; {WEIGHTS['fid'][1]} is needed") from error

    @torch.no_grad()
    def features(picture: Picture) -> Tensor:
        seen: Tensor = network((255.0 * _to_unit_tensor(picture)).round().byte())[0][0]
        return seen.double()

    return features


def set_distance(metric: str, results: Tensor, references: Tensor) -> float:
    """Compute `fid` or `kid` of features (n, width) and (m, width). Equals the library's result, but is fast enough for
    resampling: tr (S1 S2)^1/2 is the sum of the singular values of the centred X1 X2^T, divided by
    sqrt((n - 1)(m - 1)).
    """
    if metric == "kid":
        from torchmetrics.image.kid import poly_mmd

        return float(poly_mmd(references, results))
    import torch

    one, two = ((x - x.mean(0)) / (len(x) - 1) ** 0.5 for x in (results, references))
    apart = (results.mean(0) - references.mean(0)).square().sum()
    common = torch.linalg.svdvals(one @ two.T).sum()
    return float(apart + one.square().sum() + two.square().sum() - 2.0 * common)


def _load_state(path: str, metric: str) -> Mapping[str, Any]:
    """Load the tensors of a file by name, without running a pickle's code."""
    import torch

    if Path(path).exists() and not Path(path).is_file():
        raise ModelError(f"{metric}: {path}: is not a regular file")
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about pickles, whose code is not run
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise any error on a damaged file
        raise ModelError(f"{metric}: {path}: cannot be read as weights ({type(error).__name__})") from error
    if not isinstance(state, Mapping):
        raise ModelError(f"{metric}: {path}: holds {type(state).__name__}, not weights by name")
    return state


def needs_reference(metrics: Sequence[str]) -> list[str]:
    """Return those of `metrics` that compare each result with its own reference."""
    return [metric for metric in metrics if metric in ("psnr", "ssim", "lpips")]
