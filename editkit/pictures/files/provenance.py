"""How a picture was made, kept inside it: recipe, models, seed, versions, and hashes of what went in.

No date and no absolute path is in it, so that the same edit gives the same bytes anywhere. A PNG holds it as text
(iTXt, keyword `editkit`); JPEG, WebP, TIFF and AVIF in their XMP, under a namespace of its own. Both are found in a
file's bytes without decoding it, and taken out of them without touching a pixel.

What is read back may have been written by anybody: its length is limited, every field is checked, and it is never run.
Code that a recipe names is for whoever runs the recipe to allow.
"""

from __future__ import annotations

import html
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from editkit.errors import PictureError
from editkit.pictures.files.png import PNG_SIGNATURE, png_chunk, png_chunks
from editkit.pictures.files.reading import read_bytes
from editkit.pictures.files.xmp import MAX_TEXT, blank_provenance, provenance_in, without_provenance
from editkit.pictures.raster import Raster

KEYWORD = b"editkit"

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""

Name = Annotated[str, Field(max_length=400)]


class UsedModel(BaseModel):
    """A model by its name and the hash of its weights; None for one without weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    hash: Hash | None = None


class Between(BaseModel):
    """What `editkit interpolate` was told besides its recipe, whose first plugin walks both ways.

    Args:
        to, to_hash: the other picture's file name, without folder, and its pixels' hash.
        frames: how many.
        prompt_to: what describes the other picture.
        mix: what lies between two noises.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Name | None = None
    to_hash: Hash
    frames: int = Field(ge=2, le=1000)
    prompt_to: Annotated[str, Field(max_length=10_000)] | None = None
    mix: Literal["slerp", "lerp"] = "slerp"


class Provenance(BaseModel):
    """How a picture was made.

    Args:
        version: of this record's form.
        recipe: the chain, as a recipe's YAML holds it.
        models: the model of each stage.
        seed: of the first stage.
        versions: package name to version.
        picture: the file name of the picture that went in, without folder.
        picture_hash, mask_hash: of the pixels that went in; see `hash_pixels`, `hash_mask`.
        example_hashes: of the other pictures that were learned from, in order.
        files: further weights that were named (LoRAs, ControlNets, adapters); left out of the text where none were.
        between: of a strip between two pictures; left out of the text of others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    recipe: dict[str, JsonValue]
    models: tuple[UsedModel, ...] = Field((), max_length=100)
    seed: int = Field(0, ge=0, lt=2**63)
    versions: dict[Name, Name] = Field(default_factory=dict, max_length=100)
    picture: Name | None = None
    picture_hash: Hash | None = None
    mask_hash: Hash | None = None
    example_hashes: tuple[Hash, ...] = Field((), max_length=1000)
    files: tuple[UsedModel, ...] = Field((), max_length=1000)
    between: Between | None = None

    @classmethod
    def of(
        cls,
        recipe: Mapping[str, Any],
        *,
        models: Mapping[str, str | None] | tuple[tuple[str, str | None], ...] = (),
        files: Iterable[tuple[str, str | None]] = (),
        seed: int = 0,
        picture: Raster | None = None,
        name: str | Path | None = None,
        mask: NDArray[Any] | None = None,
        examples: Iterable[str] = (),
    ) -> Provenance:
        """The provenance of an edit that is about to be written.

        Args:
            recipe: the chain as a mapping of YAML values; absolute paths in it are cut to the file's name.
            models: (name, hash of the weights) of each stage.
            files: the same of further weights that were named.
            picture, name: what was edited, and the file it came from.
            mask: (H, W) in [0, 1].
            examples: hashes of other pictures that were learned from.
        """
        pairs = tuple(models.items()) if isinstance(models, Mapping) else models
        return cls(
            recipe={str(key): _without_folders(value) for key, value in recipe.items()},
            models=tuple(UsedModel(name=_without_folders(model), hash=hash_) for model, hash_ in pairs),
            files=tuple(UsedModel(name=_without_folders(file), hash=hash_) for file, hash_ in files),
            seed=seed,
            versions=versions(),
            picture=None if name is None or str(name) == "-" else _replace_surrogates(Path(name).name),
            picture_hash=None if picture is None else hash_pixels(picture),
            mask_hash=None if mask is None else hash_mask(mask),
            example_hashes=tuple(examples),
        )

    def to_text(self) -> str:
        """ASCII JSON, keys sorted: the same provenance is the same text.

        Raises:
            PictureError: the text is longer than `MAX_TEXT`, or the recipe contains NaN.
        """
        try:
            idle = {name for name in ("between", "files") if not getattr(self, name)}
            values = self.model_dump(mode="json", exclude=idle)
            text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except ValueError as error:
            raise PictureError(f"the recipe cannot be stored in the picture ({error}); use --no-provenance") from None
        if len(text) > MAX_TEXT:
            raise PictureError(
                f"the recipe of {len(text)} bytes is too long to be stored in the picture "
                f"(at most {MAX_TEXT}); use --no-provenance"
            )
        return text

    @classmethod
    def from_text(cls, text: str | bytes, name: str = "the picture") -> Provenance:
        """Parse the provenance in `text`.

        Raises:
            PictureError: it is damaged, forged, or of a later version.
        """
        if len(text) > MAX_TEXT:
            raise PictureError(f"{name}: its provenance is longer than {MAX_TEXT} bytes and is not read")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])[:80]
            reason = f"{where}: {first['msg']}" if where else str(first["msg"])
            raise PictureError(
                f"{name}: its provenance is damaged ({' '.join(reason.split())[:160]}); editkit strip removes it"
            ) from None


def versions() -> dict[str, str]:
    """Return the versions of the packages that determine the result, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("editkit", "torch", "diffusers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # running from a checkout that is not installed
            found[package] = "unknown"
    return found


def _without_folders(value: Any) -> Any:
    """Cut absolute paths, paths out of the result's folder, and model folders below the current one to their last part,
    because they would reveal the author's folders.
    """
    match value:
        case Path():
            return _without_folders(str(value))
        case str():
            return _replace_surrogates(_name_of(value))
        case Mapping():
            return {str(key): _without_folders(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_without_folders(inner) for inner in value]
        case _:
            return value


def _replace_surrogates(text: str) -> str:
    """Replace what is not UTF-8 in `text`, for example in a file name: the record is UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _name_of(text: str) -> str:
    for kind in (PurePosixPath, PureWindowsPath):
        if _is_file(kind(text)):
            return kind(text).name
    if (
        text.startswith("./") and PurePosixPath(text).name and _is_folder(text)
    ):  # a model folder on the author's machine
        return PurePosixPath(text).name
    parts = re.split(r"([+&-])(?=[a-z_]+:)", text)  # box:1,2,3,4+watermark:/a/b.png
    if len(parts) > 1:
        return "".join(part if k % 2 else _name_of(part) for k, part in enumerate(parts))
    # kernel:/a/b.png, timm:resnet18:/a/b.safetensors, softedge:size=512,weights=/a/b
    behind = re.match(r"[a-z][\w:=,-]*?[:=](?=[/\\.])", text)
    return text if behind is None else behind[0] + _name_of(text[behind.end() :])


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):
        return False


def _is_file(path: PurePath) -> bool:
    """Whether the text is a path to cut, and not for example a prompt that begins with a slash."""
    if not path.name or len(path.parts) < 2:
        return False
    try:
        if path.is_absolute():
            return (len(path.parts) > 2 and path.suffix != "") or Path(path).exists()
        models = Path(path).is_dir() or (path.suffix.lower() in (".safetensors", ".gguf") and Path(path).exists())
        return path.parts[0] == ".." or (len(path.parts) > 2 and models)
    except (OSError, ValueError):
        return False


def hash_pixels(picture: Raster) -> str:
    """Return the SHA-256 of the pixels and alpha, with depth and size; equal for all files that decode to them."""
    parts = [picture.pixels] if picture.alpha is None else [picture.pixels, picture.alpha]
    return _hash(*parts)


def hash_mask(mask: NDArray[Any]) -> str:
    """Return the SHA-256 of a mask as float32."""
    return _hash(np.asarray(mask, dtype=np.float32))


def _hash(*arrays: NDArray[Any]) -> str:
    import hashlib

    digest = hashlib.sha256()
    for array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{little.dtype.str}{little.shape}".encode())
        digest.update(np.ascontiguousarray(little).tobytes())
    return digest.hexdigest()


def read_provenance(path: str | Path) -> Provenance | None:
    """Read the provenance of a picture file; None if it has none.

    Raises:
        PictureError: the file does not exist, or its provenance is damaged or forged.
    """
    data, name = read_bytes(path)
    text = find_provenance(data, name)
    return None if text is None else Provenance.from_text(text, name)


def find_provenance(data: bytes, name: str = "the picture") -> str | None:
    """Return the text of the provenance in the bytes of a file; None without one."""
    if data.startswith(PNG_SIGNATURE):
        for kind, body in png_chunks(data, name):
            if kind == b"iTXt" and body.startswith(KEYWORD + b"\0"):
                return _itxt_text(body, name)
    found = provenance_in(data)
    if found is None:
        return None
    try:
        return html.unescape(found.decode())
    except UnicodeDecodeError:
        raise PictureError(f"{name}: its provenance is damaged (not text); editkit strip removes it") from None


def _itxt_text(body: bytes, name: str) -> str:
    """Return the text of an iTXt chunk; refuse one that would unpack to more than `MAX_TEXT`."""
    damaged = PictureError(f"{name}: its provenance is damaged (not text); editkit strip removes it")
    rest = body[len(KEYWORD) + 1 :]
    parts = rest[2:].split(b"\0", 2)
    if len(rest) < 2 or len(parts) != 3:
        raise damaged
    text = parts[2]
    try:
        if rest[0] == 1:
            text = zlib.decompressobj().decompress(text, MAX_TEXT + 1)
        return text[: MAX_TEXT + 1].decode()
    except (zlib.error, UnicodeDecodeError):
        raise damaged from None


def strip_bytes(data: bytes, name: str = "the picture") -> bytes:
    """Remove the provenance from the bytes of a file; pixels and all other metadata stay byte for byte.

    In a PNG the chunk is dropped. In other formats spaces replace it inside the XMP, which allows them, so that no
    length or offset in the file changes.
    """
    if not data.startswith(PNG_SIGNATURE):
        return blank_provenance(data)
    parts, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    for kind, body in png_chunks(data, name):
        whole = data[at : at + 12 + len(body)]
        at += len(whole)
        if kind in (b"iTXt", b"tEXt", b"zTXt"):
            if body.startswith(KEYWORD + b"\0"):
                continue
            clean = _strip_chunk(kind, body)
            whole = whole if clean == body else png_chunk(kind, clean)
        parts.append(whole)
    return b"".join([*parts, data[at:]])  # including any data after the end


def _strip_chunk(kind: bytes, body: bytes) -> bytes:
    """Remove the provenance from the body of a PNG's text chunk; XMP may be compressed."""
    if kind != b"iTXt" or not body.startswith(_COMPRESSED_XMP):
        return without_provenance(body)
    head, rest = body[: len(_COMPRESSED_XMP) + 1], body[len(_COMPRESSED_XMP) + 1 :]
    language, *more = rest.split(b"\0", 2)
    if len(more) != 2:
        return body
    try:
        unpacker = zlib.decompressobj()
        xmp = unpacker.decompress(more[1], MOST_XMP)
    except zlib.error:
        return body
    clean = without_provenance(xmp)
    if clean == xmp or unpacker.unconsumed_tail:
        return body
    return head + language + b"\0" + more[0] + b"\0" + zlib.compress(clean, 9)


_COMPRESSED_XMP = b"XML:com.adobe.xmp\0\1"
MOST_XMP = 1 << 24
"""XMP that unpacks to more bytes is not searched."""


def strip_file(path: str | Path, output: str | Path | None = None, *, force: bool = False) -> bool:
    """Remove the provenance from a file, in place or into `output`; return False if there was none.

    Raises:
        PictureError: it cannot be read or written; the file is then unchanged.
    """
    from editkit.pictures.files.atomic import save_bytes

    if str(path) == "-" and output is None:
        raise PictureError("-: standard input cannot be changed in place; name an output with -o")
    data, name = read_bytes(path)
    clean = strip_bytes(data, name)
    changed = clean != data
    if output is not None:
        save_bytes(Path(output), clean, force=force)
    elif changed:
        save_bytes(Path(path), clean, force=True)
    return changed
