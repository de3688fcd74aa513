"""Read pictures from files, standard input, arrays and Pillow images into a `Raster`, with one-line errors."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import stat
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from editkit.common.process import SILENCE
from editkit.common.spec import nearest
from editkit.errors import PictureError
from editkit.pictures.files import raw
from editkit.pictures.files.decoding import from_array, from_image
from editkit.pictures.files.formats import FORMATS, readable
from editkit.pictures.raster import Pixels, Raster

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""The largest readable picture, in pixels; a file that declares more is treated as a decompression bomb. Reading needs
at most about 32 bytes of memory per pixel (16-bit with alpha; 12 for 8-bit RGB), in addition to the file itself."""

MAX_BYTES = 1 << 30
"""The largest readable file, in bytes."""


def read(source: str | Path | bytes | Pixels | Image.Image | BinaryIO) -> Raster:
    """Read a picture from a path, "-" for standard input, bytes, an open binary file, an array or a Pillow image.

    Arrays are (H, W), (H, W, 1), (H, W, 3) RGB, or with alpha (H, W, 2), (H, W, 4), of uint8 or uint16.

    Raises:
        PictureError: no such file, no permission, empty, truncated, not a picture, too large.
    """
    if isinstance(source, np.ndarray):
        return from_array(source)
    if isinstance(source, str | Path):
        data, name = read_bytes(source)
        return decode(data, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return decode(_read_bounded(io.BytesIO(source), "the bytes"), "the bytes")
    from PIL import Image

    if not isinstance(source, Image.Image):
        if not hasattr(source, "read"):
            raise PictureError(_not_found_error(source))
        name = str(getattr(source, "name", "the open file"))
        return decode(_read_bounded(source, name), name)
    with _one_line("the image", b""):
        return from_image(source, b"", "the image")


def _not_found_error(source: object) -> str:
    """Explain what to pass instead of an object that is neither a file nor an array."""
    kinds = "a path, bytes, a Pillow image, an array (h, w, 3) of uint8 or uint16, or a Picture is needed"
    if hasattr(source, "numpy"):
        kinds += "; of a tensor (3, h, w) in [0, 1]: (x * 255).round().byte().permute(1, 2, 0).numpy()"
    return f"{type(source).__name__} is not a picture: {kinds}"


def read_bytes(source: str | Path) -> tuple[bytes, str]:
    """Return the bytes of a file (or of standard input for "-") and its name for messages."""
    if str(source) == "-":
        if sys.stdin.isatty():
            raise PictureError("-: standard input is a terminal; pipe a picture into it or name a file")
        return _read_bounded(sys.stdin.buffer, "standard input"), "standard input"
    path = Path(source)
    try:
        kind = path.stat()
        if stat.S_ISDIR(kind.st_mode):
            raise PictureError(f"{path}: is a folder; name a picture file in it")
        if stat.S_ISCHR(kind.st_mode) or stat.S_ISBLK(kind.st_mode) or stat.S_ISSOCK(kind.st_mode):
            raise PictureError(f"{path}: is a device, not a picture file")
        with path.open("rb") as file:
            return _read_bounded(file, str(path)), str(path)
    except FileNotFoundError:
        raise PictureError(f"{path}: no such file{_suggest_name(path)}") from None
    except PermissionError:
        raise PictureError(f"{path}: no permission to read it (chmod u+r grants it)") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise PictureError(f"{path}: cannot be read: {reason}") from None


def _read_bounded(file: BinaryIO, name: str) -> bytes:
    """Read an open file; raise an error if it is empty or larger than `MAX_BYTES`."""
    try:
        data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PictureError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_BYTES:
        raise PictureError(f"{name}: larger than {MAX_BYTES >> 20} MiB, the most that is read; make it smaller first")
    if not data:
        raise PictureError(f"{name}: is empty (zero bytes); a picture was expected")
    return data


def _suggest_name(path: Path) -> str:
    """Suggest a similar name in the same folder, for the message."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return f"; the folder {path.parent} does not exist either" if not path.parent.exists() else ""
    by_lower = {name.lower(): name for name in sorted(names)}
    close = nearest(path.name.lower(), by_lower)
    return f"; did you mean {path.parent / by_lower[close[0]]}?" if close else ""


def decode(data: bytes, name: str) -> Raster:
    """Decode the bytes of a picture file; `name` is for messages."""
    from PIL import Image

    _register_heif()
    raw.refuse_raw(data, name)
    with _one_line(name, data):
        image = Image.open(io.BytesIO(data), formats=known_formats())
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        _check_memory(image, data, name)
        return from_image(image, data, name)


LARGE = 1 << 24
"""Number of pixels from which the free memory is checked before decoding."""

MUCH, MOST_PRESSED = 2 << 30, 500
"""Most bytes of memory for a file that is this many times smaller than its pixels, which no photograph is."""


def _check_memory(image: Image.Image, data: bytes, name: str) -> None:
    """Refuse a picture that does not fit into memory, before decoding: a small file may declare a huge picture.

    Raises:
        PictureError: it does not fit; the message says what is needed and what is free.
    """
    pixels = image.width * image.height
    if pixels < LARGE:
        return
    import psutil

    tags = getattr(image, "tag_v2", {})
    deep = (data[:4] == b"\x89PNG" and data[24:25] == b"\x10") or 16 in tags.get(258, ()) or image.mode[:1] == "I"
    needed, free = pixels * (32 if deep else 16), int(psutil.virtual_memory().available)
    if needed > MUCH and pixels * (8 if deep else 4) > MOST_PRESSED * len(data):
        raise PictureError(
            f"{name}: its {len(data)} bytes claim {image.width}x{image.height} pixels, as a decompression bomb does; "
            f"if that is intended, save it without compression (.tif, .bmp)"
        )
    check_room(name, image.width, image.height, needed, free)


def check_room(name: str, width: int, height: int, needed: int, free: int) -> None:
    """Refuse pixels that need more bytes than are free.

    Raises:
        PictureError: the message says what is needed and what is free.
    """
    if needed > free:
        raise PictureError(
            f"{name}: its {width}x{height} pixels need about {needed / 1e9:.1f} GB to be read, and "
            f"{free / 1e9:.1f} GB are free; make it smaller first, or close other programs"
        )


@contextlib.contextmanager
def _one_line(name: str, data: bytes) -> Iterator[None]:
    """Turn any error of a decoder into a `PictureError`, and suppress its warnings."""
    from PIL import Image, UnidentifiedImageError

    try:
        with SILENCE, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of problems that are reported here or harmless
            yield
    except PictureError:
        raise
    except UnidentifiedImageError:
        raise PictureError(_explain_unknown(data, name)) from None
    except Image.DecompressionBombError:
        raise PictureError(
            f"{name}: more than {MAX_PIXELS:,} pixels, the most that is read (perhaps a decompression bomb); "
            "make it smaller first"
        ) from None
    except MemoryError:
        raise PictureError(f"{name}: not enough memory for this picture; make it smaller first") from None
    except Exception as error:
        # A decoder may raise any error on damaged bytes; all mean the same to the user.
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise PictureError(
            f"{name}: is damaged or truncated ({reason}); open it in a viewer and save it again, or get a complete copy"
        ) from None


def known_formats() -> list[str]:
    """Return the formats that Pillow may use; one of its others starts programs."""
    from PIL import Image

    Image.init()
    return [name for row in FORMATS for name in (row.name, *row.also) if name in Image.OPEN]


def _register_heif() -> None:
    """Let Pillow read HEIC if pillow-heif is installed."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()


def _explain_unknown(data: bytes, name: str) -> str:
    """Explain why the file could not be decoded."""
    for row in FORMATS:
        if not row.has_signature(data):
            continue
        if row.needs is not None:
            where = f"if {row.needs} is installed (pip install {row.needs})"
            return f"{name}: {row.title} is read {where}; or convert it to JPEG"
        return f"{name}: starts like {row.title} but is damaged, truncated or of an unsupported kind"
    return f"{name}: is not a picture that editkit reads ({readable()})"
