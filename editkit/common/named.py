"""Find file names in the strings of a recipe, a manifest or a provenance record.

Examples: `mask.png`, `kernel:FILE`, `lora.safetensors:0.7`, `box:1,2,3,4+watermark:FILE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_WORDS_OF_PEOPLE = ("prompt", "negative", "text", "avoid", "source", "from_text", "to_text")
"""Recipe keys whose values are natural language, in which a slash does not separate folders."""

MOST_SIGNS = 40
"""Largest number of colons and equals signs that are examined in a word; a word with more may name any file."""

_JOINTS = re.compile(r"[+&-](?=[a-z_]+(?::|$|[+&-]))")
"""Separators between the words of a mask."""


def candidate_names(text: str) -> Iterator[str]:
    """Yield every part of `text` that may be a file name.

    These are the whole text, the parts before and after a colon (`kernel:/x/y.png`, `lora.safetensors:0.7`), the part
    after `=` (`softedge:weights=/x/y,size=512`), and the same parts of each word of a mask.
    """
    yield from dict.fromkeys(text[first:end] for first, end in _spans(text))


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) of these parts in `text`, the likelier of two first."""
    yield 0, len(text)
    joints = [(joint.start(), joint.end()) for joint in _JOINTS.finditer(text)]
    for first, last in zip([0, *(end for _, end in joints)], [*(start for start, _ in joints), len(text)], strict=True):
        yield first, last
        signs = [k for k in range(first, last) if text[k] in ":="][:MOST_SIGNS]
        yield from ((first, k) for k in signs if k > first and text[k] == ":")
        for k in signs:
            if k + 1 < last:
                yield k + 1, last
                comma = text.find(",", k + 1, last)
                if comma > k + 1:
                    yield k + 1, comma


def replace_names(text: str, other: Callable[[str], str | None]) -> str:
    """Replace in each word of `text` the first name for which `other` returns a new one."""
    made, done = [], 0
    for first, end in _spans(text):
        if first >= done and (name := other(text[first:end])) is not None:
            made += [text[done:first], name]
            done = end
    return "".join([*made, text[done:]])


def escapes_folder(part: str) -> bool:
    """Return whether a name is a path that is absolute, or that leaves its folder through `..` or `~`."""
    return part.startswith("~") or any(
        ".." in path.parts or path.anchor != "" for path in (PurePosixPath(part), PureWindowsPath(part))
    )


def has_escaping_path(text: str) -> bool:
    """Return whether `text` or a name in it is a path that escapes its folder, or has too many parts to decide."""
    too_many = any(sum(map(word.count, ":=")) > MOST_SIGNS for word in _JOINTS.split(text))
    return too_many or any(map(escapes_folder, candidate_names(text)))


def file_strings(value: Any, key: str = "") -> Iterator[str]:
    """Yield the strings of a recipe, or of one value under `key`, that may name files."""
    match value:
        case str():
            if key not in _WORDS_OF_PEOPLE:
                yield value
        case Mapping():
            for inner, one in value.items():
                yield from file_strings(one, str(inner))
        case list() | tuple():
            for one in value:
                yield from file_strings(one, key)
