"""What a model can do is found through whatever is wrapped around it, a stranger's wrapper too."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_parity_sdxl as xl
import tiny_control as control
import torch
from test_parity_latent import NEGATIVE, PROMPT, adapter, same
from torch import Tensor
from toy_leasing import HOW, MASK, photo, sd

from editkit import edit, sample
from editkit.diffusion.capability import capability, copy_for_edit, networks, with_change
from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.control import TakesControl
from editkit.diffusion.model import (
    Enlarges,
    Example,
    Model,
    NoisesLowres,
    Notifies,
    ReadsText,
    ReadsWeights,
    TakesExamples,
)
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Level
from editkit.diffusion.windows import Windowed
from editkit.models import load
from editkit.models.latent.refiner import Refined
from editkit.models.latent.unet import LatentUNet
from editkit.models.memory import Tiles
from editkit.models.patches.info import PATCHES
from editkit.models.patches.model import Patches
from editkit.models.setup import FromPipeline
from editkit.plugins import Cfg, ControlNet, Inpaint

__all__ = ["sd"]


class Quieter:
    """A stranger's wrapper: it knows `Model` and what it is around, and nothing else of editkit."""

    def __init__(self, inner: Model) -> None:
        self.inner = inner

    @property
    def wrapped(self) -> Model:
        return self.inner

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        return self.inner(x_t, level, conds)

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> Quieter:
        return Quieter(self.inner.attach(picture, mask))

    def __getattr__(self, name: str) -> Any:
        if name in ("info", "schedule", "data_std", "clip", "shape", "encode", "encode_mask", "decode"):
            return getattr(self.inner, name)
        raise AttributeError(name)


class Speaks(Quieter):
    """One that reads text in a way of its own."""

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        return Prompt(torch.zeros(1, 77, 32)), text


def tiny_model() -> Any:
    return adapter(4, control.EPSILON, takes={"prompt", "control"})


def test_what_the_model_within_can_is_found() -> None:
    model = tiny_model()
    wrapped: Any = Windowed(Quieter(Windowed(model, 8, 2)), 16, 4)
    for kind in (Notifies, Tiles, ReadsText, ReadsWeights, TakesControl, FromPipeline, LatentUNet):
        assert capability(wrapped, kind) is model
    assert capability(wrapped, Windowed) is wrapped
    assert capability(wrapped, TakesExamples) is None
    assert capability(wrapped, NoisesLowres) is None
    assert {*map(id, networks(wrapped))} == {*map(id, (model.unet, model.vae, model.text_encoder))}


def test_the_wrapper_is_asked_first() -> None:
    model = Speaks(tiny_model())
    wrapped = Windowed(model, 8, 2)
    assert capability(wrapped, ReadsText) is model
    assert capability(wrapped, ReadsWeights) is model.inner


def test_a_change_within_keeps_the_wrappers() -> None:
    wrapped = Windowed(Quieter(Patches()), 16, 4)
    examples = [Example(torch.zeros(3, 20, 20))]
    made: Any = with_change(wrapped, TakesExamples, lambda one: one.given(examples, None))
    assert (type(made), type(made.model), len(made.model.inner.examples)) == (Windowed, Quieter, 1)
    assert wrapped.model.inner.examples == ()  # type: ignore[attr-defined]
    larger: Any = with_change(Quieter(Patches()), Enlarges, lambda one: one.enlarging(torch.zeros(1, 3, 20, 20), 2.0))
    assert (type(larger), type(larger.inner)) == (Quieter, Windowed)
    model = tiny_model()
    assert with_change(model, TakesExamples, lambda one: one.given(examples, None)) is model


def test_a_copy_for_an_edit_reaches_the_model_within_a_strangers_wrapper() -> None:
    model = tiny_model()
    wrapped = Quieter(model)
    mine: Any = copy_for_edit(wrapped)
    tiles = capability(mine, Tiles)
    assert tiles is not None
    tiles.tile()
    assert mine.inner.vae.use_tiling
    assert not model.vae.use_tiling
    assert wrapped.inner is model


def test_an_edit_with_a_strangers_wrapper_is_the_models(sd: str) -> None:
    from editkit.models import describe

    model = load(describe(sd), torch.device("cpu"), torch.float32)
    given: dict[str, Any] = {"prompt": "a red door", "steps": 2, **HOW}
    expected = edit(photo(0), Inpaint(mask=MASK), model=model, **given).pixels
    assert np.array_equal(edit(photo(0), Inpaint(mask=MASK), model=Quieter(model), **given).pixels, expected)


def test_examples_reach_a_model_within(sd: str) -> None:
    picture, other = photo(0, 28, 32), photo(1, 28, 32)
    plugin = Inpaint(mask="box:8,8,20,18", from_=[other])
    expected = edit(picture, plugin, model="patches", steps=2).pixels
    assert Quieter(Patches()).info is PATCHES
    assert np.array_equal(edit(picture, plugin, model=Quieter(Patches()), steps=2).pixels, expected)


# A ControlNet and a refiner


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("controlnets")


def base_and_refiner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    import diffusers

    made = []
    for kind, refiner in (("img2img", False), ("img2img", True)):
        path = tmp_path_factory.mktemp("xl") / "model"
        xl.pipeline(kind, diffusers.DDIMScheduler.from_config(xl.SDXL), refiner).save_pretrained(path)
        made.append(xl.loaded(path))
    return made[0], made[1]


def test_a_controlnet_steers_the_base_models_steps_and_not_the_refiners(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Step by step as both by hand: the base model alone with the ControlNet, down to the time of the hand-over, and
    the refiner alone without one from there on.
    """
    base, refiner = base_and_refiner(tmp_path_factory)
    steps, until = 10, 500
    given: dict[str, Any] = {
        "shape": (1, 4, 8, 8), "sampler": "ddim", "steps": steps, "seed": 5, "noise": "diffusers", "prompt": PROMPT,
        "negative": NEGATIVE, "guidance_scale": 5.0, "device": "cpu",
    }  # fmt: skip
    net = ControlNet(control=control.hint(), controlnet=control.saved(folder, 0, "xl"))
    states: list[Any] = []
    sample(Refined(base, refiner, until), [Cfg(), net], watch=states.append, **given)
    by_hand: list[Any] = []
    sample(base, [Cfg(), net], watch=by_hand.append, **given)
    found, k = [state.x for state in states], next(k for k, s in enumerate(states) if s.level.t < until) + 1
    assert 0 < k < steps
    same(found[:k], [state.x for state in by_hand[:k]])
    same(found[k:], from_here(refiner, by_hand[k - 1].x, [state.level for state in states[k - 1 :]]))
    unsteered: list[Any] = []
    sample(Refined(base, refiner, until), [Cfg()], watch=unsteered.append, **given)
    assert float((unsteered[0].x - found[0]).abs().max()) > 1e-2


def from_here(refiner: Any, x: Tensor, down: list[Level]) -> list[Tensor]:
    """The refiner alone: deterministic ddim (Song et al. 2021, equation 12) with guidance of text, from the state `x`
    at the first of the levels `down` to the last one.
    """
    wanted, unwanted = (refiner.encode_text(text)[0] for text in (PROMPT, NEGATIVE))
    conds = [Conditioning(unwanted, unwanted), Conditioning(wanted, unwanted)]
    made = []
    with torch.no_grad():
        for t, s in pairwise(down):
            no, yes = refiner(x, t, conds)
            eps = no.eps + 5.0 * (yes.eps - no.eps)
            x0 = (x - t.sigma * eps) / t.alpha
            x = s.alpha * x0 + s.sigma * eps
            made.append(x)
    return made


def test_a_controlnet_with_a_refiner_through_the_options(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """What `plan` accepts runs, by windows too."""
    import diffusers

    paths = []
    for refiner in (False, True):
        paths.append(tmp_path_factory.mktemp("xl") / "model")
        xl.pipeline("img2img", diffusers.DDIMScheduler.from_config(xl.SDXL), refiner).save_pretrained(paths[-1])
    net = ControlNet(control="canny", controlnet=control.saved(folder, 0, "xl"))
    plugins = [Inpaint(mask="box:10,10,80,60"), net]
    given: dict[str, Any] = {"prompt": "x", "steps": 2, "model": str(paths[0]), **HOW}
    picture = photo(0, 72, 96)
    with_both = edit(picture, plugins, refiner=f"{paths[1]}:0.5", canvas="full", **given).pixels
    without = edit(picture, plugins[:1], refiner=f"{paths[1]}:0.5", canvas="full", **given).pixels
    assert (with_both != without).any()
    assert np.array_equal(with_both[0], picture.pixels[0])
