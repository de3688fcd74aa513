"""What every registered plugin keeps, built in or not: parametrised over the entry points."""

import numpy as np
import pytest
import torch
from pydantic import Field
from toy import Isotropic

from editkit import edit
from editkit.cli.check import report_checks, typed
from editkit.diffusion.conditioning import Conditioning
from editkit.editing import contract
from editkit.editing.settle import arrange
from editkit.errors import ChainError, ExtraError, HookError, ModelError, UsageError
from editkit.models.leasing import Models
from editkit.pictures.picture import Picture
from editkit.plugin import Hooks, Plugin, registry
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint, SDEdit


@pytest.fixture
def picture() -> Picture:
    return Picture(np.random.default_rng(3).integers(0, 256, (30, 36, 3), dtype=np.uint8))


@pytest.mark.parametrize("check", contract.CHECKS)
@pytest.mark.parametrize("name", registry.names())
def test_every_registered_plugin_keeps_the_contract(name, check):
    """See editkit/editing/contract.py for what each check says."""
    try:
        contract.CHECKS[check](registry.load(name))
    except contract.NotChecked as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize("name", registry.names())
def test_every_registered_plugin_is_typed_as_it_is_written_in_python(name):
    try:
        typed(registry.load(name))
    except contract.NotChecked as reason:
        pytest.skip(str(reason))


class Rude(Plugin):
    """Breaks what it is told to."""

    name = "rude"
    how: str = Field("", description="Which part of the contract it breaks.")

    def hooks(self):
        return _RudeHooks


class _RudeHooks(Hooks):
    def clean(self, step, x0):
        if self.plugin.how == "pure":
            return x0.mul_(0.5)
        if self.plugin.how == "repeatable":
            return x0 + torch.rand(x0.shape)
        return x0

    def after(self, step, x_s):
        if self.plugin.how == "counted":
            self.run.model(x_s, step.t, [Conditioning()])
        return x_s


@pytest.mark.parametrize("check", ["pure", "repeatable", "counted", "neutral"])
def test_a_plugin_that_breaks_the_contract_is_found(check):
    rude = type("Rude", (Rude,), {"__module__": __name__, "example": {"how": check}, "neutral": {"how": "repeatable"}})
    with pytest.raises(contract.ContractError):
        contract.CHECKS[check](rude)


def test_a_plugin_without_words_hooks_or_a_working_example_is_found():
    mute = type("Mute", (Plugin,), {"__module__": __name__, "__doc__": None, "name": "mute"})
    hookless = type("Hookless", (Rude,), {"__module__": __name__, "hooks": lambda self: Hooks})
    wrong = type("Wrong", (Rude,), {"__module__": __name__, "example": {"how": 3}})
    for check, plugin in (("documented", mute), ("acting", hookless), ("harmless", wrong)):
        with pytest.raises(contract.ContractError):
            contract.CHECKS[check](plugin)


def _others(monkeypatch, *kinds):
    """Only these plugins are installed."""
    found = {kind.name: kind for kind in kinds} | {"sdedit": SDEdit}
    monkeypatch.setattr(contract.registry, "names", lambda: [kind.name for kind in kinds])
    monkeypatch.setattr(contract.registry, "load", found.__getitem__)


def _raising(name, error):
    """A plugin that cannot be bound."""

    def bind(self, run):
        raise error

    body = {"__module__": __name__, "__doc__": "Cannot be bound.", "name": name, "bind": bind}
    return type("Raising", (Rude,), body)


MISSING = ExtraError("this needs open_clip, which is not installed: pip install 'editkit[clip]'")


@pytest.mark.parametrize("error", [MISSING, UsageError("its size is odd"), ModelError("no such folder")])
def test_what_combines_could_not_try_is_said_and_the_rest_is_tried(error, monkeypatch):
    """The plugin that cannot run comes first: those behind it are tried all the same, and a fault there is found."""
    _others(monkeypatch, _raising("odd", error), Guide)
    left_out = contract.combines(Guide)
    assert [line.partition(":")[0] for line in left_out] == ["with and before odd"]
    assert str(error) in left_out[0]
    rude = type("Rude", (Rude,), {"__module__": __name__, "example": {"how": "counted"}})
    _others(monkeypatch, _raising("odd", error), rude)
    with pytest.raises(contract.ContractError, match="with rude: the plan says"):
        contract.combines(Guide)


def test_a_plugin_that_could_be_tried_with_none_is_not_checked(monkeypatch):
    _others(monkeypatch, Guide)
    with pytest.raises(contract.NotChecked, match="no other plugin: with and before guide: this needs open_clip"):
        contract.combines(_raising("odd", MISSING))


def test_checks_of_what_is_missing_are_counted_as_not_made(capsys):
    """Parts that were not tried are named, and nothing checked is no success."""

    def missing(checked):
        """It works."""
        raise MISSING

    def partly(checked):
        """It works everywhere."""
        return ("the VE table: no levels",)

    def kept(checked):
        """It is."""

    assert report_checks("mine", "mine", {"missing": missing, "partly": partly, "kept": kept}) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["not", "kept", "not", "kept", "mine:"]
    assert str(MISSING) in shown[0]
    assert shown[2].split() == ["not", "tried", "the", "VE", "table:", "no", "levels"]
    assert shown[-1] == "mine: keeps the contract (1 not checked, 1 in part)"
    assert report_checks("mine", "mine", {"missing": missing}) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "mine: nothing could be checked"


def test_a_conflict_is_found_before_any_weight_is_loaded(picture):
    models = Models(load=lambda *a, **k: pytest.fail("weights were loaded"))
    with pytest.raises(ChainError, match="inpaint and inpaint both set the mask"):
        edit(picture, Inpaint(mask="box:1,1,9,9") & Inpaint(mask="box:1,1,9,9"), models=models)
    with pytest.raises(ChainError, match="sdedit and sdedit both set the begin"):
        edit(picture, SDEdit() & SDEdit(), models=models)


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
