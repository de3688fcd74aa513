"""There and back, and from one text to another, on tiny Stable Diffusion, XL and SD 3 with random weights, in latents:
plumbing, not quality.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import test_parity_latent as parity
import test_parity_sd3 as three
import test_parity_sdxl as xl
import tiny_latent
import torch

from editkit import sample
from editkit.errors import ChainError
from editkit.models import describe, load
from editkit.plugins import Invert, Translate

IMAGE = 2.0 * tiny_latent.picture(1)[0] - 1.0
FAMILIES = {"sd": "ddim", "sd v": "ddim", "sdxl": "ddim", "sd3": "euler"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    base: Path = tmp_path_factory.mktemp("directions")
    xl.pipeline("text", diffusers.DDIMScheduler.from_config(xl.SDXL)).save_pretrained(base / "sdxl")
    three.pipeline("text").save_pretrained(base / "sd3")
    kept = {name: load(describe(str(base / name)), torch.device("cpu"), torch.float32) for name in ("sdxl", "sd3")}
    v = {**tiny_latent.SD, "prediction_type": "v_prediction"}
    return {"sd": parity.adapter(4, tiny_latent.SD), "sd v": parity.adapter(4, v), **kept}


def latent(model: Any, plugin: Any, **options: Any) -> torch.Tensor:
    """What comes of the tiny picture's latent, undecoded."""
    run = {"prompt": "a door", "device": "cpu", **options}
    return sample(model, plugin, known=IMAGE, shape=(1, *model.shape(64, 64)), **run)


@pytest.mark.parametrize(("family", "strength"), [("sd", 0.2), ("sd v", 1.0), ("sdxl", 0.2), ("sd3", 1.0)])
def test_there_and_back_at_50_steps_misses_what_the_order_allows(
    models: dict[str, Any], family: str, strength: float, tmp_path: Path
) -> None:
    """A rule of first order misses by C / n: at 50 steps by half of what it misses at 25, to a fifth; three
    refinements leave less than a twentieth of that; by the file of noise it comes back as without.

    Random weights that predict eps put x0 off by 1 / alpha, 15 times at pure noise: 50 steps all the way up are too few
    for the order there (0.80 at 25, 0.66 at 50 of a latent of 0.20), so these go a fifth of the way.
    """
    model, sampler = models[family], FAMILIES[family]
    still = latent(model, Invert(strength=0.0), steps=1, sampler=sampler)

    def back(steps: int, **given: Any) -> torch.Tensor:
        return latent(model, Invert(strength=strength, **given), steps=steps, sampler=sampler)

    few, many, refined = (float((x - still).norm()) for x in (back(25), back(50), back(50, refine=3)))
    assert 0.4 * few < many < 0.6 * few, (few, many)
    assert refined < 0.05 * many, (many, refined)
    kept = str(tmp_path / "noise.safetensors")
    both = back(8, save_noise=kept)
    torch.testing.assert_close(back(8, from_noise=kept), both, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_tame_weights_that_predict_eps_come_back_all_the_way_at_50_steps(family: str, tmp_path: Path) -> None:
    """The last layer is scaled down to a fiftieth: eps then depends little on x, as a trained network's error does near
    pure noise, and the whole way comes back within a tenth of the latent at 50 steps (20 dB below its norm). By
    these tables' `leading` 50 steps begin at a noisier level than 25, so the error falls, but by less than a half.
    """
    with torch.no_grad():
        if family == "sd":
            model = parity.adapter(4, tiny_latent.SD)
            layer = model.unet.conv_out
        else:
            pipe = xl.pipeline("text", diffusers.DDIMScheduler.from_config(xl.SDXL))
            layer = pipe.unet.conv_out
        before = [each.clone() for each in (layer.weight, layer.bias)]
        for each in (layer.weight, layer.bias):
            each.mul_(0.02)
        try:
            if family == "sdxl":
                pipe.save_pretrained(tmp_path)
                model = load(describe(str(tmp_path)), torch.device("cpu"), torch.float32)
            still = latent(model, Invert(strength=0.0), steps=1, sampler="ddim")
            few, many = (
                float((latent(model, Invert(), steps=n, sampler="ddim") - still).norm() / still.norm())
                for n in (25, 50)
            )
        finally:
            for each, kept in zip((layer.weight, layer.bias), before, strict=True):
                each.copy_(kept)
    assert many < 0.75 * few, (few, many)
    assert many < 0.1


@pytest.mark.parametrize(("scale", "source_scale", "strength"), [(7.5, 1.5, 1.0), (3.0, 3.0, 0.8), (7.5, 1.0001, 0.5)])
def test_cycle_is_diffusers_cycle_diffusion_pipeline(scale: float, source_scale: float, strength: float) -> None:
    """Latent by latent, with its draws; epsilon, batch 1, eta 1. What a step rounds is recorded and replayed in the
    next, so it adds up: 1e-5 a step. The pipeline divides by the last step's deviation, which is none where
    `set_alpha_to_one`; Stable Diffusion's own configuration has it off.
    """
    pipe = diffusers.CycleDiffusionPipeline(
        **parity.parts(4), scheduler=diffusers.DDIMScheduler.from_config(tiny_latent.SD), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    expected: list[torch.Tensor] = []
    pipe(
        prompt="a cat", source_prompt="a door", image=0.5 + 0.5 * IMAGE, strength=strength, num_inference_steps=8,
        guidance_scale=scale, source_guidance_scale=source_scale, eta=1.0, output_type="latent",
        generator=torch.Generator().manual_seed(5), callback=lambda k, t, x: expected.append(x.clone()),
    )  # fmt: skip
    found: list[torch.Tensor] = []
    told = {"prompt": "a cat", "guidance_scale": scale, "seed": 5, "watch": lambda state: found.append(state.x)}
    translate = Translate(source="a door", source_guidance=source_scale, strength=strength)
    latent(parity.adapter(4, tiny_latent.SD), translate, steps=8, noise="diffusers", sampler="ddim", **told)
    assert len(found) == len(expected) == int(8 * strength)
    for k, (x, y) in enumerate(zip(found, expected, strict=True)):
        error = float((x - y).abs().max()) / max(1.0, float(y.abs().max()))
        assert error <= (k + 1) * parity.TOLERANCE, f"step {k + 1}: {error:.2e}"


@pytest.mark.parametrize("method", ["cycle", "edit-friendly"])
def test_the_same_text_gives_the_latent_back_also_where_the_last_level_is_not_quite_clean(method: str) -> None:
    model = parity.adapter(4, tiny_latent.SD)
    run = {"steps": 8, "noise": "diffusers", "seed": 3, "sampler": "ddim", "guidance_scale": 7.5}
    states: list[Any] = []
    made = latent(model, Translate(source="a door", method=method), watch=states.append, **run)
    assert states[-1].level.sigma > 0.0
    still = latent(model, Translate(source="a door", method=method, strength=0.0), **run)
    torch.testing.assert_close(made, still, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["ddib", "cycle", "edit-friendly", "flowedit", "rf", "rf-solver"])
@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_translate_runs_or_says_which_models_it_is_for(models: dict[str, Any], family: str, method: str) -> None:
    """Another text makes another latent."""
    plugin = Translate(source="a door", method=method)
    run = {"steps": 4, "sampler": FAMILIES[family]}
    if family == "sd" and method in ("flowedit", "rf", "rf-solver"):
        with pytest.raises(ChainError, match=f"{method}.? is for flow-matching models"):
            latent(models[family], plugin, **run)
        return
    same, other = (latent(models[family], plugin, prompt=text, **run) for text in ("a door", "a cat"))
    assert float((same - other).abs().max()) > 1e-3
