"""Weights on disk: find their files, check that they fit a network, and read them.

Files are read tensor by tensor into the wanted dtype, not mapped into memory: pages of a mapped file count as memory
once read, so a converted model would need twice its size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from editkit.common import trust
from editkit.common.small import read_limited_bytes
from editkit.errors import ModelError
from editkit.models.files.layout import explain_mistake

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from editkit.models.files.layout import Layout

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Names in the attention blocks of checkpoints from before diffusers 0.15; diffusers renames them too."""


def pickle_error(name: str, file: Path) -> str:
    return (
        f"model {name}: {file.name} is a pickle, which can run code when it is read; only safetensors are loaded. If "
        f"you trust it, convert it once: diffusers' from_pretrained(..., use_safetensors=False), then save_pretrained"
    )


def weight_files(layout: Layout, component: str) -> tuple[Path, str | None]:
    """Return (a component's safetensors file or the index of its shards, its variant).

    Raises:
        ModelError: there are none; the message says if there is a pickle.
    """
    folder = layout.path / component
    stems = ("diffusion_pytorch_model", "model")
    for variant in (None, "fp16", "bf16") if layout.variant is None else (layout.variant, None):
        dotted = "" if variant is None else f".{variant}"
        for stem in stems:
            for file in (f"{stem}{dotted}.safetensors", f"{stem}.safetensors.index{dotted}.json"):
                if (folder / file).is_file():
                    return folder / file, variant
    pickles = sorted(f for f in folder.glob("*") if f.suffix in PICKLES) if folder.is_dir() else []
    if pickles:
        raise ModelError(pickle_error(layout.name, pickles[0]))
    raise ModelError(f"model {layout.name}: no safetensors weights in {component or 'the folder'}")


def check(name: str, component: str, expected: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Check that the file has every tensor in its shape."""
    found = {_modern_key(key): shape for key, shape in shapes(name, file)}
    compare(f"model {name}: {component or 'its network'}", found, expected)


def compare(where: str, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse missing tensors and wrong shapes; `where` names the network in messages."""
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ModelError(f"{where} lacks {len(missing)} of {len(expected)} tensors, the first is {missing[0]}")
    wrong = [key for key in sorted(expected) if not _same_shape(found[key], expected[key])]
    if wrong:
        raise ModelError(
            f"{where} has {len(wrong)} tensors of another shape than its configuration says, the first is {wrong[0]}: "
            f"{found[wrong[0]]} instead of {expected[wrong[0]]}"
        )


def _same_shape(found: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether the shapes are equal, or a matrix was saved as a 1x1 convolution or vice versa (old attention blocks)."""
    return found == expected or (found[:2] == expected[:2] and {*found[2:], *expected[2:]} <= {1})


def is_statistic(name: str) -> bool:
    """Whether the tensor is a measured mean or variance, which stays in float32 in half precision too."""
    return name.endswith((".running_mean", ".running_var"))


def _modern_key(key: str) -> str:
    parts = key.split(".")
    if "attentions" in parts and len(parts) > 2 and parts[-2] in _OLD_ATTENTION:
        parts[-2] = _OLD_ATTENTION[parts[-2]]
    return ".".join(parts)


def _shards(name: str, file: Path) -> list[Path]:
    """Return `file`, or the files that it lists if it is an index of shards."""
    if file.suffix != ".json":
        return [file]
    try:
        words = list(json.loads(read_limited_bytes(file))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"model {name}: {file.name} cannot be read as an index of shards: {error}") from error
    parts = {trust.check_sibling_name(name, file.name, word, ".safetensors") for word in words}
    return [file.parent / part for part in sorted(parts)]


@dataclass(frozen=True)
class Stored:
    """One tensor in the header of a file: its name, shape, kind of numbers and bytes."""

    key: str
    shape: tuple[int, ...]
    kind: str
    size: int


NUMBERS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
"""Bytes of floating-point numbers, which are converted to the dtype of the computation."""
WHOLE = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
"""Bytes of integers of more than one byte."""


def shapes(name: str, file: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Read the shapes of the tensors of a file or of an index's shards, from the headers alone."""
    return ((tensor.key, tensor.shape) for tensor in read_stored(name, file))


def read_stored(name: str, file: Path) -> Iterator[Stored]:
    """List the tensors of a .safetensors file or of an index's shards, from the headers alone."""
    from safetensors import SafetensorError, safe_open

    for part in _shards(name, file):
        try:
            with safe_open(part, "np") as tensors:  # "pt" would import torch only for a header
                for key in tensors.keys():  # noqa: SIM118 - not a dictionary
                    part_of = tensors.get_slice(key)
                    shape, kind = tuple(part_of.get_shape()), str(part_of.get_dtype())
                    yield Stored(key, shape, kind, math.prod(shape) * (NUMBERS | WHOLE).get(kind, 1))
        except (OSError, SafetensorError) as error:
            raise ModelError(f"model {name}: {part.name} {unreadable_error(part, error)}") from error


def unreadable_error(file: Path, error: Exception) -> str:
    """Explain why a file of weights could not be read."""
    if not file.exists():
        return "is missing"
    return explain_mistake(file) or f"is damaged or not a safetensors file ({error}); download it again"


def check_sizes(name: str, component: str, config: Mapping[str, Any], weights: Iterable[Stored]) -> None:
    """Refuse a configuration whose sizes do not fit its weights, before building anything.

    Raises:
        ModelError: more layers than tensors, or a size far larger than the largest tensor.
    """
    found = [tensor.shape for tensor in weights]
    longest = max((side for shape in found for side in shape), default=0)
    for key, value in _sizes(config):
        most = len(found) if "layer" in key else max(1 << 16, 8 * longest)
        if value > most:
            raise ModelError(
                f"model {name}: {component or 'its network'}: its configuration says {key} = {value}, but its weights "
                f"are {len(found)} tensors with sides of at most {longest}"
            )


NO_SIZES = ("rope_theta", "max_window_layers", "_token_id")
"""Integers in configurations of language models that are not sizes: the base of rotary angles, the first layer of
sliding attention (unused), and token ids."""


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the integers of a configuration, and the lengths of its lists, with their keys."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.items()
        elif isinstance(value, list):
            yield f"layers of {key}", len(value)
            waiting += [(key, inner) for inner in value]
        elif isinstance(value, int) and not isinstance(value, bool) and not key.endswith(NO_SIZES):
            yield key, value


def read(name: str, file: Path, dtype: Callable[[str], torch.dtype]) -> Iterator[tuple[str, Tensor]]:
    """Read the tensors of a file or of an index's shards in file order, by their current names. Floating-point numbers
    are converted to `dtype(name)`; convolutions are stored channels-last.

    The format: 8 bytes with the length of a JSON header, the header, then the bytes of all tensors.

    Raises:
        ModelError: a file is missing or truncated.
    """
    import torch

    kinds = {
        "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
        "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
        "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    }  # fmt: skip
    for part in _shards(name, file):
        with part.open("rb", buffering=0) as data:
            first = int.from_bytes(data.read(8), "little")
            header: dict[str, Any] = json.loads(data.read(first))
            header.pop("__metadata__", None)
            for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                begin, end = entry["data_offsets"]
                if entry["dtype"] not in kinds:
                    raise ModelError(f"model {name}: {key} of {part.name} has numbers of a kind not known here")
                raw = torch.empty(end - begin, dtype=torch.uint8)
                data.seek(8 + first + begin)
                view, got = memoryview(raw.numpy().data), 0
                while got < len(view):  # one call reads at most 2 GB
                    count = data.readinto(view[got:])
                    if not count:
                        raise ModelError(f"model {name}: {part.name} ends before {key}; it is damaged")
                    got += count
                tensor = raw.view(kinds[entry["dtype"]]).view(entry["shape"])
                wanted = dtype(_modern_key(key)) if tensor.is_floating_point() else tensor.dtype
                wanted = torch.float32 if is_statistic(key) else wanted
                layout = torch.channels_last if tensor.ndim == 4 else torch.preserve_format
                yield _modern_key(key), tensor.to(wanted).to(memory_format=layout)  # faster than both at once


class AheadReader:
    """Reads the tensors of components, one after the other, in its own thread while diffusers is imported.

    Args:
        layout: the model's folder.
        dtypes: the components, with the dtype of each.
    """

    def __init__(self, layout: Layout, dtypes: Mapping[str, torch.dtype]) -> None:
        self._stop = Event()
        self._dtypes = dict(dtypes)
        self._thread = ThreadPoolExecutor(1, "weights")
        self._read = {part: self._thread.submit(self._whole, layout, part, dtype) for part, dtype in dtypes.items()}

    def _whole(self, layout: Layout, component: str, dtype: torch.dtype) -> dict[str, Tensor]:
        found = {}
        for key, tensor in read(layout.name, weight_files(layout, component)[0], lambda _: dtype):
            if self._stop.is_set():
                break
            found[key] = tensor
        return found

    def take(self, component: str, dtype: torch.dtype) -> dict[str, Tensor] | None:
        """Return all tensors of a component, once; None if they were not read in advance in this `dtype`.

        Raises:
            ModelError: its files are missing or damaged.
        """
        if self._dtypes.get(component) != dtype:
            return None
        del self._dtypes[component]
        return self._read.pop(component).result()

    def end(self) -> None:
        """Stop reading and release the tensors that were not taken."""
        self._stop.set()
        self._thread.shutdown(cancel_futures=True)
        self._read.clear()
