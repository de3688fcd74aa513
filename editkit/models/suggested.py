"""Suggested models on the hub. The table is suggested.csv, with one row per model.

Names, sizes and licences were written down without access to the hub. `source` says what size and licence were checked
against; if it is empty they were not checked, and the user is told. A model's page on the hub is authoritative.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import NamedTuple

__all__ = ["SuggestedModel", "suggested_models", "tasks"]

FETCHED = {
    "": "editkit models download {name}",
    "folder": "hf download {name} --local-dir FOLDER",
    "one": "hf download {name} FILE --local-dir .",
}
"""Download commands by the column `files`: a complete model, a folder for an option, one of several files."""


class SuggestedModel(NamedTuple):
    """One model on the hub: its id, the commands that it is for, what it does, the size of its files in GB, the GPU
    that it needs and how, its licence, the source of size and licence, and what to download (see `FETCHED`).
    """

    name: str
    tasks: tuple[str, ...]
    use: str
    gigabytes: float
    card: str
    licence: str
    source: str
    files: str

    @property
    def command(self) -> str:
        """Return the download command, of editkit or of the hub's tool."""
        return FETCHED[self.files].format(name=self.name)


def suggested_models(task: str | None = None) -> tuple[SuggestedModel, ...]:
    """Return the whole table, or the models for one command (`edit`, `inpaint`, `mask`)."""
    table = (files("editkit.models") / "suggested.csv").read_text(encoding="utf-8")
    rows = [
        SuggestedModel(
            row["name"], tuple(row["tasks"].split()), row["use"], float(row["gigabytes"]), row["card"],
            row["licence"], row["source"], row["files"],
        )
        for row in csv.DictReader(table.splitlines())
    ]  # fmt: skip
    return tuple(row for row in rows if task is None or task in row.tasks)


def tasks() -> tuple[str, ...]:
    """Return the commands that the table has models for, in its order."""
    return tuple(dict.fromkeys(task for row in suggested_models() for task in row.tasks))
