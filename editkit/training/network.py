"""The network `pocket`: diffusers' UNet2DConditionModel without cross-attention behind a pixel-unshuffle.

The network's input is `cat(unshuffle(z), unshuffle(condition), unshuffle(mask))`: 3, 3 and 1 channels times f^2; its
output is unshuffle(F), 3 f^2 channels; z and F are those of `editkit.models.pocket.residual`. The task is the class
label.
pocket.json beside the weights documents this wiring.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from editkit.common.small import read_limited_bytes
from editkit.errors import EditkitError
from editkit.models.files.weights import Stored, check_sizes
from editkit.models.pocket.residual import COARSE, HOLE, KNOWN, LUMA, TASKS
from editkit.training.diffusion import SCHEDULER
from editkit.training.settings import Architecture


def build_unet(architecture: Architecture) -> UNet2DConditionModel:
    """Build the UNet with random weights; attention only at the lowest level and in the middle."""
    levels, folded = len(architecture.channels), architecture.unshuffle**2
    unit = architecture.unshuffle * 2 ** (levels - 1)
    if architecture.window % unit:
        raise EditkitError(
            f"window {architecture.window}: must be divisible by {unit} "
            f"(unshuffle {architecture.unshuffle}, {levels} levels)"
        )
    return UNet2DConditionModel(
        sample_size=architecture.window // architecture.unshuffle,
        in_channels=7 * folded,
        out_channels=3 * folded,
        down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
        mid_block_type="UNetMidBlock2D",
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
        block_out_channels=architecture.channels,
        layers_per_block=architecture.layers,
        norm_num_groups=architecture.groups,
        attention_head_dim=architecture.head,
        cross_attention_dim=architecture.head,  # no block has cross-attention; the value is only stored
        num_class_embeds=len(TASKS),
    )


class Pocket(nn.Module):
    """(z, t, task, condition, mask) -> F, all pictures (B, C, window, window), t and task (B,)."""

    def __init__(self, architecture: Architecture, unet: UNet2DConditionModel | None = None) -> None:
        super().__init__()
        self.architecture = architecture
        self.unet = build_unet(architecture) if unet is None else unet

    @property
    def learner(self) -> nn.Module:
        """The part to train."""
        unet: nn.Module = self.unet
        return unet

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, z: Tensor, t: Tensor, task: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        return self.of_folded(self.fold(z, condition, mask), t, task)

    def fold(self, z: Tensor, condition: Tensor, mask: Tensor) -> Tensor:
        """Return the UNet's input, (B, 7 f^2, window / f, window / f)."""
        f = self.architecture.unshuffle
        folded = torch.cat([F.pixel_unshuffle(part, f) for part in (z, condition, mask)], dim=1)
        return folded.to(dtype=self.unet.dtype, memory_format=torch.channels_last)

    def of_folded(
        self, folded: Tensor, t: Tensor, task: Tensor, down: tuple[Tensor, ...] | None = None, mid: Tensor | None = None
    ) -> Tensor:
        """Return F; `down` and `mid` (of a ControlNet) are added to the UNet's features."""
        out: Tensor = self.unet(
            folded,
            t,
            encoder_hidden_states=None,
            class_labels=task,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return F.pixel_shuffle(out, self.architecture.unshuffle).float()


class Parts(Protocol):
    """The part of a module's interface that `to_dtype` uses."""

    def children(self) -> Iterator[nn.Module]: ...


def to_dtype(network: Parts, dtype: torch.dtype, device: torch.device | None = None) -> None:
    """Cast the network in place, channels-last. (Module.to of each part: diffusers' own warns of an empty list.)"""
    for part in network.children():
        nn.Module.to(part, device=device, dtype=dtype)
        nn.Module.to(part, memory_format=torch.channels_last)


def wiring(architecture: Architecture) -> dict[str, Any]:
    """Return the wiring for adapters, as in pocket.json."""
    return {
        "format": 2,
        "window": architecture.window,
        "unshuffle": architecture.unshuffle,
        "input": ["z", "condition", "mask"],
        "input_note": "each is pixel-unshuffled by itself, then they are concatenated along channels",
        "output": "F, pixel-unshuffled; z and F are those of editkit.models.pocket.residual",
        "range": [-1.0, 1.0],
        "tasks": {name: index for index, name in enumerate(TASKS)},
        "mask": {"known": KNOWN, "coarse": COARSE, "hole": HOLE},
        "condition": {
            "prior": "0, mask 1",
            "inpaint": "known pixels; hole: their push-pull fill (mask 1) or a coarser picture (mask 0.5)",
            "upscale": "the small picture enlarged bicubically, mask 1",
            "colorize": "luma in three channels, mask 1",
        },
        "luma": list(LUMA),
        "architecture": architecture.model_dump(mode="json"),
    }


def check_free(folder: Path, names: Iterable[str], force: bool) -> None:
    """Refuse to replace files in `folder`.

    Raises:
        EditkitError: one of `names` exists, and `force` is not set.
    """
    found = next((name for name in names if os.path.lexists(folder / name)), None)
    if found is not None and not force:
        raise EditkitError(f"{folder / found}: exists already; name another --output, or --force to replace it")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: a temporary file beside it, fsync, rename. Raises EditkitError if the disk
    refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise EditkitError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise EditkitError(
            f"{path}: cannot be written ({error.strerror or error}); the old file stays whole"
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def export(folder: Path, architecture: Architecture, weights: dict[str, Tensor]) -> None:
    """Write a folder in diffusers' layout with the UNet's fp32 weights converted to fp16."""
    from safetensors.torch import save

    unet = build_unet(architecture)
    half = {name: weights[name].detach().to(torch.float16).contiguous() for name in unet.state_dict()}
    config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
    config["_class_name"] = "UNet2DConditionModel"
    write_atomically(folder / "unet" / "diffusion_pytorch_model.safetensors", save(half, {"format": "pt"}))
    write_atomically(folder / "unet" / "config.json", _json(config))
    scheduler = DDPMScheduler(**SCHEDULER)
    write_atomically(folder / "scheduler" / "scheduler_config.json", scheduler.to_json_string().encode())
    index = {
        "_class_name": "EditkitPocket",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    write_atomically(folder / "model_index.json", _json(index))
    write_atomically(folder / "pocket.json", _json(wiring(architecture)))


def load(folder: Path) -> Pocket:
    """Read an exported folder (weights in fp32).

    Raises:
        EditkitError: it is not such a folder, or its weights do not fit the architecture in pocket.json.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        described = json.loads(read_limited_bytes(folder / "pocket.json"))
        architecture = Architecture.model_validate(described["architecture"])
        weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    except FileNotFoundError as error:
        missing = Path(error.filename or folder / "unet" / "diffusion_pytorch_model.safetensors").name
        raise EditkitError(f"{folder}: is not an exported network ({missing} is missing)") from error
    except (KeyError, ValueError, TypeError, RecursionError, OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EditkitError(f"{folder}: pocket.json or the weights cannot be read ({reason})") from error
    shapes = {name: value.shape for name, value in weights.items()}
    check_sizes(str(folder), "unet", architecture.model_dump(mode="json"), _stored(weights))
    with torch.device("meta"):  # the configuration may need more memory than available
        network = Pocket(architecture)
    if {name: value.shape for name, value in network.unet.state_dict().items()} != shapes:
        raise EditkitError(f"{folder}: the weights are of another architecture than pocket.json says")
    network.unet.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
    return network


def _stored(weights: Mapping[str, Tensor]) -> Iterator[Stored]:
    return (Stored(name, tuple(value.shape), str(value.dtype), value.nbytes) for name, value in weights.items())
