"""Training of `pocket`, on a tiny network and painted pictures: seconds, no download."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from toy_training import TINY, paint, photos, prior_run, settings

from editkit.errors import EditkitError
from editkit.models.pocket.residual import TASKS
from editkit.training import loop, network
from editkit.training.checkpoint import FILE, load_checkpoint
from editkit.training.loop import Run
from editkit.training.network import build_unet, export
from editkit.training.optimizer import ema_exponent, rate
from editkit.training.pictures import load_collection
from editkit.training.settings import PriorSettings

__all__ = ["photos"]

pytestmark = pytest.mark.slow


@pytest.fixture
def no_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Run, "_sheet", lambda self: None)


@pytest.mark.usefixtures("no_sheets")
@pytest.mark.parametrize(("optimizer", "dtype"), [("muon", "fp32"), ("adamw", "fp32"), ("muon", "bf16")])
def test_a_stopped_and_resumed_run_gives_the_uninterrupted_weights(
    photos: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, dtype: str
) -> None:
    changes = {"optimizer": optimizer, "dtype": dtype}
    whole = prior_run(settings(photos, "whole", **changes))
    whole.run()
    step = Run.step

    def stopping(self: Run, *args: Any) -> None:
        if self.progress.step == 2:
            noted = signal.getsignal(signal.SIGTERM)  # called: raised without a handler it would end the tests
            assert callable(noted)
            noted(signal.SIGTERM, None)
        step(self, *args)

    monkeypatch.setattr(Run, "step", stopping)
    first = prior_run(settings(photos, "parts", **changes))
    assert first.run().step == 3
    monkeypatch.setattr(Run, "step", step)
    second = prior_run(settings(photos, "parts", **changes), resume=True)
    assert second.run().step == 6
    a, b = whole.trainer.state(), second.trainer.state()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert second.progress.pictures == 30


@pytest.mark.usefixtures("no_sheets")
def test_training_learns_and_leaves_log_export_and_attribution(photos: Path) -> None:
    run = prior_run(settings(photos, steps=75, batch=12, learning_rate=2e-2, measure_every=25))
    run.run()
    rows = [json.loads(line) for line in (run.settings.output / "log.jsonl").read_text().splitlines()]
    measured = [row for row in rows if row["kind"] == "validation"]
    assert len(measured) == 3
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert len(losses) == 3
    assert losses[-1] < losses[0]  # means of 300 windows; by how much depends on the processor's rounding
    assert set(TASKS) <= measured[0].keys()
    folder = run.settings.output / "export"
    text = (folder / "ATTRIBUTION.md").read_text()
    assert "A/uthor 1" in text
    assert "A/uthor 0" not in text  # held back
    again = prior_run(settings(photos, "warm", steps=1), init_from=folder)
    for name, value in run.trainer.average.items():
        assert torch.equal(again.trainer.masters[name], value.half().float())


def test_report_measures_the_heldout(photos: Path) -> None:
    from editkit.training.report import make_report

    folder = photos.parent / "export"
    torch.manual_seed(0)
    export(folder, TINY, dict(build_unet(TINY).state_dict()))
    (folder / "heldout.txt").write_text("p0.png\np1.png\n")
    out = photos.parent / "report"
    figures = make_report(folder, photos, out, folder / "heldout.txt", steps=2, samples=2, seed=0)
    assert {"inpaint", "refine", "upscale", "colorize", "prior"} == figures.keys()
    assert figures == json.loads((out / "figures.json").read_text())
    assert {p.name for p in out.glob("*.png")} >= {"inpaint.png", "upscale.png", "colorize.png", "prior.png"}


def test_heldout_and_its_twins_are_never_trained_on(photos: Path) -> None:
    with Image.open(photos / "p0.png") as picture:
        picture.resize((37, 31)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "twin.png")
    paint(photos / "small.png", 9, (40, 12))
    (photos / "broken.jpg").write_bytes(b"not a picture")
    found = load_collection(photos, 16, photos.parent / "heldout.txt")
    assert [p.name for p in found.heldout] == ["p0.png"]
    assert [p.name for p in found.training] == ["p1.png", "p2.png", "p3.png", "p4.png"]
    reasons = {s.name: s.reason for s in found.skipped}
    assert "near-duplicate of the held-back p0.png" in reasons["twin.png"]
    assert "40x12 is smaller than a window of 16" in reasons["small.png"]
    assert "unreadable" in reasons["broken.jpg"]


def test_refusals(photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(EditkitError, match="holds no picture"):
        load_collection(empty, 16)
    with pytest.raises(EditkitError, match="is not a folder"):
        load_collection(tmp_path / "absent", 16)
    with pytest.raises(EditkitError, match="no picture is left"):
        load_collection(photos, 200)
    (tmp_path / "wrong.txt").write_text("gone.png\n")
    with pytest.raises(EditkitError, match=r"gone\.png"):
        load_collection(photos, 16, tmp_path / "wrong.txt")
    with pytest.raises(EditkitError, match="no checkpoint to resume"):
        prior_run(settings(photos, "nothing"), resume=True)
    with pytest.raises(EditkitError, match="is not an exported network"):
        prior_run(settings(photos), init_from=tmp_path)
    with pytest.raises(EditkitError, match="must be divisible by 4"):
        build_unet(TINY.model_copy(update={"window": 18}))


@pytest.mark.usefixtures("no_sheets")
def test_another_architecture_or_a_damaged_checkpoint_is_refused(photos: Path) -> None:
    made = settings(photos, steps=1)
    prior_run(made).run()
    wider = TINY.model_copy(update={"channels": (8, 24)})
    with pytest.raises(EditkitError, match=r"another architecture .*8-16.*8-24"):
        load_checkpoint(made.model_copy(update={"architecture": wider}))
    path = made.output / FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EditkitError, match="is damaged"):
        load_checkpoint(made)
    path.write_bytes(b"junk")
    with pytest.raises(EditkitError, match="is not a checkpoint"):
        load_checkpoint(made)


@pytest.mark.usefixtures("no_sheets")
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(photos: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    made = settings(photos, steps=1)
    run = prior_run(made)
    run.run()
    before = (made.output / FILE).read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(network.os, call, full)
    with pytest.raises(EditkitError, match="No space left on device"):
        run.save()
    monkeypatch.undo()
    assert (made.output / FILE).read_bytes() == before
    assert not [p for p in made.output.iterdir() if p.name.startswith(".")]


def test_rate_and_average() -> None:
    made = PriorSettings(images=Path(), output=Path(), steps=100, warmup=10, cooldown=0.5)
    assert rate(made, 0) == pytest.approx(0.1)
    assert rate(made, 30) == 1
    assert rate(made, 75) == pytest.approx(0.5)
    assert rate(made, 99) == pytest.approx(0.02)
    assert ema_exponent(0.1) == pytest.approx(6.94, abs=0.01)  # Karras et al. 2024, section 3.1


def test_the_rate_is_0_when_the_minutes_are_over() -> None:
    made = PriorSettings(images=Path(), output=Path(), steps=10**9, minutes=10, warmup=10, cooldown=0.25)
    assert rate(made, 500, 440) == 1
    assert rate(made, 500, 525) == pytest.approx(0.5)
    assert rate(made, 500, 600) == rate(made, 500, 700) == 0
    assert rate(made.model_copy(update={"steps": 1000}), 999, 10) == pytest.approx(1 / 250)  # whichever ends first
    assert rate(made.model_copy(update={"steps": 1000}), 1000, 10) == 0


@pytest.mark.usefixtures("no_sheets")
def test_a_run_ends_with_its_minutes_at_a_rate_near_0(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, rates = [0.0], []

    def clock() -> float:
        now[0] += 0.25
        return now[0]

    def noted(*args: Any) -> float:
        rates.append(rate(*args))
        return rates[-1]

    monkeypatch.setattr(loop.time, "monotonic", clock)
    monkeypatch.setattr(loop, "rate", noted)
    run = prior_run(settings(photos, steps=10_000, minutes=0.2, warmup=1, cooldown=0.5))
    assert run.run().step == len(rates) == 24  # 12 seconds of two looks at the clock a step
    assert rates[:10] == [1.0] * 10
    assert rates[-1] < 0.1
    assert (run.settings.output / FILE).exists()


@pytest.mark.usefixtures("no_sheets")
def test_a_loss_that_is_not_finite_ends_the_run_before_anything_is_written(photos: Path) -> None:
    run = prior_run(settings(photos, steps=3))
    with torch.no_grad():
        next(run.lesson.network.parameters()).fill_(float("nan"))
    with pytest.raises(EditkitError, match="the loss was not finite"):
        run.run()
    assert not (run.settings.output / FILE).exists()


def _cli(*words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from editkit.cli.train import app; app(sys.argv[1:])"
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]))
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, env=environment)


def test_resume_and_init_from_exclude_each_other(photos: Path) -> None:
    done = _cli("prior", "--images", str(photos), "--output", "o", "--resume", "--init-from", "x")
    assert done.returncode != 0
    assert "exclude each other" in done.stderr


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; from editkit.cli.train import app\n"
        "try: app(['prior', '--help'])\nexcept SystemExit: pass\nsys.exit('torch' in sys.modules)"
    )
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "--heldout" in done.stdout


def test_command_trains(photos: Path) -> None:
    words = ["prior", "--images", str(photos), "--output", str(photos.parent / "cli"), "--steps", "2"]
    words += ["--batch", "4", "--channels", "32,32", "--layers", "1", "--window", "16"]
    done = _cli(*words)
    assert done.returncode == 0, done.stderr
    assert "licence" not in done.stderr.split("CC0-1.0")[0]
    assert (photos.parent / "cli" / "export" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert (photos.parent / "cli" / "sheets" / "step000002.png").exists()
