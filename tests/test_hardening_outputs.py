"""Outputs replace nothing, metadata spoils nothing, and `strip` takes only its own."""

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_hardening import here

from editkit.batch.folder import listing
from editkit.cli import run
from editkit.errors import HookError, PictureError, UsageError
from editkit.pictures.files.exif import with_upright_orientation
from editkit.pictures.files.formats import PPM
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk, png_chunks, png_text
from editkit.pictures.files.provenance import strip_bytes, strip_file
from editkit.pictures.files.writing import check_distinct, check_place
from editkit.pictures.files.xmp import insert_provenance, upright_xmp
from editkit.pictures.masks import grow
from editkit.pictures.picture import Picture
from editkit.pictures.raster import Raster
from editkit.plugin import called
from editkit.plugins import Inpaint

__all__ = ["here"]

# ----------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("flag", ["--save-recipe", "--compare", "--trace", "--preview"])
def test_an_output_is_neither_the_result_nor_the_picture_nor_a_mask(here, flag, capsys):
    end = {"--preview": "webp"}.get(flag, "png")
    Image.new("L", (24, 20), 255).save(f"m.{end}", lossless=True)
    os.link("x.png", "hard.png")
    Path("link.png").symlink_to("x.png")
    before = Path("x.png").read_bytes()
    mask = ["--mask", f"m.{end}"]
    cases = [f"./o.{end}", f"m.{end}"] + (["./x.png", "hard.png", "link.png"] if end == "png" else [])
    for name in cases:
        assert run(["inpaint", "x.png", *mask, "-o", f"o.{end}", flag, name, "--force"]) == 2, name
        assert "give" in capsys.readouterr().err
        assert not Path(f"o.{end}").exists()
    assert Path("x.png").read_bytes() == before


def test_a_recipe_is_written_nowhere_that_it_may_not_be(here, capsys):
    Path("mine.txt").write_text("years of work")
    Path("dir").mkdir()
    Path("dangling").symlink_to("no/such/r.yaml")
    for name in ("mine.txt", "dir", "no/such/r.yaml", "dangling", "a" * 300):
        assert run(["inpaint", "x.png", "--mask", "box:4,4,9,9", "-o", "o.png", "--save-recipe", name]) == 1
        assert "should not happen" not in capsys.readouterr().err
        assert not Path("o.png").exists()
    assert Path("mine.txt").read_text() == "years of work"
    with pytest.raises(PictureError, match="exists already"):
        check_place("mine.txt")
    check_place("mine.txt", force=True)


def test_results_may_take_the_place_of_an_input_and_others_may_not(here):
    check_distinct({"--output": "x.png"}, ["x.png"], first="--output")
    with pytest.raises(UsageError, match="is also an input"):
        check_distinct({"--output": "./x.png"}, ["x.png"])
    check_distinct({"--output": "-", "--show": None}, ["-"])


# ----------------------------------------------------------------------------------------------- metadata


def _exif(entries, second=b""):
    body = struct.pack("<H", len(entries))
    for tag, kind, count, value in entries:
        body += struct.pack("<HHL", tag, kind, count) + value
    link = 8 + len(body) + 4 if second else 0
    return b"II*\0" + struct.pack("<L", 8) + body + struct.pack("<L", link) + second


@pytest.mark.parametrize("end", [".tif", ".png", ".jpg", ".webp", ".avif"])
@pytest.mark.parametrize(
    "entry",
    [
        (0x8769, 2, 4, b"abc\0"), (0x8825, 2, 4, b"abc\0"), (0x011A, 2, 4, b"72\0\0"),
        (0x0131, 11, 1, struct.pack("<f", 1.5)), (0x0143, 2, 4, b"abc\0"), (0x0153, 3, 1, b"\3\0\0\0"),
        (0x0142, 3, 1, b"\x10\0\0\0"), (0x0152, 3, 1, b"\1\0\0\0"), (0x010A, 3, 1, b"\2\0\0\0"),
        (0x0103, 3, 1, b"\7\0\0\0"), (0x8773, 3, 1, b"\7\0\0\0"), (0x02BC, 3, 1, b"\7\0\0\0"),
    ],
)  # fmt: skip
def test_no_exif_spoils_a_result(here, entry, end):
    from dataclasses import replace

    pixels = np.random.default_rng(1).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    raster = Raster(pixels)
    odd = Picture(pixels, meta=replace(raster.meta, exif=_exif([entry])))
    odd.write(f"o{end}")
    back = Picture.read(f"o{end}").pixels
    assert back.shape == pixels.shape
    if end in (".tif", ".png", ".webp"):
        assert np.array_equal(back, pixels)


def test_a_thumbnail_that_covers_the_exif_is_damage():
    second = struct.pack("<H", 2) + struct.pack("<HHLL", 0x201, 4, 1, 0) + struct.pack("<HHLL", 0x202, 4, 1, 60)
    with pytest.raises(ValueError, match="covers"):
        with_upright_orientation(_exif([(0x010E, 2, 4, b"abc\0")], second + bytes(4)))


def test_a_thumbnail_that_claims_more_than_there_is_is_blanked_to_the_end():
    second = struct.pack("<H", 2) + struct.pack("<HHLL", 0x201, 4, 1, 60) + struct.pack("<HHLL", 0x202, 4, 1, 9999)
    exif = _exif([(0x010E, 2, 4, b"abc\0")], second + bytes(4))
    exif += bytes(60 - len(exif)) + b"secret"
    assert b"secret" not in with_upright_orientation(exif)


def test_thumbnails_of_xmp_are_left_out_whatever_is_open():
    one = b"<xmp:Thumbnails>x</xmp:Thumbnails>"
    assert upright_xmp(b"a" + one + b"b" + one + b"c") == b"abc"
    bomb = b"<xmp:Thumbnails>" * 100_000  # with an expression: hours
    assert upright_xmp(bomb) == bomb


def test_comments_in_a_ppm_header_are_left_out():
    assert PPM.depth(b"P6\n# a\n2 #b\n2\n65535\n") == 16
    assert PPM.depth(b"P6\n2 2\n# 65535\n255\n") == 8
    assert PPM.depth(b"P6\n" + b"# " * 400 + b"\n2 2 2#x\n55\n") == 8  # with an expression: for ever


# ---------------------------------------------------------------------------------------- strip, hooks, memory, links


def _png_of(here, *chunks):
    data = (here / "x.png").read_bytes()
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.mark.parametrize("tail", [b"", b"T" * 1000, b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_strip_takes_what_it_owns_and_keeps_every_other_byte(here, tail):
    said = json.dumps({"format": 1})
    wrong = bytearray(png_text("Comment", "a"))
    wrong[-1] ^= 1  # a checksum that is wrong stays wrong
    plain = _png_of(here, bytes(wrong)) + tail
    for own in ([], [png_text("editkit", said)], [png_text("editkit", said)] * 2,
                [png_chunk(b"zTXt", b"editkit\0\0" + zlib.compress(said.encode()))]):  # fmt: skip
        assert strip_bytes(_png_of(here, bytes(wrong), *own) + tail) == plain
        (here / "y.png").write_bytes(_png_of(here, bytes(wrong), *own) + tail)
        assert strip_file(here / "y.png") is bool(own)
        assert (here / "y.png").read_bytes() == plain


@pytest.mark.parametrize("other", [b"", b"<rdf:Description>kept</rdf:Description>"])
def test_strip_looks_into_compressed_xmp(here, other):
    xmp = insert_provenance(None, "a secret")
    xmp = xmp.replace(b"</rdf:RDF>", other + b"</rdf:RDF>")
    left = strip_bytes(_png_of(here, png_text("XML:com.adobe.xmp", xmp.decode(), compress=True)))
    body = next(body for kind, body in png_chunks(left) if kind == b"iTXt")
    assert b"secret" not in zlib.decompress(body[22:])
    assert other in zlib.decompress(body[22:])
    for broken in (b"XML:com.adobe.xmp\0\1\0", b"XML:com.adobe.xmp\0\1\0\0\0junk"):
        file = _png_of(here, png_chunk(b"iTXt", broken))
        assert strip_bytes(file) == file


@pytest.mark.parametrize("hook", ["examples", "branches", "measure", "plan", "clean", "finish", "condition"])
def test_a_hook_that_returns_nothing_is_named(hook):
    plugin = Inpaint(mask="box:0,0,4,4")
    with pytest.raises(HookError, match=f"inpaint: {hook} returned nothing .*return"):
        called(plugin, hook, lambda: None)
    for right, made in {"examples": (), "branches": [1], "measure": {}}.items():
        assert called(plugin, right, lambda made=made: made) == made


def test_a_small_file_of_a_large_picture_is_refused_before_memory_is_taken(here, monkeypatch):
    class Free:
        available = 100 << 20

    monkeypatch.setattr("psutil.virtual_memory", lambda: Free)
    for bits, count in ((1, 0), (8, 2), (16, 6)):
        header = struct.pack(">LLBBBBB", 8000, 8000, bits, count, 0, 0, 0)
        data = PNG_SIGNATURE + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
        with pytest.raises(PictureError, match=r"8000x8000 pixels need about [12]\.\d GB .*free"):
            Picture.read(data)
    assert Picture.read(here / "x.png").size == (24, 20)


def test_links_that_lead_out_of_a_folder_are_told(here):
    (here / "in" / "deep").mkdir(parents=True)
    (here / "home").mkdir()
    for name in ("in/a.png", "home/private.png"):
        (here / name).write_bytes((here / "x.png").read_bytes())
    (here / "in" / "more").symlink_to(here / "home")
    (here / "in" / "b.png").symlink_to(here / "home" / "private.png")
    (here / "in" / "c.png").symlink_to("a.png")
    (here / "in" / "loop.png").symlink_to("loop.png")
    (here / "in" / "nowhere.png").symlink_to("nothing.png")
    (here / "in" / "deep" / "d.png").symlink_to("../a.png")
    assert sorted(listing(here / "in").outside) == ["b.png", "more"]


def test_growing_by_more_than_the_picture_ends():
    soft = np.zeros((20, 30), np.float32)
    soft[5, 5] = 0.5
    np.testing.assert_array_equal(grow(soft, 10**9), np.full((20, 30), 0.5, np.float32))
    np.testing.assert_array_equal(grow(np.ceil(soft), 10**9), np.ones((20, 30), np.float32))


def test_what_a_plugin_prints_is_no_part_of_the_result(here, monkeypatch, capsysbinary):
    finish = Inpaint.hooks(Inpaint(mask="box:1,1,5,5")).finish

    def talkative(self, image):
        print("hello")  # noqa: T201 - it is what is tested
        return finish(self, image)

    monkeypatch.setattr(Inpaint.hooks(Inpaint(mask="box:1,1,5,5")), "finish", talkative)
    assert run(["inpaint", "x.png", "--mask", "box:1,1,5,5", "-o", "o.png", "--json"]) == 0
    out, err = capsysbinary.readouterr()
    assert json.loads(out)["output"] == "o.png"
    assert b"hello" in err
