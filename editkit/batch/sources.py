"""The inputs of a batch at an address: pictures of a folder or an archive, or rows of a manifest; with checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from editkit.batch.catalog import Catalog
from editkit.batch.folder import Listing, Masks, listing
from editkit.batch.manifest import ENDINGS, rows, with_paths
from editkit.batch.reach import Reach, resolve_local
from editkit.batch.stores import archive_of, is_address, open_store, read_from, redact, scheme
from editkit.errors import UsageError
from editkit.pictures.shapes import is_words
from editkit.plugin.chain import Chain

Row = tuple[str, str, str | None, str | None, Mapping[str, Any]]


def is_manifest(text: str) -> bool:
    """Whether an address or a path is a table of pictures."""
    return redact(text).lower().endswith(ENDINGS)


def is_plain(text: str) -> bool:
    """Whether it is a local folder."""
    return not is_address(text) and not is_manifest(text)


def check_places(source: str, target: str, offline: bool) -> None:
    """Refuse places that cannot be used as input and output.

    Raises:
        UsageError: no such file or folder, the same place twice, or one inside the other.
    """
    if is_manifest(target):
        raise UsageError(
            f"{redact(target)}: is a manifest; results go into a folder or a bucket (--results names a table there)"
        )
    if is_address(target):
        open_store(target, offline=offline, results=True)
    elif Path(target).exists() and not Path(target).is_dir():
        raise UsageError(f"{target}: is not a folder; results go into a folder")
    if is_address(source):
        open_store(source, offline=offline)
    elif is_manifest(source) and not Path(source).is_file():
        raise UsageError(f"{source}: there is no such manifest")
    elif not is_manifest(source) and not Path(source).is_dir():
        raise UsageError(
            f"{source}: is not a folder; editkit batch RECIPE IN OUT takes a folder, an address or a manifest"
        )
    inner, outer = source.rstrip("/") + "/", target.rstrip("/") + "/"
    if inner == outer or (inner.startswith(outer) and not is_manifest(source)) or outer.startswith(inner):
        raise UsageError(f"{redact(source)} and {redact(target)} lie in each other; name another place for the results")


def fill_catalog(
    catalog: Catalog,
    chain: Chain,
    source: str,
    target: str,
    masks: Masks | None,
    ending: str | None,
    offline: bool,
    force: bool = False,
    anywhere: bool = False,
) -> Listing:
    """Fill the catalog with the pictures at an address; return what was skipped.

    Args:
        force: results replace existing files, so no picture or mask of a manifest may be among them.
        anywhere: a manifest may name files at other places (`reach`).

    Raises:
        UsageError: nothing is there, the manifest is invalid, or a place is not allowed.
        PictureError: it cannot be listed.
    """
    found = Listing()
    if is_manifest(source):
        reach = Reach.of(source, target, masks, anywhere=anywhere)
        table = _rows(source, chain, masks, offline, reach)
        catalog.add(_check_rows_apart(table, target) if force else table, ending)
        catalog.settle_names(ending)
        return found
    if masks is not None and is_address(str(masks.folder or "")):
        catalog.know_masks(name for name, _ in open_store(str(masks.folder), offline=offline).names())
    elif masks is not None and masks.folder is not None:
        folder = Path(masks.folder)
        found_masks = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        catalog.know_masks(filter(_is_name, found_masks))
    if is_address(source):
        inside = open_store(source, offline=offline)
        found.others = catalog.take(_valid_names(inside.names(), found))
        base = source.rstrip("/") if archive_of(source) is None else f"{source}::"
    else:
        found = listing(Path(source))
        names = [*(p.as_posix() for p in found.pictures), *found.others]
        for name in (name for name in names if not _is_name(name)):
            found.unreadable[name] = "its name is not UTF-8, as names in a store are; call it otherwise"
        catalog.take(filter(_is_name, names))
        base = source
    catalog.fill(base, target, masks, ending)
    return found


def _valid_names(names: Iterator[tuple[str, int]], found: Listing) -> Iterator[str]:
    """Yield names that are valid for results too; hidden ones are skipped, as in a folder."""
    for name, _ in names:
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/") or "\\" in name or not name:
            found.unreadable[name] = "its name leads out of the folder"
        elif not any(part.startswith(".") for part in parts):
            yield name


def _rows(source: str, chain: Chain, masks: Masks | None, offline: bool, reach: Reach) -> Iterator[Row]:
    """Yield a manifest's pictures: name, address, mask, result's name, and the row's other values."""
    if is_address(source):
        open_store(reach.folder, offline=offline)
        data, name = read_from(source)
        yield from _pictures_of_rows(rows(BytesIO(data), name, chain), name, chain, masks, offline, reach)
        return
    with Path(source).open("rb") as file:
        yield from _pictures_of_rows(rows(file, source, chain), source, chain, masks, offline, reach)


def _check_rows_apart(table: Iterator[Row], target: str) -> Iterator[Row]:
    """Yield the rows after checking that none reads a file at the target."""
    for row in table:
        for read in row[1:3]:
            if read is not None and not is_words(read) and _place_key(read).startswith(_place_key(target) + "/"):
                raise UsageError(
                    f"{redact(read)}: lies in {redact(target)}, where --force would let a result take its place; "
                    f"name another place for the results, or leave --force out"
                )
        yield row


def _place_key(text: str) -> str:
    """Return a key that is equal for all names of a place."""
    return redact(text).rstrip("/") if scheme(text) not in ("", "file", "local") else resolve_local(text)


def _pictures_of_rows(
    table: Iterator[dict[str, Any]], name: str, chain: Chain, masks: Masks | None, offline: bool, reach: Reach
) -> Iterator[Row]:
    for number, row in enumerate(table, 1):
        picture, mask, output = row.pop("picture"), row.pop("mask", None), row.pop("output", None)
        known = redact(picture) if not scheme(picture) else redact(picture).partition("://")[2]
        known = known.lstrip("/")
        _check_name(output or known, redact(name))
        output = None if output is None else PurePosixPath(output).as_posix()
        for address in (picture, mask or ""):
            _check_text(address, redact(name))
            if scheme(address):
                open_store(address, offline=offline)
            if address:
                reach.check(redact(name), number, address)
        reach.check_columns(redact(name), number, row)
        if mask is not None:
            mask = mask if is_words(mask) else reach.joined(mask)
        elif masks is not None:
            mask = _mask_by_pattern(reach.joined(picture), masks)
        yield known, reach.joined(picture), mask, output, with_paths(chain, row, reach.joined)


def _check_name(output: str, manifest: str) -> None:
    """Refuse a result's name that leads outside the target or to the run's own files."""
    _check_text(output, manifest)
    parts = PurePosixPath(output).parts
    if ".." in parts or "\\" in output or output.startswith("/"):
        raise UsageError(f"{manifest}: {output[:80]!r} leads out of the folder of results; give an output")
    if not parts or any(part.startswith(".") for part in parts):
        raise UsageError(f"{manifest}: {output[:80]!r} is hidden or no file; give an output without a leading dot")


def _check_text(text: str, manifest: str) -> None:
    """Refuse text that cannot be a file name."""
    if not _is_name(text) or "\0" in text:
        raise UsageError(f"{manifest}: {text[:80]!r} holds a character that no name has; write it as it is called")


def _is_name(text: str) -> bool:
    """Whether the text is valid UTF-8, and so a valid object name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mask_by_pattern(picture: str, masks: Masks) -> str:
    """Apply a mask pattern to a picture's name."""
    if masks.pattern is not None and is_words(masks.pattern):
        return masks.pattern
    place, _, name = picture.rpartition("/")
    mask = masks.names(PurePosixPath(name))[0]
    folder = place if masks.folder is None else str(masks.folder)
    return f"{folder}/{mask}" if folder else mask
