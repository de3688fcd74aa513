"""Checkpoints: one safetensors file with everything that a resumed run needs, written atomically."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from editkit.errors import EditkitError
from editkit.training.network import write_atomically
from editkit.training.settings import Architecture, Settings

FILE = "checkpoint.safetensors"
S = TypeVar("S", bound=Settings)


class BackgroundWriter:
    """A background thread that runs write jobs in order; an error is raised at the next job, or at the end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def put(self, job: Callable[[], None]) -> None:
        """Run the job after the previous one."""
        self._wait()
        self._last = self._pool.submit(job)

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None:
                self._wait()
        finally:
            self._pool.shutdown()


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    step: int = 0
    pictures: int = 0
    seconds: float = 0.0


def save_checkpoint(folder: Path, settings: Settings, progress: Progress, tensors: dict[str, Tensor]) -> Path:
    """Write `folder/checkpoint.safetensors`. A full disk raises EditkitError and keeps the old one."""
    from safetensors.torch import save

    metadata = {
        "settings": json.dumps(settings.model_dump(), default=str),  # in ASCII, for any bytes in a folder's name
        "progress": json.dumps({"step": progress.step, "pictures": progress.pictures, "seconds": progress.seconds}),
    }
    path = folder / FILE
    write_atomically(path, save({name: value.detach().contiguous() for name, value in tensors.items()}, metadata))
    return path


def read_metadata(path: Path) -> dict[str, str]:
    """Read the header's metadata, without the tensors."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        return dict(header["__metadata__"])
    except (
        OSError, struct.error, ValueError, KeyError, TypeError, MemoryError, OverflowError, RecursionError,
    ) as error:  # fmt: skip
        raise EditkitError(f"{path}: is not a checkpoint of a training run ({error})") from error


def check_new(settings: Settings) -> None:
    """Refuse to start a run in the folder of another one, whose results its first checkpoint would replace.

    Raises:
        EditkitError: the folder contains results.
    """
    found = next((name for name in (FILE, "export") if (settings.output / name).exists()), None)
    if found is not None:
        raise EditkitError(
            f"{settings.output}: holds {found} of a run already; --resume goes on with it, and a new run needs another "
            "--output"
        )


def load_checkpoint(settings: S) -> tuple[Progress, dict[str, Tensor], S]:
    """Read back the checkpoint of a run's folder: progress, tensors, and the settings it was written with.

    Raises EditkitError if it is missing, damaged, of another kind of run or of another architecture.
    """
    from safetensors.torch import load

    path = settings.output / FILE
    if not path.is_file():
        raise EditkitError(f"{path}: there is no checkpoint to resume; leave out --resume to begin a run")
    metadata = read_metadata(path)
    try:
        before = type(settings).model_validate(json.loads(metadata["settings"]))
        progress = Progress(**json.loads(metadata["progress"]))
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise EditkitError(f"{path}: its settings cannot be read ({error})") from error
    if before.architecture != settings.architecture:
        raise EditkitError(
            f"{path}: was made by another architecture ({_format_architecture(before.architecture)}) than asked for "
            f"({_format_architecture(settings.architecture)}); use that one's settings or another --output"
        )
    try:
        return progress, load(path.read_bytes()), before  # given a path, safetensors supports only UTF-8 names
    except Exception as error:  # safetensors raises its own SafetensorError
        raise EditkitError(f"{path}: is damaged ({error})") from error


def _format_architecture(architecture: Architecture) -> str:
    return (
        f"window {architecture.window}, unshuffle {architecture.unshuffle}, "
        f"channels {'-'.join(map(str, architecture.channels))}, layers {architecture.layers}"
    )
