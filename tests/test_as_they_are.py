"""Pictures and masks read as they are meant: odd depths, keys, colours, channels; what cannot be kept is said."""

import io
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from editkit.cli import run
from editkit.errors import PictureError
from editkit.pictures.files.beside import without_claims
from editkit.pictures.files.colours import PRIMARIES, meaning, profile
from editkit.pictures.files.exif import sized
from editkit.pictures.files.jpeg import iptc
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk
from editkit.pictures.files.raw import ENDINGS
from editkit.pictures.files.xmp import sized_xmp
from editkit.pictures.masks import read_mask
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


# ------------------------------------------------------------------------------- colours, captions, what lies beside


def scene(width=48, height=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([60 + 3 * x, 40 + 5 * y, 200 - 2 * x], -1).clip(0, 255).astype(np.uint8)


def avif(primaries, transfer):
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "AVIF", quality=100, subsampling="4:4:4")
    data = bytearray(buffer.getvalue())
    at = data.find(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)


def written(picture, path):
    """(the file's bytes, its notices)"""
    made = picture.write(path, force=True)
    return path.read_bytes(), " ".join(made.notices)


def as_srgb(path):
    """Its pixels as a viewer with colour management shows them."""
    image = Image.open(path)
    source = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    return np.asarray(ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), renderingIntent=1))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("primaries", [9, 11, 12])
@pytest.mark.parametrize("end", [".png", ".jpg", ".avif", ".tif", ".webp"])
def test_wide_colours_of_an_avif_stay_wide(tmp_path, primaries, end):
    picture = Picture.read(avif(primaries, 13))
    _, said = written(picture, tmp_path / f"o{end}")
    assert "ICC profile" in said
    shown = as_srgb(tmp_path / f"o{end}").astype(float)
    plain = Picture.read(avif(1, 13)).pixels
    assert shown.shape == plain.shape
    assert np.abs(shown - plain).mean() > 2.0  # the same numbers are more vivid
    assert end != ".png" or b"cICP" in (tmp_path / "o.png").read_bytes()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_kept_or_told(tmp_path, transfer):
    picture = Picture.read(avif(9, transfer))
    assert bytes([9, transfer, 0, 1]) in written(picture, tmp_path / "o.png")[0]
    for end in (".jpg", ".avif", ".tif", ".webp"):
        assert "cannot say that its colours are BT.2020, HDR" in written(picture, tmp_path / f"o{end}")[1]


def test_the_colours_of_srgb_need_no_words(tmp_path):
    for chunks in ([], [(b"sRGB", b"\0")], [(b"gAMA", struct.pack(">L", 45455))], [(b"cICP", b"\1\15\0\1")],
                   [(b"cICP", b"\11\20\0")], [(b"gAMA", b"\0\0\0\0")]):  # fmt: skip
        assert meaning(chunks) is None, chunks


@pytest.mark.parametrize("value", [0, 1, 2**31, 2**32 - 1])
def test_primaries_that_are_no_colours_have_no_profile(value):
    said = meaning([(b"cHRM", struct.pack(">8L", *[value] * 8))])
    assert said is None or said[1] is None


def test_a_profile_says_what_the_code_points_say():
    """White is white, and the primaries of sRGB through a profile of sRGB are themselves, in 8 bits to the rounding."""
    icc = profile("x", PRIMARIES[1], lambda v: np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4))
    source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels[0, 0] = 255
    through = ImageCms.profileToProfile(Image.fromarray(pixels), source, ImageCms.createProfile("sRGB"))
    assert np.abs(np.asarray(through).astype(int) - pixels).max() <= 2


def test_the_gamma_of_a_png_goes_into_a_profile(tmp_path):
    chunk = png_chunk(b"gAMA", struct.pack(">L", 100_000))
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG")
    data = buffer.getvalue()
    picture = Picture.read(data[:33] + chunk + data[33:])
    assert chunk in written(picture, tmp_path / "o.png")[0]
    assert "gamma 1.00" in written(picture, tmp_path / "o.jpg")[1]
    assert as_srgb(tmp_path / "o.jpg").mean() > scene().mean() + 20  # linear numbers are brighter than they look


def jpeg(**more):
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "JPEG", quality=92, **more)
    return buffer.getvalue()


def records(**values):
    sets = {"author": 80, "copyright": 116, "caption": 120}
    return b"".join(b"\x1c\x02" + bytes([sets[k]]) + struct.pack(">H", len(v)) + v for k, v in values.items())


def app13(*resources, name=b"\0\0"):
    body = b"Photoshop 3.0\0"
    for kind, data in resources:
        body += b"8BIM" + struct.pack(">H", kind) + name + struct.pack(">L", len(data)) + data + bytes(len(data) % 2)
    return b"\xff\xed" + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("name", [b"\0\0", b"\3abc", b"\2ab\0"])
@pytest.mark.parametrize("order", [1, -1])
def test_captions_survive_and_thumbnails_beside_them_do_not(tmp_path, name, order):
    caption = records(author=b"A Photographer", copyright=b"(c) A Photographer", caption=b"The caption!")
    segment = app13(*[(0x0409, b"thumb" * 7), (0x0404, caption), (0x040C, b"thumb" * 9)][::order], name=name)
    data = jpeg(comment=b"a comment")
    picture = Picture.read(data[:20] + segment + data[20:])
    assert picture.meta.iptc == caption
    for end in (".jpg", ".tif"):
        file, said = written(picture, tmp_path / f"o{end}")
        assert caption in file
        assert b"thumb" not in file
        assert "IPTC" not in said
        assert Picture.read(tmp_path / f"o{end}").meta.iptc == caption
    assert b"a comment" in written(picture, tmp_path / "o.jpg")[0]
    assert dict(Image.open(tmp_path / "o.jpg").app)["APP13"]  # Pillow finds it
    for end in (".png", ".webp"):
        assert "IPTC" in written(picture, tmp_path / f"o{end}")[1]
    assert Image.open(tmp_path / "o.png").text["Comment"] == "a comment"
    assert "comment" in written(picture, tmp_path / "o.webp")[1]


def test_captions_that_are_damaged_are_none():
    for segment in (app13((0x0404, b"")), b"\xff\xed\0\x12Photoshop 3.0\0" + b"8B", b"\xff\xed\0\x20Photoshop 3.0\0"
                    + b"8BIM\4\4\0\0\xff\xff\xff\xff" + bytes(4)):  # fmt: skip
        data = jpeg()
        read = iptc(data[:20] + segment + data[20:])
        assert not read or len(read) < 64


def packet(attributes, inside=""):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description rdf:about="" {attributes}>{inside}</rdf:Description></rdf:RDF></x:xmpmeta>'
    ).encode()


HDRGM = 'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:dc="http://purl.org/dc/elements/1.1/" '
CAMERA = 'xmlns:{0}="http://ns.google.com/photos/1.0/camera/" xmlns:dc="http://purl.org/dc/elements/1.1/" '


@pytest.mark.parametrize(
    ("xmp", "behind", "what"),
    [
        (packet(HDRGM + 'hdrgm:Version="1.0" dc:source="kept"'), b"gain", "gain map"),
        (packet(HDRGM + "hdrgm:Version='1.0' dc:source='kept'"), b"gain", "gain map"),
        (packet(HDRGM + 'dc:source="kept"', "<hdrgm:Version>1.0</hdrgm:Version>"), b"gain", "gain map"),
        (packet(CAMERA.format("GCamera") + 'GCamera:MotionPhoto="1" dc:source="kept"'), b"ftypmp4", "film"),
        (packet(CAMERA.format("Camera") + 'Camera:MicroVideo="1" dc:source="kept"'), b"ftypmp4", "film"),
    ],
)
def test_what_lies_beside_a_picture_is_told_and_no_longer_claimed(tmp_path, xmp, behind, what):
    picture = Picture.read(jpeg(xmp=xmp) + behind)
    assert any(what in notice for notice in picture.meta.notices)
    file, _ = written(picture, tmp_path / "o.jpg")
    assert b"kept" in file
    assert behind not in file
    for claim in (b"hdrgm", b"MotionPhoto", b"MicroVideo"):
        assert claim not in file
    ElementTree.fromstring(picture.meta.xmp)


def test_a_container_is_left_out_with_all_that_is_in_it():
    inside = (
        "<C:Directory><rdf:Seq><rdf:li rdf:parseType='Resource'><C:Item I:Semantic='Primary'/></rdf:li>"
        "<rdf:li><C:Item I:Semantic='GainMap'/></rdf:li></rdf:Seq></C:Directory><dc:x>kept</dc:x>"
    )
    place = "http://ns.google.com/photos/1.0/container/"
    names = f'xmlns:C="{place}" xmlns:I="{place}item/" '
    left = without_claims(packet(HDRGM + names, inside))
    assert b"kept" in left
    assert b"GainMap" not in left
    assert b"Directory" not in left
    ElementTree.fromstring(left)
    for cut in range(0, len(inside), 7):  # whatever is open, nothing else is lost before it
        assert without_claims(packet(names, inside[:cut] + "<dc:y>last</dc:y>")).count(b"last") <= 1


def test_claims_are_looked_for_in_a_time_that_follows_the_length():
    """Counted in steps of the scanner, not in seconds: the tags of 40,000 openings are visited once."""
    left = without_claims(packet('xmlns:C="http://ns.google.com/photos/1.0/container/"', "<C:a>" * 40_000))
    assert left.count(b"<C:a>") == 40_000


@pytest.mark.parametrize("size", [(48, 32), (96, 64), (70_000, 3)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_and_xmp_say_the_size_that_the_picture_has(size, order):
    sub = struct.pack(order + "H", 2) + struct.pack(order + "HHLHH", 0xA002, 3, 1, 48, 0)
    sub += struct.pack(order + "HHLL", 0xA003, 4, 1, 32) + bytes(4)
    head = b"II*\0" if order == "<" else b"MM\0*"
    data = head + struct.pack(order + "LH", 8, 3) + struct.pack(order + "HHLHH", 0x100, 3, 1, 48, 0)
    data += (
        struct.pack(order + "HHLL", 0x101, 4, 1, 32) + struct.pack(order + "HHLL", 0x8769, 4, 1, 50) + bytes(4) + sub
    )
    exif = Image.Exif()
    exif.load(sized(data, size))
    assert (exif[0x100], exif[0x101]) == size
    assert (exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003]) == size
    for cut in range(len(data)):
        assert len(sized(data[:cut], size)) == cut
    xmp = b'tiff:ImageWidth="48" <tiff:ImageLength>32</tiff:ImageLength> exif:PixelXDimension=\'48\' dc:ImageWidth="48"'
    words = (
        b'tiff:ImageWidth="%d" <tiff:ImageLength>%d</tiff:ImageLength> exif:PixelXDimension=\'%d\' dc:ImageWidth="48"'
    )
    assert sized_xmp(xmp, size) == words % (*size, size[0])


# --------------------------------------------------------------------------------------------------------- masks


PHOTO = Picture.read(scene())
SHAPE = np.zeros((32, 48), bool)
SHAPE[8:20, 10:30] = True


def mask_of(array, tmp_path=None, name="m.png"):
    said = []
    if tmp_path is None:
        return read_mask(array, PHOTO, notify=said.append), said
    Image.fromarray(array).save(tmp_path / name)
    return read_mask(tmp_path / name, PHOTO, notify=said.append), said


@pytest.mark.parametrize("white", [1, 7, 31])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("end", [None, "png", "tif", "bmp"])
def test_masks_of_nought_and_one_are_masks(tmp_path, white, dtype, end):
    if end == "bmp" and dtype == np.uint16:
        pytest.skip("BMP has 8 bits")
    mask, said = mask_of(SHAPE.astype(dtype) * dtype(white), None if end is None else tmp_path, f"m.{end}")
    np.testing.assert_array_equal(mask, SHAPE)
    assert any(f"{white} is taken for white" in line for line in said)


def test_eight_bits_in_sixteen_are_a_mask(tmp_path):
    mask, _ = mask_of(SHAPE.astype(np.uint16) * np.uint16(255), tmp_path)
    np.testing.assert_array_equal(mask, SHAPE)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_map_of_labels_is_asked_about(tmp_path, dtype):
    labels = SHAPE.astype(dtype)
    labels[12:15, 12:15] = 2
    with pytest.raises(PictureError, match=r"levels from 0 to 2 .*label.*editkit mask"):
        mask_of(labels, tmp_path)


@pytest.mark.parametrize("hidden", [0, 255])
@pytest.mark.parametrize("painted", [0, 1, 20])
def test_dark_strokes_on_transparency_are_asked_about(tmp_path, hidden, painted):
    colour = np.where(SHAPE, painted, hidden).astype(np.uint8)
    with pytest.raises(PictureError, match=r"transparen.*--from-alpha.*--invert"):
        mask_of(np.dstack([colour, colour, colour, SHAPE * np.uint8(255)]), tmp_path)


def test_what_the_question_says_makes_the_mask(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strokes = np.zeros((32, 48, 4), np.uint8)
    strokes[..., 3] = SHAPE * 255
    Image.fromarray(strokes).save("s.png")
    assert run(["mask", "s.png", "--from-alpha", "--invert", "-o", "m.png"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("m.png")) > 127, SHAPE)
    Image.fromarray(SHAPE.astype(np.uint8) * 2 + 1).save("labels.png")
    assert run(["mask", "labels.png", "--color", "#030303~0", "-o", "n.png"]) == 0
    np.testing.assert_array_equal(np.asarray(Image.open("n.png")) > 127, SHAPE)


def test_white_strokes_on_transparency_are_a_mask_whatever_is_hidden(tmp_path):
    for hidden in (0, 255):
        colour = np.where(SHAPE, 255, hidden).astype(np.uint8)
        mask, _ = mask_of(np.dstack([colour, colour, colour, SHAPE * np.uint8(255)]), tmp_path)
        np.testing.assert_array_equal(mask, SHAPE)


@pytest.mark.parametrize("word", ["color:#ff0000", "brightness"])
def test_what_is_hidden_under_transparency_is_in_no_mask(word):
    pixels = (
        np.full((32, 48, 4), (255, 0, 0, 255), np.uint8) if "color" in word else np.full((32, 48, 4), 255, np.uint8)
    )
    pixels[~SHAPE, 3] = 0
    mask = read_mask(word, Picture.read(pixels))
    np.testing.assert_array_equal(mask, SHAPE)
