"""`editkit --help` and `editkit plugins`: lists of what is installed. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar, get_args

from editkit.cli import console
from editkit.cli.console import out, table, write
from editkit.common.entries import InstalledEntry
from editkit.errors import UsageError
from editkit.plugin.sections import Section
from editkit.plugin.summaries import summaries

T = TypeVar("T")

USAGE = """usage: editkit PLUGIN PICTURE [options] [with PLUGIN ...] [then PLUGIN ...]

Edit pictures with diffusion models. `with` adds a plugin to the same process, `then` starts another on its result.

  editkit inpaint photo.png --mask mask.png
  editkit inpaint photo.png --mask mask.png then sdedit --strength 0.3
"""

COMMANDS = (
    ("plan", "what an edit would do and cost; loads no weights"),
    ("run", "a recipe (YAML) on a picture"),
    ("batch", "a recipe on every picture of a folder"),
    ("grid", "an edit with one or two parameters varied, on a sheet"),
    ("interpolate", "pictures between two pictures: A --to B; a strip, or an animated .webp"),
    ("plugins", "the installed plugins; with a name, its parameters; check NAME, its contract"),
    ("new-plugin", "write the package of a new plugin"),
    ("models", "the available models; info NAME, download NAME, suggest"),
    ("mask", "make a mask: boxes, ellipses, polygons, colours"),
    ("density", "the likelihood of a picture under a model, in bits per dimension, and a map of it"),
    ("score", "compare results with references and prompts: psnr, ssim, lpips, clip, fid, kid"),
    ("hint", "the hint that a ControlNet sees: edges, lines, depth; --list shows the detectors"),
    ("rerun", "make a picture again from its provenance"),
    ("show", "how a picture was made"),
    ("strip", "remove the provenance from a picture"),
    ("studio", "a local web interface: brush, live estimates, history"),
    ("train", "train the embedded networks"),
    ("completion", "a completion script for bash, zsh or fish"),
    ("config", "your own defaults and model names, and the source of each"),
    ("doctor", "a report of this installation: torch, device, memory, extras, broken plugins"),
)


def overview() -> int:
    """`editkit --help`: list plugins in their groups; summaries are cached, so plugins are not imported."""
    write(USAGE)
    found = summaries()
    others = sorted({row.group for row in found} - set(get_args(Section)))
    for group in (*get_args(Section), *others):
        for k, row in enumerate(row for row in found if row.group == group):
            write(("" if k else f"{group}\n") + f"  editkit {row.name:<13}{_cut(row.line)}")
    write("\nother commands")
    for name, text in COMMANDS:
        write(f"  editkit {name:<13}{text}")
    write("\neditkit PLUGIN --help shows the options and examples of a plugin, editkit help COMMAND those of a command")
    write("\nexit codes: 0 done, 1 the edit failed, 2 wrong usage, 130 interrupted")
    return 0


def _cut(text: str, most: int = 100) -> str:
    return text if len(text) <= most else text[: most - 3].rstrip() + "..."


def version() -> int:
    from editkit.pictures.files.provenance import versions

    write(f"editkit {versions()['editkit']}")
    return 0


def plugins_command(words: list[str]) -> int:
    """`editkit plugins [NAME]`."""
    if words and words[0] in ("-h", "--help"):
        write("usage: editkit plugins [NAME]\n       editkit plugins check NAME\n")
        write("Lists what is installed: plugins, samplers, models, mask words, batch engines, hint detectors. With a")
        write("name, shows its parameters. `check` tests the contract of its kind on a cheap exact model; exit code 1")
        write("if it is violated. If several kinds have the same name, write KIND:NAME.")
        return 0
    if words[:1] == ["check"] and len(words) == 2:
        from editkit.cli.check import check_command

        return check_command(words[1])
    if len(words) > 1:
        raise UsageError(f"plugins takes one name at most, got {len(words)}")
    if words:
        return _show_one(words[0])
    for kind, rows in installed().items():
        made = table(kind, "from", "")
        for found in rows:
            console.row(
                made,
                found.name,
                found.distribution,
                found.kind if found.kind is not None else f"BROKEN: {found.broken}",
            )
        out().print(made)
        write("")
    return 0


def installed() -> dict[str, list[InstalledEntry[str]]]:
    """Return everything that is registered through entry points, by kind, with one line about each."""
    from editkit.batch import engines
    from editkit.diffusion import samplers
    from editkit.models import families
    from editkit.pictures import shapes
    from editkit.plugin import hints, registry

    def lines(rows: Sequence[InstalledEntry[T]], about: Callable[[T], str]) -> list[InstalledEntry[str]]:
        return [
            InstalledEntry(r.name, r.distribution, None if r.kind is None else about(r.kind), r.broken) for r in rows
        ]

    return {
        "plugin": lines(registry.list_installed(), _summary),
        "sampler": lines(samplers.list_installed(), _summary),
        "model": lines(families.list_installed(), lambda found: str(getattr(found, "KNOWN", "")) or _summary(found)),
        "mask": lines(shapes.list_installed(), lambda shape: f"{shape.form}  {shape.summary}"),
        "engine": lines(engines.list_installed(), lambda engine: engine.summary),
        "hint": lines(hints.list_installed(), _summary),
    }


def _show_one(name: str) -> int:
    """Show the parameters of a plugin, or one line about anything else of that name."""
    from editkit.plugin import registry

    if name not in registry.names():
        found = [(kind, row) for kind, rows in installed().items() for row in rows if row.name == name]
        for kind, row in found:
            write(f"{kind} {name} (from {row.distribution}): {row.kind or f'BROKEN: {row.broken}'}")
        if found:
            return 0
    return _show_plugin(name)


def _show_plugin(name: str) -> int:
    """Show the parameters and hooks of a plugin."""
    import inspect

    from editkit.plugin import registry
    from editkit.plugin.params import params

    plugin = registry.load(name)
    write(f"{name}: {inspect.getdoc(plugin) or ''}\n")
    made = table("option", "default", "")
    for p in params(plugin):
        choices = f" ({', '.join(p.choices)})" if p.choices else ""
        console.row(made, p.flag, "" if p.default is None else str(p.default), p.help + choices)
    out().print(made)
    return 0


def _summary(found: object) -> str:
    import inspect

    return (inspect.getdoc(found) or "").split("\n", 1)[0]
