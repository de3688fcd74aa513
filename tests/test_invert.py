"""Inversion: there and back in closed form, refined, as diffusers walks it, and kept in a file."""

import json
import re

import diffusers
import numpy as np
import pytest
import torch
from tiny import TinyModel, TinyNet
from toy import _ROOT, MEAN, Isotropic, model

from editkit import edit, sample, stream
from editkit.diffusion.samplers import SAMPLERS, make_sampler
from editkit.diffusion.schedule import VE, Cosine, Flow, Level
from editkit.errors import ChainError, EditkitError, ParameterError, UsageError
from editkit.models import GaussianMixture
from editkit.pictures.picture import Picture
from editkit.plugin import Hooks, Move, Plugin
from editkit.plugins import Inpaint, Invert
from editkit_plugins.invert import Refined

DATA = MEAN + torch.randn((64, 4), generator=torch.Generator().manual_seed(1)) @ _ROOT.T
TABLES = {"VE": VE(0.02, 20.0), "VP": Cosine(), "flow": Flow()}


def mixture(table):
    """Two of the toy's Gaussians, near enough to each other that both have a say between them."""
    covariance = _ROOT @ _ROOT.T
    return GaussianMixture(
        torch.tensor([0.3, 0.7]), torch.stack([MEAN, MEAN + 1.5]), torch.stack([covariance, covariance]), table
    )


def came_back(exact, steps, sampler, **given):
    """The largest error of the round trip."""
    back = sample(exact, Invert(**given), shape=(64, 4), known=DATA, steps=steps, sampler=sampler)
    return float((back - DATA).abs().max())


@pytest.mark.parametrize("make", [model, mixture], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_the_round_trip_falls_at_the_order_of_the_rule(make, table, sampler, order):
    """Over 20, 40, 80 and 160 steps, until float32's rounding; heun's errors of both ways cancel in part, to order 3
    on a Gaussian.
    """
    errors = [came_back(make(TABLES[table]), n, sampler) for n in (20, 40, 80, 160)]
    slopes = [np.log2(a / b) for a, b in zip(errors, errors[1:], strict=False) if b > 1e-4]
    assert len(slopes) >= (3 if order == 1 else 1), errors
    assert min(slopes) > order - 0.25, (errors, slopes)
    if order == 1:
        assert max(slopes) < 1.25, (errors, slopes)


@pytest.mark.parametrize("make", [model, mixture], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("sampler", ["ddim", "euler", "heun"])
def test_refined_it_comes_back(make, table, sampler):
    assert came_back(make(TABLES[table]), 20, sampler, refine=20) < 1e-5
    assert came_back(make(TABLES[table]), 20, sampler) > 1e-4


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("steps", [4, 20])
def test_by_diffusers_convention_it_is_its_ddim_inverse_scheduler(kind, to_one, steps):
    """Step for step. With v and a clean first level the network is asked as at the first noisy one; diffusers takes
    its v for that of the clean one, and so the first move is left out there.
    """
    config = {
        "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": kind,
        "steps_offset": 1, "set_alpha_to_one": to_one, "timestep_spacing": "leading",
    }  # fmt: skip
    if kind == "v_prediction" and to_one:
        pytest.skip("another first move, as the docstring says")
    x = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(3))
    states = []
    sample(
        TinyModel(config, kind), Invert(way="up"), shape=tuple(x.shape), known=x, steps=steps, sampler="ddim",
        noise="diffusers", watch=states.append,
    )  # fmt: skip
    scheduler, net, theirs = diffusers.DDIMInverseScheduler(**config, clip_sample=False), TinyNet(), x
    scheduler.set_timesteps(steps)
    assert len(states) == steps == len(scheduler.timesteps)
    for state, t in zip(states, scheduler.timesteps, strict=True):
        theirs = scheduler.step(net(theirs, t), t, theirs).prev_sample
        assert float((state.x - theirs).abs().max()) <= 1e-5 * max(1.0, float(theirs.abs().max()))


@pytest.mark.parametrize("name", [name for name in SAMPLERS.names() if name != "lcm"])
def test_who_cannot_walk_up_is_refused_by_the_names_of_those_who_can(name):
    if make_sampler(name).reversible:
        assert np.isfinite(came_back(model(), 4, name))
        return
    able = " or ".join(n for n in SAMPLERS.names() if make_sampler(n).reversible)
    with pytest.raises(ChainError, match=re.escape(f"sampler {name} cannot do; use sampler= {able}")):
        came_back(model(), 4, name)


def test_where_the_iteration_does_not_contract_the_best_iterate_is_kept():
    """Down is x -> x + 2.5 sin(3 x): plain iterations x + (y - down(x)) run away from most of y, these come nearer."""
    y = torch.linspace(-2.0, 2.0, 41)[:, None]
    t, s = Level(0.1, 1.0, 0.0, 1), Level(0.2, 1.0, 0.0, 2)  # equal deviations, so that c is 1

    class Wild:
        name, grid, reversible = "wild", None, True

        def step(self, x, a, b, predict, normal, memory):
            return (x + 2.5 * torch.sin(3.0 * x) if b.index < a.index else x), None

    def missed(x):
        return (y - x - 2.5 * torch.sin(3.0 * x)).abs()

    plain = y
    for _ in range(12):
        plain = plain + (y - plain - 2.5 * torch.sin(3.0 * plain))
    kept = Refined(Wild(), 12).step(y, t, s, None, None, None)[0]
    assert float(missed(kept).mean()) < 0.5 * min(float(missed(plain).mean()), float(missed(y).mean()))
    assert float((missed(kept) <= missed(y) + 1e-6).float().mean()) > 0.95


class _Stiff(Plugin):
    """Put on the network's estimate what no fixed-point iteration of full steps contracts on."""

    name = "stiff"
    gain: float = 0.0

    def hooks(self):
        return _StiffHooks


class _StiffHooks(Hooks):
    def clean(self, step, x0):
        return x0 + self.plugin.gain * torch.sin(8.0 * step.x_t)


@pytest.mark.parametrize("way", ["both", "up"])
def test_where_refining_does_not_contract_it_is_said_once(way):
    def said(gain, steps=6):
        heard = []
        sample(
            model(), [Invert(refine=4, way=way), _Stiff(gain=gain)], shape=(2, 4), known=DATA[:2], steps=steps,
            sampler="ddim", notify=heard.append,
        )  # fmt: skip
        return [line for line in heard if "contract" in line]

    assert said(0.0) == []
    assert said(0.0, steps=60) == []  # rounding alone is none
    (line,) = said(1.0)
    told = re.fullmatch(r"--refine 4 does not contract in (\d) of 6 moves up; the best iterate of each is kept", line)
    assert told is not None, line
    assert 1 <= int(told[1]) <= 6


def test_the_plan_counts_what_refining_calls():
    heun, refined = make_sampler("heun"), Invert(refine=3).walk(make_sampler("heun"))
    up, first, down = Move(4, 5), Move(0, 1), Move(5, 4)
    assert (heun.calls(up), refined.calls(up)) == (2, 8)
    assert (refined.calls(first), refined.calls(down)) == (2 + 3, 2)  # the last move down calls once
    assert Invert().walk(heun) is heun
    for sampler in ("ddim", "heun"):
        states = []
        exact = model()
        sample(exact, Invert(refine=2), shape=(1, 4), known=MEAN, steps=5, sampler=sampler, watch=states.append)
        walked = Invert(refine=2).walk(make_sampler(sampler))
        assert states[-1].calls == sum(walked.calls(state.move) for state in states)


# -- pictures

PHOTO = Picture(np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8))


def test_how_well_it_comes_back_is_said():
    said = []
    with_few = edit(PHOTO, Invert(), model=Isotropic(), steps=10, notify=said.append)
    assert re.fullmatch(r"invert: psnr \d+\.\d\d dB", said[-1])
    error = np.square((with_few.pixels.astype(float) - PHOTO.pixels) / 127.5).mean()
    assert float(said[-1].split()[2]) == pytest.approx(10.0 * np.log10(4.0 / error), abs=0.006)
    edit(PHOTO, Invert(refine=20), model=Isotropic(), steps=10, notify=said.append)
    assert said[-1] == "invert: psnr the same picture"


def test_up_and_then_down_is_there_and_back():
    one = edit(PHOTO, Invert(), model=Isotropic(), steps=6)
    two = edit(PHOTO, Invert(way="up") | Invert(way="down"), model=Isotropic(), steps=6)
    assert np.array_equal(one.pixels, two.pixels)
    with pytest.raises(ChainError, match="no stage before ends there"):
        edit(PHOTO, Invert(way="down"), model=Isotropic(), steps=6)


def test_noise_in_a_file_comes_back(tmp_path):
    path = str(tmp_path / "photo.safetensors")
    there = edit(PHOTO, Invert(save_noise=path), model=Isotropic(), steps=6)
    back = edit(PHOTO, Invert(from_noise=path), model=Isotropic(), steps=6)
    assert np.array_equal(there.pixels, back.pixels)
    grey = edit(PHOTO.with_pixels(PHOTO.pixels // 2), Invert(from_noise=path), model=Isotropic(), steps=6)
    assert np.array_equal(there.pixels, grey.pixels)  # the picture gives the size alone
    with pytest.raises(UsageError, match="exists already"):
        edit(PHOTO, Invert(save_noise=path), model=Isotropic(), steps=6)


class Other(Isotropic):
    info = type(Isotropic.info)("other", "exact Gaussian", sampler="ddim", steps=6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model": Other()}, "its model is isotropic, and here it is other"),
        ({"steps": 7}, "its steps= is 6, and here it is 7"),
        ({"sampler": "euler"}, "its sampler= is ddim, and here it is euler"),
        ({"spacing": "log-snr"}, "its spacing= is auto, and here it is log-snr"),
        ({"strength": 0.5}, "its strength= is 6, and here it is 3"),
        ({"photo": Picture(PHOTO.pixels[:8])}, r"its size is \[10, 12\], and here it is \[10, 8\]"),
    ],
    ids=lambda case: next(iter(case)) if isinstance(case, dict) else None,
)
def test_noise_of_something_else_is_refused(tmp_path, changed, said):
    path = str(tmp_path / "photo.safetensors")
    edit(PHOTO, Invert(save_noise=path), model=Isotropic(), steps=6)
    given = {"photo": PHOTO, "model": Isotropic(), "steps": 6, "strength": 1.0, **changed}
    photo, strength = given.pop("photo"), given.pop("strength")
    with pytest.raises(UsageError, match=said):
        edit(photo, Invert(from_noise=path, strength=strength), **given)


def test_a_file_that_is_none_and_one_of_another_version_are_refused(tmp_path):
    from safetensors.torch import save_file

    cases = {"is no safetensors": b"\x00" * 40, "missing": None}
    for name, data in cases.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(UsageError, match="cannot be read"):
            edit(PHOTO, Invert(from_noise=str(path)), model=Isotropic(), steps=6)
    other = str(tmp_path / "weights.safetensors")
    save_file({"x": torch.zeros(1)}, other)
    with pytest.raises(UsageError, match="not a noise file"):
        edit(PHOTO, Invert(from_noise=other), model=Isotropic(), steps=6)
    later = str(tmp_path / "later.safetensors")
    save_file({"x": torch.zeros(1)}, later, {"editkit-noise": json.dumps({"version": "9"})})
    with pytest.raises(UsageError, match="has version 9, and this editkit reads 1"):
        edit(PHOTO, Invert(from_noise=later), model=Isotropic(), steps=6)


def test_what_cannot_be_meant_is_refused():
    with pytest.raises(ParameterError, match="runs the way down only"):
        Invert(from_noise="a", save_noise="b")
    with pytest.raises(ParameterError, match="runs the way down only"):
        Invert(from_noise="a", way="up")


def test_up_moves_are_seen_and_the_mask_is_kept():
    making = stream(PHOTO, Invert() & Inpaint(mask="box:2,2,6,6"), model=Isotropic(), steps=6)
    ups = [update.state.move.up for update in making]
    assert ups == [True] * 6 + [False] * 6
    differs = (making.result.pixels != PHOTO.pixels).any(-1)
    differs[2:6, 2:6] = False
    assert not differs.any()


def test_another_edit_that_begins_is_refused():
    with pytest.raises(EditkitError, match="both set the begin"):
        edit(PHOTO, Invert() & Invert(), model=Isotropic())
