"""Whether a change leaves every result as it was, bit for bit: the hashes of a fixed list of edits.

    python benchmarks/same_bits.py record benchmarks/same_bits.json
    python benchmarks/same_bits.py check benchmarks/same_bits.json [--only WORD]

`record` makes every edit of the list and keeps the SHA-256 of each result's pixels (with alpha, depth and size; not of
the file, whose provenance may change). `check` makes them again and names those that differ or are missing. Each
plugin, sampler, model family and method is in the list, at few steps on small pictures. The networks are tiny, with
random weights from fixed seeds (but the embedded ones): this shows that nothing moved, never that anything is good.

Only the command line and the public names are used (`editkit.cli.main`, `edit`, `sample`, `plugins`, `Gaussian`), so
whatever lies behind them may be moved. PYTHONPATH (a checkout, and its plugins/) says whose code runs; it is printed.
Hashes hold for one kind of processor and one version of torch: record and check on the same machine. Most networks work
on a picture of 16 bits, whose result shows smaller differences than one of 8.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import inspect
import io
import json
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from same_bits_list import COMMON, EDITS, SAMPLES, SEVERAL
from same_bits_models import models, pictures


def edits() -> dict[str, Callable[[], dict[str, str]]]:
    """Every edit by its name: a function that makes it and gives the hash of each result."""
    made: dict[str, Callable[[], dict[str, str]]] = {}
    for block, (first, lines) in EDITS.items():
        for line in filter(None, map(str.strip, lines.replace("\\\n", " ").split("\n"))):
            name, _, words = line.partition(": ")
            made[f"{block}/{name}"] = lambda name=f"{block}/{name}", words=words, first=first: one(name, words, first)
    for name, commands in SEVERAL.items():
        made[f"command/{name}"] = lambda name=f"command/{name}", commands=commands: several(name, commands)
    for name, (plugin, options) in SAMPLES.items():
        made[f"gaussian/{name}"] = lambda name=f"gaussian/{name}", p=plugin, o=options: {name: sampled(p, o)}
    for name in ("chain", "callable", "mixture"):
        made[f"python/{name}"] = lambda name=name: {f"python/{name}": digest(python(name))}
    return made


def one(name: str, words: str, first: str) -> dict[str, str]:
    """An edit command, with what stands `first` behind its picture where it does not say the same option itself."""
    plugin, picture, rest = words.split(" ", 2) if words.count(" ") > 1 else (*words.split(" "), "")
    before = shlex.split(f"{COMMON} {first}")
    own = {word for word in takewhile(lambda word: word not in ("with", "then"), shlex.split(rest)) if word[:2] == "--"}
    kept = [word for k, word in enumerate(before) if not own & {word, before[k - 1] if word[:2] != "--" else ""}]
    return several(name, (f"{plugin} {picture} {shlex.join(kept)} -o OUT.png {rest}",))


def several(name: str, commands: tuple[str, ...]) -> dict[str, str]:
    """Some commands, and the hash of each result: by the edit's name, further ones as NAME: FILE."""
    out = Path("made", "".join(c if c.isalnum() or c in "+-=" else "_" for c in name))
    for words in commands:
        command([word.replace("OUT", str(out)) for word in shlex.split(words)])
    files = [*out.parent.glob(f"{out.name}.*"), *out.rglob("*")]
    found = {
        str(file.relative_to(out.parent)).removeprefix(out.name).lstrip("./"): hash_of(file)
        for file in files
        if file.suffix in (".png", ".jpg", ".webp", ".tif", ".safetensors") and file.name != "checkpoint.safetensors"
    }
    if not found:
        raise RuntimeError("nothing was written")
    return {name if key == "png" else f"{name}: {key}": value for key, value in found.items()}


def hash_of(file: Path) -> str:
    """The hash of a picture's pixels, or of a network's tensors."""
    if file.suffix != ".safetensors":
        import cv2

        return digest(cv2.imread(str(file), cv2.IMREAD_UNCHANGED))
    from safetensors.numpy import load_file

    return digest(*(values for _, values in sorted(load_file(file).items())))


def command(words: list[str]) -> None:
    """`editkit WORDS` in this process.

    Raises:
        RuntimeError: it failed; what it said.
    """
    from editkit.cli import main

    said, code = io.StringIO(), None
    with redirect_stderr(said), redirect_stdout(said):
        try:
            main(words)
        except SystemExit as done:
            code = done.code
    gc.unfreeze()  # a process that goes on wants its memory back,
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # and ends when its pool asks it to
    if code:
        raise RuntimeError(" ".join(said.getvalue().split()))


def gaussian() -> Any:
    """A Gaussian of (3, 6, 5) values, neighbours alike."""
    import torch

    from editkit.models import Gaussian

    apart = (torch.arange(90)[:, None] - torch.arange(90)[None]).abs()
    return Gaussian(torch.linspace(-0.5, 0.5, 90).reshape(3, 6, 5), 0.4 * 0.8**apart)


def sampled(plugin: dict[str, Any] | None, options: dict[str, Any]) -> str:
    """One of SAMPLES."""
    import torch

    from editkit import sample
    from editkit.plugins import Inpaint

    if plugin is None:
        return digest(sample(gaussian(), shape=(2, 3, 6, 5), device="cpu", **options))
    mask = torch.zeros(1, 1, 6, 5)
    mask[..., 2:5, 1:4] = 1
    known = torch.linspace(-1, 1, 90).reshape(1, 3, 6, 5)
    return digest(
        sample(gaussian(), Inpaint(**plugin), shape=(2, 3, 6, 5), known=known, mask=mask, device="cpu", **options)
    )


def python(name: str) -> Any:
    """What the command line cannot say: arrays as masks, callables as losses, a mixture."""
    import torch

    from editkit import edit, sample
    from editkit.models import GaussianMixture
    from editkit.plugins import Guide, Inpaint, SDEdit

    mask = np.zeros((56, 72), np.float32)
    mask[14:34, 20:44] = 1
    match name:
        case "chain":
            chain = Inpaint(mask=mask) & Guide(brightness=0.7) | SDEdit(strength=0.5)
            return edit("photo.png", chain, steps=5, seed=7, device="cpu").pixels
        case "callable":
            loss = Guide(loss=lambda image: image.square().flatten(1).mean(1), weight=300)
            return edit("photo.png", SDEdit() & loss, model="pocket", steps=4, device="cpu").pixels
    means = torch.tensor([[-1.0, 0.0, 1.0], [1.0, 0.5, -1.0]])
    model = GaussianMixture(torch.tensor([0.3, 0.7]), means, 0.1 * torch.eye(3).expand(2, 3, 3))
    return sample(model, shape=(16, 3), steps=20, sampler="ddim:eta=1", device="cpu")


def digest(*arrays: Any) -> str:
    """SHA-256 of arrays or tensors with their types and shapes."""
    whole = hashlib.sha256()
    for array in map(np.ascontiguousarray, arrays):
        whole.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    return whole.hexdigest()


# ------------------------------------------------------------------------------------------------- recording, checking


def prepared(where: str) -> None:
    """A worker, before its first edit."""
    import torch

    torch.set_num_threads(1)
    os.chdir(where)


def worked(name: str) -> tuple[str, dict[str, str], str, float]:
    """(the edit's name, hashes, what went wrong, seconds)."""
    began = time.perf_counter()
    try:
        hashes, error = edits()[name](), ""
    except Exception as failed:
        hashes, error = {}, f"{type(failed).__name__}: {failed}"
    return name, hashes, error, time.perf_counter() - began


def hashed(names: list[str], jobs: int, slowest: int) -> tuple[dict[str, str], dict[str, str]]:
    """(hash of each result by name, error by edit) of `names`, by `jobs` processes."""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    os.environ["HF_HUB_OFFLINE"] = "1"
    found: dict[str, str] = {}
    errors: dict[str, str] = {}
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as where:
        here = Path.cwd()
        os.chdir(where)
        Path("made").mkdir()
        pictures()
        with redirect_stderr(io.StringIO()):  # progress bars
            models(Path(where, "models"))
        os.chdir(here)
        with multiprocessing.get_context("spawn").Pool(jobs, prepared, (where,)) as pool:
            for name, hashes, error, took in pool.imap_unordered(worked, names):
                found |= hashes
                errors |= {name: error} if error else {}
                seconds[name] = took
    for name in sorted(seconds, key=lambda name: -seconds[name])[:slowest]:
        print(f"{seconds[name]:6.1f} s  {name}")
    return dict(sorted(found.items())), errors


def machine() -> dict[str, Any]:
    """What the bits may depend on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    kind = f"{name}, {torch.backends.cpu.get_cpu_capability()}"
    return {"machine": kind, "torch": torch.__version__, "threads": 1}


def main() -> int:
    """Record or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--only", default="", help="check: edits whose name has this in it")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--slowest", type=int, default=0, help="name so many that took longest")
    given = parser.parse_args()
    if given.only and given.what == "record":
        parser.error("--only is for check; a record is whole")
    import editkit
    from editkit.plugins import Inpaint

    print(f"code: {Path(editkit.__file__).parent}, plugins: {Path(inspect.getfile(Inpaint)).parent}")
    began, now = time.perf_counter(), machine()
    names = [name for name in edits() if given.only in name]
    found, errors = hashed(names, given.jobs, given.slowest)
    for name, error in sorted(errors.items()):
        print(f"{name}: failed: {error}")
    took = f"{len(names)} edits, {len(found)} results, {time.perf_counter() - began:.0f} s"
    if given.what == "record":
        if not errors:
            given.file.write_text(json.dumps({**now, "edits": found}, indent=1) + "\n")
        print(took)
        return 1 if errors else 0
    recorded = json.loads(given.file.read_text())
    for key in now:
        if recorded[key] != now[key]:
            print(f"recorded with {key} {recorded[key]}, this is {now[key]}: what differs may be due to that")
    expected = {name: value for name, value in recorded["edits"].items() if given.only in name.partition(": ")[0]}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    for name in wrong:
        why = "is missing" if name not in found else "is not in the file" if name not in expected else "differs"
        print(f"{name}: {why}")
    print(f"{took}: " + (f"{len(wrong)} not the same" if wrong else "all the same"))
    return 1 if wrong or errors else 0


if __name__ == "__main__":
    sys.exit(main())
