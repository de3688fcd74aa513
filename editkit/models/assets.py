"""Where the networks that come with editkit lie."""

from __future__ import annotations

from pathlib import Path

from editkit.errors import ModelError
from editkit.models.files.layout import Layout


def folder(name: str) -> Path:
    """Return the folder of an embedded network, in the installed package or in the checkout."""
    package = Path(__file__).parent.parent
    inside = package / "_assets" / name
    return inside if inside.is_dir() else package.parent / "assets" / name


def layout(name: str, instead: str) -> Layout:
    """Return the layout of the embedded network `name`, whose folder has the file NAME.json.

    Raises:
        ModelError: it is not part of this installation; `instead` is the model to use.
    """
    path = folder(name)
    if not (path / f"{name}.json").is_file():
        raise ModelError(f"model {name} is not part of this installation of editkit; use {instead}")
    return Layout(name, path)
