"""OpenVINO programs of networks: converted once, cached in the user's cache folder, and compiled.

A cached program is a folder named by the SHA-256 of the weights, the configuration, the form of the call and the
versions of the converting libraries. It is written to a temporary folder and moved into place atomically. A program
that another user owns or may write to is not read: the network is then converted again and not cached.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from editkit.common import places
from editkit.common.process import quiet
from editkit.errors import ModelError

FORMAT = 1
"""Version of the cache's format."""

FILE = "network.xml"
_MADE_BY = ("torch", "diffusers", "openvino")


class Program:
    """A compiled network: tensors in, tensors out, for any number of rows."""

    def __init__(self, compiled: Any) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return float32 tensors, copies of the program's own. Not thread-safe."""
        given = [np.ascontiguousarray(_plain(tensor).numpy()) for tensor in tensors]
        made = self._request.infer(given, share_inputs=True)
        return [torch.from_numpy(np.array(made[k], dtype=np.float32)) for k in range(len(made))]


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def model_of(
    name: str, network: nn.Module, made_of: str, flat: Callable[[], nn.Module], example: Sequence[Tensor], half: bool
) -> Any:
    """Return OpenVINO's model of `network`, for any sizes, from the cache or converted now.

    Args:
        name: the network's name in messages.
        made_of: what the results depend on besides the weights: class, configuration and form of the call.
        flat: makes a float32 network that takes the tensors of a call as positional arguments.
        example: such tensors.
        half: whether the weights of `network` have 16 bits.

    Raises:
        ModelError: OpenVINO cannot convert it.
    """
    place = cache_folder(network, made_of, half)
    found = _read_cached(place)
    if found is not None:
        return found
    try:
        with torch.inference_mode(False), torch.no_grad(), quiet("diffusers"):
            model = _convert(flat(), tuple(_plain(tensor).clone() for tensor in example))
    except Exception as error:  # the converter's errors have no common base class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"--backend openvino: the {name} cannot be converted: {reason}; leave it out") from error
    return cache_model(model, place, half)


def _convert(network: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """Convert `network` to OpenVINO's model.

    It uses the frontend, because `openvino.convert_model` reports each use to its makers unless the user opted out.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the decoder traces with torch.jit
        decoder = TorchScriptPythonDecoder(network, example_input=example)
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def compile_model(model: Any, example: Sequence[Tensor], half: bool) -> Program:
    """Compile `model` for the sizes of `example` and any number of rows; in bf16 if `half` and the CPU supports it."""
    import openvino

    core, sized = openvino.Core(), model.clone()
    shapes = [[-1, *tensor.shape[1:]] if tensor.ndim else [] for tensor in example]
    sized.reshape(dict(zip(sized.inputs, shapes, strict=True)))
    fast = half and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    how = {
        "INFERENCE_PRECISION_HINT": "bf16" if fast else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return Program(core.compile_model(sized, "CPU", how))


def cache_folder(network: nn.Module, made_of: str, half: bool) -> Path:
    """Return the folder in which a model of `network` is cached."""
    digest = hashlib.sha256(json.dumps([FORMAT, made_of, half, *map(version, _MADE_BY)]).encode())
    for line in _hashes(network):
        digest.update(line.encode())
    return places.cache() / "openvino" / digest.hexdigest()


def _hashes(network: nn.Module) -> list[str]:
    """Return a line for each tensor: name, dtype, shape and SHA-256."""

    def line(item: tuple[str, Tensor]) -> str:
        name, tensor = item
        data = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().data
        return f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()}\n"

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(line, network.state_dict().items()))


def cache_model(model: Any, place: Path, half: bool) -> Any:
    """Cache `model` at `place`, atomically, and return it as read from its file, so that every run uses the same model.

    The file's weights have 16 bits if `half`. If `place` cannot be used, the file is temporary and deleted on return.
    """
    import openvino

    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        there = place.parent if _is_trusted(place.parent) else None
        with TemporaryDirectory(dir=there, ignore_cleanup_errors=True) as draft:
            whole = Path(draft) / "whole"
            whole.mkdir()
            openvino.save_model(model, whole / FILE, compress_to_fp16=half)
            if there is not None:
                with suppress(OSError):  # another process was faster
                    whole.rename(place)
            return _read_cached(place) or openvino.Core().read_model(whole / FILE)
    except (OSError, RuntimeError):  # no writable folder at all
        return model


def _read_cached(place: Path) -> Any:
    """Return OpenVINO's model cached at `place`, or None if there is none that is trusted and readable."""
    import openvino

    file = place / FILE
    if not all(map(_is_trusted, (place.parent, place, file, file.with_suffix(".bin")))):
        return None
    try:
        return openvino.Core().read_model(file)
    except RuntimeError:
        shutil.rmtree(place, ignore_errors=True)
        return None


def _is_trusted(path: Path) -> bool:
    """Return whether `path` exists, is no symbolic link, belongs to this user, and only this user may write to it."""
    try:
        state = path.lstat()
    except OSError:
        return False
    if stat.S_ISLNK(state.st_mode):
        return False
    if not hasattr(os, "geteuid"):  # Windows: the folder is in the user's own profile
        return True
    return state.st_uid == os.geteuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
