"""Stable unCLIP against its pipeline, variations, blends and text diffs; tiny networks with random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_sdxl as xl
import tiny_flow
import tiny_latent as tiny
import tiny_prompts
import torch
from PIL import Image
from test_parity_latent import NEGATIVE, PROMPT, STEPS, same
from torch import Tensor

from editkit import edit, sample
from editkit.engine.loop import State
from editkit.errors import ChainError, ModelError, ParameterError, UsageError
from editkit.models import describe
from editkit.models.files.loading import find_layout, is_complete
from editkit.models.latent.unclip import UnClip
from editkit.models.leasing import Models
from editkit.plugins import Blend, Cfg, Inpaint, Invert, Vary

CONFIG = {**tiny.SD, "prediction_type": "v_prediction"}
ONE, OTHER = tiny_flow.picture(64, 64), tiny_flow.picture(64, 64, seed=9)
MODELS = Models()
SEEN = 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("unclip") / "model"
    tiny_prompts.unclip(diffusers.DDIMScheduler.from_config(CONFIG)).save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_prompts.clip(tmp_path_factory.mktemp("clip") / "whole"))


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    return xl.loaded(Path(folder))


def theirs(guidance: float, noise_level: int, **given: Any) -> list[Tensor]:
    pipe = tiny_prompts.unclip(diffusers.DDIMScheduler.from_config(CONFIG))
    pipe.set_progress_bar_config(disable=True)
    states: list[Tensor] = []
    pipe(
        image=ONE, num_inference_steps=STEPS, guidance_scale=guidance, noise_level=noise_level, height=64, width=64,
        generator=torch.Generator().manual_seed(5), output_type="latent",
        callback=lambda index, t, latents: states.append(latents.clone()), callback_steps=1, **given,
    )  # fmt: skip
    return states


def ours(model: Any, plugin: Any, image: Image.Image = ONE, **options: Any) -> list[Tensor]:
    states: list[State] = []
    how = {"sampler": "ddim", "steps": STEPS, "seed": 5, "noise": "diffusers", "device": "cpu", **options}
    sample(
        model,
        [Cfg(), plugin],
        shape=(1, *model.shape(64, 64)),
        known=tiny_flow.tensor(image),
        watch=states.append,
        **how,
    )
    return [state.x for state in states]


@pytest.mark.parametrize(("guidance", "noise_level"), [(10.0, 0), (1.0, 0), (10.0, 300)])
def test_a_variation_is_the_pipelines(model: Any, guidance: float, noise_level: int) -> None:
    expected = theirs(guidance, noise_level, prompt=PROMPT, negative_prompt=NEGATIVE)
    told = {"guidance_scale": guidance, "prompt": PROMPT, "negative": NEGATIVE}
    same(ours(model, Vary(noise_level=noise_level), **told), expected)
    away = tiny_flow.distance(ours(model, Vary(noise_level=noise_level), OTHER, **told), expected)
    assert away > 1e-3, "another picture"
    level = tiny_flow.distance(ours(model, Vary(noise_level=noise_level + 200), **told), expected)
    assert level > SEEN, "another noise level"


def test_the_branch_without_is_told_zeros(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = theirs(10.0, 0)
    same(ours(model, Vary(), guidance_scale=10.0), expected)
    own = UnClip.prepare_embedding

    def wrong(self: Any, *given: Any) -> Any:
        made = own(self, *given)
        return type(made)(made.values, made.values)

    monkeypatch.setattr(UnClip, "prepare_embedding", wrong)
    assert tiny_flow.distance(ours(model, Vary(), guidance_scale=10.0), expected) > SEEN


FULL: dict[str, Any] = {"device": "cpu", "dtype": "fp32", "offline": True, "models": MODELS}


def made(folder: str, plugins: Any, image: Any = ONE, **options: Any) -> np.ndarray:
    return np.asarray(edit(image, plugins, model=folder, **{"steps": 5, **FULL, **options}).pixels)


def test_with_its_own_embedding_and_noise_the_picture_comes_back(folder: str, clip: str, model: Any) -> None:
    """As far as inversion goes: to the byte what `invert` makes with the same embedding, and nearer with more steps."""
    back = made(folder, Vary(origin="inverted"))
    trip = made(folder, Invert() & Vary(), sampler="ddim", guidance_scale=1.0)
    assert np.array_equal(back, trip)
    still = Vary(from_text="a cat", to_text="a dog", by=0.0, clip=clip)
    assert np.array_equal(made(folder, still), back), "not turned at all"
    assert not np.array_equal(made(folder, still.model_copy(update={"by": 0.9})), back)
    assert not np.array_equal(made(folder, Vary()), back), "another noise"
    known = model.encode(tiny_flow.tensor(ONE))
    how = {"noise": "streams", "guidance_scale": 1.0}
    own, turned = (
        float((ours(model, plugin, **how)[-1] - known).norm())
        for plugin in (Vary(origin="inverted"), still.model_copy(update={"by": 1.0}))
    )
    assert own < turned, "by another embedding the way does not lead back"


def test_a_blend_at_0_and_1_is_a_variation_of_either(folder: str) -> None:
    ends = [made(folder, Vary(), image) for image in (ONE, OTHER)]
    blends = [made(folder, Blend(to=OTHER, at=at)) for at in (0.0, 0.5, 1.0)]
    assert np.array_equal(blends[0], ends[0])
    assert np.array_equal(blends[2], ends[1])
    assert not np.array_equal(blends[1], ends[0])
    assert not np.array_equal(blends[1], ends[1])
    assert np.array_equal(blends[1], made(folder, Blend(to=ONE, at=0.5), OTHER)), "half way is half way from both"


def test_texts_turn_the_embedding_along_their_difference(
    folder: str, clip: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its length stays, and of the angle to the difference it goes the fraction `by`."""
    told: list[Tensor] = []
    own = UnClip.prepare_embedding
    monkeypatch.setattr(
        UnClip,
        "prepare_embedding",
        lambda self, embedding, *rest: (told.append(embedding), own(self, embedding, *rest))[1],
    )
    made(folder, Vary(from_text="a cat", to_text="a dog", by=0.25, clip=clip))
    before, after = (z[0].double() for z in told)
    texts = tiny_prompts.embedded_texts(clip, ["a dog", "a cat"])
    turn = texts[0] / texts[0].norm() - texts[1] / texts[1].norm()

    def angle(a: Tensor, b: Tensor) -> float:
        return float(torch.acos(a @ b / (a.norm() * b.norm())))

    assert float(after.norm() / before.norm()) == pytest.approx(1.0, abs=1e-5)
    assert angle(before, after) == pytest.approx(0.25 * angle(before, turn), rel=1e-3)
    assert angle(after, turn) == pytest.approx(0.75 * angle(before, turn), rel=1e-3)


def test_outside_of_a_mask_nothing_changes(folder: str) -> None:
    photo = np.asarray(tiny_flow.picture(75, 90))
    kept = np.ones((90, 75), bool)
    kept[20:44, 20:40] = False
    result = made(folder, Inpaint(mask="box:20,20,40,44") & Vary(), photo, steps=2)
    assert (result[kept] == photo[kept]).all()
    wide = np.asarray(tiny_flow.picture(200, 64))
    assert made(folder, Vary(), wide, steps=2).shape == wide.shape, "by windows"


def test_what_cannot_be_is_refused(folder: str, clip: str, tmp_path: Path) -> None:
    def refused(kind: Any, plugin: Any, match: str, where: str = folder, **more: Any) -> None:
        with pytest.raises(kind, match=match):
            made(where, plugin, **more)

    refused(
        ChainError, Vary(), "vary needs a model that takes embedding; pocket.*: Stable unCLIP and Kandinsky", "pocket"
    )
    turn = {"from_text": "a cat", "to_text": "a dog"}
    refused(ModelError, Vary(**turn), "has no text encoder in the space of pictures.*names the folder of the CLIP")
    refused(UsageError, Vary(from_text="a", to_text="a", clip=clip), "say the same")
    refused(UsageError, Vary(noise_level=5000), "the noise level is 5000; .*has 0 to 999")
    refused(UsageError, Blend(to="nowhere.png"), "blend: to=.*nowhere.png")
    narrow = str(tiny_prompts.clip(tmp_path / "narrow", width=20))
    refused(ModelError, Vary(**turn, clip=narrow), "has embeddings of width 20, but 16 is needed")
    with pytest.raises(ParameterError, match="belong together"):
        Vary(from_text="a cat")
    pipe = tiny_prompts.unclip(diffusers.DDIMScheduler.from_config(CONFIG))
    pipe.save_pretrained(tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "image_encoder")
    index = tmp_path / "part" / "model_index.json"
    words = json.loads(index.read_text())
    index.write_text(json.dumps({k: v for k, v in words.items() if k != "image_encoder"}))
    refused(ModelError, Vary(), "image_encoder missing; .*StableUnCLIPImg2ImgPipeline", str(tmp_path / "part"))


def test_what_the_folder_is(folder: str, tmp_path: Path) -> None:
    """Its image encoder is a part of it, and is fetched and missed like the others."""
    info = describe(folder)
    assert info.takes == {"prompt", "control", "image prompt", "embedding"}
    assert (info.steps, info.guidance) == (20, 10.0)
    assert is_complete(find_layout(folder, offline=True))
    blind = shutil.copytree(folder, tmp_path / "blind")
    (blind / "image_encoder" / "model.safetensors").unlink()
    assert not is_complete(find_layout(str(blind), offline=True))
