"""Libraries that come with an extra of the package, and the error if one is missing.

`pip install editkit` alone runs `patches` and `pocket`; the libraries for diffusers, CLIP, classifiers and ControlNets'
detectors come with `editkit[diffusers]`, `[clip]`, `[classifiers]`, `[hints]`, or all of it with `editkit[all]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from editkit.errors import ExtraError

EXTRAS: dict[str, str] = {
    "diffusers": "diffusers",
    "transformers": "diffusers",
    "accelerate": "diffusers",
    "peft": "diffusers",
    "gguf": "gguf",
    "openvino": "openvino",
    "huggingface_hub": "diffusers",
    "open_clip": "clip",
    "kornia": "clip",
    "timm": "classifiers",
    "torchvision": "classifiers",
    "controlnet_aux": "hints",
    "compel": "weights",
    "spandrel": "upscalers",
    "fsspec": "stores",
    "s3fs": "stores",
    "pyarrow": "stores",
    "ray": "ray",
    "dlib": "masks",
    "av": "video",
    "scipy": "ode",
    "torchmetrics": "score",
    "torch_fidelity": "score",
    "fastapi": "studio",
    "starlette": "studio",
    "anyio": "studio",
    "uvicorn": "studio",
}
"""Module -> the extra that provides it."""


def missing(error: ImportError) -> ExtraError | None:
    """Return the error for the user if `error` concerns a library of an extra; else None."""
    library = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or library not in EXTRAS:
        return None
    extra = EXTRAS[library]
    return ExtraError(f"this needs {library}, which is not installed: pip install 'editkit[{extra}]'")


def installed() -> dict[str, list[str]]:
    """Return {extra: its libraries that are not installed}; imports none of them."""
    lacking: dict[str, list[str]] = {extra: [] for extra in EXTRAS.values()}
    for library, extra in EXTRAS.items():
        if find_spec(library) is None:
            lacking[extra].append(library)
    return lacking


@contextmanager
def explained() -> Iterator[None]:
    """Turn a missing library of an extra into an error with the command that installs it.

    Raises:
        ExtraError: a library is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing_extra = missing(error)
        if missing_extra is None:
            raise
        raise missing_extra from error
