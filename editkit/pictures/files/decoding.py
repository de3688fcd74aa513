"""Convert decoded pictures of any depth, mode and orientation to upright RGB with alpha.

Pillow decodes, and checks that the file is complete. It silently opens 16-bit RGB as 8-bit, so those pixels are read
again with OpenCV, and used only if their upper bytes equal Pillow's. If pixels are reduced to 8 bits even so, the user
is notified.
"""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editkit.common.process import SILENCE
from editkit.errors import PictureError
from editkit.pictures.files.exif import with_upright_orientation
from editkit.pictures.files.formats import PNG, TIFF, Format, of_image
from editkit.pictures.files.metadata import Metadata, describe
from editkit.pictures.files.png import png_chunks
from editkit.pictures.raster import Raster


def from_array(array: NDArray[Any]) -> Raster:
    """Make a picture from an array; see `read`."""
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
    return Raster(np.ascontiguousarray(colour), alpha, Metadata(mode=mode, bits=array.dtype.itemsize * 8))


def from_image(image: Any, data: bytes, name: str) -> Raster:
    """Convert `image` from Pillow, with all metadata of the file; no `data` for an image that a caller opened."""
    notices: list[str] = []
    row = of_image(image.format)
    frames = 1 if row is not None and image.format in row.also else int(getattr(image, "n_frames", 1))
    if frames > 1 and data:
        notices.append(f"{name}: only the first of its {frames} frames is read")
    mode, bits = _declared_mode(image, data, row, name)
    orientation = _orientation(image)
    image.load()
    if bits == 16 and mode == "RGB" and data:
        image.info.pop("transparency", None)  # a 16-bit colour key, meaningless for Pillow's 8 bits; OpenCV applies it
    _scale_key(image, data, row)
    _report_extra_channels(image, row, name, notices)
    applied = row is not None and row.turned
    if not applied:
        orientation = _orientation(image)  # a PNG may store it after the pixels
    meta = describe(image, data, row, mode, bits, orientation, name)
    picture = _from_pillow(image, meta, name, notices)
    if not applied:
        picture = _orient_raster(picture, orientation)
    if bits > 8 and picture.pixels.dtype == np.uint8:
        picture = _restore_sixteen(picture, data, row, notices, name)
    meta = replace(picture.meta, notices=(*picture.meta.notices, *notices))
    return Raster(picture.pixels, picture.alpha, meta)


def _scale_key(image: Any, data: bytes, row: Format | None) -> None:
    """Scale the transparent level of a grey PNG of 1 to 8 bits to 8 bits: Pillow returns the file's own number, of
    which only the lowest bits count."""
    if row is not PNG or len(data) < 26 or data[24] > 8 or data[25] != 0 or "transparency" not in image.info:
        return
    top = (1 << data[24]) - 1
    key = next((body for kind, body in png_chunks(data) if kind == b"tRNS"), b"\0\0")
    image.info["transparency"] = (int.from_bytes(key[:2], "big") & top) * (255 // top)


def _report_extra_channels(image: Any, row: Format | None, name: str, notices: list[str]) -> None:
    """Report a TIFF's extra channels that are not marked as transparency and are not read."""
    extra = image.tag_v2.get(338, ()) if row is TIFF else ()
    left = sum(kind == 0 for kind in (extra if isinstance(extra, tuple) else (extra,)))
    if left:
        notices.append(f"{name}: {left} of its channels are not marked as alpha and are left out")


def _from_pillow(image: Any, meta: Metadata, name: str, notices: list[str]) -> Raster:
    """Convert any Pillow mode to RGB with alpha. 16-bit greyscale stays 16-bit."""
    mode = image.mode
    if mode == "F":
        raise PictureError(f"{name}: 32-bit floating-point pixels are not supported; convert it to 16 bits per channel")
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
                raise PictureError(f"{name}: CIELAB pixels are not supported; convert it to RGB")
            image = image.convert("RGB")
        picture = from_array(np.asarray(image))
        picture = Raster(picture.pixels, picture.alpha, meta)
    return picture


def _wide_grey(image: Any, meta: Metadata, name: str) -> Raster:
    """Convert greyscale of more than 8 bits."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise PictureError(
            f"{name}: its values range from {low} to {high}, beyond 16 bits (0 to 65535); convert it to 16 bits"
        )
    values = _to_sixteen_bits(values.astype(np.uint16), image)
    key = image.info.get("transparency")
    alpha = np.where(values == key, 0, 65_535).astype(np.uint16) if isinstance(key, int) else None
    return Raster(np.repeat(values[..., None], 3, axis=2), alpha, meta)


def _to_sixteen_bits(values: NDArray[Any], image: Any) -> NDArray[Any]:
    """Convert levels of a 12- or 16-bit TIFF, where 0 may be white, to 16 bits with 65535 = white."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(258, (16,))[0] == 12:
        values = values << 4 | values >> 8
    return 65_535 - values if tags.get(262) == 0 else values


def _from_cmyk(image: Any) -> Any:
    """Convert CMYK to RGB; to sRGB by the picture's own profile if it has one."""
    profile = image.info.get("icc_profile")
    if profile:
        from PIL import ImageCms

        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # an unusable profile is ignored
    return image.convert("RGB")


def _declared_mode(image: Any, data: bytes, row: Format | None, name: str) -> tuple[str, int]:
    """Return the file's own mode and depth, which Pillow's mode may hide."""
    mode: str = image.mode
    if row is PNG and data[24:25] == b"\x10":
        return {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}.get(data[25], mode), 16
    if mode.startswith("I"):
        return "L", 16
    if row is TIFF:
        tags = image.tag_v2
        depths = tags.get(258, (1,))
        if tags.get(339, (1,))[0] == 3:
            raise PictureError(f"{name}: floating-point TIFF is not supported; convert it to 16 bits per channel")
        if depths[0] == 16:
            if tags.get(284) == 2:  # Pillow and OpenCV both read these wrongly, without an error
                raise PictureError(
                    f"{name}: 16-bit TIFF with separate planes is not supported; save it with interleaved channels"
                )
            return ("RGBA" if mode in ("RGBX", "RGBa") else mode), 16
    return mode, 8 if row is None else row.depth(data)


def _orientation(image: Any) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if the tag is missing or invalid."""
    value = image.getexif().get(0x0112, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def apply_orientation(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn (H, W, ...) upright by its EXIF orientation."""
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


def _orient_raster(picture: Raster, orientation: int) -> Raster:
    if orientation == 1:
        return picture
    alpha = None if picture.alpha is None else apply_orientation(picture.alpha, orientation)
    return Raster(apply_orientation(picture.pixels, orientation), alpha, picture.meta)


def _is_upper_bytes(deep: NDArray[Any], cut: NDArray[Any]) -> bool:
    """Whether `cut` is the upper bytes of `deep`."""
    if deep.shape != cut.shape:
        return False
    return all(np.array_equal(deep[at : at + 64] >> 8, cut[at : at + 64]) for at in range(0, len(deep), 64))


def _by_opencv(data: bytes) -> NDArray[Any] | None:
    """Read a file with OpenCV, BGR; None if it cannot. OpenCV's standard error is suppressed."""
    import cv2

    with SILENCE:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(0)
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return None
        finally:
            cv2.utils.logging.setLogLevel(level)


def _restore_sixteen(picture: Raster, data: bytes, row: Format | None, notices: list[str], name: str) -> Raster:
    """Restore the file's 16 bits in `picture`, which Pillow reduced to 8."""
    doubt = f"{name}: its {picture.meta.bits} bits per channel could not be read; 8 are kept"
    if row is None or not row.deep or picture.meta.mode not in ("L", "LA", "RGB", "RGBA") or not data:
        notices.append(doubt)
        return picture
    if row is TIFF and not (data[:4] == b"II+\0" and picture.meta.orientation == 1):
        try:
            data = with_upright_orientation(data)  # OpenCV would turn some orientations and not others
        except ValueError:
            notices.append(doubt)
            return picture
    wide = _by_opencv(data)
    if wide is None or wide.dtype != np.uint16 or wide.ndim != 3 or wide.shape[2] not in (3, 4):
        notices.append(doubt)
        return picture
    wide = apply_orientation(wide, picture.meta.orientation)
    pixels = np.ascontiguousarray(wide[..., 2::-1])
    alpha = np.ascontiguousarray(wide[..., 3]) if wide.shape[2] == 4 else None
    if row is TIFF and picture.alpha is None:
        alpha = None  # a fourth channel that is not transparency
    seen = [(pixels, picture.pixels)]
    if picture.alpha is not None and alpha is not None and "A" in picture.meta.mode:
        seen.append((alpha, picture.alpha))
    if not all(_is_upper_bytes(deep, cut) for deep, cut in seen):
        notices.append(doubt)
        return picture
    return Raster(pixels, alpha, picture.meta)
