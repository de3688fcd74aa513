"""Where pictures go: nothing is replaced unasked, nothing is half there."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_files import ICC, XMP, exif, line, noise, photo

import editkit.pictures.files.writing
from editkit.errors import PictureError
from editkit.pictures.files.encoding import encode
from editkit.pictures.files.png import png_chunks
from editkit.pictures.files.reading import decode
from editkit.pictures.files.writing import check_output
from editkit.pictures.picture import Picture

__all__ = ["photo"]

# --------------------------------------------------------------------------------------------------------------- output


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_existing_output_needs_force(photo: Path) -> None:
    before = photo.read_bytes()
    picture = Picture.read(noise(3, 3, 3, np.uint8))
    with pytest.raises(PictureError) as error:
        picture.write(photo)
    assert "--force" in line(error)
    assert photo.read_bytes() == before
    photo.chmod(0o640)
    picture.write(photo, force=True)
    assert Picture.read(photo).size == (3, 3)
    assert photo.stat().st_mode & 0o777 == 0o640
    assert names(photo.parent) == {"photo.png"}


def test_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.png"
    monkeypatch.setattr(editkit.pictures.files.writing, "check_output", lambda path, force: "PNG")
    out.write_bytes(b"someone else's")
    with pytest.raises(PictureError, match="exists already"):
        Picture.read(noise(3, 3, 3, np.uint8)).write(out)
    assert out.read_bytes() == b"someone else's"
    assert names(tmp_path) == {"out.png"}


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    Picture.read(noise(3, 3, 3, np.uint8)).write(tmp_path / "out.png")
    assert names(tmp_path) == {"out.png"}


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "null.png").symlink_to("/dev/null")
    for path, words in (
        (tmp_path / "out", "no ending"),
        (tmp_path / "out.xyz", ".xyz"),
        (tmp_path / "none" / "out.png", "no such folder"),
        (tmp_path / "file" / "out.png", "not a folder"),
        (tmp_path / "null.png", "not a regular file"),
        (tmp_path / ("n" * 270 + ".png"), "cannot be written"),
    ):
        with pytest.raises(PictureError) as error:
            Picture.read(noise(3, 3, 3, np.uint8)).write(path, force=True)
        assert words in line(error).replace("Not a directory", "not a folder")
    (tmp_path / "dir.png").mkdir()
    with pytest.raises(PictureError, match="is a folder"):
        check_output(tmp_path / "dir.png")
    assert names(tmp_path) == {"file", "null.png", "dir.png"}


@pytest.mark.parametrize("force", [False, True])
def test_full_disk_leaves_the_old_file_and_no_temporary(
    force: bool, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = photo.read_bytes()
    out = photo if force else photo.with_name("new.png")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PictureError) as error:
        Picture.read(noise(3, 3, 3, np.uint8)).write(out, force=force)
    assert "No space left" in line(error)
    assert names(photo.parent) == {"photo.png"}
    assert photo.read_bytes() == before


def test_symbolic_links_are_written_through(photo: Path) -> None:
    link = photo.with_name("link.png")
    link.symlink_to(photo.name)
    Picture.read(noise(3, 3, 3, np.uint8)).write(link, force=True)
    assert link.is_symlink()
    assert Picture.read(photo).size == (3, 3)


def test_standard_output(photo: Path) -> None:
    code = "from editkit.pictures.picture import Picture; Picture.read('-').write('-', format='TIFF')"
    done = subprocess.run([sys.executable, "-c", code], input=photo.read_bytes(), capture_output=True, check=True)
    assert np.array_equal(decode(done.stdout, "x").pixels, Picture.read(photo).pixels)


def test_too_large_for_the_format(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="16383"):
        Picture.read(np.zeros((1, 16_384, 3), np.uint8)).write(tmp_path / "a.webp")
    with pytest.raises(PictureError, match="quality"):
        Picture.read(np.zeros((1, 4, 3), np.uint8)).write(tmp_path / "a.webp", quality=0)
    assert not names(tmp_path)


def test_same_picture_same_bytes() -> None:
    for format_ in ("PNG", "TIFF", "JPEG", "WEBP"):
        picture = Picture.read(noise(30, 40, 3, np.uint8))
        assert encode(picture, format_, [])[0] == encode(picture, format_, [])[0]


def test_png_is_one_that_others_accept() -> None:
    """Chunks in the standard's order, and OpenCV sees the same 16 bits."""
    import cv2

    array = noise(9, 8, 3, np.uint16)
    from dataclasses import replace

    picture = Picture.read(array)
    picture = replace(picture, meta=replace(picture.meta, icc=ICC, exif=exif(1), xmp=XMP, dpi=(72.0, 72.0)))
    data = encode(picture, "PNG", [])[0]
    kinds = [kind for kind, _ in png_chunks(data)]
    assert kinds == [b"IHDR", b"iCCP", b"pHYs", b"eXIf", b"iTXt", b"IDAT", b"IEND"]
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1], array)
    tiff = encode(picture, "TIFF", [])[0]
    assert np.array_equal(cv2.imdecode(np.frombuffer(tiff, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1], array)
