"""Reading pictures: every depth, mode and orientation to upright RGB, or one line of what is wrong.

Pillow decodes, and checks that the file is whole. It opens 16-bit RGB as 8-bit without a word, so those pixels are read
again by OpenCV, and believed only where their upper bytes are Pillow's.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from editkit.errors import PictureError
from editkit.images import Picture, Pixels
from editkit.metadata import PNG_SIGNATURE, Metadata, from_image, upright

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""The largest picture that is read, in pixels; a file that claims more is taken for a decompression bomb. Reading takes
at most some 32 bytes of memory a pixel (16-bit with alpha; 12 for 8-bit RGB), besides the file itself."""

MAX_BYTES = 1 << 30
"""The largest file that is read, in bytes."""

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "TIFF", "AVIF", "HEIF", "BMP", "GIF", "PPM", "JPEG2000")
"""What may be decoded. Pillow knows more, some of which runs other programs (EPS)."""

READABLE = "PNG, JPEG, WebP, TIFF, AVIF, BMP, GIF, PPM, JPEG 2000; HEIC with pillow-heif installed"


def read(source: str | Path | Pixels | Image.Image | BinaryIO | Picture) -> Picture:
    """A picture from a file, "-" for standard input, an open binary file, an array or a Pillow image.

    Arrays are (H, W), (H, W, 1), (H, W, 3) RGB, or with alpha (H, W, 2), (H, W, 4), of uint8 or uint16.

    Raises:
        PictureError: no such file, no permission, empty, truncated, not a picture, too large.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return from_array(source)
    if isinstance(source, str | Path):
        data, name = read_bytes(source)
        return decode(data, name)
    from PIL import Image

    if not isinstance(source, Image.Image):
        name = str(getattr(source, "name", "the open file"))
        return decode(_bounded(source, name), name)
    with _one_line("the image", b""):
        return _decode(source, b"", "the image")


def from_array(array: NDArray[Any]) -> Picture:
    """A picture from an array; see `read`."""
    if array.dtype not in (np.uint8, np.uint16):
        raise PictureError(
            f"a picture array must be uint8 or uint16, got {array.dtype}; scale it to 0..255 and call .astype('uint8')"
        )
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4):
        raise PictureError(f"a picture array must be (height, width, 1 to 4 channels), got {array.shape}")
    channels = array.shape[2]
    alpha = np.ascontiguousarray(array[..., -1]) if channels in (2, 4) else None
    colour = array[..., :3] if channels >= 3 else np.repeat(array[..., :1], 3, axis=2)
    mode = ("L", "LA", "RGB", "RGBA")[channels - 1]
    return Picture(np.ascontiguousarray(colour), alpha, None, Metadata(mode=mode, bits=array.dtype.itemsize * 8))


def read_bytes(source: str | Path) -> tuple[bytes, str]:
    """The bytes of a file (or of standard input for "-") and its name for messages."""
    if str(source) == "-":
        if sys.stdin.isatty():
            raise PictureError("-: standard input is a terminal; pipe a picture into it or name a file")
        return _bounded(sys.stdin.buffer, "standard input"), "standard input"
    path = Path(source)
    try:
        kind = path.stat()
        if stat.S_ISDIR(kind.st_mode):
            raise PictureError(f"{path}: is a folder; name a picture file in it")
        if stat.S_ISCHR(kind.st_mode) or stat.S_ISBLK(kind.st_mode) or stat.S_ISSOCK(kind.st_mode):
            raise PictureError(f"{path}: is a device, not a picture file")
        with path.open("rb") as file:
            return _bounded(file, str(path)), str(path)
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file{_nearest(path)}") from None
    except PermissionError:
        raise PictureError(f"{path}: no permission to read it (chmod u+r would give it)") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{path}: cannot be read: {reason}") from None


def _bounded(file: BinaryIO, name: str) -> bytes:
    """All of an open file, or an error for one that is empty or larger than `MAX_BYTES`."""
    try:
        data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PictureError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise PictureError(f"{name}: larger than {MAX_BYTES >> 20} MiB, the most that is read; make it smaller first")
    if not data:
        raise PictureError(f"{name}: is empty (zero bytes); a picture was expected")
    return data


def _nearest(path: Path) -> str:
    """A near name in the same folder, for the message."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f"; the folder {path.parent} does not exist either" if not path.parent.exists() else ""
    by_lower = {name.lower(): name for name in sorted(names)}
    close = difflib.get_close_matches(path.name.lower(), by_lower, n=1, cutoff=0.6)
    return f"; did you mean {path.parent / by_lower[close[0]]}?" if close else ""


def decode(data: bytes, name: str) -> Picture:
    """A picture from the bytes of a file; `name` is for messages."""
    from PIL import Image

    _register_heif()
    with _one_line(name, data):
        image = Image.open(io.BytesIO(data), formats=_known_formats())
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        return _decode(image, data, name)


@contextlib.contextmanager
def _one_line(name: str, data: bytes) -> Iterator[None]:
    """Whatever a decoder raises as a `PictureError`, and none of its warnings."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of what is reported or harmless here
            yield
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(_unknown(data, name)) from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"{name}: more than {MAX_PIXELS:,} pixels, the most that is read (it may be a decompression bomb); "
            "make it smaller first"
        ) from None
    except MemoryError:
        raise PictureError(f"{name}: not enough memory for this picture; make it smaller first") from None
    except Exception as error:
        # A decoder fed with damaged bytes may raise anything; all of it means the same to the user.
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PictureError(
            f"{name}: is damaged or truncated ({reason}); open it in a viewer and save it again, or fetch a whole copy"
        ) from None


def _known_formats() -> list[str]:
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _register_heif() -> None:
    """Let Pillow read HEIC where pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def _unknown(data: bytes, name: str) -> str:
    """Why nothing could decode this."""
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc"):
        return f"{name}: HEIC is read where pillow-heif is installed (pip install pillow-heif); or convert it to JPEG"
    starts = (
        (PNG_SIGNATURE[:4], "PNG"),
        (b"\xff\xd8", "JPEG"),
        (b"RIFF", "WebP"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
    )
    for start, kind in starts:
        if data.startswith(start):
            return f"{name}: starts like {kind} but is damaged, truncated or of a kind that is not read"
    return f"{name}: is not a picture that editkit reads ({READABLE})"


def _decode(image: Any, data: bytes, name: str) -> Picture:
    """`image` as Pillow opened it, with everything the file says; no `data` for an image that a caller opened."""
    notices: list[str] = []
    format_ = "JPEG" if image.format == "MPO" else image.format
    frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    if frames > 1 and data:
        notices.append(f"{name}: only the first of its {frames} frames is read")
    mode, bits = _declared(image, data, format_, name)
    orientation = _orientation(image)
    image.load()
    if bits == 16 and mode == "RGB" and data:
        image.info.pop("transparency", None)  # a 16-bit colour key, meaningless for Pillow's 8 bits; OpenCV heeds it
    applied = format_ == "TIFF"  # Pillow turns TIFF while loading, and no other format
    if not applied:
        orientation = _orientation(image)  # a PNG may say it behind the pixels
    meta = from_image(image, data, format_, mode, bits, orientation, name)
    picture = _from_pillow(image, meta, name, notices)
    if not applied:
        picture = _turned(picture, orientation)
    if bits == 16 and picture.pixels.dtype == np.uint8:
        picture = _deep(picture, data, format_, notices, name)
    meta = replace(picture.meta, notices=(*picture.meta.notices, *notices))
    return Picture(picture.pixels, picture.alpha, None, meta)


def _from_pillow(image: Any, meta: Metadata, name: str, notices: list[str]) -> Picture:
    """Any mode of Pillow's to RGB with alpha. 16 bits stay where Pillow has them (greyscale)."""
    mode = image.mode
    if mode == "F":
        raise PictureError(f"{name}: 32-bit floating-point pixels are not read; convert it to 16 bits a channel")
    if mode == "I" or mode.startswith("I;16"):
        picture = _wide_grey(image, meta, name)
    else:
        if mode == "CMYK":
            image = _from_cmyk(image)
            notices.append(f"{name}: CMYK is converted to RGB; the result is RGB, without the CMYK profile")
            meta = replace(meta, icc=None)
        elif image.has_transparency_data:
            image = image.convert("LA" if mode in ("1", "L", "LA", "La") else "RGBA")
        elif mode in ("1", "L"):
            image = image.convert("L")
        elif mode != "RGB":
            if mode == "LAB":
                raise PictureError(f"{name}: CIELAB pixels are not read; convert it to RGB")
            image = image.convert("RGB")
        picture = from_array(np.asarray(image))
        picture = Picture(picture.pixels, picture.alpha, None, meta)
    return picture


def _wide_grey(image: Any, meta: Metadata, name: str) -> Picture:
    """Greyscale of more than 8 bits."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise PictureError(
            f"{name}: its values reach from {low} to {high}; 0 to 65535 (16 bits) can be kept: convert it to 16 bits"
        )
    values = values.astype(np.uint16)
    key = image.info.get("transparency")
    alpha = np.where(values == key, 0, 65_535).astype(np.uint16) if isinstance(key, int) else None
    return Picture(np.repeat(values[..., None], 3, axis=2), alpha, None, meta)


def _from_cmyk(image: Any) -> Any:
    """CMYK to RGB: by the picture's own profile to sRGB where it has one."""
    profile = image.info.get("icc_profile")
    if profile:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a profile that cannot be used is the same as none
    return image.convert("RGB")


def _declared(image: Any, data: bytes, format_: str | None, name: str) -> tuple[str, int]:
    """The file's own mode and depth, which Pillow's mode may hide."""
    mode: str = image.mode
    if format_ == "PNG" and data[24:25] == b"\x10":
        return {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}.get(data[25], mode), 16
    if mode.startswith("I"):
        return "L", 16
    if format_ == "TIFF":
        tags = image.tag_v2
        depths = tags.get(258, (1,))
        if tags.get(339, (1,))[0] == 3:
            raise PictureError(f"{name}: floating-point TIFF is not read; convert it to 16 bits a channel")
        if depths[0] == 16:
            if tags.get(284) == 2:  # neither Pillow nor OpenCV reads these rightly, and both without a word
                raise PictureError(
                    f"{name}: 16-bit TIFF in separate planes is not read; save it with interleaved channels"
                )
            return ("RGBA" if mode in ("RGBX", "RGBa") else mode), 16
    return mode, 8


def _orientation(image: Any) -> int:
    """1 to 8; 1 where the tag is missing or nonsense."""
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(H, W, ...) as it lies in the file to how it is meant to be seen, by its EXIF orientation."""
    match orientation:
        case 2:
            turned = array[:, ::-1]
        case 3:
            turned = array[::-1, ::-1]
        case 4:
            turned = array[::-1]
        case 5:
            turned = array.swapaxes(0, 1)
        case 6:
            turned = np.rot90(array, -1)
        case 7:
            turned = array[::-1, ::-1].swapaxes(0, 1)
        case 8:
            turned = np.rot90(array, 1)
        case _:
            turned = array
    return np.ascontiguousarray(turned)


def _turned(picture: Picture, orientation: int) -> Picture:
    if orientation == 1:
        return picture
    alpha = None if picture.alpha is None else turn(picture.alpha, orientation)
    return Picture(turn(picture.pixels, orientation), alpha, None, picture.meta)


def _agree(deep: NDArray[Any], cut: NDArray[Any]) -> bool:
    """Whether `cut` is the upper bytes of `deep`."""
    if deep.shape != cut.shape:
        return False
    return all(np.array_equal(deep[at : at + 64] >> 8, cut[at : at + 64]) for at in range(0, len(deep), 64))


def _deep(picture: Picture, data: bytes, format_: str | None, notices: list[str], name: str) -> Picture:
    """`picture`, which Pillow cut to 8 bits, with the 16 bits of its file."""
    import cv2

    doubt = f"{name}: its 16 bits a channel could not be read; 8 are kept"
    if not data:
        notices.append(doubt)
        return picture
    if format_ == "TIFF":
        try:
            data = upright(data)  # OpenCV would turn some orientations and not others
        except ValueError:
            notices.append(doubt)
            return picture
    wide = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if wide is None or wide.dtype != np.uint16 or wide.ndim != 3 or wide.shape[2] not in (3, 4):
        notices.append(doubt)
        return picture
    wide = turn(wide, picture.meta.orientation)
    pixels = np.ascontiguousarray(wide[..., 2::-1])
    alpha = np.ascontiguousarray(wide[..., 3]) if wide.shape[2] == 4 else None
    seen = [(pixels, picture.pixels)]
    if picture.alpha is not None and alpha is not None and "A" in picture.meta.mode:
        seen.append((alpha, picture.alpha))
    if not all(_agree(deep, cut) for deep, cut in seen):
        notices.append(doubt)
        return picture
    return Picture(pixels, alpha, None, picture.meta)
