"""The adapter of `pocket` on a tiny network with random weights: it is told what its training told it."""

import pytest
import torch

from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.base import Conditioning
from editkit.schedule import Level
from editkit.training.conditions import TASKS, luma, smooth_fill
from editkit.training.network import Pocket as Trained
from editkit.training.network import export
from editkit.training.settings import Architecture

TINY = Architecture(window=16, unshuffle=2, channels=(8, 16), layers=1, head=8, groups=4)


@pytest.fixture
def saved(tmp_path):
    """An exported folder and the network it came from."""
    torch.manual_seed(0)
    network = Trained(TINY)
    weights = {name: value.half().float() for name, value in network.unet.state_dict().items()}
    network.unet.load_state_dict(weights)
    export(tmp_path / "pocket", TINY, weights)
    return tmp_path / "pocket", network.eval()


@pytest.fixture
def given():
    """x_t, a picture, a mask and a coarser picture."""
    generator = torch.Generator().manual_seed(1)
    x_t, picture, coarse = (torch.randn(2, 3, 16, 16, generator=generator).clamp(-1, 1) for _ in range(3))
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 4:11, 5:12] = 1
    return x_t, picture, mask, coarse


def told(task, given):
    """(Conditioning, task, condition picture, mask) as training has it."""
    x_t, picture, mask, coarse = given
    ones = torch.ones_like(mask)
    return {
        "prior": (Conditioning(), 0, torch.zeros_like(x_t), ones),
        "inpaint": (Conditioning(known=picture, mask=mask), 1, smooth_fill(picture, mask), mask),
        "refine": (
            Conditioning(known=picture, mask=mask, lowres=coarse), 1, torch.where(mask > 0, coarse, picture), mask / 2,
        ),
        "upscale": (Conditioning(lowres=coarse), 2, coarse, ones),
        "colorize": (Conditioning(known=picture, task="colorize"), 3, luma(picture), ones),
    }[task]  # fmt: skip


@pytest.mark.parametrize("task", ["prior", "inpaint", "refine", "upscale", "colorize"])
def test_the_network_sees_what_it_was_trained_on(saved, given, task):
    path, network = saved
    info = describe(str(path))
    model = load(info, torch.device("cpu"), torch.float32)
    level = model.schedule.level(400)
    cond, number, picture, mask = told(task, given)
    x_t = given[0]
    with torch.no_grad():
        (made,) = model(x_t, level, (cond,))
        t = torch.full((2,), 400)
        v = network(x_t, t, torch.full((2,), number), picture, mask)
    torch.testing.assert_close(made.x0, level.alpha * x_t - level.sigma * v, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(level.alpha * made.x0 + level.sigma * made.eps, x_t, atol=2e-5, rtol=1e-4)


def test_several_conditionings_are_one_call(saved, given):
    path, _ = saved
    model = load(describe(str(path)), torch.device("cpu"), torch.float32)
    conds = [told(task, given)[0] for task in ("prior", "inpaint", "upscale")]
    level = model.schedule.level(250)
    with torch.no_grad():
        together = model(given[0], level, conds)
        alone = [model(given[0], level, (cond,))[0] for cond in conds]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.x0, b.x0, atol=1e-5, rtol=1e-4)


def test_what_it_is_is_known_without_weights(saved):
    path, _ = saved
    info = describe(str(path))
    assert info.window == 16
    assert info.multiple == 4
    assert info.takes == {"known", "mask", "lowres", "task"}
    assert len(TASKS) == 4


def test_a_task_it_does_not_have_is_named(saved, given):
    path, _ = saved
    model = load(describe(str(path)), torch.device("cpu"), torch.float32)
    with pytest.raises(ModelError, match="no task 'deblur'; it has: prior, inpaint"):
        model(given[0], Level(10.0, 0.9, 0.4), (Conditioning(task="deblur"),))
