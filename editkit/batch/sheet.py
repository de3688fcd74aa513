"""The results table of a batch: for each picture the result's name, hash, size, seed and figures, or the error.

The table is JSON lines or Parquet, and is written at the end of the run. Until then the rows are in a temporary file.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from editkit.batch.engines import Result
from editkit.batch.journal import NAME, Done
from editkit.batch.sources import is_plain
from editkit.batch.stores import open_store, redact
from editkit.common.extras import explained
from editkit.errors import UsageError
from editkit.pictures.files.atomic import save_bytes

ENDINGS = (".jsonl", ".parquet")
COLUMNS = ("picture", "output", "seed", "sha256", "bytes", "network_calls", "deviation", "figures", "error")


class Sheet:
    """Collects the rows of the table in `file`; None: there is no table."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file
        self._seen: set[int] = set()

    @classmethod
    @contextmanager
    def of(cls, name: str | None, source: str, target: str, *, offline: bool, again: bool) -> Iterator[Sheet]:
        """Open the table `name` in `target`; it is written if the block ends without an error.

        `again`: replace an existing table.

        Raises:
            UsageError: the name has another suffix or contains a folder, or the table would replace another file.
            ExtraError: the table is Parquet, and pyarrow is not installed.
        """
        if name is None:
            yield cls(None)
            return
        if not name.lower().endswith(ENDINGS) or "/" in name or "\\" in name or name.startswith("."):
            raise UsageError(f"--results {name}: must be a name that ends in {' or '.join(ENDINGS)}, in OUT itself")
        _check_place(name, source, target, offline, again)
        if name.lower().endswith(".parquet"):
            with explained():
                import pyarrow.parquet as _  # noqa: F401  # fail before the run starts
        with tempfile.TemporaryDirectory(prefix="editkit-results-") as folder:
            path = Path(folder) / "rows.jsonl"
            with path.open("w", encoding="utf-8") as file:
                yield cls(file)
            _put(path if name.lower().endswith(".jsonl") else _as_parquet(path), name, target, offline)

    def take(self, result: Result) -> None:
        """Add the row of one result."""
        done = result.done
        self._row(
            picture=result.item.name,
            output=result.item.output if result.error is None else None,
            seed=result.seed,
            sha256=None if done is None else done.sha256,
            bytes=None if done is None else done.bytes,
            network_calls=result.calls,
            deviation=result.deviation,
            figures=dict(result.figures),
            error=result.error,
        )

    def before(self, done: Iterable[Done]) -> None:
        """Add the rows of earlier runs, except for pictures that were edited again."""
        if self._file is None:
            return
        for entry in done:
            if hash(entry.picture) not in self._seen:
                self._row(
                    picture=entry.picture, output=entry.output, seed=entry.seed, sha256=entry.sha256, bytes=entry.bytes
                )

    def _row(self, **values: Any) -> None:
        if self._file is not None:
            self._seen.add(hash(values["picture"]))
            self._file.write(json.dumps({name: values.get(name) for name in COLUMNS}) + "\n")


def _check_place(name: str, source: str, target: str, offline: bool, again: bool) -> None:
    """Check that the table would not replace the journal, the manifest or the target of a link in OUT.

    Unless `again`, it must not replace any file.

    Raises:
        UsageError: it would.
    """
    if name == NAME:
        raise UsageError(f"--results {name}: is the journal's name; give another one")
    if not is_plain(target):
        there = not again and open_store(target, offline=offline, results=True).size(name) is not None
    else:
        path = Path(target) / name
        there = not again and os.path.lexists(path)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise UsageError(f"--results {name}: {path} is a link, a folder or a device; move it away")
        if path.exists() and os.path.exists(source) and os.path.samefile(path, source):
            raise UsageError(f"--results {name}: is the manifest that is read; give another name")
    if there:
        raise UsageError(f"--results {name}: is there already in {redact(target)}; give another name, or --force")


def _put(path: Path, name: str, target: str, offline: bool) -> None:
    if is_plain(target):
        save_bytes(Path(target) / name, path.read_bytes(), force=True)
    else:
        open_store(target, offline=offline, results=True).put(name, str(path))


def _as_parquet(path: Path) -> Path:
    """Convert the rows to Parquet; figures are stored as JSON, because their names differ between edits."""
    import pyarrow
    import pyarrow.parquet

    whole = ("seed", "bytes", "network_calls", "deviation")
    kinds = [(name, pyarrow.int64() if name in whole else pyarrow.string()) for name in COLUMNS]
    schema, to = pyarrow.schema(kinds), path.with_suffix(".parquet")
    with path.open(encoding="utf-8") as file, pyarrow.parquet.ParquetWriter(to, schema) as writer:
        while rows := [json.loads(line) for line in _read_lines(file)]:
            for row in rows:
                row["figures"] = json.dumps(row["figures"])
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
    return to


def _read_lines(file: IO[str], most: int = 1000) -> Iterator[str]:
    with contextlib.suppress(StopIteration):
        for _ in range(most):
            yield next(file)
