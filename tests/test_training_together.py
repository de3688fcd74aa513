"""Two processes at one run: the losses, weights and files of one, and going on with another number."""

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_training import TINY, photos, prior_run, settings

from editkit.cli import run
from editkit.errors import UsageError
from editkit.training.controlnet import ControlLesson
from editkit.training.distill import DistillLesson
from editkit.training.loop import Lesson, Run
from editkit.training.network import build_unet, export
from editkit.training.process_group import ALONE, ProcessGroup, join_process_group
from editkit.training.settings import ControlSettings, DistillSettings, PriorSettings, Settings

assert photos  # a fixture

STEPS, HALF = 8, 4
CHANGES: dict[str, Any] = {"steps": STEPS, "batch": 6, "report_every": 1, "threads": 1, "checkpoint_every": HALF}


CODE = """
import sys, torch
from editkit.training.loop import Run
from editkit.training.prior import PriorLesson
from editkit.training.settings import PriorSettings
from editkit.training.process_group import join_process_group
Run._sheet = lambda self: None
runs = [PriorSettings.model_validate_json(words) for words in sys.argv[1::2]]
with join_process_group(runs[0].batch, torch.device("cpu")) as place:
    for made, way in zip(runs, sys.argv[2::2]):
        Run(made, PriorLesson(made), resume=way == "resume", together=place).run()
"""


def start(count: int, *runs: PriorSettings) -> None:
    """Runs one after the other in so many processes, as torchrun starts them; what has begun goes on."""
    words = [word for made in runs for word in (made.model_dump_json(), "resume" if made.output.exists() else "begin")]
    for _ in range(20):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        codes, said = _started(count, words, port)
        if not any("EADDRINUSE" in one for one in said):  # another took the port meanwhile
            break
    assert codes == [0] * count, "\n".join(said)


def _started(count: int, words: list[str], port: str) -> tuple[list[int], list[str]]:
    """How each process ended, and what it said."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, *words], env={**os.environ, **where, "RANK": str(k)}, stderr=subprocess.PIPE
        )
        for k in range(count)
    ]
    said = []
    for process in running:
        said.append(process.communicate()[1].decode())
        if process.returncode:  # the others would wait for it
            for other in running:
                other.kill()
    return [process.returncode for process in running], said


def losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


def alike(made: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Weights and their averages to rounding. A key's bias moves no attention, so its gradient is rounding alone, which
    AdamW makes as large as any other.
    """
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith(("master.", "average.")) and not name.endswith("to_k.bias"):
            assert float((made[name] - value).norm()) <= 1e-3 * float(value.norm()) + 1e-5, name


@pytest.mark.slow
def test_two_processes_are_one_and_either_goes_on_with_the_others_run(photos, monkeypatch):
    def made(name: str) -> PriorSettings:
        return settings(photos, name, **CHANGES, optimizer="adamw")

    def stopping(self: Run, *args: Any) -> bool:
        real(self, *args)
        return self.progress.step == HALF - 1

    monkeypatch.setattr(Run, "_sheet", lambda self: None)
    whole = prior_run(made("whole"))
    whole.run()
    expected = whole.trainer.state()
    real = Run.step
    monkeypatch.setattr(Run, "step", stopping)
    assert prior_run(made("parts")).run().step == HALF
    start(2, made("two"), made("parts"))
    one = losses(photos.parent / "whole")
    for name in ("two", "parts"):
        other = losses(photos.parent / name)
        assert len(one) == len(other) == STEPS
        assert max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1e-5
        alike(load_file(photos.parent / name / "checkpoint.safetensors"), expected)


@dataclass
class Meeting:
    """Where two runs of one process add up."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2, timeout=300))
    told: dict[int, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Beside(ProcessGroup):
    """A place of two in one process."""

    meeting: Meeting = field(default_factory=Meeting)

    def sum_over_processes(self, tensors):
        self.meeting.told[self.place] = torch.cat([tensor.reshape(-1) for tensor in tensors])
        self.meeting.barrier.wait()
        total = self.meeting.told[0] + self.meeting.told[1]
        self.meeting.barrier.wait()
        for tensor, part in zip(tensors, torch.split(total, [t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def stepped(made: Settings, lesson: Lesson, place: ProcessGroup = ALONE, steps: int = 3) -> dict[str, torch.Tensor]:
    """What so many steps make of the learner."""
    going = Run(made, lesson, together=place)
    with ThreadPoolExecutor(2) as pool:
        for step in range(steps):
            going.step(pool, pool.submit(lesson.draw, step))
    return going.trainer.state()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "lesson"), [(ControlSettings, ControlLesson), (DistillSettings, DistillLesson)])
def test_every_lesson_is_shared_alike(photos, kind, lesson):
    """Two places take the steps of one with the same batch, for a ControlNet and for a distilled network too."""
    torch.manual_seed(0)
    export(photos.parent / "base", TINY, dict(build_unet(TINY).state_dict()))
    made = kind(images=photos, output=photos.parent / "out", heldout=photos.parent / "heldout.txt", threads=1,
                base=photos.parent / "base", batch=6, warmup=1, dtype="fp32", optimizer="adamw",
                architecture=TINY)  # fmt: skip
    expected, meeting = stepped(made, lesson(made)), Meeting()
    lessons = [lesson(made) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda k: stepped(made, lessons[k], Beside(k, 2, meeting)), range(2)))
    alike(both[0], expected)
    assert all(torch.equal(both[0][name], both[1][name]) for name in expected)


def test_a_classifier_is_not_shared_and_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(["train", "classifier", "--images", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert "runs in one process, but torchrun started several" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_alone_nothing_is_asked_of_anybody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_process_group(4, torch.device("cpu")) as place:
        assert place == ALONE
        assert place.first
    value = torch.ones(3)
    ALONE.sum_over_processes([value])
    assert value.tolist() == [1.0, 1.0, 1.0]
    assert ALONE.broadcast_first("x") == "x"


def test_mistakes(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="WORLD_SIZE is set, and RANK and MASTER_ADDR and MASTER_PORT are not"):
        join_process_group(8, torch.device("cpu")).__enter__()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(UsageError, match="--batch 3: is shared by 4 processes; give at least 4"):
        join_process_group(3, torch.device("cpu")).__enter__()
