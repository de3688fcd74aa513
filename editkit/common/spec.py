"""Parse words with a name and parameters, and describe mistakes in them.

`name` or `name:key=value,key=value`, such as `ddim:eta=1` and `canny:low=50,high=150`. No torch and no pydantic at
import.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from editkit.errors import UsageError, short

if TYPE_CHECKING:
    from pydantic import ValidationError


def name_of(text: str) -> str:
    """Return the part before the colon; all of `text` without one."""
    return text.partition(":")[0]


def values_of(text: str, what: str, known: Iterable[str]) -> dict[str, str]:
    """Parse the parameters in `text`, as strings; of duplicates the last one counts.

    Args:
        what: the owner of the parameters, for messages: "sampler ddim".
        known: its parameters.

    Raises:
        UsageError: an unknown parameter, or one without a value; the message lists the known ones.
    """
    known = tuple(known)
    values = {}
    for word in filter(None, text.partition(":")[2].split(",")):
        key, equals, value = word.partition("=")
        if key not in known or not equals:
            allowed = ", ".join(f"{k}=..." for k in known) or "none"
            raise UsageError(f"{what} has no parameter {word!r} (it has: {allowed})")
        values[key] = value
    return values


def nearest(word: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> list[str]:
    """Return those of `known` that `word` may be a misspelling of, the nearest first; at most `most`.

    `cutoff`: the required similarity, from 0 (any) to 1 (equal), as in `difflib`.
    """
    return difflib.get_close_matches(word, list(known), n=most, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """Return `; did you mean NAME?` for the end of an error; empty if none of `known` is similar."""
    near = nearest(word, known, most, cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def field_and_reason(error: ValidationError) -> tuple[str, str]:
    """Return pydantic's first error: the field ("" for all of them), and what is allowed and what was given."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    got = "" if first["type"] in ("missing", "value_error") else f", got {short(first['input'])}"
    return field, f"{message}{got}"


def number(text: str, what: str) -> float:
    """Parse a finite number.

    Raises:
        UsageError: it is not a finite number; the message starts with `what`.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{what} is {short(text)}; a number is needed")
    return value
