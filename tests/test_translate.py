"""Translation between Gaussians that a text names, in closed form; the same text gives the picture back."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from toy import Isotropic

from editkit import edit, sample
from editkit.diffusion.conditioning import Conditioning, Prompt
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.samplers import posterior_variance
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.editing.api import plan as planned
from editkit.errors import ChainError
from editkit.pictures.picture import Picture
from editkit.plugins import Inpaint, Invert, Translate
from editkit_plugins import translate as translating

TABLES = {"VE": VE(0.02, 20.0), "VP": Cosine(), "flow": Flow()}
METHODS = ("cycle", "edit-friendly", "flowedit")
TURN = torch.linalg.qr(torch.randn((4, 4), generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
LAWS = {
    "cat": (torch.tensor([0.6, -0.4, 0.2, -0.8]), torch.tensor([1.5, 0.6, 0.3, 0.2])),
    "dog": (torch.tensor([-0.5, 0.3, 0.9, 0.1]), torch.tensor([0.4, 0.9, 0.5, 0.1])),
    "far cat": (torch.tensor([1.6, 0.6, 0.2, -0.8]), torch.tensor([1.5, 0.6, 0.3, 0.2])),
    "": (torch.zeros(4), torch.ones(4)),
}
"""Text -> mean, and the variances along the axes TURN."""


class Prompted:
    """x0 ~ N(m, C) of the text, in 4-D; covariances commute."""

    clip, data_std = None, 1.0

    def __init__(self, schedule, guidance=1.0):
        self.schedule = schedule
        takes = frozenset({"prompt"})
        self.info = ModelInfo("prompted", "exact Gaussians", takes=takes, sampler="ddim", guidance=guidance)

    def __call__(self, x_t, level, conds):
        made = []
        for cond in conds:
            text = "" if cond.prompt is None else list(LAWS)[int(cond.prompt.embeds[0, 0, 0])]
            mean, values = (v.double() for v in LAWS[text])
            gain = TURN @ torch.diag(level.alpha * values / (level.alpha**2 * values + level.sigma**2)) @ TURN.T
            x0 = (mean + (x_t.double() - level.alpha * mean) @ gain).float()
            made.append(Prediction(x0, (x_t - level.alpha * x0) / max(level.sigma, 1e-12)))
        return tuple(made)

    def encode_text(self, text):
        return Prompt(torch.full((1, 1, 1), float(list(LAWS).index(text)))), ""

    def shape(self, height, width):
        return (4,)

    def encode(self, image, stream=None):
        return image

    encode_mask = decode = encode

    def attach(self, picture, mask):
        return self


def data(text, n=64):
    mean, values = LAWS[text]
    z = torch.randn((n, 4), generator=torch.Generator().manual_seed(1))
    return mean + ((z * values.sqrt()).double() @ TURN.T).float()


def translated(table, source, target, *, guidance=1.0, steps=20, known=None, **given):
    exact = Prompted(TABLES[table], guidance)
    x = data("cat") if known is None else known
    sampler = given.pop("sampler", "ddim")
    return sample(
        exact, Translate(source=source, **given), shape=(len(x), 4), known=x, steps=steps, sampler=sampler,
        prompt=target,
    )  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_ddib_is_the_optimal_transport_map(table):
    """x -> m_B + C_B^1/2 C_A^-1/2 (x - m_A), for covariances that commute; at the rule's order. A table that ends at
    sigma, with the picture still in it, has (C_A + sigma^2)^1/2 C_A^-1/2 up and the inverse of B's down instead.
    """
    (m_a, v_a), (m_b, v_b) = LAWS["cat"], LAWS["dog"]
    x, noise = data("cat"), 20.0**2 if table == "VE" else 1e12

    def scaled(x, values):
        return (x.double() @ TURN @ torch.diag(values.double().sqrt()) @ TURN.T).float()

    top = m_a + scaled(x - m_a, (v_a + noise) / v_a)
    exact = m_b + scaled(top - (m_b if table == "VE" else m_a), v_b / (v_b + noise))
    errors = [
        float((translated(table, "cat", "dog", method="ddib", steps=n, sampler="heun") - exact).abs().mean())
        for n in (40, 80, 160)
    ]
    assert errors[2] < 2e-3, errors
    assert errors[0] > 1.7 * errors[1] or errors[0] < 1e-3, errors  # VE: float32's rounding at sigma = 20
    back = translated(
        table, "dog", "cat", method="ddib", steps=160, sampler="heun",
        known=translated(table, "cat", "dog", method="ddib", steps=160, sampler="heun"),
    )  # fmt: skip
    assert float((back - x).abs().max()) < 5e-3


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize(
    ("method", "table"), [(m, t) for m in METHODS for t in TABLES if m != "flowedit" or t == "flow"]
)
def test_the_same_text_gives_the_picture_back(method, table, guidance):
    made = translated(table, "cat", "cat", method=method, guidance=guidance)
    if method == "flowedit":
        assert torch.equal(made, data("cat"))
    assert float((made - data("cat")).abs().max()) < 1e-5
    other = translated(table, "cat", "cat", method=method, guidance=guidance, source_guidance=2.0)
    assert float((other - data("cat")).abs().max()) > 1e-3


@pytest.mark.parametrize("steps", [3, 20])
@pytest.mark.parametrize(
    ("method", "table"), [(m, t) for m in METHODS for t in TABLES if m != "flowedit" or t == "flow"]
)
def test_another_mean_is_a_shift_in_any_number_of_steps(method, table, steps):
    """With equal covariances the result is exactly x + m_B - m_A; VE starts where alpha m is still to be seen."""
    shift = LAWS["far cat"][0] - LAWS["cat"][0]
    made = translated(table, "cat", "far cat", method=method, steps=steps)
    if table == "VE":  # x_T is of the picture, and keeps its share C / (C + sigma^2) of the old mean
        share = float(LAWS["cat"][1].max() / (LAWS["cat"][1].max() + 20.0**2))
        assert float((made - data("cat") - shift).abs().max()) < 2.0 * share * float(shift.norm())
    else:
        assert float((made - data("cat") - shift).abs().max()) < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_the_more_is_skipped_the_nearer_to_the_picture(method):
    x = data("cat")
    moved = [
        float((translated("flow", "cat", "dog", method=method, skip=skip) - x).abs().mean()) for skip in (0, 8, 16, 20)
    ]
    assert moved[0] > moved[1] > moved[2] > moved[3] == 0.0


@pytest.mark.parametrize(
    ("method", "calls"), [("ddib", 1), ("cycle", 2), ("edit-friendly", 2), ("flowedit", 2), ("rf", 1), ("rf-solver", 2)]
)
def test_calls_are_counted(method, calls):
    states = []
    sample(
        Prompted(Flow()), Translate(source="cat", method=method), shape=(1, 4), known=data("cat", 1), steps=5,
        sampler="ddim", prompt="dog", watch=states.append,
    )  # fmt: skip
    assert states[-1].calls == 5 * 2 * (2 if method == "rf-solver" else 1)
    assert states[-1].calls == calls * len(states)


def test_the_picture_s_own_text_in_place_of_none_undoes_guidance_on_the_way_back():
    """`invert --source`: by the same text as if there were no guidance; without it guidance spoils the way back."""
    x = data("cat")

    def back(guidance, prompt="cat", **given):
        return sample(
            Prompted(Cosine(), guidance), Invert(**given), shape=(64, 4), known=x, steps=40, sampler="ddim",
            prompt=prompt,
        )  # fmt: skip

    plain = back(1.0)
    torch.testing.assert_close(back(7.5, source="cat"), plain, rtol=1e-5, atol=1e-5)
    assert float((back(7.5) - x).abs().mean()) > 3.0 * float((plain - x).abs().mean())
    up, down = data("cat"), back(3.0, prompt="dog", source="cat")
    assert float((down - up).abs().mean()) > 0.3  # towards the dog, away from the cat
    with pytest.raises(ChainError, match="isotropic .* takes no text"):
        edit(Picture(np.zeros((8, 8, 3), np.uint8)), Invert(source="a"), model=Isotropic())


class Words(Isotropic):
    """Pictures of a brightness that the text says."""

    info = ModelInfo("words", "exact Gaussian", takes=frozenset({"prompt"}), sampler="ddim", steps=6, guidance=1.0)
    schedule = Flow()

    def encode_text(self, text):
        return Prompt(torch.full((1, 1, 1), len(text) / 20.0)), ""

    def __call__(self, x_t, level, conds):
        made = []
        for cond in conds:
            m = 0.0 if cond.prompt is None else cond.prompt.embeds
            (plain,) = super().__call__(x_t - level.alpha * m, level, (cond,))
            made.append(Prediction(plain.x0 + m, plain.eps))
        return tuple(made)


@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("method", ["dds", "pds"])
def test_distilled_differences_are_nothing_between_equal_texts(method, table, guidance):
    assert torch.equal(translated(table, "cat", "cat", method=method, guidance=guidance), data("cat"))


@pytest.mark.parametrize("table", ["VP", "flow"])
@pytest.mark.parametrize("method", ["dds", "pds"])
def test_distilled_differences_end_at_the_shift(method, table):
    """With equal covariances x - x_source has the fixed point m_B - m_A, whatever the noise: no variance is added."""
    shift = LAWS["far cat"][0] - LAWS["cat"][0]
    left = [
        (translated(table, "cat", "far cat", method=method, steps=steps, rate=1.0) - data("cat") - shift).abs().max()
        for steps in (20, 80)
    ]
    assert left[1] < 0.02 * float(shift.norm())
    assert left[1] < left[0]


@pytest.mark.parametrize("method", ["dds", "pds"])
def test_distilled_differences_are_the_papers_steps(method):
    """dds: x - rate w (eps_hat(x_t; target) - eps_hat(x_src_t; source)), w = sigma^2 on VP. pds: x - rate (z - z_src),
    z = (x_s - mu(x_t)) / sqrt(var) with both noises shared, as long as that is no longer than D.
    """
    exact, table, rate = Prompted(TABLES["VP"]), TABLES["VP"], 0.3
    levels = table.levels(10)
    conds = {text: (Conditioning(prompt=exact.encode_text(text)[0]),) for text in ("cat", "dog")}
    drawn = []

    class Draws(Translate):
        def hooks(self):
            return _Draws

    class _Draws(translating._Distilled):
        def sampler(self):
            rule = translating.Deltas(self)
            step = rule.step

            def told(x_t, t, s, predict, normal, memory):
                drawn.append((x_t.double(), t, s, normal(t, s)))
                return step(x_t, t, s, predict, lambda t, s: drawn[-1][3], memory)

            rule.step = told
            return rule

    source = data("cat", 8)
    states = []
    sample(
        exact, Draws(source="cat", method=method, rate=rate), shape=(8, 4), known=source, steps=10, sampler="ddim",
        prompt="dog", watch=states.append,
    )  # fmt: skip
    assert len(drawn) == 10
    for (x, t, s, eps), state in zip(drawn[:-1], states, strict=False):
        x_t, src_t = (t.alpha * v + t.sigma * eps for v in (x, source))
        to, of = (exact(v.float(), t, conds[text])[0] for v, text in ((x_t, "dog"), (src_t, "cat")))
        if method == "dds":
            wanted = x - rate * t.sigma**2 * (to.eps - of.eps)
        else:
            var, beta = posterior_variance(t, s)
            other = torch.randn((8, 4), generator=torch.Generator().manual_seed(1))
            z = [
                (s.alpha * v + s.sigma * other - translating.mean(v_t, made.x0, t, s)) / var**0.5
                for v, v_t, made in ((x, x_t, to), (source, src_t, of))
            ]
            capped = min(1.0, var**0.5 * t.sigma**2 / (s.alpha * beta))
            wanted = x - rate * capped * (z[0] - z[1])
        assert float((state.x - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    assert levels[-1].index == 10


@pytest.mark.parametrize("method", ["ddib", *METHODS, "rf", "rf-solver"])
def test_with_a_mask_only_inside_it(method):
    photo = Picture(np.random.default_rng(0).integers(60, 190, (12, 10, 3), dtype=np.uint8))
    free = {"gamma": 0.0, "hold": 0.0} if method == "rf" else {}
    plugin = Translate(source="a", method=method, mask="box:2,2,6,6", **free)
    made = edit(photo, plugin, model=Words(), prompt="a longer text").pixels.astype(int) - photo.pixels
    inside = made[2:6, 2:6].copy()
    made[2:6, 2:6] = 0
    assert not made.any()
    wanted = 127.5 * (len("a longer text") - 1) / 20.0
    assert abs(float(inside.mean()) - wanted) < (8.0 if method in ("ddib", "rf", "rf-solver") else 1.0)
    calls = 24 if method == "rf-solver" else 12
    assert planned(photo, plugin, model=Words(), prompt="b")[0].calls == calls


def test_rf_without_a_pull_is_ddib():
    """Euler steps of the velocity are ddim's, upward and downward."""
    alone = translated("flow", "cat", "dog", method="rf", gamma=0.0, hold=0.0)
    torch.testing.assert_close(alone, translated("flow", "cat", "dog", method="ddib"), rtol=1e-5, atol=1e-5)


def test_rf_solver_is_taylor_s_expansion_which_is_the_midpoint_rule():
    """By hand in float64, up by the source and down by the target: x + h v + h^2/2 v', v' over half a move."""
    x, levels = data("cat", 8), Flow().levels(8)
    made = translated("flow", "cat", "dog", method="rf-solver", steps=8, known=x)

    def velocity(y, level, text):
        asked = levels[1] if level.sigma == 0.0 else level
        mean, values = (v.double() for v in LAWS[text])
        gain = TURN @ torch.diag(asked.alpha * values / (asked.alpha**2 * values + asked.sigma**2)) @ TURN.T
        x0 = mean + (y - asked.alpha * mean) @ gain
        return (y - asked.alpha * x0) / asked.sigma - (y if level.sigma == 0.0 else x0)

    y = x.double()
    for text, way in (("cat", levels), ("dog", levels[::-1])):
        for t, s in pairwise(way):
            h, half = s.sigma - t.sigma, Flow().level(500.0 * (s.sigma + t.sigma))
            y = y + h * velocity(y + 0.5 * h * velocity(y, t, text), half, text)
    torch.testing.assert_close(made.double(), y, rtol=1e-4, atol=1e-4)


def test_rf_solver_is_of_second_order():
    """To the optimal transport map, where `rf` without its pulls and `ddib` by ddim are of the first: the whole way
    begins at the clean level, where the network is asked one level higher, an error of h^2 a walk."""
    (m_a, v_a), (m_b, v_b) = LAWS["cat"], LAWS["dog"]
    x = data("cat")
    scaled = ((x - m_a).double() @ TURN @ torch.diag((v_b / v_a).double().sqrt()) @ TURN.T).float()
    slopes = {}
    for method in ("rf-solver", "ddib"):
        errors = [
            float((translated("flow", "cat", "dog", method=method, steps=n) - m_b - scaled).abs().mean())
            for n in (20, 40, 80)
        ]
        slopes[method] = [np.log2(a / b) for a, b in pairwise(errors)]
    assert min(slopes["rf-solver"]) > 1.6, slopes
    assert max(slopes["ddib"]) < 1.4, slopes


def test_rf_held_to_the_end_gives_the_picture_back_and_less_far_the_further():
    x = data("cat")
    made = translated("flow", "cat", "dog", method="rf", hold=1.0, hold_until=1.0)
    assert float((made - x).abs().max()) < 1e-5
    moved = [float((translated("flow", "cat", "dog", method="rf", hold=h) - x).abs().mean()) for h in (0.0, 0.5, 0.9)]
    assert moved[0] > moved[1] > moved[2] > 0.0
    longer = float((translated("flow", "cat", "dog", method="rf", hold=0.9, hold_until=0.7) - x).abs().mean())
    assert longer < moved[2]


def test_rf_drawn_wholly_ends_at_its_noise_whatever_the_picture():
    tops = []
    for known in (data("cat", 3), data("dog", 3)):
        states = []
        sample(
            Prompted(Flow()), Translate(source="cat", method="rf", gamma=1.0), shape=(3, 4), known=known, steps=10,
            sampler="ddim", prompt="dog", watch=states.append,
        )  # fmt: skip
        assert [state.move.up for state in states] == [True] * 10 + [False] * 10
        tops.append(states[9].x)
    torch.testing.assert_close(tops[0], tops[1], rtol=1e-5, atol=1e-5)
    assert 0.3 < float(tops[0].std()) < 2.0


def test_rf_is_its_own_recursion_on_a_gaussian():
    """Along each axis the controlled flow is affine; by hand in float64, with one noise z."""
    states = []
    x = data("cat", 2)
    made = sample(
        Prompted(Flow()), Translate(source="cat", method="rf", gamma=0.4, hold=0.8, hold_until=0.5), shape=(2, 4),
        known=x, steps=8, sampler="ddim", prompt="dog", watch=states.append,
    )  # fmt: skip
    levels = Flow().levels(8)

    def velocity(y, level, text):
        asked = levels[1] if level.sigma == 0.0 else level
        mean, values = (v.double() for v in LAWS[text])
        gain = TURN @ torch.diag(asked.alpha * values / (asked.alpha**2 * values + asked.sigma**2)) @ TURN.T
        x0 = mean + (y - asked.alpha * mean) @ gain
        eps = (y - asked.alpha * x0) / asked.sigma
        return eps - (y if level.sigma == 0.0 else x0)

    y = x.double()
    t, s = levels[0], levels[1]
    v = velocity(y, t, "cat")  # the first state tells the noise: x_1 = x + dt (0.6 v + 0.4 (z - x))
    z = y + ((states[0].x.double() - y) / s.sigma - 0.6 * v) / 0.4
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        v = velocity(y, t, "cat")
        y = y + (s.sigma - t.sigma) * (0.6 * v + 0.4 * (z - y) / t.alpha)
    for k, (t, s) in enumerate(zip(levels[:0:-1], levels[-2::-1], strict=True)):
        v, hold = velocity(y, t, "dog"), 0.8 if k < 4 else 0.0
        y = y + (s.sigma - t.sigma) * ((1.0 - hold) * v + hold * (y - x.double()) / t.sigma)
    torch.testing.assert_close(made.double(), y, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_is_refused():
    with pytest.raises(ChainError, match="translate needs a model that takes prompt"):
        edit(Picture(np.zeros((8, 8, 3), np.uint8)), Translate(source="a"), model=Isotropic())
    for method in ("flowedit", "rf", "rf-solver"):
        with pytest.raises(ChainError, match=f"{method}.* is for flow-matching models .* prompted is none"):
            translated("VP", "cat", "dog", method=method)
    with pytest.raises(ChainError, match="needs a picture; with sample"):
        sample(Prompted(Flow()), Translate(source="cat"), shape=(1, 4), prompt="dog")
    with pytest.raises(ChainError, match="both set the mask"):
        edit(
            Picture(np.zeros((8, 8, 3), np.uint8)), Translate(source="a") & Inpaint(mask="box:1,1,4,4"), model=Words(),
            prompt="b",
        )  # fmt: skip
