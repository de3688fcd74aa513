"""The output options of an edit command, and the files that plugins write.

The command line, its help, and the names that no plugin's parameter may take are derived from these fields.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugin.declaration import ValidatedModel
from editkit.plugin.params import Metavar, cli_name, outputs, params

File = Annotated[str, Metavar("FILE")]
"""A file to write."""


class Extras(ValidatedModel):
    """Where an edit command writes its result, and what it reports about it."""

    output: File | None = Field(
        None,
        description="Output: a file, a folder (FOLDER/), a pattern ({stem}.fixed{suffix}), - (standard output). "
        "Default: beside PICTURE, with the first plugin's name (photo.inpaint.png).",
    )
    force: bool = Field(False, description="Overwrite an existing file.")
    backup: bool = Field(False, description="Overwrite an existing file, but keep it as FILE~.")
    quality: int | None = Field(
        None, ge=1, le=100, description="Quality of JPEG, WebP or AVIF; default: that of the input."
    )
    save_recipe: File | None = Field(None, description="Save the chain as a recipe, for editkit run.")
    provenance: bool = Field(True, description="Store in the file how it was made.")
    preview: Annotated[str, Metavar("PATH")] | None = Field(
        None, description="Save the estimate every few steps: a folder, or a .webp; of a video, the current frame."
    )
    trace: File | None = Field(None, description="Save a report of the steps: a page (.html) or a sheet (.png).")
    compare: File | None = Field(None, description="Save a sheet: before, mask, after, difference.")
    candidates: int | None = Field(
        None, ge=1, le=1000, description="Make this many results, each with its own seed, and a sheet of them."
    )
    watch: bool = Field(False, description="Run again whenever the picture or a mask changes; Ctrl-C stops.")
    range: Annotated[str, Metavar("SPAN")] | None = Field(
        None, description="Video: time span to edit, as 10s-14s or 0:10-0:14."
    )
    stride: int = Field(1, ge=1, description="Video: edit only every Nth frame.")
    track: bool = Field(False, description="Video: the mask is for the first frame, and follows what it marks.")
    follow: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Video: fraction of the previous frame's change with which a frame starts; default 0.5 for edits "
        "that steer, else 0.",
    )
    noise_along: bool = Field(False, description="Video: move the noise along with the optical flow.")
    quiet: bool = Field(False, description="Print nothing but errors.")
    json_: bool = Field(False, description="Print one line of JSON about the result to standard output.")


NAMES_A_FILE = frozenset(p.name for p in params(Extras) if p.metavar in ("FILE", "PATH"))
"""The options that name files to write; one command writes each of them once."""


def plugin_outputs(chain: Chain) -> dict[str, str]:
    """Return the files that plugins of `chain` write: option -> path.

    Raises:
        UsageError: the same option is given in two stages.
    """
    made: dict[str, str] = {}
    for plugin in (plugin for stage in chain.stages for plugin in stage.plugins):
        for name in outputs(type(plugin)):
            flag, path = "--" + cli_name(name).replace("_", "-"), getattr(plugin, name)
            if path is None:
                continue
            if flag in made:
                raise UsageError(f"{flag} is given twice, {made[flag]} and {path}; once in a command is enough")
            made[flag] = str(path)
    return made


def refuse_plugin_outputs(chain: Chain, what: str) -> None:
    """Refuse files written by plugins if `what` makes several results, since each would write the same file.

    Raises:
        UsageError: a plugin writes a file; the message names the option.
    """
    for flag in plugin_outputs(chain):
        raise UsageError(f"{flag} is for one picture, and {what} makes several; leave it out")
