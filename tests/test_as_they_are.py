"""Files as cameras and scanners write them: read as meant, or refused."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from editkit.errors import PictureError
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk
from editkit.pictures.files.raw import ENDINGS
from editkit.pictures.picture import Picture


def grey_png(levels, bits, key=None):
    """A grey PNG of 1, 2, 4 or 8 bits, written here."""
    height, width = levels.shape
    rows = b"".join(
        b"\0" + np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel()).tobytes()
        for row in levels
    )
    header = struct.pack(">LLBBBBB", width, height, bits, 0, 0, 0, 0)
    keyed = [] if key is None else [png_chunk(b"tRNS", struct.pack(">H", key))]
    data = [PNG_SIGNATURE, png_chunk(b"IHDR", header), *keyed, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"".join([*data, png_chunk(b"IEND", b"")])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("flags", [0, 0xFF00])
def test_the_transparent_level_of_a_grey_png(bits, flags):
    top = (1 << bits) - 1
    levels = np.random.default_rng(bits).integers(0, top + 1, (9, 13))
    for key in {0, 1, top // 2, top}:
        seen = Picture.read(grey_png(levels, bits, key | flags))
        assert seen.alpha is not None
        np.testing.assert_array_equal(seen.alpha == 0, levels == key)
        np.testing.assert_array_equal(seen.pixels[..., 0], levels * (255 // top))


def tiff(directories, order="<"):
    """A classic TIFF of uncompressed pages: of each, its tags {tag: values of 16 or 32 bits} and its bytes; a page in
    place of values hangs below the page that holds it."""
    blob = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))

    def page(tags, body):
        at = len(blob)
        blob.extend(body + bytes(len(body) % 2))
        tags = {**tags, 273: [at], 279: [len(body)]}
        tags = {tag: [page(*value)[0]] if isinstance(value, tuple) else value for tag, value in tags.items()}
        table = b""
        for tag in sorted(tags):
            values = tags[tag]
            wide = tag in (273, 279, 330) or max(values) > 65535
            packed = struct.pack(f"{order}{len(values)}{'L' if wide else 'H'}", *values)
            if len(packed) > 4:
                packed = struct.pack(order + "L", len(blob)) + packed
                blob.extend(packed[4:])
                packed = packed[:4]
            table += struct.pack(order + "HHL", tag, 4 if wide else 3, len(values)) + packed.ljust(4, b"\0")
        place = len(blob)
        blob.extend(struct.pack(order + "H", len(tags)) + table + bytes(4))
        return place, len(blob) - 4

    link = 4
    for tags, body in directories:
        place, following = page(tags, body)
        blob[link : link + 4] = struct.pack(order + "L", place)
        link = following
    return bytes(blob)


def tags(width, height, bits, photometric, **more):
    named = {"extra": 338, "kind": 254, "old_kind": 255, "below": 330}
    own = {256: [width], 257: [height], 258: list(bits), 259: [1], 262: [photometric], 277: [len(bits)], 278: [height]}
    return own | {named[key]: value for key, value in more.items()}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_sixteen_bits_where_nought_is_white(order, photometric):
    levels = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    file = tiff([(tags(7, 5, [16], photometric), levels.astype(order + "u2").tobytes())], order)
    meant = levels if photometric else 65535 - levels
    if order == ">" and not photometric:  # which Pillow does not read
        with pytest.raises(PictureError, match="TIFF"):
            Picture.read(file)
        return
    np.testing.assert_array_equal(Picture.read(file).pixels[..., 1], meant)


def test_twelve_bits_reach_from_black_to_white():
    packed = bytes.fromhex("000fff800001")  # 0, 4095, 2048, 1
    seen = Picture.read(tiff([(tags(4, 1, [12], 1), packed)])).pixels[0, :, 0]
    np.testing.assert_array_equal(seen, [0, 65535, 0x8008, 0x0010])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("kind", "alpha"), [(0, False), (2, True)])
def test_a_fourth_channel_is_alpha_where_the_tiff_says_so(bits, kind, alpha):
    dtype = f"<u{bits // 8}"
    pixels = np.random.default_rng(0).integers(0, 1 << bits, (6, 8, 4)).astype(dtype)
    seen = Picture.read(tiff([(tags(8, 6, [bits] * 4, 2, extra=[kind]), pixels.tobytes())]))
    np.testing.assert_array_equal(seen.pixels, pixels[..., :3])
    assert (seen.alpha is not None) is alpha
    assert alpha or any("left out" in notice for notice in seen.meta.notices)
    if alpha:
        np.testing.assert_array_equal(seen.alpha, pixels[..., 3])


THUMBNAIL = tags(4, 2, [8, 8, 8], 2), bytes(24)


def sensor(photometric=32803):
    return tags(16, 8, [16], photometric), bytes(256)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "pages",
    [
        [({**THUMBNAIL[0], 330: sensor()}, THUMBNAIL[1])],
        [({**THUMBNAIL[0], 330: sensor(34892)}, THUMBNAIL[1])],
        [THUMBNAIL, sensor()],
        [({**THUMBNAIL[0], 50706: [1]}, THUMBNAIL[1])],
    ],
    ids=["below", "linear", "behind", "dng"],
)
def test_a_raw_file_is_refused_whatever_its_name(tmp_path, pages, order):
    for name in ("x.tif", "x.dng", "x"):
        (tmp_path / name).write_bytes(tiff(pages, order))
        with pytest.raises(PictureError, match="camera raw"):
            Picture.read(tmp_path / name)


@pytest.mark.parametrize("kind", [{254: [1]}, {255: [2]}])
def test_a_first_page_that_is_a_reduced_copy_is_not_edited(kind):
    whole = tags(16, 8, [8], 1), bytes(128)
    with pytest.raises(PictureError, match="reduced copy"):
        Picture.read(tiff([({**THUMBNAIL[0], **kind}, THUMBNAIL[1]), whole]))
    assert Picture.read(tiff([({**THUMBNAIL[0], **kind}, THUMBNAIL[1])])).size == (4, 2)  # there is no other


@pytest.mark.parametrize("ending", sorted(ENDINGS))
def test_endings_of_raw_files(tmp_path, ending):
    file = tmp_path / f"X{ending.upper()}"
    file.write_bytes(tiff([THUMBNAIL]))
    with pytest.raises(PictureError, match=f"camera raw file .{ENDINGS[ending]}"):
        Picture.read(file)
    Image.new("RGB", (4, 2)).save(file, "JPEG")  # a JPEG of that name is a JPEG
    assert Picture.read(file).size == (4, 2)


@pytest.mark.parametrize("begin", [b"FUJIFILMCCD-RAW 0201", b"IIRO\0\0", b"IIU\0\0", b"\0\0\0\x18ftypcrx \0", b"FOVb"])
def test_raw_files_that_are_no_tiff(begin):
    with pytest.raises(PictureError, match="camera raw"):
        Picture.read(begin + bytes(100))


def test_directories_without_an_end_are_left_alone():
    """A chain that bites its own tail, directories outside of the file: read as any TIFF, or damaged."""
    file = bytearray(tiff([THUMBNAIL]))
    file[-4:] = file[4:8]
    assert Picture.read(bytes(file)).size == (4, 2)
