"""Kandinsky 2.2's decoder against its pipeline; tiny networks with random weights prove plumbing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_flow
import tiny_latent as tiny
import tiny_prompts
import torch
from test_parity_latent import SCHEDULERS, same
from torch import Tensor

from editkit import edit, sample
from editkit.engine.loop import State
from editkit.errors import ModelError, UsageError
from editkit.models import describe, load
from editkit.models.latent.kandinsky import Kandinsky
from editkit.models.leasing import Models
from editkit.plugins import Blend, Cfg, Inpaint, Invert, SDEdit, Vary

CONFIG = {**tiny.SD, "prediction_type": "epsilon", "beta_schedule": "linear"}
LEARNED = {**CONFIG, "variance_type": "learned_range", "steps_offset": 0}
ONE, OTHER = tiny_flow.picture(64, 64), tiny_flow.picture(64, 64, seed=9)
STEPS, SEEN = 5, 1e-2
MODELS = Models()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    made = tmp_path_factory.mktemp("kandinsky")
    for name, config in (("ddim", CONFIG), ("ddpm", LEARNED)):
        tiny_prompts.kandinsky(SCHEDULERS[name].from_config(config)).save_pretrained(made / name)
    tiny_prompts.kandinsky_prior().save_pretrained(made / "prior")
    return {path.name: str(path) for path in made.iterdir()}


def theirs(name: str, guidance: float) -> list[Tensor]:
    pipe = tiny_prompts.kandinsky(SCHEDULERS[name].from_config(LEARNED if name == "ddpm" else CONFIG))
    prior = tiny_prompts.kandinsky_prior()
    with torch.no_grad():
        seen = prior.image_encoder(prior.image_processor(ONE, return_tensors="pt").pixel_values).image_embeds
        none = prior.get_zero_embed()
    return tiny_flow.states(
        pipe, image_embeds=seen, negative_image_embeds=none, height=64, width=64, num_inference_steps=STEPS,
        guidance_scale=guidance,
    )  # fmt: skip


def ours(folder: str, plugin: Any, name: str, image: Any = ONE, **options: Any) -> list[Tensor]:
    model: Any = load(describe(folder), torch.device("cpu"), torch.float32)
    for network in (model.unet, model.vae):
        network.to(memory_format=torch.contiguous_format)
    states: list[State] = []
    how = {"sampler": name, "steps": STEPS, "seed": 5, "noise": "diffusers", "device": "cpu", "offline": True}
    known, shape = tiny_flow.tensor(image), (1, *model.shape(64, 64))
    sample(model, [Cfg(), plugin], shape=shape, known=known, watch=states.append, **{**how, **options})
    return [state.x for state in states]


@pytest.mark.parametrize("guidance", [4.0, 1.0])
@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_variation_is_the_pipelines(folders: dict[str, str], name: str, guidance: float) -> None:
    """With ddpm by the variance that was learned."""
    expected, plugin = theirs(name, guidance), Vary(clip=folders["prior"])
    same(ours(folders[name], plugin, name, guidance_scale=guidance), expected)
    other = ours(folders[name], plugin, name, OTHER, guidance_scale=guidance)
    assert tiny_flow.distance(other, expected) > 1e-3, "another picture"


def test_the_branch_without_sees_an_empty_picture(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    own = Kandinsky.prepare_embedding

    def wrong(self: Any, embedding: Tensor, none: Tensor, *rest: Any) -> Any:
        return own(self, embedding, torch.zeros_like(none), *rest)

    expected = theirs("ddim", 4.0)
    monkeypatch.setattr(Kandinsky, "prepare_embedding", wrong)
    found = ours(folders["ddim"], Vary(clip=folders["prior"]), "ddim", guidance_scale=4.0)
    assert tiny_flow.distance(found, expected) > 1e-3


FULL: dict[str, Any] = {"device": "cpu", "dtype": "fp32", "offline": True, "models": MODELS, "steps": 3}


def test_all_that_unclip_does(folders: dict[str, str]) -> None:
    def made(plugins: Any, image: Any = ONE, **options: Any) -> np.ndarray:
        return np.asarray(edit(image, plugins, model=folders["ddim"], **{**FULL, **options}).pixels)

    prior = {"clip": folders["prior"]}
    assert np.array_equal(made(Blend(to=OTHER, at=0.0, **prior)), made(Vary(**prior)))
    assert np.array_equal(made(Blend(to=OTHER, at=1.0, **prior)), made(Vary(**prior), OTHER))
    back = made(Vary(origin="inverted", **prior))
    assert np.array_equal(back, made(Invert() & Vary(**prior), guidance_scale=1.0))
    turn = Vary(from_text="a cat", to_text="a dog", by=0.0, **prior)
    assert np.array_equal(made(turn), back)
    assert not np.array_equal(made(turn.model_copy(update={"by": 0.9})), back)
    photo = np.asarray(tiny_flow.picture(70, 52))
    inside = np.zeros(photo.shape[:2], bool)
    inside[11:40, 20:47] = True
    result = made(Inpaint(mask="box:20,11,47,40") & Vary(**prior), photo)
    assert np.array_equal(result[~inside], photo[~inside])
    assert made(SDEdit(strength=0.5) & Vary(**prior), photo).shape == photo.shape


def test_what_cannot_be_is_refused_or_said(folders: dict[str, str], tmp_path: Path) -> None:
    def refused(kind: Any, plugin: Any, match: str, **more: Any) -> None:
        with pytest.raises(kind, match=match):
            edit(ONE, plugin, model=folders["ddim"], **{**FULL, **more})

    refused(ModelError, Vary(), "comes without its image encoder; clip= names the encoder's folder")
    refused(ModelError, SDEdit(strength=0.5), "none was given; add `with vary`")
    refused(UsageError, Vary(clip=folders["prior"], noise_level=3), "takes none")
    said: list[str] = []
    edit(ONE, Vary(clip=folders["prior"]), model=folders["ddim"], prompt="a red door", notify=said.append, **FULL)
    assert any("left out: a red door" in line for line in said)
    pipe = tiny_prompts.kandinsky(diffusers.DDIMScheduler.from_config(CONFIG))
    pipe.unet.register_to_config(addition_embed_type="image_hint")
    pipe.save_pretrained(tmp_path / "hint")
    with pytest.raises(ModelError, match="not 2.1, the inpainting or the ControlNet decoder"):
        describe(str(tmp_path / "hint"))


def test_without_tiles_too_little_memory_is_a_line_and_an_overflow_is_run_again_in_float32(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers has no tiling for its VQModel."""
    from editkit.editing import stages
    from editkit.models.latent.space import in_float32

    model: Any = load(describe(folders["ddim"]), torch.device("cpu"), torch.bfloat16)
    wide = in_float32(model.vae, torch.device("cpu"))
    assert wide.dtype == torch.float32
    assert not hasattr(wide, "use_tiling")
    monkeypatch.setattr(stages, "available", lambda device: 0)
    with pytest.raises(ModelError, match="in addition to the model, and 0.0 GB are free"):
        edit(ONE, Vary(clip=folders["prior"]), model=folders["ddim"], **FULL)
