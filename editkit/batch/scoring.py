"""Score a folder of results: metrics of each picture, in total and by category, with confidence intervals."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from editkit.batch.folder import listing
from editkit.batch.metrics import (
    ALL,
    EACH,
    LEAST,
    METRICS,
    Files,
    Seen,
    inception,
    metric_function,
    needs_reference,
    set_distance,
)
from editkit.common.extras import explained
from editkit.common.notify import Notify, silent
from editkit.common.small import read_limited_text
from editkit.common.spec import nearest
from editkit.errors import PictureError, UsageError
from editkit.pictures.picture import Picture

if TYPE_CHECKING:
    from torch import Tensor

LEVEL = 0.95
"""Level of the confidence intervals."""

RESAMPLES = 2000

GROUPS = 10
"""Groups that the jackknife of fid and kid leaves out in turn. Their bootstrap would be biased, because duplicated
pictures make a set look less diverse than it is."""

FEW = 2048
"""With fewer pictures, fid is biased upwards (Binkowski et al. 2018)."""


@dataclass(frozen=True)
class Row:
    """One result: its name, files, prompt, category; `figures` by metric."""

    name: str
    result: Path
    reference: Path | None
    prompt: str | None = None
    category: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Total:
    """A metric of `n` pictures of a category ("" for all): `value`, and its interval; NaN if n is too small."""

    metric: str
    category: str
    n: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """`rows` with their figures, and `totals` of all pictures, then by category."""

    rows: tuple[Row, ...]
    totals: tuple[Total, ...]


def score(
    results: str | Path,
    reference: str | Path | None = None,
    *,
    metrics: Sequence[str] = ("psnr", "ssim"),
    prompts: str | Path | None = None,
    files: Files | None = None,
    seen: Seen | None = None,
    seed: int = 0,
    notify: Notify = silent,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Score the pictures of a folder (or one picture) with `metrics`.

    Args:
        reference: a folder with a picture of the same name for each result (with any suffix), or one picture. fid and
        kid
            compare with all its pictures.
        prompts: CSV with columns `picture`, and `prompt` or `category` or both. Only listed pictures are scored.
        files: paths to the weights. seen: features for fid and kid instead of Inception's.
        seed: seed of the resampling.

    Raises:
        UsageError: unknown metric, missing input for a metric, or names that do not match.
        PictureError: a picture cannot be read, or its size differs from its reference's.
    """
    _check(metrics)
    rows = pair_results(Path(results), None if reference is None else Path(reference), metrics, prompts)
    files = files or Files()
    with explained():
        figures = {metric: metric_function(metric, files) for metric in metrics if metric in EACH}
        sets = [metric for metric in metrics if metric in ALL]
        look = (seen or inception(files.of(sets[0]))) if sets else None
    judged, features = [], []
    for k, row in enumerate(rows):
        result = Picture.read(row.result)
        beside = None if row.reference is None or not needs_reference(metrics) else Picture.read(row.reference)
        _check_comparable(row, result, beside, metrics)
        found = {metric: figure(result, beside, row.prompt) for metric, figure in figures.items()}
        judged.append(Row(row.name, row.result, row.reference, row.prompt, row.category, found))
        if look is not None:
            features.append(look(result))
        if progress is not None:
            progress(k + 1, len(rows))
    totals = [total for metric in figures for total in _totals_of_pictures(judged, metric, seed)]
    if look is not None:
        assert reference is not None
        totals += _totals_of_sets(
            judged, features, [look(Picture.read(path)) for path in _pictures_at(Path(reference))], sets
        )
        if "fid" in sets and len(rows) < FEW:
            notify(f"fid of {len(rows)} pictures is larger than it would be of many; compare only sets of one size")
    return Scores(tuple(judged), tuple(totals))


def _check(metrics: Sequence[str]) -> None:
    for metric in metrics:
        if metric not in METRICS:
            near = nearest(metric, METRICS)
            hint = f"; is {near[0]} meant?" if near else ""
            raise UsageError(f"--metrics: {metric!r} is none of {', '.join(METRICS)}{hint}")
    if not metrics or len(set(metrics)) < len(metrics):
        raise UsageError(f"--metrics: name each metric once, of {', '.join(METRICS)}")


def pair_results(
    results: Path, reference: Path | None, metrics: Sequence[str], prompts: str | Path | None
) -> list[Row]:
    """Return the results, each with its reference, prompt and category."""
    beside = needs_reference(metrics)
    sets = [metric for metric in metrics if metric in ALL]
    if (beside or sets) and reference is None:
        raise UsageError(f"{(beside + sets)[0]} compares with a reference; give --reference, a folder or a picture")
    if "clip" in metrics and prompts is None:
        raise UsageError("clip compares a picture with a text; give --prompts, a CSV with columns picture and prompt")
    found = _files_by_stem(results)
    by_name = None if prompts is None else read_prompts(prompts)
    if by_name is not None:
        found = _in_prompt_order(found, by_name, results, prompts)
    theirs = {} if reference is None or not beside else _files_by_stem(reference)
    alone = reference is not None and reference.is_file()
    if alone and beside and len(found) > 1:
        raise UsageError(f"--reference {reference}: is one picture, and {results} holds {len(found)}; give a folder")
    rows = []
    for name, path in found.items():
        match = next(iter(theirs.values())) if alone and beside else theirs.get(name)
        if beside and match is None:
            raise UsageError(f"{path}: {reference} has no picture called {name} to compare it with")
        prompt, category = ("", "") if by_name is None else by_name[name]
        if "clip" in metrics and not prompt:
            raise UsageError(f"--prompts {prompts}: {name} has no prompt, which clip needs")
        rows.append(Row(name, path, match, prompt or None, category))
    return rows


def _in_prompt_order(
    found: Mapping[str, Path], by_name: Mapping[str, object], results: Path, prompts: object
) -> dict[str, Path]:
    for name in by_name:
        if name not in found:
            near = nearest(name, list(found))
            hint = f"; is {near[0]} meant?" if near else ""
            raise UsageError(f"--prompts {prompts}: {results} holds no picture called {name}{hint}")
    return {name: found[name] for name in by_name}


def pictures_of(place: Path | None) -> list[Path]:
    """Return the picture files at `place`; an empty list without any."""
    return (
        []
        if place is None or not place.exists()
        else _pictures_at(place)
        if place.is_file()
        else [place / path for path in listing(place).pictures]
    )


def _pictures_at(place: Path) -> list[Path]:
    """Return the pictures of a folder, or the single picture `place`."""
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UsageError(f"{place}: is not there; a folder of pictures or a picture is needed")
    found = [place / path for path in listing(place).pictures]
    if not found:
        raise UsageError(f"{place}: contains no pictures")
    return found


def _files_by_stem(place: Path) -> dict[str, Path]:
    """Return {name without suffix: file}."""
    found: dict[str, Path] = {}
    for path in _pictures_at(place):
        name = path.stem if place.is_file() else path.relative_to(place).with_suffix("").as_posix()
        if name in found:
            raise UsageError(
                f"{found[name]} and {path}: which of them is {name}? Names must differ in more than endings"
            )
        found[name] = path
    return found


def read_prompts(path: str | Path) -> dict[str, tuple[str, str]]:
    """Return {name of a picture, without suffix: (prompt, category)}.

    Raises:
        UsageError: no such file, not UTF-8, no column `picture`, or an empty or repeated name.
    """
    try:
        text = read_limited_text(path, pipe=True)
        table = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except UnicodeDecodeError:
        raise UsageError(f"--prompts {path}: cannot be read as CSV: it is not UTF-8; save it as such") from None
    except (OSError, csv.Error) as error:
        raise UsageError(f"--prompts {path}: cannot be read as CSV: {error}") from None
    heads = [head for head in (table[0] if table else {}) if head is not None]
    if "picture" not in heads or not {"prompt", "category"} & set(heads):
        got = ", ".join(heads) or "none"
        raise UsageError(f"--prompts {path}: columns picture, and prompt or category, are needed; got {got}")
    by_name: dict[str, tuple[str, str]] = {}
    for k, line in enumerate(table):
        written = (line["picture"] or "").strip()
        name = Path(written).with_suffix("").as_posix() if Path(written).name else ""
        if not name or name in by_name:
            raise UsageError(f"--prompts {path}: row {k + 2} names " + (f"{name} again" if name else "no picture"))
        by_name[name] = ((line.get("prompt") or "").strip(), (line.get("category") or "").strip())
    return by_name


def _check_comparable(row: Row, result: Picture, reference: Picture | None, metrics: Sequence[str]) -> None:
    for metric in metrics:
        if min(result.width, result.height) < LEAST.get(metric, 1):
            size = f"{result.width}x{result.height}"
            raise PictureError(f"{row.result}: is {size}; {metric} needs {LEAST[metric]} pixels at least on each side")
    if reference is not None and (result.width, result.height) != (reference.width, reference.height):
        raise PictureError(
            f"{row.result}: is {result.width}x{result.height}, and its reference {row.reference} "
            f"{reference.width}x{reference.height}; only pictures of one size can be compared"
        )


def _totals_of_pictures(rows: Sequence[Row], metric: str, seed: int) -> list[Total]:
    totals = []
    for category in _categories(rows):
        values = [row.figures[metric] for row in rows if category in ("", row.category)]
        totals.append(Total(metric, category, len(values), sum(values) / len(values), *interval(values, seed)))
    return totals


def _categories(rows: Sequence[Row]) -> list[str]:
    return ["", *sorted({row.category for row in rows} - {""})]


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Return the bootstrap interval (BCa, Efron 1987) of a mean, by scipy; (NaN, NaN) for fewer than three values."""
    import numpy as np
    from scipy.stats import bootstrap

    if len(values) < 3 or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    if min(values) == max(values):
        return values[0], values[0]
    found = bootstrap(
        (np.asarray(values),), np.mean, confidence_level=LEVEL, n_resamples=RESAMPLES, batch=RESAMPLES,
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def _totals_of_sets(
    rows: Sequence[Row], features: Sequence[Tensor], references: Sequence[Tensor], metrics: Sequence[str]
) -> list[Total]:
    import torch

    if len(rows) < 2 or len(references) < 2:
        raise UsageError(f"{metrics[0]} compares sets; at least two results and two references are needed")
    mine, theirs = torch.stack(list(features)), torch.stack(list(references))
    totals = []
    for metric in metrics:
        value = set_distance(metric, mine, theirs)
        half = 1.96 * _jackknife(metric, mine, theirs)
        totals.append(Total(metric, "", len(rows), value, value - half, value + half))
    return totals


def _jackknife(metric: str, results: Tensor, references: Tensor) -> float:
    """Return the jackknife standard error, leaving out one group of both sets in turn; NaN for too small sets."""
    import torch

    if min(len(results), len(references)) < 2 * GROUPS:
        return math.nan
    keep = [
        set_distance(metric, *(x[torch.arange(len(x)) % GROUPS != g] for x in (results, references)))
        for g in range(GROUPS)
    ]
    return math.sqrt(float(torch.tensor(keep).var(correction=0)) * (GROUPS - 1))
