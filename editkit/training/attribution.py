"""The list of photographs a network was trained on, with author, licence and source."""

from __future__ import annotations

from editkit.training.pictures import Collection

_HEAD = """# Photographs that this network was trained on

Made by `editkit train` from the folder's manifest.json. {count} photographs; {held} more were held back
(heldout.txt) and only measured with. Some licences ask for the authors' names; all are given, with thanks.

| file | author | licence | from | original |
|---|---|---|---|---|
"""


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ").strip()


def attribution(collection: Collection) -> str:
    """Return Markdown with one row per training photograph."""
    rows = []
    for photograph in collection.training:
        facts = [photograph.facts.get(key, "unknown") for key in ("author", "licence", "package", "original")]
        rows.append("| " + " | ".join(_cell(text) for text in (photograph.name, *facts)) + " |")
    return _HEAD.format(count=len(collection.training), held=len(collection.heldout)) + "\n".join(rows) + "\n"
