"""The pictures of a folder, their masks, and the names of their results."""

from __future__ import annotations

import os
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from editkit.errors import UsageError
from editkit.pictures.files.formats import PICTURES, PNG, WRITABLE
from editkit.pictures.shapes import is_words

BESIDE = ("{stem}.mask.png",)
"""Default mask names in the picture's own folder."""

APART = ("{stem}.mask.png", "{stem}.png", "{name}")
"""Default mask names in a folder of masks."""


@dataclass(frozen=True)
class Item:
    """One picture of a batch.

    Args:
        name: path relative to the input folder, with slashes; used in the journal and messages.
        source, target: the files read and written.
        output: the target, relative to the output folder, with slashes.
        mask: a file, an address or words; None: the recipe's mask.
        columns: a manifest's values for this picture, by option or parameter.
    """

    name: str
    source: str
    target: str
    output: str
    mask: str | None = None
    columns: tuple[tuple[str, Any], ...] = ()


@dataclass
class Listing:
    """The content of a folder: pictures (relative paths, sorted), other files, links that lead back, links that lead
    out of it (which are followed), unreadable folders."""

    pictures: list[Path] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def listing(folder: Path, leave_out: Path | None = None) -> Listing:
    """List all pictures below `folder`, also through links, each folder once, without hidden files.

    Args:
        leave_out: a folder to skip, such as an output folder inside `folder`.
    """
    found = Listing()
    left_out = None if leave_out is None or not leave_out.exists() else _identity(leave_out)
    seen, root = {_identity(folder)}, _resolve_links(folder)

    def unreadable(error: OSError) -> None:
        name = os.path.relpath(error.filename or folder, folder)
        found.unreadable[name.replace(os.sep, "/") + "/"] = f"{error.filename}: {error.strerror}"

    for at, folders, files in os.walk(folder, followlinks=True, onerror=unreadable):
        inside = Path(at).relative_to(folder)
        for name in sorted(folders):
            path = Path(at) / name
            identity = _identity(path)
            if name.startswith(".") or identity == left_out:
                folders.remove(name)
            elif identity in seen:
                folders.remove(name)
                found.loops.append((inside / name).as_posix())
            else:
                seen.add(identity)
                if path.is_symlink() and not _resolve_links(path).is_relative_to(root):
                    found.outside.append((inside / name).as_posix())
        folders.sort()
        for name in sorted(files):
            if name.startswith("."):
                continue
            path = Path(at) / name
            if Path(name).suffix.lower() in PICTURES and path.exists() and not path.is_file():
                found.unreadable[(inside / name).as_posix()] = "is not a regular file"  # a pipe would block
            elif Path(name).suffix.lower() in PICTURES:
                found.pictures.append(inside / name)
                if path.is_symlink() and not _resolve_links(path).is_relative_to(root):
                    found.outside.append((inside / name).as_posix())
            else:
                found.others.append((inside / name).as_posix())
    return found


def _resolve_links(path: Path) -> Path:
    """Resolve links; for circular links, return one of them."""
    return Path(os.path.realpath(path))


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def check_folders(source: Path, target: Path, masks: Path | None = None) -> None:
    """Refuse folders that cannot be used as input and output.

    Args:
        masks: a folder of masks, which is also an input.

    Raises:
        UsageError: not a folder, the same folder twice, or the input is inside the output.
    """
    if masks is not None and masks.is_dir() and target.is_dir():
        check_folders(masks, target)
    try:
        if not source.is_dir():
            raise UsageError(f"{source}: is not a folder; editkit batch RECIPE IN OUT takes a folder of pictures")
        if target.exists() and not target.is_dir():
            raise UsageError(f"{target}: is not a folder; results go into a folder")
        inner, outer = source.resolve(), target.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise UsageError(f"{source}, {target}: cannot be looked into: {error}") from None
    if inner == outer:
        raise UsageError(f"{source} and {target} are the same folder; name another one for the results")
    if outer in inner.parents:
        raise UsageError(f"{source} lies inside of {target}: a result could replace a picture; name another OUT")


@dataclass(frozen=True)
class Masks:
    """The place of each picture's mask.

    Args:
        pattern: `{stem}.mask.png`, with {stem}, {name} (including the suffix) and {suffix}; a file for all pictures; or
            words such as box:10%,10%,50%,50%. None: the usual names.
        folder: a folder or address with the masks, in the same subfolders as the pictures; None: beside them.
    """

    pattern: str | None = None
    folder: Path | str | None = None

    def __post_init__(self) -> None:
        if self.pattern is None or is_words(self.pattern):
            return
        try:
            parts = [part for part in string.Formatter().parse(self.pattern) if part[1] is not None]
            fields = {name for _, name, _, _ in parts if name is not None}
            if any(spec or turned for _, _, spec, turned in parts):
                raise ValueError("only a name may be in braces")
        except ValueError as error:
            raise UsageError(f"--mask {self.pattern}: is not a pattern ({error}); write it as {BESIDE[0]}") from None
        for name in fields - {"stem", "name", "suffix"}:
            raise UsageError(f"--mask {self.pattern}: {{{name}}} is not known; use {{stem}}, {{name}}, {{suffix}}")

    def of(self, picture: Path, root: Path) -> list[str]:
        """Return the possible masks of `picture` (relative to `root`); the first that exists counts."""
        if self.pattern is not None and (is_words(self.pattern) or "{" not in self.pattern):
            apart = self.folder is not None and not is_words(self.pattern)
            return [str(Path(self.folder or "") / self.pattern) if apart else self.pattern]
        return [str(Path(self.folder or root) / name) for name in self.names(picture)]

    def names(self, picture: PurePath) -> list[str]:
        """Return the possible names of the mask of `picture`, relative to the folder of masks."""
        if self.pattern is not None and "{" not in self.pattern:
            return [self.pattern]
        patterns = (BESIDE if self.folder is None else APART) if self.pattern is None else (self.pattern,)
        words = {"stem": picture.stem, "name": picture.name, "suffix": picture.suffix}
        return [(picture.parent / pattern.format(**words)).as_posix() for pattern in patterns]


def items(
    found: Listing, source: Path, target: Path, masks: Masks | None = None, ending: str | None = ".png"
) -> list[Item]:
    """Return the items: picture, mask, name of the result. Masks of other pictures are not pictures.

    Args:
        masks: None: no picture has its own mask. A missing mask is an error when it is read.
        ending: suffix of the results; None: each picture's own, if that can be written.
    """
    chosen: dict[Path, str] = {}
    taken: set[str] = set()
    folders: dict[str, dict[str, list[str]]] = {}
    for picture in found.pictures if masks is not None else ():
        assert masks is not None
        tries = masks.of(picture, source)
        there = [name for mask in tries for name in _as_written(mask, folders)]
        chosen[picture] = there[0] if there else tries[0]
        taken |= {os.path.realpath(mask) for mask in there}
    pictures = [
        p for p in found.pictures if os.path.realpath(source / p) not in taken or _is_own_mask(p, source, chosen)
    ]
    names = _result_names(pictures, ending)
    return [
        Item(p.as_posix(), str(source / p), str(target / out), out.as_posix(), chosen.get(p))
        for p, out in zip(pictures, names, strict=True)
    ]


def mask_of(masks: Masks, picture: Path, root: Path) -> str:
    """Return the mask of one picture, whether it exists or not."""
    tries = masks.of(picture, root)
    folders: dict[str, dict[str, list[str]]] = {}
    return next((found for mask in tries for found in _as_written(mask, folders)), tries[0])


def _as_written(path: str, folders: dict[str, dict[str, list[str]]]) -> list[str]:
    """Return the file `path`, or else one of the same name in another Unicode form (a Mac writes é as two characters)
    or with its suffix in another case. `folders`: a cache of the folders' contents, filled here.

    Raises:
        UsageError: there are several.
    """
    if os.path.lexists(path) or is_words(path):
        return [path] if os.path.lexists(path) else []
    folder, name = os.path.split(path)
    if folder not in folders:
        names = folders.setdefault(folder, {})
        try:
            for one in sorted(os.listdir(folder or os.curdir)):
                names.setdefault(_key(one), []).append(one)
        except OSError:  # no such folder
            pass
    alike = folders[folder].get(_key(name), [])
    if len(alike) > 1:
        raise UsageError(f"{path}: is not there, and {' and '.join(alike)} could be meant; rename one of them")
    return [os.path.join(folder, one) for one in alike]


def _key(name: str) -> str:
    """Return a key that is equal for names that look the same."""
    stem, ending = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + ending.lower()


def _is_own_mask(picture: Path, source: Path, chosen: dict[Path, str]) -> bool:
    """Whether the picture would be its own mask, as with a pattern {name} beside the pictures."""
    path = os.path.realpath(source / picture)
    return [p for p, mask in chosen.items() if os.path.realpath(mask) == path] == [picture]


def _result_names(pictures: Sequence[Path], ending: str | None) -> list[Path]:
    """Choose the results' names: the stem with the suffix; the whole name if two pictures would get the same, and a
    number if that is taken too. All differ, even on case-insensitive file systems.
    """

    def short(picture: Path) -> Path:
        own = picture.suffix if picture.suffix.lower() in WRITABLE else PNG.endings[0]
        return picture.with_suffix(ending or own)

    def key(name: Path) -> str:
        return unicodedata.normalize("NFC", name.as_posix()).casefold()

    counted = Counter(key(short(p)) for p in pictures)
    taken = {key(short(p)) for p in pictures if counted[key(short(p))] == 1}
    names = []
    for picture in pictures:
        name, number = short(picture), 1
        if counted[key(name)] > 1:
            name = picture.with_name(picture.name + short(picture).suffix)
            while key(name) in taken:
                number += 1
                name = picture.with_name(f"{picture.name}-{number}{short(picture).suffix}")
            taken.add(key(name))
        names.append(name)
    return names
