"""Previews of an edit's estimate, and a trace of everything that it did.

Both are called with an `Update` after every move, and write their file in `close`; `Preview` writes to a folder during
the edit.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editkit.editing.watching.charts import bars, lines
from editkit.editing.watching.sheets import GAP, LINE, PAPER, Tile, font, save, sheet
from editkit.errors import UsageError
from editkit.pictures.files.atomic import save_bytes
from editkit.pictures.files.writing import check_output
from editkit.pictures.picture import Picture
from editkit.pictures.tensors import from_unit

if TYPE_CHECKING:
    from editkit.diffusion.plan import Move
    from editkit.editing.settle import StagePlan
    from editkit.editing.stages import Update

FRAMES = 24
"""Approximate number of estimates to keep from a stage."""

FRAME_SIDE = 512
STRIP = 12
THUMBNAIL = 96
MILLISECONDS = 120


def is_due(update: Update, frames: int) -> bool:
    """Whether this move is one of about `frames` evenly spaced moves of a stage; the last of every pass always is."""
    plan = update.plan
    before = sum(len(part.plan) for part in plan.passes[: update.pass_])
    every = max(1, round(plan.moves / frames))
    way = plan.passes[update.pass_].plan
    last = update.state.index == len(way.flow) and update.state.move.s == way.end
    return update.state.move.flows and (last or (before + update.state.index) % every == 0)


def estimate(update: Update) -> NDArray[np.uint8] | None:
    """Return the estimate of the clean picture, (h, w, 3), at the size of the pass."""
    image = update.preview()
    if image is None:
        return None
    part = update.plan.passes[update.pass_].at
    pixels: NDArray[np.uint8] = from_unit(image[..., : part.height, : part.width], np.uint8)
    return pixels


class Preview:
    """Saves estimates to a folder (as PNG, during the edit), or as one animated WebP (at the end).

    Raises:
        UsageError: the name is not a folder and does not end in .webp, or frames exist already.
        PictureError: it cannot be written.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        self.force = force
        self.moving = self.path.suffix.lower() == ".webp"
        self.frames: list[Image.Image] = []
        self.count = 0
        if self.moving:
            check_output(self.path, force=force)
            return
        make_folder(self.path)
        if any(self.path.glob("frame-*.png")) and not force:
            raise UsageError(f"--preview {path}: holds frames already; give --force to replace them, or another folder")

    def __call__(self, update: Update) -> None:
        if not is_due(update, FRAMES):
            return
        pixels = estimate(update)
        if pixels is None:
            return
        self.count += 1
        if self.moving:
            image = Image.fromarray(pixels)
            image.thumbnail((FRAME_SIDE, FRAME_SIDE))
            self.frames.append(image)
            return
        name = f"frame-{self.count:03}-stage{update.stage + 1}-pass{update.pass_ + 1}-level{update.state.move.s:03}.png"
        Picture(pixels).write(self.path / name, force=self.force)

    def close(self) -> None:
        """Write the animation, with every frame at the size of the largest."""
        if not self.frames:
            return
        save_bytes(self.path, encode_animation(self.frames), force=self.force)


def make_folder(path: Path) -> None:
    """Create the folder of a preview.

    Raises:
        UsageError: it is named like a file, or cannot be created.
    """
    if path.suffix and not path.is_dir():
        raise UsageError(f"--preview {path}: give a folder, or a name that ends in .webp")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--preview {path}: {error.strerror}") from None


def encode_animation(frames: Sequence[Image.Image], back: bool = False) -> bytes:
    """Encode an animated WebP of `frames`, each at the size of the largest; `back`: forward and backward."""
    size = max(f.width for f in frames), max(f.height for f in frames)
    shown = [frame.resize(size, Image.Resampling.BILINEAR) for frame in frames]
    durations = [MILLISECONDS] * (len(shown) - 1) + [10 * MILLISECONDS]
    if back:
        shown, durations = shown + shown[-2:0:-1], durations + [MILLISECONDS] * (len(shown) - 2)
    data = io.BytesIO()
    shown[0].save(data, "WEBP", save_all=True, append_images=shown[1:], duration=durations, loop=0, quality=85)
    return data.getvalue()


@dataclass(frozen=True)
class Point:
    """The data of one move in a trace."""

    stage: int
    pass_: int
    move: Move
    energies: tuple[tuple[str, float], ...]
    gradients: tuple[tuple[str, float], ...]
    seconds: tuple[tuple[tuple[str, str], float], ...]
    calls: int


class Trace:
    """Writes a report of an edit, as a self-contained page (.html) or a sheet (.png).

    It has a strip of estimates, the plan, energies with the norm of their gradient, and the time spent.

    Raises:
        UsageError: the name has another ending, or the file exists.
        PictureError: it cannot be written.
    """

    def __init__(self, path: str | Path, *, force: bool = False) -> None:
        self.path = Path(path)
        self.force = force
        if self.path.suffix.lower() not in (".html", ".htm", ".png"):
            raise UsageError(f"--trace {path}: give a name that ends in .html or .png")
        check_output(self.path.with_suffix(".png") if self._page else self.path, force=True)
        if self.path.exists() and not force:
            raise UsageError(f"--trace {path}: exists already; give --force to replace it, or another name")
        self.points: list[Point] = []
        self.strip: list[Tile] = []
        self.plans: dict[int, StagePlan] = {}

    @property
    def _page(self) -> bool:
        return self.path.suffix.lower() != ".png"

    def __call__(self, update: Update) -> None:
        state = update.state
        self.plans[update.stage] = update.plan
        if is_due(update, STRIP):
            pixels = estimate(update)
            if pixels is not None:
                image = Image.fromarray(pixels)
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                self.strip.append(Tile(f"{len(self.points) + 1}: level {state.move.s}", np.asarray(image)))
        self.points.append(
            Point(update.stage, update.pass_, state.move, state.energies, state.gradients, state.seconds, state.calls)
        )

    def close(self) -> None:
        """Write it."""
        if self._page:
            save_bytes(self.path, self._html().encode(), force=self.force)
        else:
            save(self._sheet(), self.path, force=self.force)

    def summary(self) -> list[str]:
        """Return a summary: one line for each stage, and the time."""
        rows = []
        for number, plan in sorted(self.plans.items()):
            names = " with ".join(plugin.name for plugin in plan.plugins)
            sizes = ", ".join(f"{part.at.width}x{part.at.height}" for part in plan.passes)
            rows.append(
                f"stage {number + 1}: {names} on {plan.info.name}, sampler {plan.sampler}, seed {plan.options.seed}, "
                f"passes at {sizes}, {plan.calls} network calls, {plan.backward} backward passes planned"
            )
        ups = sum(point.move.up for point in self.points)
        seconds = sum(s for point in self.points for _, s in point.seconds)
        rows.append(f"{len(self.points)} moves, {ups} of them upward; {seconds:.2f} s in hooks and network")
        return rows

    def charts(self) -> list[Image.Image]:
        """Draw charts of the plan, of energies and gradients if there are any, and of the time by hook."""
        return [*self._plan(), *self._energies(), *self._time()]

    def _plan(self) -> list[Image.Image]:
        if not self.points:
            return []
        series: dict[str, list[tuple[float, float]]] = defaultdict(list)
        red, dividers = [], []
        passes = dict.fromkeys((p.stage, p.pass_) for p in self.points)
        for k, point in enumerate(self.points):
            key = (point.stage, point.pass_)
            name = f"stage {point.stage + 1} pass {point.pass_ + 1}" if len(passes) > 1 else "level"
            if name not in series:
                series[name].append((k, point.move.t))
                if k:
                    dividers.append((float(k), ""))
            series[name].append((k + 1, point.move.s))
            if point.move.up:
                red.append(((float(k), float(point.move.t)), (k + 1.0, float(point.move.s))))
            passes[key] = None
        title = "noise level by move (red: upward)" if red else "noise level by move"
        return [lines(title, series, "move", red=red, dividers=dividers)]

    def _energies(self) -> list[Image.Image]:
        series: dict[str, list[tuple[float, float]]] = defaultdict(list)
        norms: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for k, point in enumerate(self.points):
            for name, value in point.energies:
                series[name].append((k + 1, value))
            for name, norm in point.gradients:
                if norm > 0.0:
                    norms[name].append((k + 1, math.log10(norm)))
        if not series:
            return []
        gradient = [lines("log10 of the norm of the energies' gradient", norms, "move")] if norms else []
        return [lines("energies, weights included", series, "move"), *gradient]

    def _time(self) -> list[Image.Image]:
        totals: dict[str, float] = defaultdict(float)
        for point in self.points:
            for (who, hook), seconds in point.seconds:
                totals[f"{who}: {hook}"] += seconds * 1000.0
        return [bars("time by hook", totals, "ms")] if totals else []

    def _sheet(self) -> Image.Image:
        parts = self.charts()
        if self.strip:
            parts.insert(0, sheet(self.strip, columns=8, side=THUMBNAIL))
        rows = self.summary()
        width = max([part.width for part in parts] + [math.ceil(font().getlength(row)) + 2 * GAP for row in rows])
        top = GAP + LINE * len(rows)
        page = Image.new("RGB", (width, top + sum(part.height + GAP for part in parts)), PAPER)
        from PIL import ImageDraw

        for k, row in enumerate(rows):
            ImageDraw.Draw(page).text((GAP, GAP // 2 + k * LINE), row, fill=(0, 0, 0), font=font())
        for part in parts:
            page.paste(part, (0, top))
            top += part.height + GAP
        return page

    def _html(self) -> str:
        figures = "".join(
            f"<figure><img src='{_uri(Image.fromarray(tile.pixels))}' alt=''>"
            f"<figcaption>{html.escape(tile.label)}</figcaption></figure>"
            for tile in self.strip
        )
        charts = "".join(f"<p><img src='{_uri(chart)}' alt=''></p>" for chart in self.charts())
        rows = "".join(f"<li>{html.escape(row)}</li>" for row in self.summary())
        return _PAGE.format(rows=rows, figures=figures, charts=charts)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>editkit trace</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#202124}}
figure{{display:inline-block;margin:0 6px 6px 0}}figcaption{{font-size:11px;color:#787c82}}
figure img{{height:96px;image-rendering:auto}}img{{max-width:100%}}h2{{font-size:17px}}</style></head>
<body><h1>How it was made</h1><ul>{rows}</ul><h2>Estimates of the result</h2><div>{figures}</div>
<h2>The process</h2>{charts}</body></html>
"""


def _uri(image: Image.Image) -> str:
    """Encode a picture as a data URI."""
    data = io.BytesIO()
    image.save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
