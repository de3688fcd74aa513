"""CLIP models of open_clip: `NAME:TAG` from its list, or a folder in its layout; safetensors only.

A folder contains open_clip_config.json and open_clip_model.safetensors. If the configuration has `log_snr: [low,
high]`, the model was trained on noisy pictures of that range and guides on x_t itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.common import hub, trust
from editkit.common.places import expand_path
from editkit.common.small import read_limited_bytes
from editkit.common.spec import nearest
from editkit.diffusion.schedule import Level, Levels
from editkit.errors import ModelError, short
from editkit.models.files.layout import explain_mistake

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@dataclass(frozen=True, eq=False)
class Clip:
    """A CLIP model, which embeds pictures and texts as unit vectors.

    Args:
        network, tokenizer: open_clip's.
        size: side of its input pictures.
        mean, std: of pixels in [0, 1], by channel.
        log_snr: the range of noise of its training; None: trained on clean pictures.
    """

    name: str
    network: Any
    tokenizer: Any
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    log_snr: tuple[float, float] | None = None

    def texts(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Embed texts: (texts, width), unit vectors."""
        import torch
        import torch.nn.functional as F

        from editkit.common.process import READING

        with READING:
            tokens = self.tokenizer(list(texts))
        with torch.no_grad():
            return F.normalize(self.network.encode_text(tokens.to(device)).float(), dim=-1)

    def images(self, images: Tensor) -> Tensor:
        """Embed pictures (batch, 3, h, w) in [-1, 1], resized to its size: (batch, width), unit vectors."""
        import torch.nn.functional as F

        if images.shape[-2:] != (self.size, self.size):
            shrinks = min(images.shape[-2:]) > self.size
            images = F.interpolate(images, (self.size, self.size), mode="bicubic", antialias=shrinks)
        mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return F.normalize(self.network.encode_image(((images + 1.0) / 2.0 - mean) / std).float(), dim=-1)

    def noisy(self, x_t: Tensor, level: Level) -> Tensor:
        """Embed noisy states, scaled to alpha_t^2 + sigma_t^2 = 1: (batch, width)."""
        return self.images(x_t / math.hypot(level.alpha, level.sigma))

    def check(self, shape: Sequence[int], levels: Levels) -> None:
        """Raise ModelError if a noise-aware model was not trained for these states or levels."""
        if self.log_snr is None:
            return
        wanted = (3, self.size, self.size)
        if tuple(shape[1:]) != wanted:
            raise ModelError(
                f"clip: {self.name} is noise-aware and was trained on states of {wanted}; these are {tuple(shape[1:])}"
                f", and noise cannot be resized; use a clean CLIP model"
            )
        noisiest = min(v.log_snr for v in levels if v.alpha > 0.0)
        if noisiest < self.log_snr[0] - 0.5:
            low, high = self.log_snr
            raise ModelError(
                f"clip: {self.name} was not trained for this schedule: it knows log-SNR from {low:.1f} to {high:.1f}, "
                f"the run begins at {noisiest:.1f}; use a clean CLIP model, or let it act later (--start)"
            )


def is_noisy(source: str) -> bool:
    """Whether the model in the folder `source` is noise-aware; reads only its configuration."""
    try:
        return "log_snr" in json.loads(read_limited_bytes(expand_path(source) / CONFIG))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def load_clip(source: str, device: torch.device, *, offline: bool = False) -> Clip:
    """Load the CLIP model called `source`, frozen, float32.

    Raises:
        ModelError: unknown name or tag (similar ones are listed), or weights not on this machine.
    """
    from editkit.common.process import loading

    folder = expand_path(source)
    with loading():  # open_clip initialises weights that are then replaced
        if folder.is_dir():
            return _from_folder(source, folder, device)
        name, colon, tag = source.partition(":")
        if "/" in source and not colon:
            raise ModelError(f"clip: {source}: there is no such folder; give one, or open_clip's NAME:TAG")
        return _from_list(source, name, tag, device, offline)


def _from_folder(source: str, folder: Path, device: torch.device) -> Clip:
    import open_clip

    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError(f"clip: {source}: {CONFIG} and {WEIGHTS} are needed in a folder; pickles are not read")
    config = trust.check_clip_config(
        source, _read_json(source, folder / CONFIG), _tokenizer_configuration(source, folder)
    )
    words = bool(config["model_cfg"]["text_cfg"].get("hf_tokenizer_name"))
    local = {"trust_remote_code": False, "local_files_only": True} if words else {}
    try:
        network = open_clip.create_model(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}", **local)
    except Exception as error:  # open_clip has no common error class
        wrong = explain_mistake(folder / WEIGHTS)
        message = f"{WEIGHTS} {wrong}" if wrong else f"cannot be loaded: {_first_line(error)}"
        raise ModelError(f"clip: {source}: {message}") from error
    try:
        return _build_clip(source, network, tokenizer, config.get("preprocess_cfg", {}), device, config.get("log_snr"))
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        raise ModelError(
            f"clip: {source}: log_snr or preprocess_cfg of {CONFIG} cannot be used: {_first_line(error)}"
        ) from error


def _read_json(source: str, file: Path) -> Any:
    try:
        return json.loads(read_limited_bytes(file))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"clip: {source}: {file.name} {explain_mistake(file) or f'cannot be read: {_first_line(error)}'}"
        ) from error


def _tokenizer_configuration(source: str, folder: Path) -> Any:
    file = folder / "tokenizer_config.json"
    return _read_json(source, file) if file.is_file() else None


def _from_list(source: str, name: str, tag: str, device: torch.device, offline: bool) -> Clip:
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

    if name not in open_clip.list_models():
        near = nearest(name, open_clip.list_models(), most=4, cutoff=0.4)
        hint = f"; near ones: {', '.join(near)}" if near else ""
        raise ModelError(
            f"clip: {source}: open_clip has no model called {short(name)}, and there is no such folder{hint}"
        )
    tags = list_pretrained_tags_by_model(name)
    config = get_pretrained_cfg(name, tag) if tag else {}
    if not config:
        raise ModelError(f"clip: {source}: weights of {name} are {', '.join(tags) or 'none'}; write {name}:TAG")
    file = _fetch_weights(source, str(config.get("hf_hub", "")), offline)
    try:
        network = open_clip.create_model(name, pretrained=str(file), force_quick_gelu=bool(config.get("quick_gelu")))
        words = bool((open_clip.get_model_config(name) or {}).get("text_cfg", {}).get("hf_tokenizer_name"))
        local = {"trust_remote_code": False, "local_files_only": offline} if words else {}
        tokenizer = open_clip.get_tokenizer(name, **local)
    except Exception as error:
        raise ModelError(f"clip: {source} cannot be loaded: {_first_line(error)}") from error
    return _build_clip(source, network, tokenizer, config, device, None)


def _fetch_weights(source: str, place: str, offline: bool) -> Path:
    """Return the weights of a tag, from the hub's cache or the hub."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, file = "/".join(place.split("/")[:2]), "/".join(place.split("/")[2:])  # owner/name/ or owner/name/file
    if not repo:
        raise ModelError(f"clip: {source}: its weights are a pickle outside of the hub; only safetensors are loaded")
    try:
        name = file if file.endswith(".safetensors") else WEIGHTS
        return Path(hf_hub_download(repo, name, local_files_only=hub.local_only(offline)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        where = f"its weights are not in {constants.HF_HUB_CACHE}"
        raise ModelError(
            f"clip: {source}: {where}; {hub.explain_failure(offline, error)}; give a folder with {CONFIG} and "
            f"{WEIGHTS}, or fetch them where there is a network (hf download {repo})"
        ) from error


def _build_clip(
    source: str, network: Any, tokenizer: Any, pre: Mapping[str, Any], device: torch.device, log_snr: Any
) -> Clip:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    size = network.visual.image_size
    side = int(size[0] if isinstance(size, Sequence) else size)
    mean, std = tuple(pre.get("mean") or OPENAI_DATASET_MEAN), tuple(pre.get("std") or OPENAI_DATASET_STD)
    network = network.to(device).float().eval().requires_grad_(False)
    return Clip(source, network, tokenizer, side, mean, std, None if log_snr is None else (log_snr[0], log_snr[1]))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
