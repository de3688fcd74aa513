"""Names of files in the texts of a recipe, a manifest, a record: `mask.png`, `kernel:FILE`, `lora.safetensors:0.7`,
`box:1,2,3,4+watermark:FILE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

_WORDS_OF_PEOPLE = ("prompt", "negative", "text", "avoid", "source", "from_text", "to_text")
"""Keys of a recipe whose values are language, where a slash is not a folder."""

MOST_SIGNS = 40
"""Colons and equals signs of a word that are looked behind; what has more may name anything."""

_JOINTS = re.compile(r"[+&-](?=[a-z_]+(?::|$|[+&-]))")
"""Between the words of a mask."""


def named(text: str) -> Iterator[str]:
    """What in `text` may be the name of a file: itself, what stands behind or before a colon (`kernel:/x/y.png`,
    `lora.safetensors:0.7`) or behind `=` (`softedge:weights=/x/y,size=512`), and the same of each word of a mask.
    """
    yield from dict.fromkeys(text[first:end] for first, end in _spans(text))


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where they stand in `text`, the likelier of two first."""
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


def replaced(text: str, other: Callable[[str], str | None]) -> str:
    """`text` with the first name in each word of it for which `other` has another one."""
    made, done = [], 0
    for first, end in _spans(text):
        if first >= done and (name := other(text[first:end])) is not None:
            made += [text[done:first], name]
            done = end
    return "".join([*made, text[done:]])


def climbs(part: str) -> bool:
    """Whether a name is a path that is absolute or leads above where it starts."""
    return part.startswith("~") or any(
        ".." in path.parts or path.anchor != "" for path in (PurePosixPath(part), PureWindowsPath(part))
    )


def leads_out(text: str) -> bool:
    """Whether `text`, or a name in it, is a path that is absolute or climbs, or cannot be told."""
    too_many = any(sum(map(word.count, ":=")) > MOST_SIGNS for word in _JOINTS.split(text))
    return too_many or any(map(climbs, named(text)))


def texts(value: Any, key: str = "") -> Iterator[str]:
    """The texts of a recipe, or of one value called `key`, that may be files."""
    match value:
        case str():
            if key not in _WORDS_OF_PEOPLE:
                yield value
        case Mapping():
            for inner, one in value.items():
                yield from texts(one, str(inner))
        case list() | tuple():
            for one in value:
                yield from texts(one, key)
