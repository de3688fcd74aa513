"""The state of a batch's pictures during a run, in an SQLite file instead of memory, so that the driver needs no more
memory for a million pictures than for a thousand.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, overload

from editkit.batch.folder import Item, Masks
from editkit.batch.journal import Done
from editkit.errors import UsageError
from editkit.pictures.files.formats import PICTURES, PNG, WRITABLE
from editkit.pictures.shapes import is_words

TABLES = """
create table picture (place integer primary key, name text unique, source text, mask text, output text, key text,
                      columns text, state text default 'todo');
create index by_key on picture (key);
create table listed (name text primary key) without rowid;
create table masks (name text primary key) without rowid;
create table taken (name text, of text);
create index by_name on taken (name);
create table there (name text primary key) without rowid;
create table line (picture text primary key, state text, output text, record text);
"""
CHUNK = 500


class Catalog:
    """The pictures of a run, the files at its target, and the lines of its journal."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="editkit-batch-")
        self._base = sqlite3.connect(Path(self._folder.name) / "catalog", check_same_thread=False)
        self._lock = threading.Lock()
        with self._locked():
            self._base.executescript("pragma journal_mode = off; pragma synchronous = off;" + TABLES)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lock the database for one thread at a time.

        Raises:
            UsageError: the folder for temporary files is full.
        """
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise UsageError(
                f"{self._folder.name}: the list of pictures cannot be kept there ({error}); make room, or name another "
                f"folder for temporary files by TMPDIR"
            ) from None

    def close(self) -> None:
        """Delete the database."""
        self._base.close()
        self._folder.cleanup()

    # -------------------------------------------------------------------------------------------------- pictures

    def take(self, names: Iterable[str]) -> list[str]:
        """Add the names of a folder's files; return the first few that are not pictures."""
        others: list[str] = []

        def pictures() -> Iterator[tuple[str]]:
            for name in names:
                if PurePosixPath(name).suffix.lower() in PICTURES:
                    yield (name,)
                elif len(others) < 1000:
                    others.append(name)

        self._many("insert or ignore into listed values (?)", pictures())
        return others

    def fill(self, source: str, target: str, masks: Masks | None, ending: str | None) -> None:
        """Make the run's pictures from the listed names: find masks, skip masks of other pictures, name results."""
        if masks is not None and not (masks.pattern is not None and is_words(masks.pattern)):
            self._masks(source, masks)
        at, rows = "", self._ask("select name from listed order by name limit ?", CHUNK)
        alone = "exists (select 1 from taken where name = ? and of != ?)"
        while rows:
            kept = [name for (name,) in rows if not self._ask(f"select {alone}", name, name)[0][0]]
            found = [
                (name, f"{source}/{name}", None if masks is None else self._mask(name, source, masks)) for name in kept
            ]
            self.add([(name, address, mask, None, {}) for name, address, mask in found], ending)
            at = rows[-1][0]
            rows = self._ask("select name from listed where name > ? order by name limit ?", at, CHUNK)
        self._settle_names(ending)

    def _masks(self, source: str, masks: Masks) -> None:
        """Record which pictures are masks of others."""
        if masks.folder is not None:
            return
        with self._locked():
            self._base.execute("insert into masks select name from listed")
        at, rows = "", self._ask("select name from listed order by name limit ?", CHUNK)
        while rows:
            tries = [(mask, name) for (name,) in rows for mask in masks.names(PurePosixPath(name))]
            self._many(
                "insert into taken select ?, ? where exists (select 1 from masks where name = ?)",
                [(mask, name, mask) for mask, name in tries],
            )
            at = rows[-1][0]
            rows = self._ask("select name from listed where name > ? order by name limit ?", at, CHUNK)

    def know_masks(self, names: Iterable[str]) -> None:
        """Add the names in a folder of masks."""
        self._many("insert or ignore into masks values (?)", ((name,) for name in names))

    def _mask(self, name: str, source: str, masks: Masks) -> str:
        """Return the mask of a picture: the first of its possible places that exists."""
        if masks.pattern is not None and (
            is_words(masks.pattern) or (masks.folder is None and "{" not in masks.pattern)
        ):
            return masks.pattern
        folder = source if masks.folder is None else str(masks.folder)
        tries = masks.names(PurePosixPath(name))
        found = (mask for mask in tries if self._ask("select 1 from masks where name = ?", mask))
        return f"{folder.rstrip('/')}/{next(found, tries[0])}"

    def add(
        self, pictures: Iterable[tuple[str, str, str | None, str | None, Mapping[str, Any]]], ending: str | None
    ) -> None:
        """Add pictures: name, address, mask, result's name (None: chosen later), and a manifest's columns. A duplicate
        name becomes name-2, and so on.
        """
        words = "insert or ignore into picture (name, source, mask, output, key, columns) values (?, ?, ?, ?, ?, ?)"
        for name, source, mask, output, columns in pictures:
            path, number, called = PurePosixPath(name), 1, name
            while not self._insert(
                words, called, source, mask, output, _key(output or _short(called, ending)), json.dumps(columns)
            ):
                number += 1
                called = f"{path.with_suffix('')}-{number}{path.suffix}"

    def _insert(self, words: str, *given: Any) -> bool:
        """Insert a row; return whether it was new."""
        with self._locked():
            return self._base.execute(words, given).rowcount == 1

    def _settle_names(self, ending: str | None) -> None:
        """Choose the results' names, as in a folder: the stem with the suffix; the whole name if two pictures would get
        the same, and a number if that is taken too. A name given by a row is always used.

        Raises:
            UsageError: two rows give the same name.
        """
        alone = "key in (select key from picture group by key having count(*) = 1)"
        order = "output is null, iif(output is null, name, ''), place"
        rest = self._ask(f"select place, name, output from picture where not {alone} order by {order}")
        self._many("update picture set key = null where place = ?", [(place,) for place, *_ in rest])
        for place, name, requested in rest:
            suffix, number = PurePosixPath(_short(name, ending)).suffix, 1
            output = requested or name + suffix
            other = self._ask("select name from picture where key = ?", _key(requested)) if requested else []
            if other:  # rows that say a name come first: it is another row's
                raise UsageError(
                    f"{other[0][0]} and {name}: both rows have the output {requested} (capitals and the form of "
                    f"accents do not count); give each its own"
                )
            while self._ask("select 1 from picture where key = ?", _key(output)):
                number += 1
                output = f"{name}-{number}{suffix}"
            self._many("update picture set output = ?, key = ? where place = ?", [(output, _key(output), place)])
        at, rows = -1, self._ask("select place, name from picture where output is null limit ?", CHUNK)
        while rows:
            at = rows[-1][0]
            self._many("update picture set output = ? where place = ?", [(_short(n, ending), p) for p, n in rows])
            rows = self._ask("select place, name from picture where output is null and place > ? limit ?", at, CHUNK)

    def settle_names(self, ending: str | None) -> None:
        """Choose names for the results that a manifest does not name."""
        self._settle_names(ending)

    @property
    def count(self) -> int:
        """Return the number of pictures in the run."""
        return int(self._ask("select count(*) from picture")[0][0])

    def settle(self) -> int:
        """Mark pictures as done whose result exists according to the journal; return their number."""
        line = "line.picture = picture.name and line.state = 'done' and line.output = picture.output"
        done = f"exists (select 1 from line where {line}) and output in (select name from there)"
        with self._locked():
            return self._base.execute(f"update picture set state = 'before' where {done}").rowcount

    def refused(self) -> Iterator[tuple[str, str]]:
        """Mark and yield the pictures whose result's name is taken: (name, result's name). Only for a new run; in a
        resumed one, an earlier part may have written the file without recording it, so the worker checks.
        """
        with self._locked():
            self._base.execute(
                "update picture set state = 'refused' where state = 'todo' and output in (select name from there)"
            )
        at = -1
        words = "select place, name, output from picture where state = 'refused' and place > ? order by place limit ?"
        while rows := self._ask(words, at, CHUNK):
            yield from ((name, output) for _, name, output in rows)
            at = rows[-1][0]

    def items(self, target: str) -> Items:
        """Return the remaining pictures."""
        return Items(self, target)

    # --------------------------------------------------------------------------------------- target and journal

    def is_there(self, names: Iterable[str]) -> None:
        """Add the names that exist at the target."""
        self._many("insert or ignore into there values (?)", ((name,) for name in names))

    def keep(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add lines of the journal; the last one of each picture counts."""
        rows = ((r["picture"], r["state"], r.get("output"), json.dumps(r)) for r in records)
        self._many("insert or replace into line values (?, ?, ?, ?)", rows)

    def lines(self) -> Iterator[str]:
        """Yield all lines."""
        at, words = "", "select picture, record from line where picture > ? order by picture limit ?"
        while rows := self._ask(words, at, CHUNK):
            yield from (record for _, record in rows)
            at = rows[-1][0]

    def done(self) -> Iterator[Done]:
        """Yield the pictures that are done."""
        for line in self.lines():
            record = json.loads(line)
            if record.pop("state") == "done":
                yield Done(**record)

    # ---------------------------------------------------------------------------------------------------- SQLite

    def _many(self, words: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with self._locked():
            self._base.executemany(words, rows)

    def _ask(self, words: str, *given: Any) -> list[tuple[Any, ...]]:
        with self._locked():
            return self._base.execute(words, given).fetchall()

    def rows(self, first: int, most: int) -> list[tuple[Any, ...]]:
        """Return remaining pictures from a position on."""
        words = "select place, name, source, mask, output, columns from picture where state = 'todo' and place >= ?"
        return self._ask(f"{words} order by place limit ?", first, most)

    def left(self) -> int:
        """Return the number of remaining pictures."""
        return int(self._ask("select count(*) from picture where state = 'todo'")[0][0])

    def nth(self, index: int) -> list[tuple[Any, ...]]:
        """Return one of the remaining pictures."""
        words = "select place, name, source, mask, output, columns from picture where state = 'todo'"
        return self._ask(f"{words} order by place limit 1 offset ?", index)


class Items(Sequence[Item]):
    """The remaining pictures, read on demand."""

    def __init__(self, catalog: Catalog, target: str) -> None:
        self._catalog, self._target, self._count = catalog, target, catalog.left()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Item]:
        first = 0
        while rows := self._catalog.rows(first, CHUNK):
            yield from map(self._item, rows)
            first = rows[-1][0] + 1

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(self._count))]
        rows = self._catalog.nth(index + self._count if index < 0 else index)
        if not rows or index < -self._count:
            raise IndexError(index)
        return self._item(rows[0])

    def _item(self, row: tuple[Any, ...]) -> Item:
        _, name, source, mask, output, columns = row
        values = tuple(json.loads(columns).items())
        return Item(name, source, f"{self._target.rstrip('/')}/{output}", output, mask, values)


def _short(name: str, ending: str | None) -> str:
    path = PurePosixPath(name)
    own = path.suffix if path.suffix.lower() in WRITABLE else PNG.endings[0]
    return path.with_suffix(ending or own).as_posix()


def _key(name: str) -> str:
    """Return a key that no two results may share, even on case-insensitive file systems."""
    return unicodedata.normalize("NFC", name).casefold()
