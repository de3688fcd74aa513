"""Provenance: in every format, the same bytes each time, taken out without touching a pixel, and forgeries refused."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, features

from editkit.cli import run
from editkit.errors import PictureError
from editkit.pictures.files.encoding import encode
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk, png_text
from editkit.pictures.files.provenance import (
    Provenance,
    find_provenance,
    hash_mask,
    hash_pixels,
    read_provenance,
    strip_bytes,
    strip_file,
)
from editkit.pictures.files.xmp import MAX_TEXT, insert_provenance, without_provenance
from editkit.pictures.picture import Picture

ENDINGS = [".png", ".jpg", ".webp", ".tif"] + ([".avif"] if features.check("avif") else [])
FORMATS = ["PNG", "JPEG", "WEBP", "TIFF"]

RECIPE: dict[str, Any] = {
    "edits": [
        {"inpaint": {"mask": "mask.png", "method": "repaint"}},
        {"guide": {"weight": 0.25, "text": 'a <b> & "ü" 猫'}},
    ],
    "steps": 30,
    "none": None,
}


def photo(seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    return Picture(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))


def made(recipe: dict[str, Any] = RECIPE) -> Provenance:
    mask = np.zeros((20, 30), np.float32)
    mask[3:9] = 1.0
    return Provenance.of(recipe, models=(("patches", None),), seed=7, picture=photo(), name="/home/me/a.jpg", mask=mask)


@pytest.mark.parametrize("ending", ENDINGS)
def test_it_travels_in_every_format(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{ending}"
    photo().write(path, provenance=made())
    assert read_provenance(path) == made()
    assert read_provenance(path).recipe == RECIPE  # type: ignore[union-attr]
    with Image.open(path) as image:
        image.load()  # others can still read the file
    photo().write(tmp_path / f"bare{ending}")
    assert read_provenance(tmp_path / f"bare{ending}") is None


@pytest.mark.parametrize("first", ENDINGS)
@pytest.mark.parametrize("second", ENDINGS)
def test_a_second_edit_replaces_it(first: str, second: str, tmp_path: Path) -> None:
    """What the file said of the picture before must not pass for how this one was made."""
    photo().write(tmp_path / f"a{first}", provenance=made())
    again = Picture.read(tmp_path / f"a{first}")
    again.write(tmp_path / f"b{second}")
    assert read_provenance(tmp_path / f"b{second}") is None
    other = made({"edits": []})
    again.write(tmp_path / f"c{second}", provenance=other)
    assert read_provenance(tmp_path / f"c{second}") == other
    assert (tmp_path / f"c{second}").read_bytes().count(b"picture_hash") == 1


@pytest.mark.parametrize("format_", FORMATS)
def test_same_bytes_each_time_and_neither_date_nor_folder(format_: str) -> None:
    recipe = {
        "mask": Path("/home/me/secret/mask.png"),
        "list": ["/etc/passwd", "C:\\Users\\me\\a.png"],
        "prompt": "/imagine a door",
    }
    provenance = made(recipe)
    assert provenance.recipe == {"mask": "mask.png", "list": ["passwd", "a.png"], "prompt": "/imagine a door"}
    assert provenance.picture == "a.jpg"
    one, two = (encode(photo(), format_, [], text=made(recipe).to_text())[0] for _ in range(2))
    assert one == two
    assert b"secret" not in one
    assert b"/home" not in one
    assert set(json.loads(provenance.to_text())) == {
        "version", "recipe", "models", "seed", "versions", "picture", "picture_hash", "mask_hash",
        "example_hashes",
    }  # fmt: skip


def test_order_of_keys_does_not_matter() -> None:
    assert made({"a": 1, "b": {"c": 2, "d": 3}}).to_text() == made({"b": {"d": 3, "c": 2}, "a": 1}).to_text()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**53), 2**53)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_any_recipe_comes_back(value: Any) -> None:
    provenance = Provenance(recipe={"value": value})
    for format_ in ("PNG", "JPEG"):
        data = encode(photo(), format_, [], text=provenance.to_text())[0]
        text = find_provenance(data)
        assert text is not None
        assert Provenance.from_text(text) == provenance
        assert find_provenance(strip_bytes(data)) is None


def test_hashes_are_of_pixels_not_of_files(tmp_path: Path) -> None:
    photo().write(tmp_path / "a.png")
    photo().write(tmp_path / "a.tif")
    assert (
        hash_pixels(Picture.read(tmp_path / "a.png"))
        == hash_pixels(Picture.read(tmp_path / "a.tif"))
        == hash_pixels(photo())
    )
    other = photo()
    other.pixels[0, 0, 0] ^= 1
    assert hash_pixels(other) != hash_pixels(photo())
    assert hash_pixels(photo().with_alpha(np.zeros((20, 30), np.uint8))) != hash_pixels(photo())
    assert hash_mask(np.zeros((4, 6))) != hash_mask(np.zeros((6, 4)))
    assert hash_mask(np.zeros((4, 6), np.float64)) == hash_mask(np.zeros((4, 6), np.float32))


# ---------------------------------------------------------------------------------------------------------- taking out


@pytest.mark.parametrize("ending", ENDINGS)
def test_strip_leaves_pixels_and_the_rest(ending: str, tmp_path: Path) -> None:
    source = tmp_path / "in.webp"
    tags = Image.Exif()
    tags[0x0110] = "a camera"
    rdf = b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    xmp = b"<x:xmpmeta><rdf:RDF " + rdf + b'><rdf:Description dc:creator="me"/></rdf:RDF></x:xmpmeta>'
    Image.fromarray(photo().pixels).save(source, lossless=True, exif=tags, xmp=xmp)
    path = tmp_path / f"out{ending}"
    Picture.read(source).write(path, provenance=made())
    before = Picture.read(path)
    assert strip_file(path) is True
    assert read_provenance(path) is None
    assert b"picture_hash" not in path.read_bytes()
    after = Picture.read(path)
    assert np.array_equal(after.pixels, before.pixels)
    assert after.meta.exif == before.meta.exif
    assert b'dc:creator="me"' in (after.meta.xmp or b"")
    data = path.read_bytes()
    assert strip_file(path) is False
    assert path.read_bytes() == data
    assert {p.name for p in tmp_path.iterdir()} == {"in.webp", path.name}


def test_strip_of_a_png_restores_the_bytes_without(tmp_path: Path) -> None:
    photo().write(tmp_path / "a.png")
    photo().write(tmp_path / "b.png", provenance=made())
    assert strip_file(tmp_path / "b.png", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    assert read_provenance(tmp_path / "b.png") == made()
    with pytest.raises(PictureError, match="--force"):
        strip_file(tmp_path / "b.png", tmp_path / "c.png")


def test_xmp_of_others_is_kept_in_any_shape() -> None:
    for xmp in (b"", b"no rdf here", b"<x><rdf:RDF>theirs</rdf:RDF></x>", insert_provenance(None, "older")):
        packet = insert_provenance(xmp or None, 'a < b & "c"')
        assert find_provenance(packet) == 'a < b & "c"'
        assert without_provenance(packet).count(b"provenance>") == 0
        if xmp and b"older" not in xmp:
            assert xmp.replace(b"</rdf:RDF></x>", b"") in packet


# ------------------------------------------------------------------------------------------- bounds, damage, forgeries


def png_with(chunk: bytes) -> bytes:
    data = encode(photo(), "PNG", [])[0]
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json",
        "[]",
        "null",
        '{"recipe": 3}',
        '{"recipe": {}, "extra": 1}',
        '{"recipe": {}, "version": 2}',
        '{"recipe": {}, "seed": -1}',
        '{"recipe": {}, "seed": 1e400}',
        '{"recipe": {}, "picture_hash": "../../etc"}',
        '{"recipe": {}, "models": [{"name": "' + "x" * 5000 + '"}]}',
        '{"recipe": ' + '{"a":' * 5000 + "1" + "}" * 5001,
        '{"recipe": {"a": ' + "[" * 50_000,
    ],
)
def test_forged_text_is_a_clean_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_with(png_text("editkit", text)))
    with pytest.raises(PictureError) as error:
        read_provenance(tmp_path / "a.png")
    assert "a.png: its provenance is damaged" in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert Picture.read(tmp_path / "a.png").size == (30, 20)  # the picture itself is as good as ever


def test_size_is_bounded_both_ways(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="--no-provenance"):
        photo().write(tmp_path / "a.png", provenance=made({"text": "x" * MAX_TEXT}))
    assert not list(tmp_path.iterdir())
    with pytest.raises(PictureError, match="--no-provenance"):
        made({"value": float("nan")}).to_text()
    bomb = b"editkit\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9)
    for chunk in (png_chunk(b"iTXt", bomb), png_text("editkit", "x" * (MAX_TEXT + 1))):
        with pytest.raises(PictureError, match="longer than"):
            Provenance.from_text(find_provenance(png_with(chunk)) or "")
    told = photo().write(tmp_path / "a.jpg", provenance=made({"text": "x" * 100_000})).notices
    assert "too long for JPEG" in told[0]
    assert read_provenance(tmp_path / "a.jpg") is None


@pytest.mark.parametrize(
    "body", [b"editkit\0", b"editkit\0\0\0", b"editkit\0\1\0\0\0abc", b"editkit\0\0\0\0\0\xff\xfe"]
)
def test_damaged_chunks(body: bytes) -> None:
    with pytest.raises(PictureError, match="damaged"):
        find_provenance(png_with(png_chunk(b"iTXt", body)))


def test_truncated_and_empty_files(tmp_path: Path) -> None:
    data = png_with(png_text("editkit", made().to_text()))
    for name, part in (
        ("a.png", data[:40]),
        ("b.png", PNG_SIGNATURE + struct.pack(">L", 2**31) + b"iTXt"),
        ("c.png", b""),
    ):
        (tmp_path / name).write_bytes(part)
        with pytest.raises(PictureError) as error:
            read_provenance(tmp_path / name)
        assert name in str(error.value)


DATA: dict[str, bytes] = {}


@pytest.mark.parametrize("format_", FORMATS)
@given(data=st.data())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_mutated_files(format_: str, data: st.DataObject) -> None:
    if format_ not in DATA:
        DATA[format_] = encode(photo(), format_, [], text=made().to_text())[0]
    file = bytearray(DATA[format_])
    start = file.find(b'{"mask_hash"')
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(file) - 1) | st.integers(start - 30, start + 600)) % len(file)
        match data.draw(st.integers(0, 2)):
            case 0:
                file[at] = data.draw(st.integers(0, 255))
            case 1:
                del file[at : at + data.draw(st.integers(1, 30))]
            case _:
                file[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    for function in (lambda raw: (text := find_provenance(raw)) and Provenance.from_text(text), strip_bytes):
        told = ""
        try:
            function(bytes(file))
        except PictureError as error:
            told = str(error)
        assert "\n" not in told


# --------------------------------------------------------------------------------------------------- the command line


def test_show_and_strip(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo().write("a.png", provenance=made())
    assert run(["show", "a.png"]) == 0
    told = capsys.readouterr().out
    for part in ("repaint", "model: patches", "seed: 7", "torch: ", "picture: a.jpg", made().picture_hash or ""):
        assert part in told
    assert run(["show", "a.png", "--json"]) == 0
    assert Provenance.from_text(capsys.readouterr().out.strip()) == made()
    assert run(["show", "a.png", "--recipe"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == RECIPE
    assert run(["strip", "a.png"]) == 0
    assert "provenance removed" in capsys.readouterr().err
    assert run(["show", "a.png"]) == 1
    assert "no provenance" in capsys.readouterr().err
    assert run(["strip", "a.png"]) == 0
    assert "has no provenance" in capsys.readouterr().err


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photo().write("a.png", provenance=made())
    (tmp_path / "forged.png").write_bytes(
        png_with(png_text("editkit", '{"recipe": {"\\u001b[2J": 1}, "x": "\\u001b[2J"}'))
    )
    for words, code, hint in (
        (["show", "b.png"], 1, "did you mean a.png"),
        (["show"], 2, "picture"),
        (["show", "forged.png"], 1, "damaged"),
        (["strip", "a.png", "a.png", "-o", "c.png"], 2, "one picture"),
        (["strip", "a.png", "-o", "a.png"], 1, "--force"),
        (["strip", "-"], 1, "-o"),
    ):
        assert run(words) == code, words
        told = capsys.readouterr().err
        assert hint in told
        assert "\x1b[2J" not in told


def test_a_forged_recipe_cannot_write_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Provenance(recipe={"a": "\x1b[2J\x07"}, versions={"x\x1b": "y"}, picture="\x1b]0;title").to_text()
    (tmp_path / "a.png").write_bytes(png_with(png_text("editkit", text)))
    assert run(["show", str(tmp_path / "a.png")]) == 0
    assert "\x1b" not in capsys.readouterr().out
