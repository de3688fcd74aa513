"""Pictures that other programs wrote are read as those programs meant them: docs/reliability.md, "What happens to an
picture". tifffile, imageio and OpenCV come with the extras; ImageMagick, libvips (pip install pyvips-binary pyvips) and
exiftool are used where they are installed."""

import io
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from editkit.cli import run
from editkit.errors import PictureError
from editkit.pictures.picture import Picture

SIZE = (48, 64)
RANDOM = np.random.default_rng(0)
DEPTHS = [np.uint8, np.uint16]


def numbers(dtype, *channels):
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, (*SIZE, *channels), dtype=dtype)


def smooth():
    """Without noise, so that a lossy format comes back near to it."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([4 * x, 5 * y, 128 + x - y], axis=-1).clip(0, 255).astype(np.uint8)


def read(data):
    return Picture.read(io.BytesIO(data))


def same(picture, pixels):
    wanted = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
    assert picture.pixels.dtype == wanted.dtype
    np.testing.assert_array_equal(picture.pixels, wanted[..., :3])
    if wanted.shape[2] == 4:
        np.testing.assert_array_equal(picture.alpha, wanted[..., 3])
    else:
        assert picture.alpha is None


# ------------------------------------------------------------------------------------------------------- tifffile


def tiff(pixels, **options):
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}, {"bigtiff": True},
     {"rowsperstrip": 3}],
    ids=str,
)  # fmt: skip
def test_grey_and_colours_of_tifffile(dtype, order, options):
    grey, colours = numbers(dtype), numbers(dtype, 3)
    if options.get("bigtiff") and order == ">":
        pytest.skip("Pillow reads no big-endian BigTIFF, and it is refused")
    same(read(tiff(grey, photometric="minisblack", byteorder=order, **options)), grey)
    same(read(tiff(colours, photometric="rgb", byteorder=order, **options)), colours)


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("order", "<>")
def test_nought_is_white_in_tifffile(dtype, order):
    levels = numbers(dtype)
    file = tiff(levels, photometric="miniswhite", byteorder=order)
    if dtype == np.uint16 and order == ">":
        with pytest.raises(PictureError):
            read(file)
    else:
        same(read(file), np.iinfo(dtype).max - levels)


@pytest.mark.parametrize("dtype", DEPTHS)
def test_alpha_of_tifffile(dtype):
    four = numbers(dtype, 4)
    same(read(tiff(four, photometric="rgb", extrasamples=["unassalpha"])), four)
    left = read(tiff(four, photometric="rgb", extrasamples=["unspecified"]))
    same(left, four[..., :3])
    assert any("left out" in notice for notice in left.meta.notices)


def test_premultiplied_alpha_of_tifffile_is_made_straight():
    alpha = RANDOM.integers(1, 256, SIZE).astype(np.uint8)
    straight = smooth()
    multiplied = np.rint(straight * (alpha[..., None] / 255.0)).astype(np.uint8)
    seen = read(tiff(np.dstack([multiplied, alpha]), photometric="rgb", extrasamples=["assocalpha"]))
    np.testing.assert_array_equal(seen.alpha, alpha)
    slack = 0.5 * 255.0 / alpha[..., None] + 1.0  # half a level of what was stored, and rounding once more
    assert (np.abs(seen.pixels.astype(float) - straight) <= slack).all()


def test_premultiplied_alpha_of_sixteen_bits_is_made_straight_in_eight_and_told():
    four = np.full((*SIZE, 4), 30_000, np.uint16)
    four[..., :3] = 15_000
    seen = read(tiff(four, photometric="rgb", extrasamples=["assocalpha"]))
    assert any("8 are kept" in notice for notice in seen.meta.notices)
    assert np.abs(seen.pixels.astype(int) - 127.5).max() <= 255.0 / (30_000 >> 8)  # one level of what is left of alpha


@pytest.mark.parametrize("dtype", DEPTHS)
def test_planes_apart_of_tifffile(dtype):
    colours = numbers(dtype, 3)
    file = tiff(np.moveaxis(colours, -1, 0).copy(), photometric="rgb", planarconfig="separate")
    if dtype == np.uint16:
        with pytest.raises(PictureError):
            read(file)
    else:
        same(read(file), colours)


def test_a_palette_of_tifffile():
    colours, index = RANDOM.integers(0, 256, (3, 256)) * 257, numbers(np.uint8)
    file = tiff(index, photometric="palette", colormap=colours.astype(np.uint16))
    same(read(file), np.moveaxis(colours[:, index] >> 8, 0, -1).astype(np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint32, np.complex64])
def test_numbers_that_are_no_levels_are_refused(dtype):
    values = (RANDOM.random(SIZE) * (1 << 20)).astype(dtype)
    with pytest.raises(PictureError):
        read(tiff(values, photometric="minisblack"))


def test_several_pages_of_tifffile_are_told():
    pages = np.stack([numbers(np.uint8, 3)] * 3)
    seen = read(tiff(pages, photometric="rgb"))
    same(seen, pages[0])
    assert any("first of its 3" in notice for notice in seen.meta.notices)


def test_cielab_is_refused_and_ink_is_converted():
    with pytest.raises(PictureError):
        read(tiff(numbers(np.uint8, 3), photometric="cielab"))
    ink = np.zeros((*SIZE, 4), np.uint8)
    seen = read(tiff(ink, photometric="separated"))
    assert (seen.pixels == 255).all()  # no ink is white
    assert any("CMYK" in notice for notice in seen.meta.notices)


# ------------------------------------------------------------------------------------------------ OpenCV and imageio


def by_opencv(pixels, ending, *options):
    turned = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.ndim == 3 else pixels
    done, data = cv2.imencode(ending, turned, list(options))
    assert done
    return bytes(data.tobytes())


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [(), (3,), (4,)])
@pytest.mark.parametrize("ending", [".png", ".tiff"])
def test_what_opencv_writes(dtype, channels, ending):
    if (channels, ending) == ((4,), ".tiff"):
        pytest.skip("OpenCV does not say what the fourth channel of a TIFF is")
    pixels = numbers(dtype, *channels)
    same(read(by_opencv(pixels, ending)), pixels)


def test_other_formats_of_opencv():
    eight, sixteen = numbers(np.uint8, 3), numbers(np.uint16, 3)
    for ending in (".ppm", ".bmp"):
        same(read(by_opencv(eight, ending)), eight)
    deep = read(by_opencv(sixteen, ".ppm"))
    assert deep.pixels.dtype == np.uint16 or any("8 are kept" in notice for notice in deep.meta.notices)
    same(read(by_opencv(eight, ".webp", cv2.IMWRITE_WEBP_QUALITY, 101)), eight)
    near = read(by_opencv(smooth(), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100)).pixels.astype(int)
    assert np.abs(near - smooth()).mean() < 2.0


@pytest.mark.parametrize(
    ("plugin", "ending", "channels"),
    [("pillow", ".png", ()), ("pillow", ".png", (3,)), ("pillow", ".png", (4,)), ("pillow", ".gif", ()),
     ("pillow", ".bmp", (3,)), ("pillow", ".tiff", (3,)), ("opencv", ".png", (3,)), ("tifffile", ".tiff", (3,))],
)  # fmt: skip
def test_what_imageio_writes(plugin, ending, channels):
    iio = pytest.importorskip("imageio.v3")
    if plugin == "tifffile":
        pytest.importorskip("tifffile")
    pixels = numbers(np.uint8, *channels)
    same(read(iio.imwrite("<bytes>", pixels, extension=ending, plugin=plugin)), pixels)


# ---------------------------------------------------------------------------------------------------------- libvips


@pytest.fixture
def vips():
    return pytest.importorskip("pyvips", reason="libvips: pip install pyvips-binary pyvips")


@pytest.mark.parametrize("dtype", DEPTHS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "ending", [".png", ".png[interlace]", ".tif", ".tif[compression=deflate]", ".tif[compression=lzw]", ".tif[tile]"]
)
def test_what_libvips_writes(vips, dtype, channels, ending):
    pixels = numbers(dtype, channels)
    kind = {1: "b-w", 2: "b-w", 3: "srgb", 4: "srgb"}[channels]
    kind = {"b-w": "grey16", "srgb": "rgb16"}[kind] if dtype == np.uint16 else kind
    data = vips.Image.new_from_array(pixels, interpretation=kind).write_to_buffer(ending)
    wanted = pixels if channels > 2 else np.dstack([pixels[..., :1]] * 3 + [pixels[..., 1:]])
    if channels == 2 and dtype == np.uint16:
        try:
            same(read(data), wanted)
        except PictureError:
            assert ending.startswith(".tif")  # 16-bit grey with alpha in a TIFF may be refused, never misread
        return
    same(read(data), wanted)


def test_nought_is_white_and_bilevel_in_libvips(vips):
    levels = numbers(np.uint8, 1)
    file = vips.Image.new_from_array(levels).write_to_buffer(".tif[miniswhite]")
    same(read(file), levels[..., 0])  # libvips turns the numbers round as it writes
    bits = (levels > 127).astype(np.uint8) * np.uint8(255)
    for ending in (".tif[bitdepth=1]", ".png[bitdepth=1]", ".png[bitdepth=2]", ".png[bitdepth=4]"):
        same(read(vips.Image.new_from_array(bits).write_to_buffer(ending)), bits[..., 0])


def test_a_palette_and_a_pyramid_of_libvips(vips):
    flat = np.repeat(np.repeat(RANDOM.integers(0, 256, (3, 4, 3)), 16, 0), 16, 1).astype(np.uint8)
    image = vips.Image.new_from_array(flat, interpretation="srgb")
    same(read(image.write_to_buffer(".png[palette]")), flat)
    same(read(image.write_to_buffer(".tif[tile,pyramid]")), flat)


@pytest.mark.parametrize("ending", [".webp[lossless]", ".jpg[Q=100]", ".jpg[Q=100,interlace]", ".jp2k[lossless]"])
def test_other_formats_of_libvips(vips, ending):
    image = vips.Image.new_from_array(smooth(), interpretation="srgb")
    try:
        data = image.write_to_buffer(ending)
    except vips.Error:
        pytest.skip(f"this libvips writes no {ending}")
    bound = 0.0 if "lossless" in ending else 3.0
    assert np.abs(read(data).pixels.astype(int) - smooth()).mean() <= bound


def test_floats_of_libvips_are_refused(vips):
    for ending in (".tif", ".tif[compression=deflate]"):
        with pytest.raises(PictureError):
            read(vips.Image.new_from_array(RANDOM.random(SIZE).astype(np.float32)).write_to_buffer(ending))


# ----------------------------------------------------------------------------------------------------- ImageMagick


@pytest.fixture
def magick(tmp_path):
    for name in ("magick", "convert"):
        program = shutil.which(name)
        if program is None:
            continue
        says = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=300, check=False).stdout
        if says.startswith("Version: ImageMagick"):

            def convert(words, end, pixels=None, program=program):
                Image.fromarray(smooth() if pixels is None else pixels).save(tmp_path / "in.png")
                made = [program, str(tmp_path / "in.png"), *words, str(tmp_path / f"out.{end}")]
                done = subprocess.run(made, capture_output=True, text=True, timeout=300, check=False)
                if done.returncode:
                    pytest.skip(f"this ImageMagick cannot: {done.stderr[:100]}")
                return (tmp_path / f"out.{end}").read_bytes()

            return convert
    pytest.skip("ImageMagick is not installed (apt-get install imagemagick)")


GREY = smooth()[..., 0]


@pytest.mark.parametrize(
    ("words", "end"),
    [([], "png"), (["-interlace", "Line"], "png"), ([], "tif"), (["-compress", "LZW"], "tif"),
     (["-compress", "Zip"], "tif"), (["-compress", "RLE"], "tif"), (["-endian", "MSB"], "tif"), ([], "ppm"),
     (["-compress", "None"], "ppm"), ([], "bmp"),
     (["-define", "tiff:tile-geometry=16x16"], "tif")],
)  # fmt: skip
@pytest.mark.parametrize("depth", ["8", "16"])
def test_what_imagemagick_writes(magick, words, end, depth):
    if (end, depth) == ("bmp", "16"):
        pytest.skip("BMP has 8 bits")
    seen = read(magick([*words, "-depth", depth, *(["-define", "png:bit-depth=16"] if depth == "16" else [])], end))
    top = np.iinfo(seen.pixels.dtype).max
    np.testing.assert_array_equal(seen.pixels, smooth().astype(seen.pixels.dtype) * (top // 255))


@pytest.mark.parametrize("orientation", ["TopLeft", "TopRight", "BottomRight", "BottomLeft", "LeftTop", "RightTop",
                                         "RightBottom", "LeftBottom"])  # fmt: skip
def test_orientations_of_imagemagick(magick, orientation):
    """Turned by editkit as ImageMagick's own -auto-orient turns it."""
    turned = read(magick(["-orient", orientation, "-compress", "None"], "tif"))
    wanted = read(magick(["-orient", orientation, "-auto-orient", "-strip"], "png"))
    np.testing.assert_array_equal(turned.pixels, wanted.pixels)


def test_cmyk_and_depths_of_imagemagick(magick):
    seen = read(magick(["-colorspace", "CMYK"], "tif"))
    assert any("CMYK" in notice for notice in seen.meta.notices)
    for bits in ("1", "2", "4"):
        levels = (GREY >> (8 - int(bits))) * np.uint8(255 // (2 ** int(bits) - 1))
        np.testing.assert_array_equal(read(magick(["-depth", bits], "png", levels)).pixels[..., 0], levels)
    with pytest.raises(PictureError):
        read(magick(["-depth", "32", "-define", "quantum:format=floating-point"], "tif"))


# --------------------------------------------------------------------------------------------------------- exiftool


@pytest.fixture
def exiftool():
    program = shutil.which("exiftool")
    if program is None:
        pytest.skip("exiftool is not installed (apt-get install libimage-exiftool-perl)")

    def call(*words):
        done = subprocess.run([program, *words], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


EDIT = ["--mask", "box:4,4,12,12", "--model", "pocket", "--steps", "1", "--force"]


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(smooth()).save("p.jpg", quality=95, icc_profile=profile)
    Image.fromarray(smooth()).save("p.tif")
    return tmp_path


def test_what_exiftool_wrote_it_finds_in_the_result(exiftool, photo):
    told = {"Artist": "A. Painter", "XMP-dc:Title": "A door", "IPTC:Keywords": "red", "IPTC:By-line": "A. Painter",
            "Copyright": "2026 A", "Make": "Acme", "GPSLatitude": "48", "GPSLatitudeRef": "N"}  # fmt: skip
    words = [f"-{key}={value}" for key, value in told.items()]
    for name in ("p.jpg", "p.tif"):
        exiftool("-q", "-overwrite_original", *words, name)
        before = exiftool("-s", "-s", "-s", *(f"-{key}" for key in told), name)
        assert run(["inpaint", name, *EDIT, "-o", f"o{os.path.splitext(name)[1]}"]) == 0
        after = exiftool("-s", "-s", "-s", *(f"-{key}" for key in told), f"o{os.path.splitext(name)[1]}")
        assert after == before
        assert "A. Painter" in after
    assert "Warning" not in exiftool("-validate", "-warning", "-a", "o.jpg").replace("Validate", "")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_exiftool(exiftool, photo, orientation):
    exiftool("-q", "-overwrite_original", "-n", f"-Orientation={orientation}", "p.tif")
    wanted = smooth()
    flips = {
        1: (0, 0, 0),
        2: (0, 0, 1),
        3: (0, 1, 1),
        4: (0, 1, 0),
        5: (1, 0, 0),
        6: (1, 0, 1),
        7: (1, 1, 1),
        8: (1, 1, 0),
    }
    swap, down, across = flips[orientation]  # the standard: turned round, rows and columns exchanged
    wanted = wanted.swapaxes(0, 1) if swap else wanted
    wanted = wanted[::-1] if down else wanted
    wanted = wanted[:, ::-1] if across else wanted
    np.testing.assert_array_equal(Picture.read("p.tif").pixels, wanted)
    assert run(["inpaint", "p.tif", *EDIT, "-o", "o.tif"]) == 0
    assert exiftool("-n", "-s", "-s", "-s", "-Orientation", "o.tif").strip() in ("", "1")
    np.testing.assert_array_equal(np.asarray(Image.open("o.tif"))[20:], wanted[20:])


def test_a_comment_and_a_thumbnail_of_exiftool(exiftool, photo):
    Image.fromarray(smooth()[::2, ::2]).save("t.jpg")
    exiftool("-q", "-overwrite_original", "-Comment=hello", "-ThumbnailImage<=t.jpg", "p.jpg")
    assert exiftool("-s", "-s", "-s", "-ThumbnailImage", "p.jpg").startswith("(Binary data")
    assert run(["inpaint", "p.jpg", *EDIT, "-o", "o.jpg"]) == 0
    assert exiftool("-s", "-s", "-s", "-Comment", "o.jpg").strip() == "hello"
    exiftool("-q", "-b", "-W", "th.bin", "-ThumbnailImage", "o.jpg")
    assert not Path("th.bin").exists() or not Path("th.bin").read_bytes().strip(b"\0")
