"""The adapter of `pocket` on a tiny network with random weights: it is told what its training told it."""

import json
import subprocess
import sys

import pytest
import torch

from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.pocket.residual import TASKS, Residual, deviation, luma
from editkit.models.pocket.unet import PocketUNet
from editkit.pictures.filling import smooth_fill
from editkit.training import diffusion
from editkit.training.network import Pocket as Trained
from editkit.training.network import build_unet, export
from editkit.training.settings import Architecture
from editkit.training.sheets import solve

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


def conditioned(task, given):
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
    cond, number, picture, mask = conditioned(task, given)
    x_t = given[0]
    with torch.no_grad():
        (made,) = model(x_t, level, (cond,))
        t = torch.full((2,), 400)
        label = torch.full((2,), number)
        residual = Residual(picture, deviation(label, picture, mask), level.alpha, level.sigma)
        z = residual.seen(x_t)
        f = network(z, t, label, picture, mask)
    torch.testing.assert_close(made.x0, residual.x0(z, f), atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(level.alpha * made.x0 + level.sigma * made.eps, x_t, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("task", ["inpaint", "refine", "upscale", "colorize"])
def test_a_run_of_the_engine_is_the_trainers_own_sampler(saved, given, task):
    path, network = saved
    model = load(describe(str(path)), torch.device("cpu"), torch.float32)
    cond, number, picture, mask = conditioned(task, given)

    def predict(x_t, t):
        level = model.schedule.level(int(t[0]))
        with torch.no_grad():
            return model(x_t, level, (cond,))[0].x0

    with torch.no_grad():
        theirs = solve(network, TASKS[number], picture, mask, torch.Generator().manual_seed(3), steps=6)
    ours = diffusion.sample(predict, tuple(picture.shape), 6, torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.where(mask > 0, ours, picture), theirs, atol=1e-3, rtol=1e-3)


def test_another_format_is_refused(saved):
    path, _ = saved
    wiring = json.loads((path / "pocket.json").read_text())
    (path / "pocket.json").write_text(json.dumps(wiring | {"format": 1}))
    with pytest.raises(ModelError, match="is of format 1, this editkit reads 2"):
        load(describe(str(path)), torch.device("cpu"), torch.float32)


def test_several_conditionings_are_one_call(saved, given):
    path, _ = saved
    model = load(describe(str(path)), torch.device("cpu"), torch.float32)
    conds = [conditioned(task, given)[0] for task in ("prior", "inpaint", "upscale")]
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
    assert info.takes == {"known", "mask", "lowres", "task", "control"}
    assert len(TASKS) == 4


def test_a_task_it_does_not_have_is_named(saved, given):
    path, _ = saved
    model = load(describe(str(path)), torch.device("cpu"), torch.float32)
    with pytest.raises(ModelError, match="no task 'deblur'; it has: prior, inpaint"):
        model(given[0], Level(10.0, 0.9, 0.4), (Conditioning(task="deblur"),))


@pytest.mark.parametrize(
    "shape",
    [
        Architecture(),
        Architecture(channels=(32, 64), layers=2, groups=8, head=16),
        Architecture(channels=(32,), groups=8),
    ],
)
def test_the_network_without_diffusers_is_diffusers(shape: Architecture) -> None:
    torch.manual_seed(0)
    theirs = build_unet(shape).eval()
    ours = PocketUNet(theirs.config).eval()
    ours.load_state_dict(theirs.state_dict())
    x, t, task = torch.randn(3, 28, 16, 32), torch.tensor([2.0, 500.0, 999.0]), torch.tensor([0, 1, 3])
    features: list[torch.Tensor] = []
    for block in theirs.down_blocks:  # what a ControlNet adds to has the shape of these
        block.register_forward_hook(lambda _, __, out: features.extend(out[1]))
    with torch.no_grad():
        expected = theirs(x, t, None, class_labels=task).sample
        assert torch.allclose(ours(x, t, task), expected, atol=1e-5)
        down = [torch.randn(3, shape.channels[0], 16, 32), *(torch.randn_like(part) for part in features)]
        mid = torch.randn_like(features[-1])
        steered = theirs(
            x, t, None, class_labels=task, down_block_additional_residuals=tuple(down),
            mid_block_additional_residual=mid,
        ).sample  # fmt: skip
        assert torch.allclose(ours(x, t, task, down, mid), steered, atol=1e-5)
    assert not torch.allclose(steered, expected, atol=1e-2)


def test_other_blocks_are_refused() -> None:
    config = {**build_unet(Architecture()).config, "mid_block_type": "UNetMidBlock2DCrossAttn"}
    with pytest.raises(ModelError, match=r"blocks of other kinds \(UNetMidBlock2DCrossAttn\)"):
        PocketUNet(config)


def test_an_edit_with_pocket_imports_no_diffusers() -> None:
    code = (
        "import sys, numpy as np; from editkit import edit; from editkit.plugins import Inpaint; "
        "edit(np.zeros((80, 80, 3), np.uint8), Inpaint(mask='box:20,20,40,40'), model='pocket', steps=1); "
        "print([name for name in ('diffusers', 'transformers', 'peft') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
