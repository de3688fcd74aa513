"""The everyday tasks of docs/day.md: make their inputs, run their commands, leave results to be looked at.

    python benchmarks/day.py --photos ../shared/photos --out day/
    python benchmarks/day.py --photos ../shared/photos --out day/ --only horse,table,plaza

Inputs are made in OUT/in (benchmarks/day_inputs.py), each command runs there as a user would type it, and its result,
OUT/KEY.png, and what it printed, OUT/KEY.txt, remain, with a table of exit codes and seconds, and PSNR in dB against
the truth where there is one. Nothing is scored: that takes eyes. `--list` prints the commands.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import day_inputs
import numpy as np
from PIL import Image

COW = (
    "polygon:21%,57%,24%,47%,27%,40%,31%,39%,36%,43%,45%,37%,60%,37%,75%,37%,87%,37%,91%,43%,91%,90%,86%,91%,82%,75%,"
    "78%,84%,73%,91%,72%,88%,77%,78%,76%,70%,62%,70%,54%,69%,53%,90%,48%,91%,47%,89%,43%,91%,42%,88%,45%,70%,39%,68%,"
    "36%,60%,31%,56%,25%,63%"
)
NARWHALS = (
    "polygon:3%,45%,24%,46%,28%,41%,33%,42%,45%,42%,60%,42%,75%,46%,90%,45%,98%,47%,98%,56%,85%,58%,70%,64%,71%,78%,"
    "55%,80%,40%,74%,34%,70%,33%,58%,24%,53%,3%,49%"
)
HEN = "polygon:8%,20%,10%,17%,17%,20%,20%,32%,22%,50%,22%,65%,19%,76%,8%,76%,3%,66%,3%,55%,6%,40%,9%,32%"
TABLE = "polygon:61%,66%,72%,63%,90%,65%,94%,72%,85%,81%,83%,100%,69%,100%,70%,81%,61%,75%"
KINGFISHER = (
    "polygon:27%,67%,29%,40%,34%,28%,38%,11%,46%,8%,54%,14%,64%,25%,63%,29%,55%,30%,55%,48%,50%,62%,48%,73%,44%,76%,"
    "40%,75%,36%,89%,32%,88%,30%,75%"
)
SMALL_COWS = "box:25%,22%,42.5%,38%+box:78%,23.5%,89.5%,36%"
POST = "box:61.5%,48%,66%,93%+box:62.5%,88%,65.3%,100%"
PEOPLE = "box:5%,77%,15%,95%+box:41%,79%,51%,92%+box:54%,78%,59%,94%+box:31%,81%,36%,90%"


@dataclass(frozen=True)
class Task:
    """What is done with which command, where `{out}` is the result; `truth` is the image it is compared with."""

    key: str
    title: str
    command: str
    truth: str | None = None


TASKS = (
    Task("first", "README's first command", "inpaint damaged.jpg --mask aqueduct.png -o {out}"),
    Task("meadow", "animal from grass", "inpaint meadow.jpg --mask meadow.png --grow 4 -o {out}"),
    Task("horse", "horse", "inpaint horses.jpg --mask horses.png -o {out}"),
    Task("cow", "cow, a quarter of the picture", f"remove cow.jpg --mask {COW} -o {{out}}"),
    Task("cows", "two small cows", f"remove cow.jpg --mask {SMALL_COWS} -o {{out}}"),
    Task("narwhals", "narwhals from the sea", f"remove narwhal.jpg --mask {NARWHALS} -o {{out}}"),
    Task("post", "lamp post before a facade", f"remove victoria.jpg --mask {POST} -o {{out}}"),
    Task("post4500", "the same, soft, 4500 px", f"remove victoria4500.png --mask {POST} -o {{out}}"),
    Task("post6000", "the same, soft, 6000 px", f"remove victoria6000.png --mask {POST} -o {{out}}"),
    Task("people", "two people, 320x240", "remove windmill.jpg --mask box:89%,77%,98%,95% -o {out}"),
    Task("hen", "a hen", f"remove chicken.jpg --mask {HEN} -o {{out}}"),
    Task("table", "stone table at sunset", f"remove sunset.jpg --mask {TABLE} -o {{out}}"),
    Task("kingfisher", "bird in front of bokeh", f"remove kingfisher.jpg --mask {KINGFISHER} -o {{out}}"),
    Task("plaza", "people on a plaza", f"remove gate.jpg --mask {PEOPLE} -o {{out}}"),
    Task("date", "date stamp", "remove dated.jpg --mask timestamp -o {out}"),
    Task(
        "text", "white text over an animal", "remove lettered.png --mask 'color:white~40&box:18%,30%,85%,46%' -o {out}"
    ),
    Task(
        "watermark",
        "tiled translucent watermark",
        "inpaint marked.png --mask watermark:mark.png --grow 2 -o {out}",
        "truth-marked.png",
    ),
    Task("scan", "scan: automatic mask", "repair old.png -o {out}", "truth-old.png"),
    Task("scanmask", "scan: with a mask", "inpaint old.png --mask oldmask.png --grow 1 -o {out}", "truth-old.png"),
    Task("corners", "corners after rotation", "inpaint rot.png --mask alpha -o {out}"),
    *(
        Task(f"wide-{name}", f"16:9, {name}", f"uncrop {name}.jpg --aspect 16:9 -o {{out}}")
        for name in ("mountain", "palace", "kangaroo", "opera", "pyramid")
    ),
    Task(
        "round",
        "200 px all round",
        "uncrop colosseum.jpg --top 200 --bottom 200 --left 200 --right 200 -o {out}",
    ),
    *(
        Task(f"texture-{name}", f"texture, {name}", f"texture {name}.jpg --size 512x384 -o {{out}}")
        for name in ("grass", "wall", "bubbles")
    ),
    Task("tile", "seamless texture", "texture grass.jpg --size 256x256 --tile -o {out}"),
    Task("x2", "enlarge x2, 256x144", "upscale small.png -o {out}", "truth-small.png"),
    Task("x4", "enlarge x4, 128x72", "upscale tiny.png --scale 4 -o {out}", "truth-small.png"),
    Task("cascade", "cascade", "upscale tiny.png then upscale -o {out}", "truth-small.png"),
    Task("dark", "white noise 15, dark scene", "denoise dark.png -o {out}", "truth-dark.png"),
    Task("iso", "high ISO, JPEG", "denoise iso.jpg -o {out}", "truth-iso.png"),
    Task("feathers", "white noise 20, 1024x683", "denoise feathers.png -o {out}", "truth-feathers.png"),
    Task("blur", "blur, gaussian 2", "restore blurred.png --degradation gaussian:2 -o {out}", "truth-blurred.png"),
    Task("motion", "motion blur 13 px", "restore moved.png --degradation motion:13,25 -o {out}", "truth-moved.png"),
    Task("jpeg", "JPEG 15", "restore compressed.jpg --degradation jpeg -o {out}", "truth-compressed.png"),
    Task(
        "lost",
        "lost pixels, half of them",
        "restore incomplete.png --degradation mask --mask lost.png -o {out}",
        "truth-incomplete.png",
    ),
    *(Task(f"colour-{name}", f"colour, {name}", f"colorize {name}.png -o {{out}}") for name in day_inputs.GREY),
    Task("vary4", "variation, 0.4", "sdedit kingfisher.jpg --strength 0.4 -o {out}"),
    Task("vary8", "variation, 0.8", "sdedit kingfisher.jpg --strength 0.8 -o {out}"),
    Task(
        "tint",
        "colour in a hole",
        "inpaint meadow.jpg --mask meadow.png with guide --loss color --color '#a05030' -o {out}",
    ),
    Task(
        "palette",
        "palette for a whole picture",
        "sdedit bird.jpg --strength 0.6 with guide --loss palette --palette '#203040,#c0a060' -o {out}",
    ),
    Task(
        "chain",
        "chain of three",
        "inpaint meadow.jpg --mask meadow.png with guide --loss brightness --brightness 0.6 "
        "then sdedit --strength 0.2 then upscale -o {out}",
    ),
    Task(
        "grid",
        "grid",
        "grid --vary inpaint.grow=0,4 --vary seed=1,2,3 inpaint meadow.jpg --mask meadow.png -o {out}",
    ),
)


def psnr(made: Path, truth: Path) -> float | None:
    """PSNR in dB of 8 bits, None where the sizes differ."""
    x, y = (np.asarray(Image.open(file).convert("RGB"), dtype=np.float64) for file in (made, truth))
    return float(10.0 * np.log10(255.0**2 / np.square(x - y).mean())) if x.shape == y.shape else None


def run(task: Task, inputs: Path, out: Path) -> str:
    """Run the task's command in `inputs`; its row of the table."""
    made = out.resolve() / f"{task.key}.png"
    words = shlex.split(task.command.replace("{out}", shlex.quote(str(made))))
    beside = shutil.which("editkit", path=str(Path(sys.executable).parent)) or "editkit"
    start = time.monotonic()
    done = subprocess.run([beside, *words, "--force"], cwd=inputs, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    (out / f"{task.key}.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    nearness = psnr(made, inputs / task.truth) if task.truth and made.exists() else None
    against = "" if nearness is None else f"  {nearness:.2f} dB"
    return f"{task.key:16} {done.returncode:3} {seconds:7.1f} s{against}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the everyday tasks of docs/day.md.")
    parser.add_argument("--photos", type=Path, help="the folder of photographs")
    parser.add_argument("--out", type=Path, default=Path("day"), help="where inputs and results go")
    parser.add_argument("--only", default="", help="keys of tasks, with commas between them")
    parser.add_argument("--list", action="store_true", help="print keys, titles and commands, and run nothing")
    asked = parser.parse_args()
    wanted = [key for key in asked.only.split(",") if key]
    unknown = sorted(set(wanted) - {task.key for task in TASKS})
    if unknown:
        parser.error(f"no such task: {', '.join(unknown)}; there are {', '.join(task.key for task in TASKS)}")
    tasks = [task for task in TASKS if not wanted or task.key in wanted]
    if asked.list:
        for task in tasks:
            print(f"{task.key}: {task.title}\n    editkit {task.command.replace('{out}', f'{task.key}.png')}")
        return
    if asked.photos is None:
        parser.error("--photos is missing: the folder of photographs with manifest.json")
    day_inputs.lay(asked.photos, asked.out / "in")
    for task in tasks:
        print(run(task, asked.out / "in", asked.out), flush=True)


if __name__ == "__main__":
    main()
