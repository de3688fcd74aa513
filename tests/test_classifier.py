"""Classifier guidance: exact where the answer is known, and what its user gets wrong."""

import json
import math

import guidance_toy as guided
import numpy as np
import pytest
import torch
import toy
from toy import Isotropic

from editkit import edit, sample
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.errors import ModelError, UsageError
from editkit.models.classifiers import load_classifier, resolve_label
from editkit.models.classifiers.kinds import Clean, NoiseAware
from editkit.models.classifiers.network import Network
from editkit.pictures.picture import Picture
from editkit.plugin import Hooks, Plugin
from editkit.plugins import Classifier, Inpaint, SDEdit

TABLES = {"VP": Cosine(), "flow": Flow()}
STEPS = {"ddpm": 1000, "ddim": 1000, "heun": 200, "dpm++2m": 200}
"""First-order samplers need so many for their own error to be below one percent."""

CPU = torch.device("cpu")


def _error(got, wanted):
    """(of the mean in standard deviations, of the covariance relative to its norm)."""
    (mean, covariance), (m, C) = got, wanted
    return float((mean - m).norm() / C.trace().sqrt()), float((covariance - C).norm() / C.norm())


@pytest.mark.parametrize("sampler", STEPS)
@pytest.mark.parametrize("table", TABLES)
def test_an_observation_of_a_gaussian_gives_its_posterior_to_one_percent(table, sampler):
    """p(y | x_t) exact, Gaussian prior: no sampling error (guidance_toy.Unit), the sampler's own error below 1 %."""
    got = guided.exact_moments(toy.model(TABLES[table]), toy.ExactClassifier(), 4, sampler, STEPS[sampler])
    mean, covariance = _error(got, toy.given_y())
    assert mean < 0.01
    assert covariance < 0.01


@pytest.mark.parametrize("sampler", STEPS)
@pytest.mark.parametrize("table", TABLES)
def test_a_wanted_class_of_a_mixture_gives_that_component_to_one_percent(table, sampler):
    """`classifier` with the exact p(component | x_t): the samples are the component's, mean and covariance."""
    plugin = Classifier(label="second", classifier=guided.Components())
    got = guided.exact_moments(guided.mixture(TABLES[table]), plugin, 3, sampler, STEPS[sampler])
    mean, covariance = _error(got, (guided.MEANS[1], guided.COVARIANCES[1]))
    assert mean < 0.01
    assert covariance < 0.01


def test_without_guidance_a_mixture_gives_all_its_components():
    x = sample(guided.mixture(), Classifier(label="0", classifier=guided.Components(), scale=0.0), shape=(4000, 3))
    assert (x.mean(0) - guided.WEIGHTS @ guided.MEANS).abs().max() < 0.05


def test_the_gradient_is_that_of_finite_differences():
    """-log p(component | x_t) in double precision, differenced."""
    level, net = Cosine().level(0.4), guided.Components()
    x = torch.tensor([[0.3, -0.2, 0.5]], requires_grad=True)
    energy = -net.at(x, level).log_softmax(1)[:, 2].sum()
    (grad,) = torch.autograd.grad(energy, x)
    h = 1e-2

    def value(at):
        return float(-net.at(at, level).log_softmax(1)[0, 2])

    numeric = [(value(x.detach() + h * e) - value(x.detach() - h * e)) / (2 * h) for e in torch.eye(3)]
    torch.testing.assert_close(grad[0], torch.tensor(numeric), atol=2e-3, rtol=2e-3)


def test_two_classifiers_are_their_sum_in_one_backward_pass(monkeypatch):
    passes = []
    real = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: passes.append(1) or real(*a, **k))
    net = guided.Components()

    def both(self, step, x0):
        log_p = net.at(step.x_t, step.t).log_softmax(1)
        return -0.7 * log_p[:, 0] - 0.4 * log_p[:, 2]

    hooks = type("BothHooks", (Hooks,), {"energy": both, "through": "x_t"})
    summed = type("Both", (Plugin,), {"name": "both", "hooks": lambda self: hooks, "__module__": __name__})()
    run = {"shape": (20, 3), "sampler": "ddim", "steps": 10}
    two = [Classifier(label="0", classifier=net, scale=0.7), Classifier(label="2", classifier=net, scale=0.4)]
    a = sample(guided.mixture(), two, **run)
    assert len(passes) == 9  # at the first level alpha_t is 0, and there is no energy
    b = sample(guided.mixture(), summed, **run)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)


def test_algorithm_1_and_the_score_form_agree_to_first_order_in_beta():
    """Algorithm 1: mu' = mu + Sigma grad log p(y | mu), Sigma = beta_t. Their difference falls as beta^2.

    The score form moves ddpm's mean by (alpha_s / alpha_t) beta grad log p(y | x_t), beta = 1 - (alpha_t / alpha_s)^2
    in a VP table.
    """
    from editkit.diffusion.samplers import make_sampler

    net, model, exact = guided.Components(), guided.mixture(), []
    x_t = torch.randn(8, 3, generator=torch.Generator().manual_seed(3))
    t = Cosine().level(0.5)

    def grad_log_p(x, level):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(net.at(x, level).log_softmax(1)[:, 1].sum(), x)[0]

    def still(t, s):
        return torch.zeros_like(x_t)

    for beta in (0.02, 0.01, 0.005):
        alpha_s = t.alpha / math.sqrt(1.0 - beta)
        s = type(t)(0.4, alpha_s, math.sqrt(1.0 - alpha_s**2), 1)
        ddpm = make_sampler("ddpm:variance=large")
        plain = model(x_t, t, (None,))[0]
        mu, _ = ddpm.step(x_t, t, s, lambda x, level, plain=plain: plain, still, None)
        algorithm_1 = mu + beta * grad_log_p(mu, s)
        x0 = plain.x0 + t.sigma**2 / t.alpha * grad_log_p(x_t, t)
        guided_ = plain.with_x0(x0, x_t, t)
        score_form, _ = ddpm.step(x_t, t, s, lambda x, level, guided_=guided_: guided_, still, None)
        shift = float((algorithm_1 - mu).norm())
        exact.append((float((score_form - algorithm_1).norm()), shift))
    for (gap, shift), (half_gap, half_shift) in zip(exact, exact[1:], strict=False):
        assert 1.8 < shift / half_shift < 2.2  # first order
        assert 3.4 < gap / half_gap < 4.6  # second


def test_a_scale_above_one_goes_further_into_the_class():
    def surety(scale):
        plugin = Classifier(label="first", classifier=guided.Components(), scale=scale)
        x = sample(guided.mixture(), plugin, shape=(1000, 3), sampler="ddim", steps=25)
        return float(guided.Components().at(x, Cosine().level(0.02)).softmax(1)[:, 0].mean())

    found = [surety(s) for s in (0.0, 1.0, 4.0)]
    assert found == sorted(found)
    assert found[0] < 0.6
    assert found[2] > 0.99


# ----------------------------------------- classifiers of pictures


class Bright:
    """p(bright | picture) by its mean; asked of the estimate."""

    labels = ("dark", "bright", "bright side")

    def __call__(self, image):
        mean = image.flatten(1).mean(1)
        side = image[..., : image.shape[-1] // 2].flatten(1).mean(1)
        return 20.0 * torch.stack([-mean, mean, side], 1)


@pytest.fixture
def picture():
    return Picture(np.random.default_rng(3).integers(60, 190, (24, 32, 3), dtype=np.uint8))


@pytest.mark.parametrize("gradient", [None, "network", "x0"])
def test_an_ordinary_classifier_guides_through_the_estimate(picture, gradient):
    def mean(label):
        plugin = Classifier(label=label, classifier=Bright(), scale=40.0, gradient=gradient)
        return edit(picture, SDEdit(strength=1.0) & plugin, model=Isotropic(), steps=10).pixels.mean()

    assert mean("bright") > mean("dark") + 8


def test_a_mask_limits_where_guidance_acts_exactly(picture):
    """Same seed, same sampler: outside of --mask every value is as without guidance."""
    mask = np.zeros((24, 32), np.float32)
    mask[4:12, 6:20] = 1.0
    plain = edit(picture, SDEdit(strength=1.0), model=Isotropic(), steps=8).pixels
    plugin = Classifier(label="bright", classifier=Bright(), scale=200.0, mask=mask)
    got = edit(picture, SDEdit(strength=1.0) & plugin, model=Isotropic(), steps=8).pixels
    assert np.array_equal(got[mask == 0], plain[mask == 0])
    assert got[mask == 1].mean() > plain[mask == 1].mean() + 4


def test_inpainting_and_a_label_together_keep_known_pixels(picture):
    plugin = Classifier(label="1", classifier=Bright(), scale=50.0)
    result = edit(picture, Inpaint(mask="box:8,6,20,18") & plugin, model=Isotropic(), steps=6)
    kept = np.ones((24, 32), bool)
    kept[6:18, 8:20] = False
    assert np.array_equal(result.pixels[kept], picture.pixels[kept])


# ----------------------------------------- files


def _saved(folder, *, noisy=True, channels=3, size=16, labels=("cat", "tabby cat", "dog"), log_snr=(-4.0, 8.0)):
    from editkit.training.classifier import save

    torch.manual_seed(0)
    config = {
        "_class_name": "EditkitClassifier", "labels": list(labels), "channels": channels, "size": size,
        "width": 8, "stages": 2,
    }  # fmt: skip
    if noisy:
        config["log_snr"] = list(log_snr)
    save(Network(channels, len(labels), 8, 2), config, folder)
    return str(folder)


def test_both_kinds_are_read_back_and_asked_where_they_belong(tmp_path):
    noisy, clean = _saved(tmp_path / "n"), _saved(tmp_path / "c", noisy=False)
    assert isinstance(load_classifier(noisy, CPU), NoiseAware)
    assert isinstance(load_classifier(clean, CPU), Clean)
    assert Classifier(label="cat", classifier=noisy).through() == "x_t"
    assert Classifier(label="cat", classifier=clean).through() == "network"


def test_an_architecture_of_torchvision_or_timm_with_a_file_of_weights(tmp_path):
    import timm
    from safetensors.torch import save_file
    from torchvision.models import get_model

    tv = get_model("squeezenet1_1", weights=None)
    save_file(tv.state_dict(), tmp_path / "tv.safetensors")
    one = load_classifier(f"torchvision:squeezenet1_1:{tmp_path / 'tv.safetensors'}", CPU)
    assert one.labels[resolve_label("tabby", one.labels)] == "tabby"
    assert one(torch.zeros(2, 3, 40, 50)).shape == (2, 1000)
    small = timm.create_model("test_resnet", pretrained=False, num_classes=5)
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(small.state_dict(), folder / "model.safetensors")
    settings = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"architecture": "test_resnet", "label_names": list("abcde"), "pretrained_cfg": settings}
    (folder / "config.json").write_text(json.dumps(config))
    two = load_classifier(str(folder), CPU)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(two(x), small.eval()(x))


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("tabby cats", "none of the 3 labels has this name; did you mean tabby cat"),
        ("7", "the classifier has 3 labels, 0 to 2"),
        ("wolf", "none of the 3 labels has this name"),
    ],
)
def test_an_unknown_label_is_refused_with_the_nearest(label, message):
    with pytest.raises(UsageError, match=message):
        resolve_label(label, ("cat", "tabby cat", "dog"))


def test_labels_by_number_name_and_without_their_synonyms():
    labels = ("tench, Tinca tinca", "great_white shark", "crane", "crane")
    assert [resolve_label(text, labels) for text in ("0", "Tench", "great white shark")] == [0, 0, 1]
    with pytest.raises(UsageError, match="several labels have this name: 2, 3"):
        resolve_label("crane", labels)


@pytest.mark.parametrize(
    ("given", "plugin", "message"),
    [
        ({"size": 8}, {}, "trained on states of 3 channels of 8x8, and these are 3 channels of 16x16"),
        ({"channels": 1}, {}, "1 channels of 16x16, and these are 3 channels"),
        ({"log_snr": (-1.0, 3.0)}, {}, "not trained for this schedule: it knows log-SNR from -1.0 to 3.0"),
        ({"noisy": False}, {"gradient": "x_t"}, "was not trained on noisy pictures, so it cannot be evaluated on x_t"),
        ({"noisy": False, "channels": 1}, {}, "takes pictures of 1 channels"),
        ({}, {"gradient": "network"}, "is noise-aware, so it sees x_t"),
    ],
)
def test_a_classifier_that_does_not_fit_says_why(tmp_path, given, plugin, message):
    made = Classifier(label="dog", classifier=_saved(tmp_path / "c", **given), **plugin)
    model = Isotropic()
    model.schedule = VE(0.01, 20.0)
    with pytest.raises((UsageError, ModelError), match=message):
        edit(Picture(np.zeros((16, 16, 3), np.uint8)), SDEdit(strength=1.0) & made, model=model, steps=4)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "was not found; it can be a folder"),
        ("torchvision:resnet1:w.safetensors", "w.safetensors is missing"),
        ("torchvision:resnet18:w.pth", "a pickle can run code"),
        ("torchvision:resnet18", "torchvision's weights are pickles"),
        ("timm:resnot18", "unknown architecture 'resnot18'; did you mean resnet18"),
    ],
)
def test_a_classifier_that_is_not_there_says_what_could_be(source, message):
    with pytest.raises(ModelError, match=message):
        load_classifier(source, CPU, offline=True)


def test_weights_that_are_not_here_are_told_offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="--offline is on, so the hub was not asked"):
        load_classifier("timm/resnet18.a1_in1k", CPU, offline=True)


def test_training_on_folders_makes_a_classifier_that_is_right_and_noise_aware(tmp_path):
    """`editkit train classifier`: stripes along and across, a schedule, a few seconds."""
    from typer.testing import CliRunner

    from editkit.cli.train import app

    random = np.random.default_rng(0)
    for name in ("across", "along"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(6):
            rows = np.arange(8)[:, None, None] + k
            stripes = np.broadcast_to(255 * (rows // 2 % 2), (8, 8, 3)) // (1 + random.integers(3, size=(8, 8, 3)))
            pixels = stripes if name == "along" else stripes.transpose(1, 0, 2)
            Picture(pixels.astype(np.uint8)).write(tmp_path / f"data/{name}/{k}.png")
    words = ["classifier", "--images", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--model", "patches"]
    done = CliRunner().invoke(app, [*words, "--size", "8", "--steps", "120", "--width", "8", "--stages", "2"])
    assert done.exit_code == 0, done.output
    made = load_classifier(str(tmp_path / "out"), CPU)
    assert isinstance(made, NoiseAware)
    assert list(made.labels) == ["across", "along"]
    low, high = made.log_snr
    assert low < -1.7
    assert high > 2.5
    along = torch.tensor([-1.0, -1.0, 1.0, 1.0] * 2)[None, :, None].expand(3, 8, 8)
    x = torch.stack([along, along.mT])
    assert made.at(x, Cosine().level(0.05)).argmax(1).tolist() == [1, 0]


def test_training_says_what_is_wrong_with_its_folder(tmp_path):
    from editkit.errors import EditkitError
    from editkit.training.classifier import read_folders

    (tmp_path / "one").mkdir()
    with pytest.raises(EditkitError, match="has 1 folders; --images needs one folder a label"):
        read_folders(tmp_path, 8)
    (tmp_path / "two").mkdir()
    with pytest.raises(EditkitError, match="has no pictures"):
        read_folders(tmp_path, 8)
