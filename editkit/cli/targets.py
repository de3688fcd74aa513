"""Find the pictures of a command, and the output file of each result."""

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
from editkit.plugin.masking import map_masks


def lines_of(line: Line) -> list[Line]:
    """Make one line for each distinct picture. Folders (not subfolders) and patterns that no shell has expanded
    (quoted, or on Windows) are expanded; mask patterns become files.

    A mask beside its picture in a folder, and a result of the same command, does not count as a picture.

    Raises:
        UsageError: a folder contains no pictures.
    """
    pictures: list[str] = []
    for name in line.pictures:
        pictures += _pictures_inside(name) if name != "-" and os.path.isdir(name) else _expand_pattern(name)
    pictures = list({os.path.realpath(name) if name != "-" else name: name for name in reversed(pictures)}.values())
    pictures.reverse()
    chains = [with_masks(line.chain, name) for name in pictures]
    several = [replace(line, pictures=(name,), chain=chain) for name, chain in zip(pictures, chains, strict=True)]
    if len(several) == 1:
        return several
    masks = {os.path.realpath(mask) for one in several for mask in _mask_files(one.chain)}
    return [one for one in several if os.path.realpath(one.picture) not in masks]


def _pictures_inside(folder: str) -> list[str]:
    """List the pictures of a folder."""
    found = [str(Path(folder) / path) for path in listing(Path(folder)).pictures if len(path.parts) == 1]
    if not found:
        raise UsageError(f"{folder}: contains no pictures; their names end in {' '.join(sorted(PICTURES))}")
    return found


def _expand_pattern(name: str) -> list[str]:
    """Return the files that match the pattern `name`; `name` itself if it is not a pattern or matches none."""
    if os.path.lexists(name) or not glob.has_magic(name):
        return [name]
    return sorted(path for path in glob.glob(name) if os.path.isfile(path)) or [name]


def with_masks(chain: Chain, picture: str) -> Chain:
    """Replace mask patterns such as {stem}.mask.png in `chain` by the mask files beside `picture`."""

    def of_picture(mask: object) -> object:
        if not isinstance(mask, str) or "{" not in mask or os.path.lexists(mask):
            return mask
        path = Path(picture)
        return mask_of(Masks(mask), Path(path.name), path.parent)

    return map_masks(chain, of_picture)


def _mask_files(chain: Chain) -> Iterator[str]:
    found: list[object] = []

    def seen(mask: object) -> object:
        found.append(mask)
        return mask

    map_masks(chain, seen)
    yield from (mask for mask in found if isinstance(mask, str) and os.path.isfile(mask))


def target_of(line: Line, edit: str | None = None) -> str:
    """Return the output path: by default <stem>.<edit>.png beside the input; the default suffix is .png.

    Raises:
        UsageError: invalid pattern.
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
        output = _apply_pattern(output, line.picture)
    elif is_folder(output):
        stem = "picture" if line.picture == "-" else Path(line.picture).stem
        output = str(Path(output) / f"{stem}{_ending(Path(line.picture))}")
    # what is there under that very name, such as /dev/null, is meant by it
    return output if Path(output).suffix or os.path.lexists(output) else output + _ending(Path(line.picture))


def _ending(source: Path) -> str:
    """Return the default suffix of the result of `source`: a video keeps its own if that format can be written."""
    if not is_clip(source):
        return PNG.endings[0]
    return source.suffix.lower() if source.suffix.lower() in WRITTEN else WRITTEN[0]


def is_folder(output: str) -> bool:
    """Whether `output` is a folder for results, which need not exist yet."""
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def _apply_pattern(pattern: str, picture: str) -> str:
    path = Path(picture)
    words = {"stem": path.stem, "name": path.name, "suffix": path.suffix, "folder": str(path.parent)}
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None}
        if fields - words.keys():
            raise KeyError(min(fields - words.keys()))
        if any(spec or turned for _, _, spec, turned in string.Formatter().parse(pattern)):
            raise ValueError("only a name may be in braces")
        made = pattern.format(**words)
    except (ValueError, KeyError, IndexError) as error:
        raise UsageError(
            f"--output {pattern}: is not a pattern ({error}); it may have {{stem}}, {{name}}, {{suffix}} and {{folder}}"
        ) from None
    return made if os.path.dirname(made) else str(path.parent / made)


def check_targets(lines: Sequence[Line]) -> list[str]:
    """Return the output paths of several pictures; missing folders are created.

    Raises:
        UsageError: two of them share a path, or several go to standard output.
    """
    output = lines[0].extras.output
    targets = [target_of(line) for line in lines]
    seen: dict[str, str] = {}
    for line, target in zip(lines, targets, strict=True):
        if target == "-" and len(lines) > 1:
            raise UsageError(f"{len(lines)} pictures cannot all go to standard output; name a folder: -o FOLDER/")
        other = seen.setdefault(os.path.realpath(target), line.picture)
        if other != line.picture:
            raise UsageError(
                f"{other} and {line.picture} would both be written to {target}; name a folder (-o FOLDER/) or a "
                f"pattern (-o '{{folder}}/{{stem}}.fixed{{suffix}}') that distinguishes them"
            )
    pictures = {os.path.realpath(line.picture): line.picture for line in lines if line.picture != "-"}
    for line, target in zip(lines, targets, strict=True):
        read = pictures.get(os.path.realpath(target))
        if read is not None and read != line.picture:
            raise UsageError(
                f"the result of {line.picture} would overwrite {read}, which is to be edited too; name a "
                f"folder (-o FOLDER/) or another pattern"
            )
    if output is not None and output.endswith(("/", os.sep)):
        Path(output).mkdir(parents=True, exist_ok=True)
    return targets
