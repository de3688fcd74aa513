"""Which pictures a command edits, and where each result goes."""

from __future__ import annotations

import glob
import os
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from editkit.batch.folder import Masks, listing, mask_of
from editkit.cli.words import Line
from editkit.errors import UsageError
from editkit.pictures.files.clips import WRITTEN, is_clip
from editkit.pictures.files.formats import PICTURES, PNG
from editkit.plugin.chain import Chain
from editkit.plugin.masking import each_mask


def lines_of(line: Line) -> list[Line]:
    """A line for every picture, once: folders are opened (not those in them), and patterns that no shell has opened
    (quoted, or on Windows); masks that are patterns become files.

    A mask that lies in a folder beside its picture, and a result of the same command, is no picture.

    Raises:
        UsageError: no pictures in a folder.
    """
    pictures: list[str] = []
    for name in line.pictures:
        pictures += _inside(name) if name != "-" and os.path.isdir(name) else _matching(name)
    pictures = list({os.path.realpath(name) if name != "-" else name: name for name in reversed(pictures)}.values())
    pictures.reverse()
    chains = [with_masks(line.chain, name) for name in pictures]
    several = [replace(line, pictures=(name,), chain=chain) for name, chain in zip(pictures, chains, strict=True)]
    if len(several) == 1:
        return several
    masks = {os.path.realpath(mask) for one in several for mask in _mask_files(one.chain)}
    return [one for one in several if os.path.realpath(one.picture) not in masks]


def _inside(folder: str) -> list[str]:
    """The pictures of a folder."""
    found = [str(Path(folder) / path) for path in listing(Path(folder)).pictures if len(path.parts) == 1]
    if not found:
        raise UsageError(f"{folder}: holds no pictures; their names end in {' '.join(sorted(PICTURES))}")
    return found


def _matching(name: str) -> list[str]:
    """The files that `name` is a pattern of; itself where it is none, or fits none."""
    if os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    return sorted(path for path in glob.glob(name) if os.path.isfile(path)) or [name]


def with_masks(chain: Chain, picture: str) -> Chain:
    """`chain` with patterns such as {stem}.mask.png as the masks of `picture`, beside it."""

    def of_picture(mask: object) -> object:
        if not isinstance(mask, str) or "{" not in mask or os.path.lexists(mask):
            return mask
        path = Path(picture)
        return mask_of(Masks(mask), Path(path.name), path.parent)

    return each_mask(chain, of_picture)


def _mask_files(chain: Chain) -> Iterator[str]:
    found: list[object] = []

    def seen(mask: object) -> object:
        found.append(mask)
        return mask

    each_mask(chain, seen)
    yield from (mask for mask in found if isinstance(mask, str) and os.path.isfile(mask))


def target_of(line: Line, edit: str | None = None) -> str:
    """Where the result goes: beside the input as <stem>.<edit>.png unless said; .png where no ending is given.

    Raises:
        UsageError: a pattern that cannot be one.
    """
    output = line.extras.output
    if output is None:
        if line.picture == "-":
            return "-"
        path = Path(line.picture)
        return str(path.with_name(f"{path.stem}.{edit or line.chain.stages[0].plugins[0].name}{_ending(path)}"))
    if output == "-":
        return output
    if "{" in output:
        output = _by_pattern(output, line.picture)
    elif is_folder(output):
        stem = "picture" if line.picture == "-" else Path(line.picture).stem
        output = str(Path(output) / f"{stem}{_ending(Path(line.picture))}")
    # what is there under that very name, such as /dev/null, is meant by it
    return output if Path(output).suffix or os.path.lexists(output) else output + _ending(Path(line.picture))


def _ending(source: Path) -> str:
    """Of the result of `source` where nobody says: a video's stays what it is if that is written."""
    if not is_clip(source):
        return PNG.endings[0]
    return source.suffix.lower() if source.suffix.lower() in WRITTEN else WRITTEN[0]


def is_folder(output: str) -> bool:
    """Whether results are to go into this folder, which need not be there yet."""
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def _by_pattern(pattern: str, picture: str) -> str:
    path = Path(picture)
    words = {"stem": path.stem, "name": path.name, "suffix": path.suffix, "folder": str(path.parent)}
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
        if fields - words.keys():
            raise KeyError(min(fields - words.keys()))
        if any(spec or turned for _, _, spec, turned in string.Formatter().parse(pattern)):
            raise ValueError("nothing but a name may stand in braces")
        made = pattern.format(**words)
    except (ValueError, KeyError, IndexError) as error:
        raise UsageError(
            f"--output {pattern}: is not a pattern ({error}); it may have {{stem}}, {{name}}, {{suffix}} and {{folder}}"
        ) from None
    return made if os.path.dirname(made) else str(path.parent / made)


def check_targets(lines: Sequence[Line]) -> list[str]:
    """Where the results of several pictures go; folders that are not there are made.

    Raises:
        UsageError: one place for two of them, or standard output for several.
    """
    output = lines[0].extras.output
    targets = [target_of(line) for line in lines]
    seen: dict[str, str] = {}
    for line, target in zip(lines, targets, strict=True):
        if target == "-" and len(lines) > 1:
            raise UsageError(f"{len(lines)} pictures do not fit into standard output; name a folder: -o FOLDER/")
        other = seen.setdefault(os.path.realpath(target), line.picture)
        if other != line.picture:
            raise UsageError(
                f"{other} and {line.picture} would both become {target}; name a folder (-o FOLDER/) or a pattern "
                f"(-o '{{folder}}/{{stem}}.fixed{{suffix}}') that keeps them apart"
            )
    pictures = {os.path.realpath(line.picture): line.picture for line in lines if line.picture != "-"}
    for line, target in zip(lines, targets, strict=True):
        read = pictures.get(os.path.realpath(target))
        if read is not None and read != line.picture:
            raise UsageError(
                f"the result of {line.picture} would take the place of {read}, which is to be edited too; name a "
                f"folder (-o FOLDER/) or another pattern"
            )
    if output is not None and output.endswith(("/", os.sep)):
        Path(output).mkdir(parents=True, exist_ok=True)
    return targets
