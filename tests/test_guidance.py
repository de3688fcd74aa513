"""What guidances share: profile, every, region, limit, normalize, view, decoder, checkpointing, warnings, cost."""

import numpy as np
import pytest
import torch
from toy import Isotropic, Quadratic, model

from editkit import edit, sample
from editkit.diffusion.model import PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.editing.settle import plan_stage
from editkit.errors import EditkitError, HookError, ParameterError, UsageError
from editkit.models import Gaussian
from editkit.pictures.picture import Picture
from editkit.plugin import Hooks, Plugin
from editkit.plugin.chain import Chain
from editkit.plugin.guidance import interpolate_weight, parse_profile
from editkit.plugins import Cfg, Guide, SDEdit


@pytest.fixture
def picture():
    return Picture(np.random.default_rng(3).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def _run(picture, plugin, **options):
    chain = SDEdit(strength=1.0) & plugin if plugin else SDEdit(strength=1.0)
    return edit(picture, chain, model=Isotropic(), **{"steps": 8, **options}).pixels


def _energy(name, function, through="network"):
    hooks = type("H", (Hooks,), {"energy": function, "through": through})
    return type("E", (Plugin,), {"name": name, "hooks": lambda self: hooks, "__module__": __name__})()


def test_the_profile_is_linear_between_its_knots():
    at = parse_profile("0:0,0.5:1,1:0.2")
    assert [round(interpolate_weight(at, x), 3) for x in (0.0, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.5, 1.0, 0.6, 0.2]
    assert interpolate_weight(parse_profile("0.3"), 0.9) == 0.3
    assert interpolate_weight(parse_profile("0.4:2,0.6:1"), 0.1) == 2.0


@pytest.mark.parametrize("profile", ["", "a", "0:1,0:2", "0.5:1,0.2:1", "0:1,2:1", "1:2:3"])
def test_a_profile_that_cannot_be_read_is_refused(profile):
    with pytest.raises(ParameterError, match="pairs fraction:weight in ascending order"):
        Guide(profile=profile)


def test_a_profile_of_zero_after_the_start_is_the_start_alone(picture):
    late = Guide(brightness=1.0, weight=2000.0, profile="0:0,1:0")
    assert np.array_equal(_run(picture, late), _run(picture, None))


def test_every_second_step_and_the_window_are_planned_and_kept(picture):
    acted = []
    guide = Guide(loss=lambda x: acted.append(1) or x.flatten(1).mean(1), every=3, start=0.25)
    _run(picture, guide, steps=12)
    assert len(acted) == 3 + 2  # moves 3, 6 and 9 of 0..11; what went in and what came out, to be told
    settled = plan_stage(Chain.of(SDEdit(strength=1.0) & guide).using(steps=12).stages[0], picture, info=Isotropic.info)
    assert (settled.calls, settled.backward, settled.deep) == (12, 3, 3)


def test_a_plan_counts_the_passes_of_those_that_stand_alone(picture):
    region = np.ones((24, 32), np.float32)
    three = SDEdit(strength=1.0) & Guide() & Guide(gradient="x0") & Guide(mask=region, gradient="x0")
    settled = plan_stage(three.using(steps=10).stages[0], picture, info=Isotropic.info)
    assert (settled.calls, settled.backward, settled.deep) == (10, 20, 10)


def test_outside_of_the_mask_nothing_is_moved(picture):
    plain = _run(picture, None)
    for gradient in ("network", "x0"):
        got = _run(picture, Guide(brightness=1.0, weight=4000.0, mask="box:4,4,16,12", gradient=gradient))
        moved = got != plain
        assert moved[4:12, 4:16].any()
        moved[4:12, 4:16] = False
        assert not moved.any()


def test_with_view_region_only_the_box_is_seen(picture):
    sizes = set()
    seen = Guide(loss=lambda x: sizes.add(x.shape[-2:]) or x.flatten(1).mean(1), view="region", mask="box:4,2,16,12")
    _run(picture, seen, steps=2)
    assert sizes == {(10, 12)}


def test_limit_and_normalize_set_the_size_of_the_shift():
    exact = Gaussian(torch.zeros(3, 8, 8), 0.25 * torch.eye(192))
    seen = []

    def clean(self, step, x0):
        (plain,) = exact(step.x_t.detach(), step.t, (None,))
        seen.append(((x0 - plain.x0).square().mean().sqrt().item(), step.sigma_t))
        return x0

    hooks = type("H", (Hooks,), {"clean": clean})
    spy = type("S", (Plugin,), {"name": "spy", "hooks": lambda self: hooks, "__module__": __name__})()
    run = {"shape": (1, 3, 8, 8), "sampler": "ddim", "steps": 6}
    sample(exact, [Guide(brightness=1.0, weight=1e5, limit=0.05), spy], **run)
    assert all(rms == pytest.approx(0.05, rel=1e-3) for rms, _ in seen[1:])
    seen.clear()
    sample(exact, [Guide(brightness=1.0, weight=1e-3, normalize=0.2), spy], **run)
    assert all(rms == pytest.approx(0.2 * sigma, rel=1e-3) for rms, sigma in seen[1:])


def test_clipping_comes_before_guidance_so_that_saturated_values_follow_it():
    """Where the estimate is clipped at -1 and guidance pulls down, the state must not go up: eps follows the shift."""

    class Dark(PixelSpace):
        info = Isotropic.info
        schedule = Isotropic.schedule

        def __call__(self, x_t, level, conds):
            x0 = -1.5 + 0.0 * x_t
            return (Prediction(x0, (x_t - level.alpha * x0) / level.sigma),) * len(conds)

        def attach(self, picture, mask):
            return self

    def down(self, step, x0):
        return 0.3 * step.x_t.flatten(1).sum(1)

    run = {"shape": (1, 3, 4, 4), "sampler": "ddim", "steps": 10}
    states = []
    plain, guided = sample(Dark(), **run), sample(Dark(), _energy("down", down, "x_t"), watch=states.append, **run)
    assert float((guided - plain).max()) < 0.0


def test_a_runaway_scale_is_told_once_with_the_norm():
    told = []
    sample(model(), Quadratic(weight=-30.0), shape=(4, 4), sampler="ddim", steps=20, notify=told.append)
    (said,) = told
    assert "guidance by quadratic drives the state out of the schedule's range: at step" in said
    assert "its root mean square is" in said
    told.clear()
    sample(model(), Quadratic(weight=0.5), shape=(4, 4), sampler="ddim", steps=20, notify=told.append)
    assert told == []


def test_the_plugin_whose_gradient_is_nan_is_named_among_several():
    fine = _energy("fine", lambda s, step, x0: x0.square().sum(1))
    root = _energy("root", lambda s, step, x0: (x0 - x0.detach()).abs().sqrt().sum(1))
    with pytest.raises(HookError, match=r"plugin root: the gradient of its energy is NaN or infinite \(step 2 of 5\)"):
        sample(model(), [fine, root], shape=(2, 4), steps=5)


def test_a_loss_without_a_gradient_is_named():
    weights = torch.ones(4, requires_grad=True)
    for energy in (lambda s, step, x0: x0.detach().sum(1), lambda s, step, x0: weights.sum().expand(len(x0))):
        with pytest.raises(HookError, match="plugin flat: energy does not depend on x0, so it has no gradient"):
            sample(model(), _energy("flat", energy), shape=(2, 4), steps=5)


def test_energies_and_gradients_of_every_guided_move_are_told():
    states = []
    region = _energy("a", lambda s, step, x0: x0.square().sum(1))
    twice = [region, region, _energy("b", lambda s, step, x0: x0.sum(1), "x0")]
    sample(model(), twice, shape=(2, 4), sampler="ddim", steps=5, watch=states.append)
    assert [name for name, _ in states[-1].energies] == ["a", "a#2", "b"]
    assert [name for name, _ in states[-1].gradients] == ["a + a#2 + b"]
    assert all(len(state.energies) == 3 for state in states)  # the first, at alpha 0, included


def test_the_linear_decoder_is_near_a_linear_one_and_differentiable():
    from editkit.diffusion.linear_decoder import linear_decoder

    class Linear:
        """Latents of 4 channels at an eighth of the side; its decoder is linear, so the fit is exact."""

        matrix = torch.tensor([[0.2, 0.1, -0.1, 0.05], [0.0, 0.2, 0.1, 0.0], [0.1, -0.1, 0.2, 0.1]])

        def shape(self, height, width):
            return (4, height // 8, width // 8)

        def decode(self, x0):
            image = torch.einsum("kc,bchw->bkhw", self.matrix, x0) + 0.1
            return torch.nn.functional.interpolate(image, scale_factor=8.0)

    decode = linear_decoder(Linear(), (1, 4, 8, 8), None)
    z = (0.2 * torch.ones(2, 4, 8, 8)).requires_grad_()
    image = decode(z)
    torch.testing.assert_close(image, Linear().decode(z), atol=0.02, rtol=0)
    assert torch.autograd.grad(image.sum(), z)[0].abs().sum() > 0


def test_checkpointing_gives_the_same_picture_and_is_refused_without_a_network(picture):
    from tiny import unet2d

    from editkit.models import ModelInfo
    from editkit.models.pixel import PixelUNet
    from editkit.models.schedules import make_schedule

    scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon"}
    network = unet2d().requires_grad_(False)
    made = PixelUNet(ModelInfo("tiny", "test", steps=3), network, make_schedule(scheduler), scheduler)
    run = {"shape": (1, 3, 32, 32), "sampler": "ddim", "steps": 3}
    plain = sample(made, Guide(weight=5.0), **run)
    seen = []
    again = sample(
        made, Guide(weight=5.0, checkpoint=True), watch=lambda _: seen.append(network.is_gradient_checkpointing), **run
    )
    assert seen == [True] * 3
    assert not network.is_gradient_checkpointing  # taken back
    torch.testing.assert_close(plain, again, atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="checkpoint=True needs a network that supports it"):
        _run(picture, Guide(checkpoint=True))


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Guide(mask="box:50,50,60,60"), "guide: mask="),
        (Guide(mask=np.zeros((24, 32), np.float32)), "is empty"),
        (Guide(mask=np.ones((5, 5), np.float32)), "the picture is 32x24"),
    ],
)
def test_a_mask_that_cannot_be_is_refused(picture, plugin, message):
    with pytest.raises(EditkitError, match=message):
        _run(picture, plugin)


# ----------------------------------------- the losses of guide


@pytest.mark.parametrize(
    ("plugin", "measure"),
    [
        (Guide(loss="symmetry", weight=3000.0), lambda p: np.abs(p - p[:, ::-1]).mean()),
        (Guide(loss="symmetry", symmetry="top-bottom", weight=3000.0), lambda p: np.abs(p - p[::-1]).mean()),
        (Guide(loss="smooth", weight=600.0), lambda p: np.abs(np.diff(p, axis=0)).mean()),
        (Guide(loss="sharpness", sharpness=0.1, weight=60.0), lambda p: np.abs(np.diff(p.mean(2), 2, axis=1)).mean()),
        (Guide(loss="palette", palette="#202020,#d0d0d0", weight=6000.0),
         lambda p: np.minimum(np.abs(p - 32.0), np.abs(p - 208.0)).mean()),
        (Guide(loss="color", color="#c04020", weight=3000.0), lambda p: np.abs(p.mean((0, 1)) - (192, 64, 32)).sum()),
    ],
)  # fmt: skip
def test_a_ready_loss_brings_down_what_it_speaks_of(picture, plugin, measure):
    plain, got = (measure(_run(picture, p).astype(float)) for p in (None, plugin))
    assert got < 0.93 * plain


def test_features_of_a_network_come_near_those_of_the_reference(picture, tmp_path):
    import timm
    from safetensors.torch import save_file

    from editkit.models.classifiers import load_classifier

    torch.manual_seed(0)
    small = timm.create_model("test_resnet", pretrained=False)
    save_file(small.state_dict(), tmp_path / "w.safetensors")
    network = f"timm:test_resnet:{tmp_path / 'w.safetensors'}"
    reference = np.zeros((24, 32, 3), np.uint8)
    reference[:, 16:] = 255
    clean = load_classifier(network, torch.device("cpu"))
    maps = clean.through(clean.network.forward_features)

    def apart(pixels):
        a, b = (maps(torch.from_numpy(p.copy()).permute(2, 0, 1)[None] / 127.5 - 1.0) for p in (pixels, reference))
        return 1.0 - torch.nn.functional.cosine_similarity(a, b, dim=1).mean().item()

    guide = Guide(loss="features", network=network, reference=reference, weight=3000.0)
    assert apart(_run(picture, guide, steps=4)) < apart(_run(picture, None, steps=4))


@pytest.mark.parametrize(
    ("plugin", "message"),
    [
        (Guide(loss="palette"), "needs palette="),
        (Guide(loss="reference"), "needs reference="),
        (Guide(loss="features"), "needs network="),
    ],
)
def test_a_loss_that_misses_something_says_what(picture, plugin, message):
    with pytest.raises(UsageError, match=message):
        _run(picture, plugin)


def test_a_misspelt_loss_and_a_wrong_colour_are_refused():
    with pytest.raises(ParameterError, match="did you mean symmetry"):
        Guide(loss="symetry")
    with pytest.raises(ParameterError, match="write it as #rrggbb"):
        Guide(palette="#102030,rot")


def test_the_example_of_the_docs_works(picture):
    """docs/guidance.md: forty lines that make a guidance."""
    from pathlib import Path

    text = (Path(__file__).parents[1] / "docs" / "guidance.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    assert code.count("\n") <= 40
    made: dict = {"__name__": __name__}
    exec(code, made)
    level = made["Level"](weight=2e3)

    def tilted(pixels):
        x = pixels.astype(float).mean(2)
        return np.abs(np.diff(x, axis=1)[1:] * np.diff(x, axis=0)[:, 1:]).mean()

    assert tilted(_run(picture, level)) < 0.5 * tilted(_run(picture, None))  # a fifth, whatever the seed


@pytest.mark.parametrize("given", [{"weight": 0.0}, {"profile": "0"}])
def test_where_a_guidance_is_neutral_the_network_runs_without_gradients(given):
    from editkit.diffusion.plan import Plan
    from editkit.diffusion.samplers import make_sampler
    from editkit.editing.cost import cost
    from editkit.plugins import Guide

    assert cost(Plan.uniform(4), [Guide(**given)], make_sampler("ddim")).backward == 0
    asked = []
    exact = model()
    plain = type(exact).__call__

    class Watched(type(exact)):
        def __call__(self, x_t, level, conds):
            asked.append(torch.is_grad_enabled() or x_t.requires_grad)
            return plain(self, x_t, level, conds)

    exact.__class__ = Watched
    sample(exact, Guide(**given), shape=(2, 4), sampler="ddim", steps=4)
    assert asked == [False] * 4


@pytest.mark.parametrize("rescale", [0.7, 1.0])
def test_cfg_s_rescale_leaves_an_item_alone_that_has_no_deviation(rescale):
    """Items of one value, or of equal values, have no deviation to give back, and none becomes NaN."""
    from editkit_plugins.cfg import _CfgHooks

    hooks = object.__new__(_CfgHooks)
    hooks.plugin = Cfg(scale=5.0, rescale=rescale)
    for out in (torch.tensor([[2.0], [3.0]]), torch.full((2, 3, 4, 4), 0.5)):
        assert torch.equal(hooks._rescale(out, torch.randn(out.shape)), out)
    mixed = torch.stack([torch.full((8,), 0.5), torch.arange(8.0)])
    made = hooks._rescale(mixed, torch.stack([torch.arange(8.0), 2.0 * torch.arange(8.0)]))
    assert torch.equal(made[0], mixed[0])
    torch.testing.assert_close(made[1], (1.0 + rescale) * mixed[1])
