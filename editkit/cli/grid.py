"""`editkit grid`: vary one or two parameters, and show the results on one sheet."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from editkit.batch.manifest import prompts
from editkit.cli.console import say, write
from editkit.cli.edit import named_files, notice_printer, run_edit
from editkit.cli.options import HelpWasShown
from editkit.cli.targets import target_of
from editkit.cli.words import Line, explain, options_of, parse
from editkit.errors import ParameterError, UsageError
from editkit.plugin.chain import Chain
from editkit.plugin.options import Options
from editkit.plugin.outputs import refuse_plugin_outputs

USAGE = """usage: editkit grid --vary NAME=V1,V2,... [--vary NAME=... | --prompts FILE] [--cells DIR] PLUGIN PICTURE ...

Runs an edit for every value of one parameter, or for every pair of values of two, and makes a sheet of the results.
NAME is an option of the run (seed, steps, sampler, ...) or PLUGIN.PARAMETER (guide.weight, inpaint.feather).
--prompts FILE is a CSV file with the column prompt and optionally category: every prompt, grouped by category.
The sheet is written to -o, else to PICTURE's name with .grid.png; --cells DIR also saves every result.

  editkit grid --vary guide.weight=0,50,200 --vary seed=1,2,3 inpaint photo.png --mask mask.png with guide"""

MOST = 400
"""Largest number of cells in a grid."""


@dataclass(frozen=True)
class Axis:
    """A parameter with its values, as text, and their labels on the sheet."""

    name: str
    values: tuple[str, ...]
    labels: tuple[str, ...]

    @classmethod
    def of_prompts(cls, path: str) -> Axis:
        """Read the prompts of a CSV file, each with its category.

        Raises:
            UsageError: the file is not valid.
        """
        found = prompts(path)
        labels = (f"{category}: {prompt}" if category else prompt for category, prompt in found)
        return cls("prompt", tuple(prompt for _, prompt in found), tuple(labels))

    @classmethod
    def of(cls, text: str) -> Axis:
        """Parse NAME=V1,V2,...; a comma that belongs to a value is written as \\\\,.

        Raises:
            UsageError: there is no name, or there are no values.
        """
        name, equals, listed = text.partition("=")
        values = tuple(v.replace("\0", ",") for v in listed.replace("\\,", "\0").split(","))
        if not name or not equals or not all(values):
            raise UsageError(f"--vary {text}: write it as NAME=V1,V2,..., such as seed=1,2,3 or guide.weight=0,50")
        return cls(name, values, tuple(f"{name} {value}" for value in values))


def grid_command(words: list[str]) -> int:
    """`editkit grid --vary ... PLUGIN PICTURE ...`."""
    if not words or words[0] in ("-h", "--help"):
        write(USAGE)
        return 0
    axes, cells, rest = _split_grid_options(words)
    try:
        line = parse(rest)
    except HelpWasShown:
        return 0
    return _make(line, axes, cells)


def _split_grid_options(words: list[str]) -> tuple[list[Axis], Path | None, list[str]]:
    """Separate the grid's own options, which come first, from the edit."""
    axes: list[Axis] = []
    cells: Path | None = None
    while words and words[0].startswith("--"):
        flag, equals, value = words[0].partition("=")
        taken = 1 if equals else 2
        if flag not in ("--vary", "--prompts", "--cells"):
            raise UsageError(f"grid: {flag} is unknown here; allowed before the plugin: --vary, --prompts and --cells")
        if len(words) < taken:
            raise UsageError(f"grid: {flag} needs a value")
        value = value if equals else words[1]
        if flag == "--vary":
            axes.append(Axis.of(value))
        elif flag == "--prompts":
            axes.append(Axis.of_prompts(value))
        else:
            cells = Path(value)
        words = words[taken:]
    if not 1 <= len(axes) <= 2:
        raise UsageError(f"grid: give --vary (or --prompts) once or twice, got {len(axes)} times")
    return axes, cells, words


def _make(line: Line, axes: list[Axis], cells: Path | None) -> int:
    from editkit.editing.watching import sheets
    from editkit.models.leasing import Models
    from editkit.pictures.files.writing import check_distinct, check_output
    from editkit.pictures.picture import Picture

    extras = line.extras
    if extras.preview or extras.trace or extras.compare or extras.candidates or extras.save_recipe:
        raise UsageError("grid: leave --preview, --trace, --compare, --candidates and --save-recipe out")
    refuse_plugin_outputs(line.chain, "grid")
    target = target_of(line, "grid")
    combinations = list(itertools.product(*(axis.values for axis in axes)))
    if len(combinations) > MOST:
        raise UsageError(f"grid: {len(combinations)} cells are too many; give fewer values, for at most {MOST}")
    chains = [_vary(line.chain, axes, values) for values in combinations]
    labels = [", ".join(words) for words in itertools.product(*(axis.labels for axis in axes))]
    check_output(target, force=extras.force)
    names = [] if cells is None else [cells / f"{k + 1:03}.png" for k in range(len(chains))]
    check_distinct(
        {"--output": target, **{f"cell {k + 1}": name for k, name in enumerate(names)}},
        [line.picture, *named_files(line.chain)],
    )
    if cells is not None:
        cells.mkdir(parents=True, exist_ok=True)
    for name in names:
        check_output(name, force=extras.force)
    picture = Picture.read(line.picture)
    models, notify = Models(), notice_printer(extras)
    tiles, began = [], time.perf_counter()
    for k, (chain, label) in enumerate(zip(chains, labels, strict=True)):
        made = run_edit(picture, chain, extras, models=models, notify=notify)
        _say_progress(line, k + 1, len(chains), label, time.perf_counter() - began)
        tiles.append(sheets.Tile(label, sheets.eight_bit(made.picture.pixels)))
        if names:
            origin = made.provenance(line.picture, names[k].parent) if extras.provenance else None
            made.write(names[k], force=extras.force, provenance=origin)
    sheets.save(sheets.sheet(tiles, columns=len(axes[-1].values)), target, force=extras.force)
    if not extras.quiet:
        say(f"wrote {target} · {len(tiles)} results{_cells_text(cells)}")
    return 0


def _cells_text(cells: Path | None) -> str:
    return f" · each of them in {cells}" if cells else " · grid --cells DIR ... also keeps each of them"


def _say_progress(line: Line, done: int, count: int, label: str, seconds: float) -> None:
    """Report a finished cell, and the estimated remaining time, by the mean of those that are done."""
    left = f", about {seconds / done * (count - done):.0f} s to go" if done < count else ""
    if not (line.extras.quiet or line.extras.json_):
        say(f"cell {done} of {count} ({label}): {seconds:.0f} s{left}")


def _vary(chain: Chain, axes: list[Axis], values: tuple[str, ...]) -> Chain:
    for axis, value in zip(axes, values, strict=True):
        chain = _with_value(chain, axis.name.replace("-", "_"), value)
    return chain


def _with_value(chain: Chain, name: str, value: str) -> Chain:
    """Return `chain` with one parameter set in the first plugin of that name, or one option in every stage."""
    plugin, dot, field = name.partition(".")
    if not dot:
        if name not in Options.model_fields:
            options = ", ".join(Options.model_fields)
            raise UsageError(f"--vary {name}: is not an option of the run ({options}); a plugin's is PLUGIN.PARAMETER")
        return chain.with_options(options_of({name: value}))
    plugins = (one for stage in chain.stages for one in stage.plugins)
    found = next((one for one in plugins if one.name.replace("-", "_") == plugin), None)
    if found is None:
        raise UsageError(f"--vary {name}: no plugin {plugin} is in this edit")
    if field not in type(found).model_fields:
        known = ", ".join(type(found).model_fields)
        raise UsageError(f"--vary {name}: {found.name} has no parameter {field}; it has {known}")
    try:
        return chain.with_field(found, field, value)
    except ParameterError as error:
        raise UsageError(f"--vary {name}={value}: {explain(error)}") from error
