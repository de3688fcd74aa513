"""Make the pages' pictures by the pages' own commands: `python docs/make_sheets.py [NAME ...]`.

Where a shell block of a page is followed by a picture of docs/sheets, its first command is run on the demonstration
files (docs/demonstration.py, at their own size), with `--compare` behind it; `--show` of `editkit mask` where that is
the command. NAME: only these sheets.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).parent
BLOCK = re.compile(r"```sh\n((?:(?!```).)*?)```\n\n!\[[^\]]*\]\((?:\.\./)?sheets/(\S+)\)", re.S)
"""A shell block, and the name of the sheet behind it."""

SIDE = 1280
"""The longer side of a sheet in pixels."""


def sheets() -> dict[str, list[str]]:
    """Name of a sheet -> the words of the command that makes it."""
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        for block, name in BLOCK.findall(page.read_text(encoding="utf-8")):
            found[name] = shlex.split(block.strip().splitlines()[0])[1:]
    return found


def main() -> None:
    from editkit.cli import run

    sys.path.insert(0, str(DOCS))
    import demonstration

    for name, words in sheets().items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            demonstration.lay(Path(folder))
            os.chdir(folder)
            if words[0] == "mask":
                code, made = run(words), words[words.index("--show") + 1]
            else:
                code, made = run([*words, "--compare", "sheet.png"]), "sheet.png"
            if code != 0:
                raise SystemExit(f"{name}: {shlex.join(words)} ended with {code}")
            sheet = Image.open(made).convert("RGB")
            sheet.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            (DOCS / "sheets").mkdir(exist_ok=True)
            sheet.save(DOCS / "sheets" / name, quality=85)
            os.chdir(DOCS)


if __name__ == "__main__":
    main()
