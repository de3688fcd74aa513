"""Between two pictures: every frame has the data's law, texts go straight, and what the command takes and refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_translate import Words
from toy import Isotropic

from editkit import edit, interpolate, sample
from editkit.cli import run
from editkit.diffusion.conditioning import Prompt
from editkit.diffusion.schedule import Cosine, Flow
from editkit.editing.between import Blend, between, interpolation, run_interpolation
from editkit.editing.contract import model_for
from editkit.errors import ChainError, ModelError, UsageError
from editkit.models import Gaussian
from editkit.models.leasing import Models
from editkit.pictures.files.provenance import hash_pixels, read_provenance
from editkit.pictures.picture import Picture
from editkit.plugin import Hooks, Plugin, registry
from editkit.plugin.chain import Chain
from editkit.plugin.options import Options
from editkit.plugins import Guide, Invert, Keep, SDEdit

RNG = np.random.default_rng(0)
A, B = (Picture(RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)) for _ in range(2))


class _Given(Plugin):
    """Begin at a state that is given."""

    name = "given"
    x: object = None

    def hooks(self):
        return _GivenHooks


class _GivenHooks(Hooks):
    def begin(self):
        return self.plugin.x


@pytest.mark.parametrize("table", [Cosine(), Flow()], ids=["VP", "flow"])
def test_every_intermediate_has_the_data_s_law_and_lerp_has_not(table):
    """N(m, C) of 16 values, C = Q diag(1 / k^2) Q^T: mean and covariance within 2 % (of sqrt(tr C) and of |C|) by
    20,000 pairs, whose chance is 1.1 %. A straight line has (1 - s)^2 + s^2 of the covariance: half in the middle.
    """
    n, d = 20_000, 16
    g = torch.Generator().manual_seed(3)
    q = torch.linalg.qr(torch.randn((d, d), generator=g, dtype=torch.float64))[0]
    values = 1.0 / torch.arange(1, d + 1, dtype=torch.float64) ** 2
    mean, covariance = torch.randn(d, generator=g, dtype=torch.float64), q @ torch.diag(values) @ q.T
    x = mean + torch.randn((2 * n, d), generator=g, dtype=torch.float64) @ (torch.diag(values.sqrt()) @ q.T)
    exact, run = Gaussian(mean.float(), covariance.float(), table), {"steps": 1, "sampler": "ode:rtol=1e-3,atol=1e-3"}
    z = sample(exact, Invert(way="up"), shape=(2 * n, d), known=x.float(), **run)

    def errors(share, mix):
        mixed = between(z[:n], z[n:], share, mix)
        made = sample(exact, _Given(x=mixed), shape=(n, d), **run).double()
        off = torch.cov(made.T) - covariance
        return float((made.mean(0) - mean).norm() / values.sum().sqrt()), float(off.norm() / covariance.norm())

    for share in (0.25, 0.5):
        assert max(errors(share, "slerp")) < 0.02
    assert errors(0.5, "lerp")[1] == pytest.approx(0.5, abs=0.03)
    assert errors(0.25, "lerp")[1] == pytest.approx(1.0 - 0.75**2 - 0.25**2, abs=0.03)


def test_slerp_meets_both_ends_keeps_the_norm_and_stands_where_both_are_one():
    a, b = torch.randn((2, 3, 4, 5, 5), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(between(a, b, 0.0), a)
    torch.testing.assert_close(between(a, b, 1.0), b)
    torch.testing.assert_close(between(a, a, 0.3), a)
    unit = a / a.flatten(1).norm(dim=1).reshape(3, 1, 1, 1), b / b.flatten(1).norm(dim=1).reshape(3, 1, 1, 1)
    torch.testing.assert_close(between(*unit, 0.4).flatten(1).norm(dim=1), torch.ones(3))
    torch.testing.assert_close(between(*unit, 0.4), between(*reversed(unit), 0.6))
    assert float(between(*unit, 0.5, "lerp").flatten(1).norm(dim=1).max()) < 0.8


def test_the_ends_are_both_pictures_as_they_come_back():
    frames = interpolate(A, B, frames=3, steps=8, sampler="heun", refine=20, model=Isotropic())
    assert [f.size for f in frames] == [A.size] * 3
    assert np.abs(frames[0].pixels.astype(int) - A.pixels).max() <= 1
    assert np.abs(frames[2].pixels.astype(int) - B.pixels).max() <= 1
    middle = frames[1].pixels.astype(float) - 127.5
    assert middle.std() == pytest.approx(np.concatenate([A.pixels, B.pixels]).std(), rel=0.15)
    faint = interpolate(A, B, frames=3, steps=8, sampler="heun", mix="lerp", model=Isotropic())[1].pixels
    assert faint.std() < 0.8 * middle.std()


def test_texts_go_straight_in_their_space():
    """A picture's brightness follows its text on this model. Both ends come back by the text they went up by."""
    frames = interpolate(
        A, A, frames=3, steps=8, refine=20, model=Words(), prompt="a", prompt_to="a longer text"
    )  # fmt: skip
    means = [f.pixels.mean() for f in frames]
    assert means[0] == pytest.approx(A.pixels.mean(), abs=0.6)
    assert means[2] == pytest.approx(A.pixels.mean(), abs=0.6)
    told = []

    class Spied(Words):
        def __call__(self, x_t, level, conds):
            told.append(float(conds[0].prompt.embeds))
            return super().__call__(x_t, level, conds)

    interpolate(A, B, frames=3, steps=2, model=Spied(), prompt="a", prompt_to="a longer text", guidance_scale=1.0)
    first, second = 1 / 20, len("a longer text") / 20
    assert told == pytest.approx([first] * 2 + [second] * 2 + [first] * 2 + [(first + second) / 2] * 2 + [second] * 2)


def test_a_text_s_pooled_half_goes_along():
    class Pooled(Words):
        def encode_text(self, text):
            return Prompt(torch.full((1, 2, 3), float(len(text))), torch.full((1, 4), 10.0 * len(text))), ""

    run = SimpleNamespace(model=Pooled(), options=Options(prompt="a", negative="n"))
    made = Blend(second="abc", share=0.5).bind(run)
    assert torch.equal(made.prompt.embeds, torch.full((1, 2, 3), 2.0))
    assert torch.equal(made.prompt.pooled, torch.full((1, 4), 20.0))
    assert torch.equal(made.negative.embeds, torch.full((1, 2, 3), 1.0))


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_the_plan_counts_the_calls(sampler):
    asked = interpolation(A, B, Chain.of(Invert(refine=2)).using(steps=4, sampler=sampler, model="pocket"), frames=3)
    model = Isotropic()
    interpolate(A, B, frames=3, steps=4, sampler=sampler, refine=2, model=model)
    assert sum(plan.calls for plan in asked.plans(info=Isotropic.info)) == model.calls


@pytest.mark.parametrize("later", [False, True], ids=["with", "then"])
@pytest.mark.parametrize("name", registry.names())
def test_with_and_before_every_other_plugin(name, later):
    """It calls the network as often as planned; what one process cannot hold beside `invert` is refused by name."""
    other = registry.load(name)
    second, exact = other(**other.example), model_for(Invert, other)
    chain = Chain.of(Invert()) | second if later else Chain.of(Invert()) & second
    asked = interpolation(A, B, chain.with_options(Options(steps=3, model="pocket")), frames=2)
    steps = run_interpolation(asked, Models(most=1), own=exact)
    try:
        planned = asked.plans(info=exact.info)
        frames = finished(steps)
    except (ChainError, ModelError, UsageError) as refused:
        assert name in str(refused)
        return
    assert len(frames) == 2
    calls, beside = sum(p.calls for p in planned), sum(p.beside for p in planned)
    assert exact.calls in (calls, calls + beside)


def finished(steps):
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value


def test_another_size_is_cut_and_brought_to_the_first_s():
    said = []
    wide = Picture(np.repeat(RNG.integers(0, 256, (24, 40, 1), dtype=np.uint8), 3, 2))
    frames = interpolate(A, wide, frames=2, steps=2, model=Isotropic(), notify=said.append)
    assert frames[1].size == A.size
    assert any("its centre, 20x24, is resized to 10x12" in line for line in said)


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="needs 2 frames or more, got 1"):
        interpolate(A, B, frames=1, model=Isotropic())
    with pytest.raises(ChainError, match="patches learns from one picture"):
        interpolate(A, B, model="patches")
    with pytest.raises(UsageError, match="sampler ddpm cannot do; use"):
        interpolate(A, B, steps=3, sampler="ddpm", model=Isotropic())
    with pytest.raises(ChainError, match="blend needs a model that takes prompt"):
        interpolate(A, B, steps=3, model=Isotropic(), prompt_to="a dog")
    with pytest.raises(UsageError, match="needs invert first, and its chain begins with sdedit"):
        interpolation(A, B, Chain.of(SDEdit()))
    with pytest.raises(ChainError, match="both set the begin"):
        interpolate(A, B, SDEdit(), model=Isotropic())


def test_guides_act_on_every_frame():
    plain = interpolate(A, B, frames=2, steps=6, model=Isotropic())
    light = interpolate(A, B, Guide(brightness=0.9, weight=3000.0), frames=2, steps=6, model=Isotropic())
    assert not np.array_equal(plain[0].pixels, light[0].pixels)
    held = interpolate(A, B, Keep(map="box:0,0,5,12"), frames=2, steps=6, model=Isotropic())
    assert np.array_equal(held[0].pixels[:, 5:], A.pixels[:, 5:])
    same = edit(A, Invert(), steps=6, model=Isotropic())
    assert np.array_equal(plain[0].pixels, same.pixels)


@pytest.fixture
def two(tmp_path):
    for name, picture in (("a", A), ("b", B)):
        Image.fromarray(picture.pixels).save(tmp_path / f"{name}.png")
    return str(tmp_path / "a.png"), str(tmp_path / "b.png")


def test_a_strip_a_moving_picture_a_trace_and_a_plan(two, tmp_path, capsys):
    a, b = two
    words = ["interpolate", a, "--to", b, "--frames=3", "--steps", "2"]
    assert run([*words, "--trace", str(tmp_path / "t.html")]) == 0
    with Image.open(tmp_path / "a.interpolate.png") as made:
        assert made.size == (30, 12)
    assert "3 pictures · 10 network calls" in capsys.readouterr().err
    page = (tmp_path / "t.html").read_text()
    assert "10 moves, 4 of them upward" in page
    assert run([*words, "-o", str(tmp_path / "m.webp"), "--quiet"]) == 0
    with Image.open(tmp_path / "m.webp") as made:
        assert (made.size, made.n_frames) == ((10, 12), 4)  # there and back
    assert run(["plan", *words]) == 0
    assert "total: 10 network calls" in capsys.readouterr().out


def test_a_strip_says_how_it_was_made(two, tmp_path, capsys):
    a, b = two
    strip = str(tmp_path / "a.interpolate.png")
    words = ["interpolate", a, "--to", b, "--frames=3", "--steps", "2", "--quiet", "--force"]
    assert run([*words, "--lerp"]) == 0
    found = read_provenance(strip)
    assert (found.picture, found.between.to, found.between.frames, found.between.mix) == ("a.png", "b.png", 3, "lerp")
    assert (found.picture_hash, found.between.to_hash) == (hash_pixels(A), hash_pixels(B))
    assert found.models[0].name == "pocket"
    assert run(["show", strip]) == 0
    assert "between it and: b.png" in capsys.readouterr().out
    assert run(["rerun", strip]) == 1
    assert "is a strip between a.png and b.png" in capsys.readouterr().err
    assert run([*words, "--no-provenance"]) == 0
    assert read_provenance(strip) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["A"], "interpolate needs a second picture: --to B"),
        (["A", "--to"], "--to needs a value"),
        (["A", "--to", "B", "--to", "B"], "--to is given twice"),
        (["A", "--to", "B", "--frames", "x"], "--frames is x; a whole number from 2 to 1000"),
        (["A", "--to", "B", "--frames", "²"], "--frames is ²; a whole number from 2 to 1000"),
        (["A", "--to", "B", "--frames", "99999999999"], "a whole number from 2 to 1000"),
        (["A", "--to", "B", "--frames", "1"], "--frames is 1; a whole number from 2 to 1000"),
        (["A", "--to", "B", "--way", "up"], "--way is for `editkit invert`"),
        (["A", "--to", "B", "--candidates", "3"], "leave --candidates out"),
        (["A", "--to", "B", "-o", "-"], "name a file with -o"),
        (["A", "--to", "missing.png"], "missing.png"),
        (["A", "--to", "a.mp4"], "interpolate works on two pictures, and a.mp4 is a video"),
        (["a.mp4", "--to", "B"], "interpolate works on two pictures, and a.mp4 is a video"),
        (["A", "--to", "B", "--null-text", "3"], "--null-text is for `editkit invert`"),
        (["A", "--to", "B", "-o", "A"], "exists already"),
        (["A", "--to", "B", "-o", "B", "--force"], "is also an input"),
        (["A", "--to", "B", "--steps", "2", "--sampler", "ddpm"], "sampler ddpm cannot do; use --sampler"),
    ],
)
def test_words_that_cannot_be_meant(two, capsys, words, said):
    given = [dict(A=two[0], B=two[1]).get(word, word) for word in words]
    assert run(["interpolate", *given]) in (1, 2)
    assert said in capsys.readouterr().err
