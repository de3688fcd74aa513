"""Two processes at one run: the losses, weights and files of one, and going on with another number."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_training import photos, prior_run, settings

from editkit.errors import UsageError
from editkit.training.loop import Run
from editkit.training.settings import PriorSettings
from editkit.training.together import ALONE, together

assert photos  # a fixture

STEPS = 20
CHANGES: dict[str, Any] = {"steps": STEPS, "batch": 6, "report_every": 1, "threads": 1, "checkpoint_every": 10}


CODE = """
import sys, torch
from editkit.training.loop import Run
from editkit.training.prior import PriorLesson
from editkit.training.settings import PriorSettings
from editkit.training.settings import PriorSettings
from editkit.training.together import together
Run._sheet = lambda self: None
made = PriorSettings.model_validate_json(sys.argv[1])
with together(made.batch, torch.device("cpu")) as place:
    Run(made, PriorLesson(made), resume=sys.argv[2] == "resume", together=place).run()
"""


def start(count: int, made: PriorSettings, way: str = "begin") -> None:
    """A run in so many processes, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [made.model_dump_json(), way]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, *words], env={**os.environ, **where, "RANK": str(k)}, stderr=subprocess.PIPE
        )
        for k in range(count)
    ]
    said = [process.communicate()[1].decode() for process in running]
    assert [process.returncode for process in running] == [0] * count, "\n".join(said)


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
@pytest.mark.parametrize("optimizer", ["adamw"])
def test_two_processes_are_one_and_either_goes_on_with_the_others_run(photos, monkeypatch, optimizer):
    monkeypatch.setattr(Run, "_sheet", lambda self: None)
    whole = prior_run(settings(photos, "whole", **CHANGES, optimizer=optimizer))
    whole.run()
    expected = whole.trainer.state()
    start(2, settings(photos, "two", **CHANGES, optimizer=optimizer))
    one, two = losses(photos.parent / "whole"), losses(photos.parent / "two")
    assert len(one) == len(two) == STEPS
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) <= 1e-5
    alike(load_file(photos.parent / "two" / "checkpoint.safetensors"), expected)

    def stopping(self: Run, *args: Any) -> bool:
        real(self, *args)
        return self.progress.step == 9

    real = Run.step
    monkeypatch.setattr(Run, "step", stopping)
    assert prior_run(settings(photos, "parts", **CHANGES, optimizer=optimizer)).run().step == 10
    start(2, settings(photos, "parts", **CHANGES, optimizer=optimizer), "resume")
    alike(load_file(photos.parent / "parts" / "checkpoint.safetensors"), expected)
    assert max(abs(a - b) for a, b in zip(one, losses(photos.parent / "parts"), strict=True)) <= 1e-5


def test_alone_nothing_is_asked_of_anybody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with together(4, torch.device("cpu")) as place:
        assert place == ALONE
        assert place.first
    value = torch.ones(3)
    ALONE.add_up([value])
    assert value.tolist() == [1.0, 1.0, 1.0]
    assert ALONE.from_first("x") == "x"


def test_mistakes(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="WORLD_SIZE is set, and RANK and MASTER_ADDR and MASTER_PORT are not"):
        together(8, torch.device("cpu")).__enter__()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(UsageError, match="--batch 3: is shared by 4 processes; give at least 4"):
        together(3, torch.device("cpu")).__enter__()
