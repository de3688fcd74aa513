"""`editkit score`: metrics of results against references, for each picture, in total and by category."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from PIL.Image import Image

    from editkit.batch.scoring import Scores, Total

app = typer.Typer(add_completion=False)

MOST = 6
"""Number of pictures of a category on the sheet: the worst by the first metric."""

SIDE = 240
"""Side of a picture on the sheet, in pixels."""


@app.command()
def score(  # long: every parameter is an option with its help
    results: Annotated[Path, typer.Argument(help="A folder of pictures, or one picture.")],
    reference: Annotated[
        Path | None, typer.Option(help="A folder with pictures of the same names, or one picture.")
    ] = None,
    metrics: Annotated[str, typer.Option(help="psnr, ssim, lpips, clip, fid, kid; the last four need weights.")] = (
        "psnr,ssim"
    ),
    prompts: Annotated[
        Path | None, typer.Option(help="CSV: columns picture, and prompt or category. Only listed pictures are scored.")
    ] = None,
    lpips_weights: Annotated[Path | None, typer.Option(help="For lpips: alexnet-owt-7be5be79.pth.")] = None,
    clip_model: Annotated[Path | None, typer.Option(help="For clip: a model folder of open_clip.")] = None,
    inception: Annotated[
        Path | None, typer.Option(help="For fid and kid: weights-inception-2015-12-05-6726825d.pth.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV of every picture's figures.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="A picture: the worst of every category, with figures.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the resampling.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one line of JSON to standard output.")] = False,
) -> None:
    """Compare RESULTS with their references and prompts, with 95 % confidence intervals.

    Nothing is downloaded: a metric that needs weights names the file. Needs the extra `score` of the package.
    """
    from editkit.batch.metrics import Files
    from editkit.batch.scoring import pictures_of
    from editkit.batch.scoring import score as judged
    from editkit.cli.console import say, write
    from editkit.editing.watching.sheets import save
    from editkit.pictures.files.atomic import save_bytes
    from editkit.pictures.files.writing import check_distinct, check_output, check_place

    given = (prompts, lpips_weights, inception, *pictures_of(results), *pictures_of(reference))
    check_distinct({"--output": output, "--sheet": sheet}, [path for path in given if path is not None])
    if output is not None:
        check_place(output, force=force)
    if sheet is not None:
        check_output(sheet, force=force)
    paths = [None if path is None else str(path) for path in (lpips_weights, clip_model, inception)]
    scores = judged(
        results, reference, metrics=[word.strip() for word in metrics.split(",") if word.strip()], prompts=prompts,
        files=Files(*paths), seed=seed, notify=say,
    )  # fmt: skip
    if output is not None:
        save_bytes(output, _csv(scores).encode("utf-8", "backslashreplace"), force=force)
    if sheet is not None:
        save(_sheet(scores), sheet, force=force)
    if json_:
        write(json.dumps(_to_json(scores), allow_nan=False))
        return
    _table(scores)


def _table(scores: Scores) -> None:
    from editkit.cli.console import out, row, table

    shown = table("metric", "category", "pictures", "mean", "95 %")
    for total in scores.totals:
        row(shown, total.metric, total.category or "all", str(total.n), _number(total.value), _interval_text(total))
    out().print(shown)


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1.0 else f"{value:.2f}"


def _interval_text(total: Total) -> str:
    if math.isnan(total.low):
        return "too few to say"
    return f"{_number(total.low)} to {_number(total.high)}"


def _csv(scores: Scores) -> str:
    lines = io.StringIO(newline="")
    names = list(scores.rows[0].figures)
    into = csv.writer(lines, lineterminator="\n")
    into.writerow(["picture", "category", "prompt", *names])
    for row in scores.rows:
        into.writerow([row.name, row.category, row.prompt or "", *(repr(row.figures[name]) for name in names)])
    return lines.getvalue()


def _to_json(scores: Scores) -> dict[str, object]:
    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "pictures": [
            {"picture": row.name, "category": row.category, **{k: number(v) for k, v in row.figures.items()}}
            for row in scores.rows
        ],
        "totals": [
            {"metric": t.metric, "category": t.category or None, "n": t.n, "value": number(t.value),
             "low": number(t.low), "high": number(t.high)}
            for t in scores.totals
        ],
    }  # fmt: skip


def _sheet(scores: Scores) -> Image:
    """Make a sheet: a row for every category with its worst pictures by the first metric, and their references."""
    import numpy as np

    from editkit.batch.metrics import BETTER
    from editkit.editing.watching.sheets import Tile, eight_bit, sheet
    from editkit.pictures.picture import Picture

    first = next(iter(scores.rows[0].figures), None)
    categories = Counter(row.category for row in scores.rows)
    tiles, columns = [], min(MOST, max(categories.values())) * (2 if scores.rows[0].reference is not None else 1)
    blank = np.full((1, SIDE, 3), 255, np.uint8)
    for category in sorted(categories):
        rows = [row for row in scores.rows if row.category == category]
        if first is not None:
            worst = BETTER[first] == "lower"
            rows.sort(key=lambda row: row.figures[first], reverse=worst)
        made = []
        for row in rows[:MOST]:
            figures = " ".join(f"{name} {_number(value)}" for name, value in row.figures.items())
            label = f"{category + ' · ' if category else ''}{row.name} {figures}"
            made.append(Tile(label, eight_bit(Picture.read(row.result).pixels)))
            if row.reference is not None:
                made.append(Tile("reference", eight_bit(Picture.read(row.reference).pixels)))
        tiles += [*made, *[Tile("", blank)] * (columns - len(made))]
    return sheet(tiles, columns, side=SIDE, title=f"the worst of each category by {first}" if first else "")
