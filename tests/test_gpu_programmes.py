"""benchmarks/gpu.py and what is carried to a machine with a GPU, tiny and on the processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def ran(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)


def test_every_section_runs_and_none_has_an_error(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    done = ran(sys.executable, "-W", "ignore", "benchmarks/gpu.py", "--device", "cpu", "--tiny", "--json", str(file))
    found = json.loads(file.read_text())
    errors = [row for row in found["rows"] if "error" in row or "left_out" in row]
    assert not errors, errors
    assert done.returncode == 0, done.stderr
    sections = {row["section"] for row in found["rows"]}
    assert sections == {"parity", "training", "edits", "training2", "hooks", "patches", "compiled", "offload"}
    rows = {(row["section"], row["what"]): row for row in found["rows"]}
    for (section, what), row in rows.items():
        if section == "parity" and "largest" in row:
            assert row["largest"] == 0, what  # the device is the processor
    assert rows["training", "tiny, batch 4"]["windows_a_second"] > 0
    assert rows["edits", "SDXL"]["full_ratio"] > 0
    assert found["facts"]["device"] == "cpu"
    for section, what in rows:
        assert f"{section:<9} {what}" in done.stdout


def test_what_fails_is_a_row_and_the_rest_runs_and_no_time_is_said(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
sys.path.insert(0, "benchmarks")
import gpu

now = 0.0
time.monotonic = lambda: now  # how long the machine takes for this is its own business

def broken(bench):
    global now
    yield "one", lambda: {"x": 1.0}
    yield "two", lambda: 1 / 0
    now = 178.5
    yield "three", lambda: time.sleep(600)
    now = 180.0
    yield "four", lambda: {"x": 2.0}

def unmade(bench):
    raise RuntimeError("no such thing")
    yield

gpu.sections = lambda: {"unmade": unmade, "broken": broken}
record = gpu.Record(Path(sys.argv[1]), {})
gpu.run(gpu.Bench("cpu", True, Path(), Path()), 3.0, record, ["unmade", "broken"])
"""
    done = ran(sys.executable, "-c", code, str(tmp_path / "g.json"))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "g.json").read_text())["rows"]
    assert [row["what"] for row in rows] == ["-", "one", "two", "three", "four"]
    assert "no such thing" in rows[0]["error"]
    assert rows[1]["x"] == 1.0
    assert "ZeroDivisionError" in rows[2]["error"]
    assert rows[3]["left_out"] == "broken off: no time"
    assert rows[4]["left_out"] == "no time"


def test_a_session_is_packed_trains_and_gives_a_network_back(tmp_path: Path) -> None:
    """The script in a copy of what it needs, since `.gpu` is the session's."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("benchmarks", "editkit", "plugins", "assets"):
        (tree / name).symlink_to(ROOT / name)
    pack = ["benchmarks/gpu_pack.py", "--photos", "assets/photos", "--output", str(tree / ".gpu"), "--no-wheels"]
    done = ran(sys.executable, *pack)
    assert done.returncode == 0, done.stderr
    packed = sorted(p.name for p in (tree / ".gpu" / "photos").iterdir())
    assert packed == sorted(p.name for p in (ROOT / "assets" / "photos").glob("*.jpg"))
    assert "editkit.samplers" in next((tree / ".gpu" / "site").glob("*/entry_points.txt")).read_text()
    (tmp_path / "out").mkdir()
    (tmp_path / "none.txt").write_text("")
    script = f"cd {tree} && exec bash {tree}/benchmarks/gpu_session.sh train 1 --steps 3 --heldout {tmp_path}/none.txt"
    done = ran(
        "bash", "-c", script, OUT=str(tmp_path / "out"), DEVICE="cpu", TINY="1", PYTHON=sys.executable,
        RUN=str(tmp_path / "run"), SITE=str(tmp_path / "site"),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "export.tar.aa",
        "log.jsonl",
        "sheet.png",
        "train.log",
    ]
    done = ran("tar", "-C", str(tmp_path), "-xf", str(tmp_path / "out" / "export.tar.aa"))
    assert done.returncode == 0
    assert (tmp_path / "export" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
