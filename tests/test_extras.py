"""The options of an edit command itself: one model, from which the command line and reserved names follow."""

from __future__ import annotations

from editkit.cli.words import parse
from editkit.plugin.outputs import NAMES_A_FILE, Extras
from editkit.plugin.params import params
from editkit.plugin.registry import RESERVED


def test_those_that_name_what_is_written() -> None:
    assert {"output", "save_recipe", "preview", "trace", "compare"} == NAMES_A_FILE


def test_each_is_described_reserved_and_known_to_the_command_line() -> None:
    given = {"text": ["x"], "int": ["2"], "flag": [], "float": ["1.0"]}
    for one in params(Extras):
        assert one.help
        assert one.key in RESERVED
        line = parse(["sdedit", "p.png", one.flag, *given[one.kind]])
        assert getattr(line.extras, one.name) in ("x", 2, 1.0, True)
    assert {"help", "picture", "with", "then", "seed"} <= RESERVED
