"""`editkit studio` under load, and its brush: `python benchmarks/studio.py load brush strokes`.

`load`: 8 clients ask one server, over loopback, for 200 edits of pictures of their own; some cancel, some send what is
broken, some go away while they listen. Counted: edits lost, results mixed up, the server's largest memory.
`brush`: times of frames while a pointer paints at 12 megapixels, in headless Chromium. `strokes`: how far a dot lies
from the pointer on pictures of 0.1, 12 and 100 megapixels.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
from PIL import Image

CLIENTS, EDITS = 8, 200
SIZE = (96, 72)
HOLE = (slice(20, 34), slice(30, 50))


@contextmanager
def studio(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A studio in a process of its own: its address, and the process."""
    code = "from editkit.cli import main; main()"
    words = [sys.executable, "-c", code, "studio", str(folder), "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def ask(address: str, path: str, data: object = None) -> bytes:
    """One answer."""
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    kind = {} if isinstance(data, bytes) or data is None else {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address + path, body, kind), timeout=600) as answer:
        return bytes(answer.read())


def picture(seed: int) -> np.ndarray:
    """(H, W, 3) that no other seed has."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]] / max(SIZE)
    smooth = np.stack([x, y, 0.5 + 0.0 * x], axis=-1) * 0.8
    return ((smooth + 0.2 * np.random.default_rng(seed).random(smooth.shape)) * 255).astype(np.uint8)


def client(address: str, number: int, wanted: int, counts: Counter[str], waits: list[float]) -> None:
    """One client: asks, and sometimes cancels, sends what is broken, or goes away."""
    draw = random.Random(number)
    for k in range(wanted):
        kind = draw.choices(("plain", "cancel", "broken", "away"), (0.7, 0.1, 0.1, 0.1))[0]
        array = picture(1000 * number + k)
        file = io.BytesIO()
        Image.fromarray(array).save(file, "PNG")
        if kind == "broken":
            try:
                ask(address, "pictures?name=broken.png", file.getvalue()[:200] + b"\0" * 50)
                counts["broken, taken"] += 1
            except urllib.error.HTTPError as error:
                counts["broken, refused" if error.code == 422 else f"broken, {error.code}"] += 1
            continue
        sent = json.loads(ask(address, f"pictures?name=p{number}-{k}.png", file.getvalue()))
        recipe = {
            "editkit": 2,
            "stages": [{"plugins": [{"inpaint": {"mask": "box:30,20,50,34"}}], "options": {"steps": 3, "seed": k}}],
        }
        began = time.perf_counter()
        asked = {"picture": sent["id"], "recipe": recipe, "tab": f"client-{number}"}
        edit = json.loads(ask(address, "edits", asked))[0]["id"]
        if kind == "cancel":
            ask(address, f"edits/{edit}/cancel", {})
        elif kind == "away":
            urllib.request.urlopen(f"{address}edits/{edit}/events", timeout=600).close()
        else:
            ask(address, f"edits/{edit}/events")
        state = "waiting"
        while state in ("waiting", "running"):
            state = json.loads(ask(address, f"edits/{edit}"))["state"]
            time.sleep(0.05)
        waits.append(time.perf_counter() - began)
        counts[f"{kind}, {state}"] += 1
        if state == "done":
            made = np.asarray(Image.open(io.BytesIO(ask(address, f"edits/{edit}/result"))))
            kept = np.ones(array.shape[:2], bool)
            kept[HOLE] = False
            right = np.array_equal(made[kept], array[kept]) and not np.array_equal(made[HOLE], array[HOLE])
            counts["right" if right else "MIXED UP"] += 1


def load() -> dict[str, Any]:
    """200 edits by 8 clients."""
    counts: Counter[str] = Counter()
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as folder, studio(Path(folder)) as (address, process):
        first = process.memory_info().rss
        threads = [
            threading.Thread(target=client, args=(address, k, EDITS // CLIENTS, counts, waits)) for k in range(CLIENTS)
        ]
        began, most = time.perf_counter(), first
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, process.memory_info().rss)
            time.sleep(0.2)
        seconds = time.perf_counter() - began
        left = [edit for edit in json.loads(ask(address, "edits")) if edit["state"] in ("waiting", "running")]
    return {
        "counts": dict(sorted(counts.items())), "asked": EDITS, "lost": EDITS - sum(
            n for key, n in counts.items() if "," in key
        ), "left": len(left), "seconds": round(seconds, 1), "median_wait": round(float(np.median(waits)), 2),
        "memory_at_start_MB": first >> 20, "memory_most_MB": most >> 20,
    }  # fmt: skip


@contextmanager
def page(folder: Path) -> Iterator[Any]:
    """The studio's page in headless Chromium."""
    from playwright.sync_api import sync_playwright

    found = os.environ.get("EDITKIT_CHROMIUM") or shutil.which("chromium")
    with studio(folder) as (address, _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        made = browser.new_page(viewport={"width": 1440, "height": 900})
        made.set_default_timeout(120_000)
        made.goto(address)
        made.wait_for_selector("html[data-ready]")
        yield made
        browser.close()


def flat(folder: Path, width: int, height: int) -> str:
    """A picture of one grey, with a little noise in a corner."""
    array = np.full((height, width, 3), 120, np.uint8)
    array[:200, :200] += np.random.default_rng(0).integers(0, 60, (200, 200, 3), dtype=np.uint8)[:height, :width]
    cv2.imwrite(str(folder / f"{width}x{height}.png"), array, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return f"{width}x{height}.png"


def open_picture(made: Any, name: str) -> None:
    """Open a picture of the folder."""
    record = made.evaluate(
        "(path) => fetch('pictures/open', {method: 'POST', headers: {'content-type': 'application/json'}, "
        "body: JSON.stringify({path})}).then((answer) => answer.json())",
        name,
    )
    made.goto(made.url.partition("#")[0] + f"#picture={record['id']}")
    made.reload()
    made.wait_for_selector("html[data-ready]")
    while not made.evaluate("studio.view.mask !== null && studio.view.shown !== null"):
        made.wait_for_timeout(50)
    made.wait_for_timeout(500)


GAPS = """() => {
    const seen = window.gaps = [];
    const tick = (now) => { if (window.gaps === seen) { seen.push(now); requestAnimationFrame(tick); } };
    requestAnimationFrame(tick);
}"""
"""Notes when each frame of the screen is drawn."""


def brush() -> dict[str, Any]:
    """Frames while a brush of 40 and of 400 pixels paints 3 seconds at 12 megapixels."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        name = flat(Path(folder), 4000, 3000)
        with page(Path(folder)) as made:
            open_picture(made, name)
            box = made.locator("#canvas").bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            for size, zoom in ((40, "fit"), (400, "fit"), (40, 1.0)):
                made.evaluate("studio.view.fit()" if zoom == "fit" else f"studio.view.zoomTo({zoom})")
                made.wait_for_timeout(800)
                made.evaluate(f"studio.tools.size = {size}; studio.view.frames = []")
                made.evaluate(GAPS)
                made.mouse.move(x - 200, y)
                made.mouse.down()
                for k in range(120):
                    made.mouse.move(x + 200 * np.cos(k / 9), y + 150 * np.sin(k / 7))
                made.mouse.up()
                frames = np.array(made.evaluate("studio.view.frames"))
                gaps = np.diff(
                    made.evaluate("(() => { const seen = window.gaps; window.gaps = null; return seen; })()")
                )
                rows[f"brush of {size}, zoom {zoom}"] = {
                    "frames": len(frames), "median_ms": round(float(np.median(frames)), 2),
                    "p95_ms": round(float(np.percentile(frames, 95)), 2), "most_ms": round(float(frames.max()), 2),
                    "gap_median_ms": round(float(np.median(gaps)), 1),
                    "gap_p95_ms": round(float(np.percentile(gaps, 95)), 1),
                }  # fmt: skip
    return rows


def strokes() -> dict[str, Any]:
    """The distance of a dot's middle from the pointer, in pixels of the picture."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        names = [flat(Path(folder), *size) for size in ((400, 250), (4000, 3000), (10_000, 10_000))]
        with page(Path(folder)) as made:
            for name in names:
                open_picture(made, name)
                for zoom in (0.1, 1.0, 8.0):
                    made.evaluate(
                        f"studio.view.mask.fill(0); studio.view.mask.end(); studio.tools.size = 6; "
                        f"studio.view.zoomTo({zoom})"
                    )
                    made.wait_for_timeout(200)
                    left, top, ox, oy, z, wide, high = made.evaluate(
                        "(() => { const p = document.getElementById('canvas').getBoundingClientRect(), v = studio.view;"
                        " return [p.left, p.top, v.x, v.y, v.z, p.width, p.height]; })()"
                    )
                    x, y = left + wide / 2 + 3, top + high / 2 - 2
                    made.mouse.click(x, y)
                    first, upper, last, lower = made.evaluate("studio.view.mask.bounds()")
                    off = max(
                        abs((first + last) / 2 - (x - left - ox) / z), abs((upper + lower) / 2 - (y - top - oy) / z)
                    )
                    rows[f"{name} at zoom {zoom}"] = round(off, 3)
    return rows


if __name__ == "__main__":
    for section in sys.argv[1:] or ("load", "brush", "strokes"):
        print(json.dumps({section: {"load": load, "brush": brush, "strokes": strokes}[section]()}), flush=True)
