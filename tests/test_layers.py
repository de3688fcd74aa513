"""Qwen-Image-Layered against its pipeline, and the plugin `layers`; tiny networks with random weights.

The pipeline brings every picture to about 640 x 640, which is fixed in it: here to 96 x 64. Its `output_type="latent"`
stops with an UnboundLocalError (diffusers 0.42.1): here it makes pictures, and its states are kept at every step.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import diffusers
import diffusers.pipelines.qwenimage.pipeline_qwenimage_layered as of_layered
import numpy as np
import pytest
import tiny_flow as tiny
import torch
from PIL import Image
from torch import Tensor

from editkit import edit
from editkit.cli import run
from editkit.editing.api import plan
from editkit.errors import ChainError, EditkitError, ModelError, UsageError
from editkit.models import describe, load
from editkit.models.latent import layered
from editkit.models.leasing import Models
from editkit.plugins import Edit, Inpaint, Layers, SDEdit

BOUND, SEEN = 1e-5, 1e-2
NEGATIVE, SIZE = "blurry and far too dark", (64, 96)
IMAGE, OTHER = tiny.picture(96, 64), tiny.picture(96, 64, seed=9)
MODELS = Models()


def pipe() -> Any:
    return diffusers.QwenImageLayeredPipeline(
        transformer=tiny.qwen_transformer(layered=True), scheduler=tiny.dynamic(**tiny.QWEN), vae=tiny.qwen_vae(4),
        text_encoder=tiny.qwen_seeing(), tokenizer=tiny.qwen_tokenizer(), processor=tiny.qwen_processor(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "layered"
    pipe().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def model(folder: str) -> Any:
    made: Any = tiny.plain(load(describe(folder), torch.device("cpu"), torch.float32))
    made.frames = 3
    return made


@pytest.fixture(scope="module")
def theirs() -> tuple[list[Tensor], Tensor]:
    """The states and the layers, (2, 4, h, w) in [0, 1]."""
    made, kept = pipe(), []
    own = made.image_processor.postprocess
    made.image_processor.postprocess = lambda image, *rest, **more: (kept.append(own(image, "pt")), kept[-1])[1]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(of_layered, "calculate_dimensions", lambda area, ratio: (96, 64))
        states = tiny.states(
            made, prompt=tiny.PROMPT, image=IMAGE.convert("RGBA"), layers=2, negative_prompt=NEGATIVE,
            num_inference_steps=4, cfg_normalize=True, output_type="pt",
        )  # fmt: skip
    return states, kept[0]


def ours(model: Any, image: Any = IMAGE, **options: Any) -> list[Tensor]:
    given = {"known": tiny.tensor(image), "negative": NEGATIVE, "size": SIZE, **options}
    return [model.tokens(x) for x in tiny.walked(model, [Layers()], **given)]


def test_states_and_layers_are_the_pipelines(model: Any, theirs: tuple[list[Tensor], Tensor]) -> None:
    states, layers = theirs
    found = ours(model)
    assert tiny.distance(found, states) <= BOUND
    with torch.no_grad():
        split = model.split(model.from_tokens(found[-1], 8, 12))[0]
    assert split.shape == layers.shape == (2, 4, *SIZE)
    colours, opacity = (split[:, :3] + 1) / 2, split[:, 3:]
    assert float((torch.cat([colours, opacity], 1) - layers).abs().max()) <= BOUND


def test_mistakes_that_would_be_seen(
    model: Any, theirs: tuple[list[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = theirs[0]
    kind, own, root = type(model), type(model).velocities, layered.Root.__call__
    mistakes: dict[str, tuple[Any, str, Any]] = {
        "another kind": (kind, "kind_of", lambda self, tokens: tokens.new_ones(len(tokens)).long()),
        "mu of all tokens": (layered.Root, "__call__", lambda self, tokens, steps: root(self, 4 * tokens, steps)),
        "layers exchanged": (
            kind, "velocities", lambda self, x, *rest: [v.roll(-16, 1) for v in own(self, x.roll(16, 1), *rest)]
        ),
        "halves of the channels exchanged": (
            kind, "velocities", lambda self, x, *rest: [v.roll(-8, 1) for v in own(self, x.roll(8, 1), *rest)]
        ),
        "no length given back": (kind, "fold", lambda self, n, p, scale: n + scale * (p - n)),
        "the picture's latents as the VAE gives them": (kind, "normalised", lambda self, latent: latent),
    }  # fmt: skip
    for mistake, patch in mistakes.items():
        with monkeypatch.context() as m:
            m.setattr(*patch)
            assert tiny.distance(ours(model), expected) > SEEN, mistake
    norms = [part for name, part in model.transformer.named_modules() if name.endswith("norm_q")]
    handles = [part.register_forward_hook(lambda part, given, made: given[0]) for part in norms]
    assert tiny.distance(ours(model), expected) > SEEN, "queries that are not normalised"
    for handle in handles:
        handle.remove()
    turn = model.transformer.register_forward_pre_hook(_turned, with_kwargs=True)
    assert tiny.distance(ours(model), expected) > SEEN, "rows and columns exchanged"
    turn.remove()
    assert tiny.distance(ours(model, OTHER), expected) > 100 * BOUND, "another picture"
    with monkeypatch.context() as m:
        first = type(model.transformer.pos_embed)._compute_video_freqs
        m.setattr(
            model.transformer.pos_embed,
            "_compute_condition_freqs",
            lambda f, h, w, d: first(model.transformer.pos_embed, f, h, w, 0, d),
        )
        assert tiny.distance(ours(model), expected) > SEEN, "the picture at the position of a layer"
    assert tiny.distance(ours(model), expected) <= BOUND, "nothing stays wrong"


def _turned(network: Any, args: Any, given: dict[str, Any]) -> tuple[Any, Any]:
    shapes = [[(frames, width, height) for frames, height, width in item] for item in given["img_shapes"]]
    return args, {**given, "img_shapes": shapes}


PHOTO = np.asarray(tiny.picture(70, 52))
HOW: dict[str, Any] = {"steps": 2, "prompt": "a red door", "seed": 3, "device": "cpu", "offline": True}


def test_the_file_holds_the_layers_that_make_the_result(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ora"
    result = edit(PHOTO, Layers(save_layers=str(path)), model=folder, models=MODELS, **HOW)
    assert np.asarray(result.pixels).shape == PHOTO.shape
    with zipfile.ZipFile(path) as file:
        assert file.infolist()[0].filename == "mimetype"
        assert file.read("mimetype") == b"image/openraster"
        stack = ElementTree.fromstring(file.read("stack.xml"))
        assert (stack.get("w"), stack.get("h")) == ("70", "52")
        sources = [layer.get("src") for layer in stack.iter("layer")]
        assert len(sources) == 4
        layers = [np.asarray(Image.open(BytesIO(file.read(str(name))))) for name in reversed(sources)]
        merged = np.asarray(Image.open(BytesIO(file.read("mergedimage.png"))))
        assert {"Thumbnails/thumbnail.png", *sources} <= {*file.namelist()}
    whole = np.full(PHOTO.shape, 255.0)
    for layer in layers:
        assert layer.shape == (52, 70, 4)
        whole += layer[..., 3:] / 255.0 * (layer[..., :3] - whole)
    assert np.abs(whole - merged[..., :3]).max() <= 4, "rounded once for every layer"
    assert np.array_equal(merged[..., :3], np.asarray(result.pixels))
    again = tmp_path / "b.ora"
    edit(PHOTO, Layers(save_layers=str(again)), model=folder, models=MODELS, **HOW)
    assert again.read_bytes() == path.read_bytes()


def test_a_large_picture_is_split_small_and_comes_back_large(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layered, "AREA", 48 * 32)
    (stage,) = plan(PHOTO, Layers(), model=folder, **HOW)
    (only,) = stage.passes
    assert only.at.height * only.at.width <= 48 * 32
    assert (only.at.height % 16, only.at.width % 16) == (0, 0)
    path = tmp_path / "a.ora"
    made = edit(PHOTO, Layers(save_layers=str(path)), model=folder, models=MODELS, **HOW)
    assert np.asarray(made.pixels).shape == PHOTO.shape
    with zipfile.ZipFile(path) as file:
        assert Image.open(BytesIO(file.read("data/layer1.png"))).size == (70, 52)


def test_what_cannot_be_is_refused_in_a_line(folder: str, tmp_path: Path) -> None:
    def refused(kind: type[EditkitError], plugins: Any, match: str, model: str = folder) -> None:
        with pytest.raises(kind, match=match) as error:
            edit(PHOTO, plugins, model=model, models=MODELS, **HOW)
        assert "\n" not in str(error.value)

    refused(ModelError, SDEdit(strength=0.5), "got none, or several; use it with the plugin layers")
    refused(ChainError, Edit(), "edit needs a model that takes references")
    refused(ChainError, Inpaint(mask="box:0,0,9,9") & Layers(), "both set the mask")
    refused(ChainError, SDEdit(strength=0.5) & Layers(), "from noise, from the first level on; leave the others out")
    refused(UsageError, Layers(save_layers="a.png"), r"a\.png: layers are written as OpenRaster.* ends in \.ora")
    (tmp_path / "a.ora").write_bytes(b"mine")
    refused(UsageError, Layers(save_layers=str(tmp_path / "a.ora")), "exists already; give another name")
    assert (tmp_path / "a.ora").read_bytes() == b"mine"
    opaque = tmp_path / "opaque"
    made = pipe()
    made.register_modules(vae=tiny.qwen_vae())
    made.save_pretrained(opaque)
    refused(ModelError, Layers(), "its VAE takes 3 channels, but layers have 4", str(opaque))


def test_on_the_command_line(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTO).save("photo.png")
    shutil.copytree(folder, "own", copy_function=os.link)  # rerun looks beside the picture
    words = ["layers", "photo.png", "--model", "own", "--steps", "2", "--device", "cpu", "--offline"]
    assert run([*words, "--save-layers", "photo.ora", "-o", "whole.png", "--json"]) == 0
    said = capsys.readouterr()
    assert "layer_4_covers" in said.out
    assert "no --prompt" in said.err
    assert Path("photo.ora").exists()
    assert run([*words, "--save-layers", "photo.ora", "-o", "whole.png", "--force"]) == 1
    assert "--save-layers photo.ora: exists already, and --force is for --output" in capsys.readouterr().err
    assert run(["plan", *words]) == 0
    capsys.readouterr()
    assert run(["rerun", "whole.png", "--picture", "photo.png", "--offline", "-o", "again.png"]) == 0
    assert np.array_equal(*(np.asarray(Image.open(name)) for name in ("whole.png", "again.png")))
    assert "--save-layers FILE.ora keeps each" in capsys.readouterr().err, "a file to write is not part of a recipe"
