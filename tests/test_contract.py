"""What every registered plugin keeps, built in or not: parametrised over the entry points."""

import inspect

import numpy as np
import pytest
from toy import Isotropic

from editkit import edit, registry
from editkit.chain import Chain, arrange, plan_stage
from editkit.errors import ChainError, HookError
from editkit.images import Picture
from editkit.plugin import Hooks, Plugin
from editkit.plugins import Guide, Inpaint, SDEdit

NAMES = [name for name in registry.names() if not registry.load(name).needs]
"""Those that need a model with a certain condition are tested with such a model (tests/test_latent_models.py)."""


@pytest.fixture
def picture() -> Picture:
    return Picture(np.random.default_rng(3).integers(0, 256, (30, 36, 3), dtype=np.uint8))


def example(name: str):
    plugin = registry.load(name)
    return plugin(**plugin.example)


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_the_pictures_size_type_and_does_not_touch_its_input(name, picture):
    before = picture.pixels.copy()
    result = edit(picture, example(name), model=Isotropic(), steps=4)
    assert np.array_equal(picture.pixels, before)
    assert result.pixels.dtype == picture.pixels.dtype
    assert result.pixels.ndim == 3


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes_and_another_seed_is_heard(name, picture):
    one, two, other = (edit(picture, example(name), model=Isotropic(), steps=4, seed=s).pixels for s in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_neutral_parameters_are_bit_identical_to_no_plugin(name, picture):
    plugin = registry.load(name)
    if plugin.neutral is None:
        assert plugin.neutral is None  # has none, by its own declaration
        return
    base = SDEdit(strength=0.5)
    without = edit(picture, base, model=Isotropic(), steps=4)
    with_it = edit(picture, base & plugin(**{**plugin.example, **plugin.neutral}), model=Isotropic(), steps=4)
    assert np.array_equal(without.pixels, with_it.pixels)


@pytest.mark.parametrize("name", registry.names())
def test_it_documents_itself(name):
    plugin = registry.load(name)
    assert inspect.getdoc(plugin)
    for field, info in plugin.model_fields.items():
        assert info.description, f"{name}.{field} has no description"
    made = example(name)
    assert issubclass(made.hooks(), Hooks)
    assert made.uses(), f"{name} acts through no hook"


@pytest.mark.parametrize("first", NAMES)
@pytest.mark.parametrize("second", NAMES)
def test_every_plugin_with_and_then_every_other_and_the_plan_counts_right(first, second, picture):
    a, b = example(first), example(second)
    model = Isotropic()
    for chain in (Chain.of(a) & b, a | b):
        try:
            arrange(chain.stages[0], model.info, True)
        except ChainError as error:
            assert first in str(error)
            assert second in str(error)
            continue
        planned, current = 0, picture
        for stage in chain.using(steps=4).inherited().stages:
            stage = type(stage)(stage.plugins, stage.options.merged(type(stage.options)(steps=4)))
            settled = plan_stage(stage, current, info=model.info)
            planned += settled.calls
            current = settled.picture.with_mask(None)
        model.calls = 0
        edit(picture, chain, model=model, steps=4)
        assert model.calls == planned


def test_a_conflict_is_found_before_any_weight_is_loaded(picture, monkeypatch):
    from editkit import editing

    monkeypatch.setattr(editing, "load", lambda *a, **k: pytest.fail("weights were loaded"))
    with pytest.raises(ChainError, match="inpaint and inpaint both set the mask"):
        edit(picture, Inpaint(mask="box:1,1,9,9") & Inpaint(mask="box:1,1,9,9"))
    with pytest.raises(ChainError, match="sdedit and sdedit both set the begin"):
        edit(picture, SDEdit() & SDEdit())


def test_pixels_outside_the_mask_come_back_bit_for_bit(picture):
    mask = np.zeros((30, 36), np.float32)
    mask[10:20, 12:25] = 1
    for chain in (
        Inpaint(mask=mask),
        Inpaint(mask=mask, feather=4),
        Inpaint(mask=mask, method="repaint", jump=2, repeats=3),
        Inpaint(mask=mask) & Guide(brightness=1.0),
        Inpaint(mask=mask) & SDEdit(strength=0.5),
    ):
        for canvas in ("auto", "full", "crop"):
            result = edit(picture, chain, model=Isotropic(), canvas=canvas)
            assert np.array_equal(result.pixels[mask == 0], picture.pixels[mask == 0])
            assert not np.array_equal(result.pixels[mask == 1], picture.pixels[mask == 1])


def test_sixteen_bit_pixels_outside_the_mask_too():
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 20, 3), dtype=np.uint16)
    result = edit(pixels, Inpaint(mask="box:5,5,12,12"), model=Isotropic())
    kept = np.ones((20, 20), bool)
    kept[5:12, 5:12] = False
    assert np.array_equal(result.pixels[kept], pixels[kept])


def test_inpainting_at_strength_one_starts_from_pure_noise(picture):
    """Nothing of the old content leaks: another picture under the mask gives the same result."""
    other = Picture(picture.pixels.copy())
    other.pixels[10:20, 12:25] = 255
    for chain in (Inpaint(mask="box:12,10,25,20"), Inpaint(mask="box:12,10,25,20") & SDEdit(strength=1.0)):
        a, b = (edit(p, chain, model=Isotropic(), canvas="full") for p in (picture, other))
        assert np.array_equal(a.pixels[10:20, 12:25], b.pixels[10:20, 12:25])


def test_an_edit_without_begin_starts_from_the_picture_by_sdedit(picture):
    plugins = arrange(Chain.of(Guide()).stages[0], Isotropic.info, True)
    assert [p.name for p in plugins] == ["sdedit", "guide"]
    plain = edit(picture, SDEdit(strength=0.0), model=Isotropic())
    assert np.array_equal(plain.pixels, picture.pixels)


@pytest.mark.parametrize("gradient", ["network", "x0"])
@pytest.mark.parametrize("wanted", [0.2, 0.8])
def test_guidance_towards_a_brightness_comes_near_the_posterior_mean(picture, wanted, gradient):
    """The mean of n pixels N(0, s^2) has variance s^2 / n; weight w is an observation of variance 1 / 2w.

    An energy at the estimate E[x0 | x_t] leaves out the spread around it (as DPS does), so it pulls somewhat too hard.
    """
    weight, n = 3000.0, picture.pixels.size
    variance = Isotropic.data_std**2 / n
    expected = (2 * wanted - 1) * variance / (variance + 1 / (2 * weight))
    guide = Guide(brightness=wanted, weight=weight, gradient=gradient)
    result = edit(picture, SDEdit(strength=1.0) & guide, model=Isotropic(), steps=40).pixels
    got = result.mean() / 127.5 - 1
    assert 0.9 < got / expected < 1.35


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("bind", "plugin rude: bind raised ZeroDivisionError"),
        ("open", "plugin rude: open raised ZeroDivisionError"),
        ("plan", "plugin rude: plan raised ZeroDivisionError"),
        ("finish", "plugin rude: finish raised ZeroDivisionError"),
        ("small", "plugin rude: finish returned shape"),
        ("nan", "plugin rude: finish made NaN or infinity"),
    ],
)
def test_a_hook_outside_the_steps_that_goes_wrong_is_named_too(where, message, picture):
    def fail(self, *args):
        return 1 / 0

    wrong = {"finish": fail, "small": lambda self, image: image[..., 1:], "nan": lambda self, image: image / 0}
    hooks = type("RudeHooks", (Hooks,), {"finish": wrong[where]} if where in wrong else {})
    methods = {} if where in wrong else {where: fail}
    body = {"name": "rude", "hooks": lambda self: hooks, "__module__": __name__, **methods}
    with pytest.raises(HookError, match=message):
        edit(picture, type("Rude", (Plugin,), body)(), model=Isotropic(), steps=10)
