"""A studio with narrow bounds, to be attacked."""

from __future__ import annotations

from pathlib import Path

import pytest
from studio_help import client_of, config, pixels, png

from editkit.cli.studio.config import Bounds

SMALL = Bounds(upload=200_000, pixels=10_000, text=20_000, waiting=4, waiting_of_one=2, streams=3)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    (place / "photo.png").write_bytes(png(pixels()))
    (tmp_path / "outside.png").write_bytes(png(pixels()))
    return place


@pytest.fixture
def client(folder):
    with client_of(config(folder, bounds=SMALL)) as made:
        yield made


def said(answer, *status: int) -> str:
    """The one line of a refusal."""
    assert answer.status_code in status, answer.text
    line = answer.json()["error"]
    assert line
    assert "\n" not in line
    assert "Traceback" not in answer.text
    return str(line)


def kept(folder: Path, part: str, name: str) -> Path:
    """A place among what a studio keeps."""
    place = folder / ".editkit-studio" / part / name
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
