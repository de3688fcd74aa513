"""Words that name a thing and its parameters, and what to say when they are wrong.

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
    """What stands before the colon; all of `text` where there is none."""
    return text.partition(":")[0]


def values_of(text: str, what: str, known: Iterable[str]) -> dict[str, str]:
    """The parameters in `text`, as text; the last one counts where one is given twice.

    Args:
        what: what it is that has parameters, for messages: "sampler ddim".
        known: the parameters it has.

    Raises:
        UsageError: a parameter it does not have, or one without a value; says what it has.
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
    """Those of `known` that `word` may be a slip of, the nearest first; at most `most`.

    `cutoff`: how alike they must be, from 0 (anything) to 1 (the same), as `difflib` counts it.
    """
    return difflib.get_close_matches(word, list(known), n=most, cutoff=cutoff)


def did_you_mean(word: str, known: Iterable[str], most: int = 1, cutoff: float = 0.6) -> str:
    """`; did you mean NAME?` to go on an error's line; nothing where none of `known` is near."""
    near = nearest(word, known, most, cutoff)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def field_and_reason(error: ValidationError) -> tuple[str, str]:
    """The first thing pydantic found wrong: the field ("" for all of them), and what is allowed and what was got."""
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    got = "" if first["type"] in ("missing", "value_error") else f", got {short(first['input'])}"
    return field, f"{message}{got}"


def number(text: str, what: str) -> float:
    """The finite number that `text` is.

    Raises:
        UsageError: it is none; `what` begins the message.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{what} is {short(text)}; a number is needed")
    return value
