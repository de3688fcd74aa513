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

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from editkit.errors import EditkitError
from editkit.models.pocket.residual import EXACT, PRIOR, ROUGH, TASKS, Residual, depth, deviation, luma
from editkit.pictures.filling import smooth_fill
from editkit.training import diffusion, loop, network
from editkit.training.checkpoint import FILE, load_checkpoint
from editkit.training.conditions import SHARES, blurred, inpaint_condition, rough, told
from editkit.training.draws import Draws, shared
from editkit.training.fast import hasten
from editkit.training.loop import Run
from editkit.training.masks import random_masks
from editkit.training.network import Pocket, build_unet, export, load
from editkit.training.optimizer import ema_exponent, rate
from editkit.training.pictures import load_collection
from editkit.training.prior import PriorLesson
from editkit.training.settings import Architecture, PriorSettings

pytestmark = pytest.mark.slow

TINY = Architecture(window=16, unshuffle=2, channels=(8, 16), layers=1, head=8, groups=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(*key: int) -> Draws:
    return Draws(key or (0,), torch.device("cpu"))


def paint(path: Path, seed: int, size: tuple[int, int] = (48, 40)) -> None:
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", size, tuple(int(v) for v in rng.integers(0, 255, 3)))
    pen = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y = int(rng.integers(0, size[0])), int(rng.integers(0, size[1]))
        pen.ellipse((x, y, x + 14, y + 12), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    picture.save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        paint(folder / f"p{i}.png", i)
    rows = [
        {"file": f"p{i}.png", "author": f"A|uthor {i}", "licence": "CC0-1.0", "package": "painted"} for i in range(5)
    ]
    (folder / "manifest.json").write_text(json.dumps(rows))
    (tmp_path / "heldout.txt").write_text("# held back\np0.png\n")
    return folder


def settings(photos: Path, output: str = "run", **changes: Any) -> PriorSettings:
    values: dict[str, Any] = {
        "images": photos,
        "output": photos.parent / output,
        "heldout": photos.parent / "heldout.txt",
        "steps": 6,
        "batch": 5,
        "warmup": 2,
        "threads": 2,
        "measure_every": 100,
        "sheet_every": 100,
        "checkpoint_every": 100,
        "dtype": "fp32",
        "architecture": TINY,
    }
    return PriorSettings(**(values | changes))


def prior_run(settings: PriorSettings, resume: bool = False, init_from: Path | None = None) -> Run:
    """A run of `editkit train prior`."""
    return Run(settings, PriorLesson(settings, init_from), resume)


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
            signal.raise_signal(signal.SIGTERM)
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


def test_colour_on_a_given_luma_keeps_that_luma() -> None:
    from editkit.training.report import chroma_error, with_luma

    x0, other = torch.rand((2, 3, 4, 3, 8, 8), generator=generator())
    mixed = with_luma(other, luma(x0))
    torch.testing.assert_close(luma(mixed), luma(x0))
    assert chroma_error(mixed, other) < 1e-6


def test_exported_folder_is_read_by_diffusers_and_by_load(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    made = Pocket(TINY)
    export(tmp_path, TINY, dict(made.unet.state_dict()))
    theirs = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet", torch_dtype=torch.float32)
    scheduler = DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    alpha, _ = diffusion.tables()
    torch.testing.assert_close(scheduler.alphas_cumprod.sqrt(), alpha)
    x_t, condition = torch.randn((2, 4, 3, 16, 16), generator=generator())
    told = (torch.tensor([3, 400, 999, 0]), torch.arange(4), condition, torch.ones(4, 1, 16, 16))
    with torch.no_grad():
        v = load(tmp_path)(x_t, *told)
        torch.testing.assert_close(Pocket(TINY, theirs)(x_t, *told), v)
        torch.testing.assert_close(made(x_t, *told), v, atol=2e-2, rtol=2e-2)
    wiring = json.loads((tmp_path / "pocket.json").read_text())
    assert wiring["tasks"] == {"prior": 0, "inpaint": 1, "upscale": 2, "colorize": 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_faster_operations_give_the_same_values_and_gradients(dtype: torch.dtype) -> None:
    architecture = Architecture(window=64, channels=(16, 32), head=16, groups=8)
    x_t, condition = torch.randn((2, 2, 3, 64, 64), generator=generator())
    told = (torch.tensor([10, 700]), torch.tensor([1, 2]), condition, torch.ones(2, 1, 64, 64))
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for fast in (False, True):
        torch.manual_seed(0)
        net = Pocket(architecture)
        if fast:
            hasten(net.unet)
        net.unet.to(dtype=dtype, memory_format=torch.channels_last)
        v = net(x_t, *told)
        v.square().mean().backward()
        found.append((v.detach(), {n: p.grad.float() for n, p in net.named_parameters() if p.grad is not None}))
    (v, slow), (w, quick) = found
    bound = 1e-4 if dtype == torch.float32 else 0.1
    assert (v - w).norm() < bound * v.norm()
    assert slow.keys() == quick.keys()
    whole = torch.cat([g.flatten() for g in slow.values()])
    other = torch.cat([g.flatten() for g in quick.values()])
    assert (whole - other).norm() < bound * whole.norm()


def test_sampler_on_an_exact_gaussian() -> None:
    mean, deviation = 0.2, 0.15

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        alpha_t, sigma_t = (diffusion.at(z, t) for z in diffusion.tables())
        return mean + alpha_t * deviation**2 / (alpha_t**2 * deviation**2 + sigma_t**2) * (x_t - alpha_t * mean)

    for eta in (0.0, 1.0):
        x0 = diffusion.sample(predict, (64, 1, 16, 16), 500, generator(), eta)
        assert abs(float(x0.mean()) - mean) < 0.01
        assert abs(float(x0.std()) - deviation) < 0.01


def _residual() -> tuple[Residual, Tensor, Tensor, Tensor]:
    """A residual at four levels, x0, eps and x_t."""
    c, x0, eps = torch.randn((3, 4, 3, 8, 8), generator=generator())
    s = 0.01 + torch.rand((4, 1, 8, 8), generator=generator())
    alpha_t, sigma_t = (diffusion.at(z, torch.tensor([0, 300, 700, 999])) for z in diffusion.tables())
    return Residual(c, s, alpha_t, sigma_t), x0, eps, alpha_t * x0 + sigma_t * eps


def test_a_residual_is_inverted_by_what_is_seen_and_predicted() -> None:
    residual, x0, eps, x_t = _residual()
    z, f = residual.seen(x_t), residual.target(x0, eps)
    torch.testing.assert_close(residual.x0(z, f), x0, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(residual.eps(z, f), eps, atol=2e-3, rtol=2e-3)  # alpha at t = 999 is 5e-5
    n = (x0 - residual.c) / residual.s
    torch.testing.assert_close(z, residual.alpha * n + residual.sigma * eps, atol=1e-3, rtol=1e-3)


def test_predicting_nothing_is_the_best_linear_estimate_and_without_a_condition_it_is_v() -> None:
    residual, x0, eps, x_t = _residual()
    c, s, alpha_t, sigma_t = residual.c, residual.s, residual.alpha_t, residual.sigma_t
    gain = alpha_t * s**2 / (alpha_t**2 * s**2 + sigma_t**2)
    linear = c + gain * (x_t - alpha_t * c)
    torch.testing.assert_close(residual.x0(residual.seen(x_t), torch.zeros_like(x_t)), linear, atol=1e-5, rtol=1e-5)
    plain = Residual(torch.zeros_like(c), torch.ones_like(s), alpha_t, sigma_t)
    torch.testing.assert_close(plain.seen(x_t), x_t)
    torch.testing.assert_close(plain.target(x0, eps), alpha_t * eps - sigma_t * x0)


def test_deviations_are_nothing_where_known_and_grow_with_depth_and_detail() -> None:
    x0 = torch.rand((4, 3, 32, 32), generator=generator()) * 2 - 1
    x0[..., :16] *= 0.05
    mask = torch.ones(4, 1, 32, 32)
    mask[1] = 0
    mask[1, :, 8:25, 8:25] = 1
    s = deviation(torch.arange(4), torch.where(mask > 0, luma(x0), x0), mask)
    assert bool((s[0] == PRIOR).all())
    assert bool((s[1][mask[1] == 0] == EXACT).all())
    assert s[1, 0, 16, 8:17].diff().gt(0).all()
    assert s[2, ..., :14].mean() < 0.4 * s[2, ..., 18:].mean()
    assert bool((s > 0).all())
    assert torch.equal(depth(torch.ones(1, 1, 4, 6)), torch.full((1, 1, 4, 6), 6.0))
    coarse = deviation(torch.ones(4), x0, mask * 0.5)
    assert bool((coarse[mask > 0] == ROUGH).all())
    assert bool((coarse[mask == 0] == EXACT).all())


def test_weights_and_times() -> None:
    sigma = torch.linspace(0, 1, 100)
    assert bool((diffusion.weight(sigma).diff() >= 0).all())
    assert float(diffusion.weight(torch.tensor([1.0]))) == 1
    t = diffusion.stratified_times(1000, draws())
    moved = diffusion.residual_times(t, torch.full((1000,), 0.1))
    assert torch.equal(moved[::2], t[::2])
    alpha_t, sigma_t = diffusion.tables()
    u, m = t[1::2], moved[1::2]
    near = (u > 300) & (u < 900)
    ratio = (sigma_t[m] / alpha_t[m])[near] / (sigma_t[u] / alpha_t[u])[near]
    torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1), atol=0.025, rtol=0)
    whole = diffusion.residual_times(t, torch.ones(1000))
    assert int((whole - t).abs().max()) <= 1


def test_the_times_of_a_hint_lie_in_the_middle():
    """Of the density pi / 2 sin(pi t), cos(pi / 4) lies between 1/4 and 3/4, and 1/2 (1 - cos(pi / 10)) below 1/10."""
    t = diffusion.middle_times(diffusion.stratified_times(1000, draws()), torch.ones(1000))
    assert float(((t >= 250) & (t < 750)).float().mean()) == pytest.approx(0.7071, abs=0.005)
    assert float((t < 100).float().mean()) == pytest.approx(0.0245, abs=0.005)
    assert t.min() >= 0
    assert t.max() < 1000


def test_smooth_fill_keeps_the_known_and_ignores_the_hole() -> None:
    x0 = torch.rand((6, 3, 40, 28), generator=generator()) * 2 - 1
    mask = random_masks(6, 40, draws(1))[..., :28]
    mask[0] = 0
    filled = smooth_fill(x0, mask)
    assert torch.equal(filled[mask.expand_as(x0) == 0], x0[mask.expand_as(x0) == 0])
    other = torch.where(mask > 0, torch.full_like(x0, 7.0), x0)
    torch.testing.assert_close(smooth_fill(other, mask), filled)
    torch.testing.assert_close(smooth_fill(torch.full_like(x0, 0.3), mask), torch.full_like(x0, 0.3))
    assert float(smooth_fill(x0, torch.ones_like(mask)).abs().max()) == 0
    assert filled.min() >= x0.min() - 1e-5
    assert filled.max() <= x0.max() + 1e-5


def test_masks_and_conditions() -> None:
    masks = random_masks(200, 32, draws())
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert bool((masks.mean(dim=(1, 2, 3)) > 0).all())
    assert 0.15 < float(masks.mean()) < 0.5
    assert torch.equal(masks, random_masks(200, 32, draws()))
    x0 = torch.rand((64, 3, 32, 32), generator=generator()) * 2 - 1
    before = x0.clone()
    counts = shared(64, SHARES, draws())
    assert sum(counts) == 64
    assert counts[1] in range(30, 33)
    task, condition, mask, s = told(x0, counts, draws())
    assert torch.bincount(task, minlength=4).tolist() == counts
    assert torch.equal(x0, before)
    torch.testing.assert_close(s, deviation(task, condition, mask))
    assert float(condition[task == 0].abs().max()) == 0
    torch.testing.assert_close(condition[task == 3], luma(x0[task == 3]))
    known = (mask == 0).expand_as(x0)
    assert torch.equal(condition[known], x0[known])
    assert bool((mask[task != 1] == 1).all())
    _, mask = inpaint_condition(x0, draws())
    assert set(mask.unique().tolist()) == {0.0, 0.5, 1.0}
    coarser = rough(x0, draws())
    assert torch.equal(coarser, rough(x0, draws()))
    fine, coarse = ((z - blurred(z, torch.full((64,), 8.0))).square().mean() for z in (x0, coarser))
    assert coarse < 0.4 * fine  # texture is gone
    tones = (torch.nn.functional.avg_pool2d(z, 8) for z in (x0, coarser))
    assert 0.01 < float((next(tones) - next(tones)).square().mean().sqrt()) < 0.15  # and tones are off
    small = blurred(x0, torch.full((64,), 2.0))
    assert 0.1 < float((small - x0).square().mean().sqrt()) < 0.7


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
