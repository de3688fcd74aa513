"""Null-text inversion: guidance comes back along the way that the picture went up without it."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import test_parity_latent as parity
import tiny_latent
import torch

from editkit import edit, sample
from editkit.diffusion.conditioning import Embedding, Prompt
from editkit.diffusion.image_prompts import ImageTokens
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine, Flow
from editkit.editing.api import plan as planned
from editkit.errors import ChainError, EditkitError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin import Hooks, Plugin
from editkit.plugins import Cfg, Guide, Inpaint, Invert, Keep, SDEdit

CAT = torch.tensor([0.6, -0.4, 0.2, -0.8])
VALUES = torch.tensor([0.9, 0.6, 0.3, 0.2])


class Shifted:
    """x0 ~ N(e, C), e the text's embedding: "cat" is CAT, no text is 0. It counts its calls."""

    clip, data_std = None, 0.7

    def __init__(self, table=None, guidance=7.5, takes=("prompt",)):
        self.schedule, self.calls = table or Cosine(), 0
        self.info = ModelInfo(
            "shifted", "exact Gaussians", takes=frozenset(takes), sampler="ddim", guidance=guidance, steps=20
        )

    def __call__(self, x_t, level, conds):
        self.calls += 1
        gain = level.alpha * VALUES / (level.alpha**2 * VALUES + level.sigma**2)
        made = []
        for cond in conds:
            mean = 0.0 if cond.prompt is None else cond.prompt.embeds[:, 0]
            x0 = mean + gain * (x_t - level.alpha * mean)
            made.append(Prediction(x0, (x_t - level.alpha * x0) / level.sigma))
        return tuple(made)

    def encode_text(self, text):
        return Prompt((CAT if text == "cat" else torch.zeros(4)).reshape(1, 1, 4)), ""

    def shape(self, height, width):
        return (4,)

    def encode(self, image, stream=None):
        return image

    encode_mask = decode = encode

    def attach(self, picture, mask):
        return self


def data(n=16):
    return CAT + VALUES.sqrt() * torch.randn((n, 4), generator=torch.Generator().manual_seed(1))


def back(table=None, guidance=7.5, **given):
    x = data()
    return sample(
        Shifted(table, guidance), Invert(**given), shape=(len(x), 4), known=x, steps=20, sampler="ddim", prompt="cat"
    )


@pytest.mark.parametrize("table", [Cosine(), Flow()], ids=["VP", "flow"])
def test_the_optimum_is_the_prompt_s_own_embedding_and_the_path_comes_back(table):
    """Where the law moves with the text, out(e) + w (out(m) - out(e)) is out(m) for e = m alone. What e differs by from
    m takes off what the rule's own moves miss by, so that the picture comes back nearer than at scale 1."""
    x, kept = data(), {}

    class Seen(Invert):
        def hooks(self):
            return type("_Seen", (super().hooks(),), {"measure": lambda hooks, image: {}})

        def bind(self, run):
            made = super().bind(run)
            kept["hooks"] = made
            return made

    run = {"shape": (16, 4), "known": x, "steps": 20, "sampler": "ddim", "prompt": "cat"}
    learnt = sample(Shifted(table), Seen(null_text=60), **run)
    plain, guided = (float((back(table, scale) - x).abs().mean()) for scale in (1.0, 7.5))
    assert float((learnt - x).abs().mean()) < 0.1 * plain < 0.1 * guided
    learner = kept["hooks"].learner
    missed = [float((learner.learnt[index][:, 0] - CAT).abs().mean()) for index in range(8, 14)]
    assert max(missed) < 0.1 * float(CAT.abs().mean()), missed


def test_more_is_learnt_in_more_steps():
    left = [float((back(null_text=n) - data()).abs().mean()) for n in (1, 5, 40)]
    assert left[0] > left[1] > left[2]


def test_the_plan_counts_what_learning_calls():
    class Pictures(Shifted):
        """One brightness a text."""

        def __call__(self, x_t, level, conds):
            self.calls += 1
            gain = level.alpha * 0.1 / (level.alpha**2 * 0.1 + level.sigma**2)
            means = [0.0 if cond.prompt is None else cond.prompt.embeds.mean() for cond in conds]
            x0s = [mean + gain * (x_t - level.alpha * mean) for mean in means]
            return tuple(Prediction(x0, (x_t - level.alpha * x0) / level.sigma) for x0 in x0s)

        def shape(self, height, width):
            return (3, height, width)

        def encode_mask(self, mask):
            return mask

    photo = Picture(np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8))
    part, box = Invert(null_text=2), "box:2,2,6,6"
    chains = [
        Invert(null_text=3), Invert(null_text=3, refine=2), part & Guide(brightness=0.5), part & Inpaint(mask=box),
        part & Keep(map=box), part & Cfg(), part | SDEdit(strength=0.5), SDEdit(strength=0.5) | part,
    ]  # fmt: skip
    for chain in chains:
        model, run = Pictures(), {"prompt": "cat", "steps": 5}
        stages = planned(photo, chain, model=Pictures(), **run)
        edit(photo, chain, model=model, **run)
        assert model.calls == sum(stage.calls for stage in stages), chain


def test_on_a_tiny_stable_diffusion_and_by_the_file_as_without(tmp_path):
    """Random weights: plumbing. Guidance of 7.5 comes back nearer the more is learnt, and from the file to the bit."""
    model, image = parity.adapter(4, tiny_latent.SD), 2.0 * tiny_latent.picture(1)[0] - 1.0
    run = {"prompt": "a door", "device": "cpu", "steps": 10, "sampler": "ddim", "guidance_scale": 7.5}
    run |= {"known": image, "shape": (1, *model.shape(64, 64))}
    still = sample(model, Invert(strength=0.0), **{**run, "steps": 1})
    kept = str(tmp_path / "noise.safetensors")
    made = [sample(model, Invert(strength=0.5, null_text=n, save_noise=f), **run) for n, f in ((2, None), (20, kept))]
    off = [float((x - still).norm()) for x in made]
    spoiled = float((sample(model, Invert(strength=0.5), **run) - still).norm())
    assert off[1] < min(off[0], spoiled), (off, spoiled)
    again = sample(model, Invert(strength=0.5, from_noise=kept), **run)
    torch.testing.assert_close(again, made[1], rtol=0.0, atol=1e-5)
    other = sample(model, Invert(strength=0.5, from_noise=kept), **{**run, "prompt": "a cat"})
    assert float((other - again).abs().max()) > 1e-3
    with pytest.raises(UsageError, match=re.escape("were learnt for guidance_scale=7.5, and here it is 3")):
        sample(model, Invert(strength=0.5, from_noise=kept), **{**run, "guidance_scale": 3.0})


@pytest.mark.parametrize("given", [{"way": "up"}, {"way": "down"}, {"source": "cat"}, {"from_noise": "x"}])
def test_it_is_learnt_on_the_way_back_alone(given):
    with pytest.raises(EditkitError, match="--null-text learns on the way back; leave --way, "):
        Invert(null_text=5, **given)


@pytest.mark.parametrize("given", [{"start": 0.3}, {"stop": 0.7}])
def test_it_is_learnt_from_the_whole_way_up(given):
    with pytest.raises(EditkitError, match="learns from every state of the way up; leave --start and --stop out"):
        Invert(null_text=5, **given)
    Invert(**given)


@pytest.mark.parametrize(
    ("model", "run", "said"),
    [
        (Shifted(guidance=1.0), {}, "null_text=? corrects for guidance .* guidance_scale=? is 1"),
        (Shifted(takes=()), {"prompt": None}, "shifted takes no text"),
        (Shifted(takes=("prompt", "guidance")), {}, "shifted is guided in one call"),
        (Shifted(), {"sampler": "heun"}, "needs a sampler with one call a move, ddim or euler; not heun"),
    ],
)
def test_without_guidance_there_is_nothing_to_learn(model, run, said):
    with pytest.raises(ChainError, match=said):
        sample(model, Invert(null_text=2), shape=(16, 4), known=data(), **{"prompt": "cat", "steps": 3, **run})


def test_it_is_learnt_beside_what_else_the_model_is_told():
    """The branch without looks at an image prompt's own nothing, and so does what is learnt in its place; a ControlNet
    that acts on the wanted branch alone is not in it."""
    seen = []

    class Looking(Shifted):
        def __call__(self, x_t, level, conds):
            seen.extend(cond for cond in conds if cond.prompt is not None and cond.prompt.embeds.requires_grad)
            return super().__call__(x_t, level, conds)

    prompt = ImageTokens({}, torch.ones(1, 1, 4), torch.zeros(1, 1, 4))
    told, guess = Embedding(torch.ones(1, 4), torch.zeros(1, 4)), SimpleNamespace(wanted_only=True)

    class Tells(Hooks):
        def condition(self, step, cond):
            return replace(cond, embedding=told).plus_image_prompt(prompt).plus_control(guess)

    class Telling(Plugin):
        """A stranger's: that it tells the model something is said by `offers` alone."""

        name = "telling"
        offers = frozenset({"embedding", "image prompt", "control"})

        def hooks(self):
            return Tells

    sample(
        Looking(), [Invert(null_text=1), Telling()], shape=(16, 4), known=data(), steps=3, sampler="ddim",
        prompt="cat",
    )  # fmt: skip
    assert len(seen) == 3
    for cond in seen:
        assert torch.equal(cond.image_prompts[0].tokens, prompt.unwanted)
        assert torch.equal(cond.embedding.values, told.unwanted)
        assert cond.control == ()


def test_of_a_model_that_is_told_where_its_text_ends():
    """Chroma's network is given a mask beside the text; what is learnt has that of no text."""

    class Masked(Shifted):
        def __call__(self, x_t, level, conds):
            assert all(cond.prompt.mask is not None for cond in conds)
            return super().__call__(x_t, level, conds)

        def encode_text(self, text):
            return replace(super().encode_text(text)[0], mask=torch.ones(1, 1)), ""

    run = {"shape": (16, 4), "known": data(), "steps": 3, "sampler": "ddim", "prompt": "cat", "negative": "dog"}
    made, plain = (sample(kind(), Invert(null_text=2), **run) for kind in (Masked, Shifted))
    assert torch.equal(made, plain)
