"""Colours, captions, and what lies beside a picture: kept, or said."""

import io
import struct
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageCms, features
from toy_as_they_are import scene

from editkit.pictures.files.beside import strip_removed_parts
from editkit.pictures.files.colours import PRIMARIES, interpret_chunks, profile
from editkit.pictures.files.exif import with_size
from editkit.pictures.files.jpeg import iptc
from editkit.pictures.files.png import png_chunk
from editkit.pictures.files.xmp import sized_xmp
from editkit.pictures.picture import Picture
from editkit.pictures.profiles import profile_of


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
        assert "cannot declare that its colours are BT.2020, HDR" in written(picture, tmp_path / f"o{end}")[1]


def test_the_colours_of_srgb_need_no_words(tmp_path):
    for chunks in ([], [(b"sRGB", b"\0")], [(b"gAMA", struct.pack(">L", 45455))], [(b"cICP", b"\1\15\0\1")],
                   [(b"cICP", b"\11\20\0")], [(b"gAMA", b"\0\0\0\0")]):  # fmt: skip
        assert interpret_chunks(chunks) is None, chunks


@pytest.mark.parametrize("value", [0, 1, 2**31, 2**32 - 1])
def test_primaries_that_are_no_colours_have_no_profile(value):
    said = interpret_chunks([(b"cHRM", struct.pack(">8L", *[value] * 8))])
    assert said is None or said[1] is None


@pytest.mark.parametrize(("code", "wins"), [(b"\14\15\0\1", True), (b"\1\15\0\1", True), (b"\2\2\0\1", False),
                                            (b"\372\372\0\1", False), (b"\14\15\1\1", False)])  # fmt: skip
def test_code_points_that_are_known_outrank_the_profile_beside_them(tmp_path, code, wins):
    """PNG, third edition, 4.3: the first that a decoder knows of cICP, iCCP, sRGB, gAMA and cHRM."""
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    own = own[:16] + b"RGB " + own[20:]
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "PNG", icc_profile=own)
    data = buffer.getvalue()
    picture = Picture.read(data[:33] + png_chunk(b"cICP", code) + data[33:])
    kept, _ = written(picture, tmp_path / "o.png")
    assert b"cICP" + code in kept
    assert Image.open(tmp_path / "o.png").info["icc_profile"] == own
    written(picture, tmp_path / "o.jpg")
    profile_there = Image.open(tmp_path / "o.jpg").info.get("icc_profile")
    assert (profile_there != own) == wins
    assert (profile_there is None) == (wins and code[0] == 1)
    assert (profile_of(picture.meta) == own) != wins


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
    left = strip_removed_parts(packet(HDRGM + names, inside))
    assert b"kept" in left
    assert b"GainMap" not in left
    assert b"Directory" not in left
    ElementTree.fromstring(left)
    for cut in range(0, len(inside), 7):  # whatever is open, nothing else is lost before it
        assert strip_removed_parts(packet(names, inside[:cut] + "<dc:y>last</dc:y>")).count(b"last") <= 1


def test_claims_are_looked_for_in_a_time_that_follows_the_length():
    """Counted in steps of the scanner, not in seconds: the tags of 40,000 openings are visited once."""
    left = strip_removed_parts(packet('xmlns:C="http://ns.google.com/photos/1.0/container/"', "<C:a>" * 40_000))
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
    exif.load(with_size(data, size))
    assert (exif[0x100], exif[0x101]) == size
    assert (exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003]) == size
    for cut in range(len(data)):
        assert len(with_size(data[:cut], size)) == cut
    xmp = b'tiff:ImageWidth="48" <tiff:ImageLength>32</tiff:ImageLength> exif:PixelXDimension=\'48\' dc:ImageWidth="48"'
    words = (
        b'tiff:ImageWidth="%d" <tiff:ImageLength>%d</tiff:ImageLength> exif:PixelXDimension=\'%d\' dc:ImageWidth="48"'
    )
    assert sized_xmp(xmp, size) == words % (*size, size[0])
