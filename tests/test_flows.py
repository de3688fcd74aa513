"""Ladders that depend on the size and the steps; references cut by windows; what is said of guidance that is idle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from editkit import sample
from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.flows import JUMP, Empirical, Line, SizedFlow, flow_for_state
from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction, convert
from editkit.diffusion.schedule import Cosine, Flow, Level
from editkit.diffusion.windows import Windowed
from editkit.engine.loop import State
from editkit.errors import ModelError
from editkit.models.schedules import make_flow
from editkit.plugins import Cfg

QWEN = {
    "shift": 1.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9, "base_image_seq_len": 256,
    "max_image_seq_len": 8192, "shift_terminal": 0.02, "time_shift_type": "exponential",
}  # fmt: skip
CONFIGS: dict[str, dict[str, Any]] = {
    "flux": {"shift": 3.0, "use_dynamic_shifting": True},
    "schnell": {"shift": 1.0},
    "z-image": {"shift": 3.0},
    "qwen": QWEN,
    "linear": {"shift": 1.0, "use_dynamic_shifting": True, "time_shift_type": "linear"},
}


def configured(name: str) -> dict[str, Any]:
    return {"_class_name": "FlowMatchEulerDiscreteScheduler", **CONFIGS[name]}


def test_a_table_that_is_none_of_flow_matching_is_refused() -> None:
    with pytest.raises(ModelError, match="DDIMScheduler is none of flow matching"):
        make_flow({"_class_name": "DDIMScheduler"}, patch=1)
    with pytest.raises(ModelError, match="use_beta_sigmas"):
        make_flow({**configured("flux"), "use_beta_sigmas": True}, patch=1)


@pytest.mark.parametrize("steps", [1, 2, 4, 28])
@pytest.mark.parametrize("name", CONFIGS)
def test_levels_are_diffusers_to_the_bit(name: str, steps: int) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(**CONFIGS[name])
    table = make_flow(configured(name), patch=2)
    sized = flow_for_state(table, 96, 64, None)
    assert isinstance(sized, SizedFlow)
    mu = None if sized.mu is None else sized.mu(96 * 64 // 4, steps)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    levels = sized.levels(steps)
    assert [level.index for level in levels] == list(range(steps + 1))
    if name == "qwen" and steps == 1:  # theirs divides by zero
        assert levels[1].sigma == 1.0
        return
    assert [level.sigma for level in levels] == theirs.sigmas.flip(0).double().tolist()
    assert [level.t for level in levels[1:]] == theirs.timesteps.flip(0).double().tolist()


def test_the_shift_grows_with_the_picture_and_jumps_where_flux_2_does() -> None:
    line = Line()
    assert line(256, 4) == pytest.approx(0.5)
    assert line(4096, 4) == pytest.approx(1.15)
    empirical = Empirical()
    assert math.exp(empirical(JUMP, 4)) == pytest.approx(10.06, abs=0.01)
    assert math.exp(empirical(JUMP + 1, 4)) == pytest.approx(3.27, abs=0.01)
    assert empirical(1024, 10) == pytest.approx(8.73809524e-05 * 1024 + 1.89833333)


def test_a_shift_that_is_asked_for_is_that_of_every_size() -> None:
    table = make_flow(configured("qwen"), patch=2)
    small, large = (flow_for_state(table, side, side, 3.0).levels(4) for side in (16, 128))
    assert small == large
    assert [level.sigma for level in small[1:]] == pytest.approx([0.5, 0.75, 0.9, 1.0])
    plain = flow_for_state(Flow(3.0, 1000.0, "linspace"), 8, 8, 2.0)
    assert isinstance(plain, Flow)
    assert plain.shift == 2.0
    assert isinstance(flow_for_state(Cosine(), 8, 8, 2.0), Cosine)


@dataclass(frozen=True, eq=False)
class Model(PixelSpace):
    """Remembers what it was told; its output is 0 without the prompt, 1 with it."""

    info: ModelInfo
    schedule: SizedFlow = field(default_factory=lambda: SizedFlow(mu=Line()))
    clip: float | None = None
    asked: list[tuple[float, int, tuple[Conditioning, ...]]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        self.asked.append((level.t, x_t.shape[-1], tuple(conds)))
        outs = [torch.full_like(x_t, 0.0 if c.prompt is c.negative else 1.0) for c in conds]
        return tuple(convert(out, x_t, level, "flow_prediction") for out in outs)

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        return Prompt(torch.zeros(1, 1, 1)), ""

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Model:
        return self


def info(*takes: str, **more: Any) -> ModelInfo:
    return ModelInfo("tiny", "toy", frozenset({"prompt", *takes}), "euler", guidance=3.0, **more)


def test_the_ladder_is_that_of_what_the_network_sees_at_once() -> None:
    times = {}
    for side, window in [(16, None), (64, None), (64, 16)]:
        model = Model(info())
        seen = model if window is None else Windowed(model, window, 4)
        sample(seen, shape=(1, 3, side, side), sampler="euler", steps=4, device="cpu")
        times[side, window] = sorted({asked[0] for asked in model.asked})
    assert times[16, None] != times[64, None]
    assert times[16, None] == times[64, 16]


def test_windows_cut_a_reference_of_the_states_size_and_see_another_whole() -> None:
    model = Windowed(Model(info()), 8, 2, batch=1)
    ramp = torch.arange(16.0)[None, None, None, :].expand(1, 3, 16, 16)
    picture = torch.zeros(1, 3, 16, 16)
    cond = Conditioning().plus_reference(Reference(ramp, picture)).plus_reference(Reference(ramp[..., :12], picture))
    model(torch.zeros(1, 3, 16, 16), SizedFlow().level(500.0), [cond])
    inner: Any = model.model
    seen = [conds[0].references for _, _, conds in inner.asked]
    assert {tuple(one.latent.shape) for one, _ in seen} == {(1, 3, 8, 8)}
    assert {float(one.latent[0, 0, 0, 0]) for one, _ in seen} == {0.0, 4.0, 8.0}
    assert all(two.latent.equal(ramp[..., :12]) for _, two in seen)


def walk(model: Model, cfg: Cfg, **options: Any) -> tuple[list[str], Tensor]:
    said: list[str] = []
    x = sample(
        model, cfg, shape=(1, 3, 4, 4), sampler="euler", steps=2, device="cpu", prompt="a", notify=said.append,
        **options,
    )  # fmt: skip
    return said, x


def test_a_distilled_model_is_asked_once_and_what_is_idle_is_said() -> None:
    model = Model(info(distilled=True))
    said, _ = walk(model, Cfg(), negative="blurry", guidance_scale=5.0)
    assert {len(conds) for _, _, conds in model.asked} == {1}
    assert said == ["--negative and --guidance-scale: without effect, tiny was distilled and has no guidance"]
    assert walk(Model(info(distilled=True)), Cfg())[0] == []


def test_a_model_that_is_told_its_scale_is_guided_besides_where_it_is_asked_for() -> None:
    model = Model(info("guidance"))
    said, _ = walk(model, Cfg(), negative="blurry", guidance_scale=5.0)
    assert {(len(conds), conds[0].guidance) for _, _, conds in model.asked} == {(1, 5.0)}
    assert len(said) == 1
    assert "--true-scale" in said[0]
    model = Model(info("guidance"))
    said, _ = walk(model, Cfg(true_scale=4.0), negative="blurry", guidance_scale=5.0)
    assert {(len(conds), conds[0].guidance, conds[1].guidance) for _, _, conds in model.asked} == {(2, 5.0, 5.0)}
    assert said == []
    assert "--guidance-scale is real" in walk(Model(info()), Cfg(true_scale=4.0))[0][0]


class Halved(Model):
    """Folds in a way of its own."""

    def fold(self, without: Tensor, wanted: Tensor, scale: float) -> Tensor:
        return wanted / 2


def test_a_model_folds_guidance_in_its_own_way() -> None:
    states: dict[str, list[State]] = {"plain": [], "own": []}
    for name, kind in [("plain", Model), ("own", Halved)]:
        sample(
            kind(replace(info())), Cfg(), shape=(1, 3, 4, 4), sampler="euler", steps=1, device="cpu", prompt="a",
            negative="b", watch=states[name].append, seed=3,
        )  # fmt: skip
    difference = states["own"][0].x - states["plain"][0].x
    assert difference.allclose(torch.full_like(difference, 3.0 - 0.5))  # x0 = x_1 - out
