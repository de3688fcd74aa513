"""Models on the hub that editkit can use, for those who look for one. The table is data: suggested.csv, a row per
model.

Names, sizes and licences were written down without access to the hub. `source` says what size and licence were compared
with; where it is empty they are from memory, and the user is told. A model's page on the hub is authoritative.
"""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import NamedTuple

__all__ = ["Suggested", "suggested", "tasks"]

FETCHED = {
    "": "editkit models download {name}",
    "folder": "hf download {name} --local-dir FOLDER",
    "one": "hf download {name} FILE --local-dir .",
}
"""How it is fetched, by the table's column `files`: a whole model, a folder that an option takes, a file of several."""


class Suggested(NamedTuple):
    """One model of the hub: its id, the commands that it is for, what it does, the GB of its files, the GPU that runs
    it and how, its licence, with what size and licence were compared, and what is fetched of it (see `FETCHED`).
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
        """The command that fetches it, with a tool of editkit or of the hub."""
        return FETCHED[self.files].format(name=self.name)


def suggested(task: str | None = None) -> tuple[Suggested, ...]:
    """All of the table, or the models for one command (`edit`, `inpaint`, `mask`)."""
    table = (files("editkit.models") / "suggested.csv").read_text(encoding="utf-8")
    rows = [
        Suggested(
            row["name"], tuple(row["tasks"].split()), row["use"], float(row["gigabytes"]), row["card"],
            row["licence"], row["source"], row["files"],
        )
        for row in csv.DictReader(table.splitlines())
    ]  # fmt: skip
    return tuple(row for row in rows if task is None or task in row.tasks)


def tasks() -> tuple[str, ...]:
    """The commands that the table has models for, in its order."""
    return tuple(dict.fromkeys(task for row in suggested() for task in row.tasks))
