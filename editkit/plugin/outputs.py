"""What an edit command writes: its own options, beside those of the run and of its plugins, for where the result goes
and what is said about it, and the files that plugins write. The command line, its help, and the names that no
plugin's parameter may take, follow from these fields.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugin.declaration import Checked
from editkit.plugin.params import Metavar, outputs, params, word

File = Annotated[str, Metavar("FILE")]
"""A file that is written."""


class Extras(Checked):
    """Where the result of an edit command goes and what is said about it."""

    output: File | None = Field(
        None,
        description="Where the result goes: a file, a folder (FOLDER/), a pattern ({stem}.fixed{suffix}), - (standard "
        "output). Default: beside PICTURE, by its name with the first plugin's (photo.inpaint.png).",
    )
    force: bool = Field(False, description="Overwrite an existing file.")
    backup: bool = Field(False, description="Overwrite an existing file, and keep it as FILE~.")
    quality: int | None = Field(
        None, ge=1, le=100, description="Of a JPEG, WebP or AVIF; default: as the picture came."
    )
    save_recipe: File | None = Field(None, description="Write the chain as a recipe, for editkit run.")
    provenance: bool = Field(True, description="Keep in the file how it was made.")
    preview: Annotated[str, Metavar("PATH")] | None = Field(
        None, description="The estimate every few steps: a folder, or a .webp."
    )
    trace: File | None = Field(None, description="How it went, as a page (.html) or a sheet (.png).")
    compare: File | None = Field(None, description="A sheet: before, mask, after, difference.")
    candidates: int | None = Field(
        None, ge=1, le=1000, description="Make so many, each with a seed of its own, and a sheet of them."
    )
    watch: bool = Field(False, description="Make it again whenever the picture or a mask changes; Ctrl-C ends it.")
    range: Annotated[str, Metavar("SPAN")] | None = Field(
        None, description="Of a video: from when to when, as 10s-14s or 0:10-0:14."
    )
    stride: int = Field(1, ge=1, description="Of a video: only every so many-th frame.")
    track: bool = Field(False, description="Of a video: the mask is of the first frame, and follows what it marks.")
    follow: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Of a video: share of the frame before's change that a frame starts with; "
        "default 0.5 for edits that steer, else 0.",
    )
    noise_along: bool = Field(False, description="Of a video: noise moves with what is seen, by the optical flow.")
    quiet: bool = Field(False, description="Say nothing but errors.")
    json_: bool = Field(False, description="One line of JSON about the result on standard output.")


NAMES_A_FILE = frozenset(p.name for p in params(Extras) if p.metavar in ("FILE", "PATH"))
"""Those that name what is written: one command writes each of them once."""


def written_by_plugins(chain: Chain) -> dict[str, str]:
    """The files that plugins of `chain` are asked to write, by the option that says so.

    Raises:
        UsageError: two of them by one option, in two stages.
    """
    made: dict[str, str] = {}
    for plugin in (plugin for stage in chain.stages for plugin in stage.plugins):
        for name in outputs(type(plugin)):
            flag, path = "--" + word(name).replace("_", "-"), getattr(plugin, name)
            if path is None:
                continue
            if flag in made:
                raise UsageError(f"{flag} is given twice, {made[flag]} and {path}; once in a command is enough")
            made[flag] = str(path)
    return made


def write_nothing_beside(chain: Chain, what: str) -> None:
    """Refuse files that plugins write, where `what` makes several results and each would write the same.

    Raises:
        UsageError: names the option.
    """
    for flag in written_by_plugins(chain):
        raise UsageError(f"{flag} is for one picture, and {what} makes several; leave it out")
