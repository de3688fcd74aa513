"""Manifests: tables with a row for each picture and its settings.

`.jsonl` (one object per line), `.parquet`, or `.csv` with a header. The column `picture` is required: a name relative
to the manifest, or an address; `reach` limits its location. Others are `mask` (a name, an address, or words), `output`
(the result's name), `seed`, `prompt` and every other option of a run, and every parameter of the chain's plugins, as
`inpaint.grow` or, if only one plugin has it, `grow`; but none that names code or a file to write. `category` is only
used for scoring the results (`editkit score --prompts`). An empty value means the recipe's value.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from editkit.common.extras import explained
from editkit.common.small import read_limited_bytes
from editkit.common.spec import did_you_mean
from editkit.errors import UsageError
from editkit.plugin.chain import Chain
from editkit.plugin.declaration import Declaration
from editkit.plugin.options import Options
from editkit.plugin.params import Code, cli_name, is_path, outputs, params

ENDINGS = (".jsonl", ".parquet", ".csv")
OWN = ("picture", "mask", "output")
UNUSED = ("category",)
"""Columns that are not options."""

BARRED = ("allow_code", "offline")
"""Options that only the user of the machine may set."""

LONGEST = 1 << 16
"""Most characters of a value; no prompt or name is longer, but a compressed table could have such values."""

Columns = tuple[tuple[str, Any], ...]


def rows(file: IO[bytes], name: str, chain: Chain) -> Iterator[dict[str, Any]]:
    """Yield the rows of a manifest, an open file, without empty values.

    Raises:
        UsageError: it is not a manifest, has an unknown column (the message suggests the nearest), or a row without a
            picture.
    """
    known = {*OWN, *UNUSED, *columns_of(chain)}
    for number, row in enumerate(_read(file, name), 1):
        if not isinstance(row, Mapping):
            raise UsageError(f'{name}: row {number} is not an object; write {{"picture": "a.png", "seed": 3}}')
        for column, value in row.items():
            if column not in known:
                raise UsageError(
                    f"{name}: row {number} has the column {str(column)[:80]!r}, which the edit does not take"
                    f"{did_you_mean(str(column), sorted(known))}"
                )
            if isinstance(value, str) and len(value) > LONGEST:
                raise UsageError(f"{name}: row {number} has {len(value)} characters in {column}; {LONGEST} at most")
        given = {column: value for column, value in row.items() if column not in UNUSED and value not in (None, "")}
        wrong = next((c for c in OWN if c in given and not isinstance(given[c], str)), None)
        if "picture" not in given or wrong is not None:
            raise UsageError(f"{name}: row {number} has no name or address in {wrong or 'picture'}")
        yield given


def _read(file: IO[bytes], name: str) -> Iterator[Any]:
    if name.lower().endswith(".parquet"):
        yield from _read_parquet(file, name)
        return
    if name.lower().endswith(".csv"):
        yield from _read_csv(file, name)
        return
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
        if len(line) == LONGEST_LINE:
            raise UsageError(
                f"{name}: line {number} has more than {LONGEST_LINE} bytes; a manifest has one object a line"
            )
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError):
            raise UsageError(f"{name}: line {number} is not JSON; a manifest has one object a line") from None


LONGEST_LINE = 16 << 20
"""Bytes of a line of JSON: what never ends is no table."""
ROWS_A_BYTE = 100
"""Most rows per byte of a Parquet file; more would be repetitions, not a table of pictures."""
UNPACKED, TIMES = 64 << 20, 200
"""Limits of an unpacked Parquet file: bytes, or a multiple of its size."""
AT_ONCE = 256 << 20
"""Most bytes of rows in memory, estimated by the longest row."""


def _read_parquet(file: IO[bytes], name: str) -> Iterator[Any]:
    """Yield the rows of a table after checking its declared size: a file of a kilobyte can declare a billion rows."""
    with explained():
        import pyarrow
        import pyarrow.parquet
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    try:
        table = pyarrow.parquet.ParquetFile(file)
        groups = [table.metadata.row_group(k) for k in range(table.metadata.num_row_groups)]
        unpacked = [max(group.total_byte_size, 1) for group in groups]
        if table.metadata.num_rows > ROWS_A_BYTE * size or sum(unpacked) > max(UNPACKED, TIMES * size):
            raise UsageError(
                f"{name}: claims {table.metadata.num_rows} rows of {sum(unpacked)} bytes and has {size} bytes itself; "
                f"it is no table of pictures"
            )
        for k, whole in enumerate(unpacked):
            for batch in table.iter_batches(max(1, min(1000, AT_ONCE // whole)), row_groups=[k]):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: is not a Parquet file that can be read ({type(error).__name__})") from None


def _read_csv(file: IO[bytes], name: str) -> Iterator[dict[str, str]]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        _check_header(reader.fieldnames or (), name)
        for number, row in enumerate(reader, 1):
            if None in row:
                raise UsageError(f"{name}: row {number} has more values than columns; a comma within one needs quotes")
            yield {column: value for column, value in row.items() if value}
    except (UnicodeDecodeError, csv.Error) as error:
        why = "it is not UTF-8; save it as such" if isinstance(error, UnicodeDecodeError) else str(error)
        raise UsageError(f"{name}: cannot be read as CSV: {why}") from None
    finally:
        text.detach()


def prompts(path: str) -> list[tuple[str, str]]:
    """Return (category, prompt) for every row of a CSV with the column `prompt` and optionally `category` (default
    ""); rows are grouped by category, in the order of the categories' first rows.

    Raises:
        UsageError: it cannot be read, has no prompts, or has other columns.
    """
    try:
        found = list(_read_csv(io.BytesIO(read_limited_bytes(path, pipe=True)), path))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    for number, row in enumerate(found, 1):
        other = next((column for column in row if column not in ("prompt", "category")), None)
        if other is not None:
            raise UsageError(
                f"{path}: row {number} has the column {other[:80]!r}; here are prompts of one picture, with columns "
                "prompt and category (a row for each picture: editkit batch FILE.csv OUT -- ...)"
            )
        if not row.get("prompt"):
            raise UsageError(f"{path}: row {number} has no prompt")
    if not found:
        raise UsageError(f"{path}: holds no prompt")
    order = list(dict.fromkeys(row.get("category", "") for row in found))
    return [(row.get("category", ""), row["prompt"]) for each in order for row in found
            if row.get("category", "") == each]  # fmt: skip


def _check_header(columns: Sequence[str], name: str) -> None:
    """Refuse a table with other separators, or with duplicate columns, of which one would be lost."""
    if len(columns) == 1 and re.search("[;\t|]", columns[0]):
        raise UsageError(f"{name}: its columns are not separated by commas; save it as CSV with commas")
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise UsageError(f"{name}: has the column {twice[:80]!r} twice; leave one out")


def columns_of(chain: Chain) -> list[str]:
    """Return the columns that `chain` accepts."""
    kinds = [type(plugin) for stage in chain.stages for plugin in stage.plugins]
    fields = [(kind.name, p.key) for kind in kinds for p in params(kind) if not _is_forbidden(kind, p.name)]
    alone = [field for _, field in fields if sum(field == other for _, other in fields) == 1]
    options = [option for option in Options.model_fields if option not in BARRED]
    return [*options, *dict.fromkeys(f"{name}.{field}" for name, field in fields), *alone]


def with_columns(chain: Chain, columns: Columns) -> Chain:
    """Apply a row's values to `chain`.

    Raises:
        ParameterError: a value is out of range.
    """
    options = {name: value for name, value in columns if name in Options.model_fields and name not in BARRED}
    if options:
        chain = chain.with_options(Options(**{name: _lists_to_tuples(value) for name, value in options.items()}))
    for name, value in columns:
        if name not in options:
            plugin, field = _column_owner(chain, name)
            chain = chain.with_field(plugin, field, _lists_to_tuples(value))
    return chain


def with_paths(chain: Chain, row: Mapping[str, Any], joined: Callable[[str], str]) -> dict[str, Any]:
    """Resolve the pictures in a row's plugin parameters relative to the manifest too, with `joined`."""

    def placed(column: str, value: Any) -> Any:
        if isinstance(value, list):
            return [placed(column, one) for one in value]
        if column in Options.model_fields:
            return value
        plugin, field = _column_owner(chain, column)
        return joined(value) if is_path(type(plugin), field, value) else value

    return {column: placed(column, value) for column, value in row.items()}


def _column_owner(chain: Chain, column: str) -> tuple[Declaration, str]:
    """Return the plugin and the parameter of a column."""
    owner, _, key = column.rpartition(".")
    plugins = [plugin for stage in chain.stages for plugin in stage.plugins if owner in ("", plugin.name)]
    return next((p, field) for p in plugins for field in type(p).model_fields if cli_name(field) == key)


def _is_forbidden(kind: type[Declaration], name: str) -> bool:
    """Whether a parameter names code to import or a file to write, which tables, like recipes, may not set."""
    return name in outputs(kind) or any(isinstance(one, Code) for one in kind.model_fields[name].metadata)


def _lists_to_tuples(value: Any) -> Any:
    """Convert lists to tuples, as in declarations."""
    return tuple(value) if isinstance(value, list) else value
