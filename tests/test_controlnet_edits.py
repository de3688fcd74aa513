"""ControlNets in edits: hints, recipes, what is told and refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_control import folder, hint, run, saved, sd
from torch import Tensor

from editkit import edit
from editkit.errors import ChainError, EditkitError, ModelError, UsageError
from editkit.models.leasing import Models
from editkit.pictures.picture import Picture
from editkit.plugins import ControlNet, Guide, Inpaint, SDEdit

__all__ = ["folder", "sd"]


def photo(height: int, width: int) -> Picture:
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 3 % 256, y * 3 % 256, (x + y) % 256], -1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 250
    return Picture(pixels)


FULL: dict[str, Any] = {
    "dtype": "fp32", "device": "cpu", "offline": True, "steps": 3, "prompt": "x", "models": Models(),
}  # fmt: skip


def test_the_hint_is_cut_and_resized_with_the_picture(sd: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hint that is the picture itself reaches the network as the very pixels that are edited, crop or not."""
    seen: list[tuple[Tensor, Tensor]] = []
    from editkit_plugins import controlnet

    bound = controlnet._bind_controlnet

    def watched(plugin: Any, run: Any) -> Any:
        control = bound(plugin, run)
        seen.append((control.hint * 2 - 1, run.inputs.picture))
        return control

    monkeypatch.setattr(controlnet, "_bind_controlnet", watched)
    picture = photo(151, 203)
    for control in ("tile:factor=1", picture.pixels, Image.fromarray(picture.pixels)):
        for canvas in ("crop", "full", "auto"):
            plugins = [ControlNet(control=control, controlnet=saved(folder, 0)), Inpaint(mask="box:20,30,60,70")]
            made = edit(picture, plugins, model=sd, canvas=canvas, **{**FULL, "steps": 1})
            assert made.pixels.shape == picture.pixels.shape
            given, edited = seen.pop()
            assert given.shape == edited.shape
            assert torch.allclose(given, edited.clamp(-1, 1), atol=1e-5)


def test_with_everything_else(sd: str, folder: Path, tmp_path: Path) -> None:
    picture = photo(90, 75)
    plugins: list[Any] = [
        ControlNet(control="canny:low=20,high=60", controlnet=saved(folder, 0), stop=0.7),
        ControlNet(control="luma", controlnet=saved(folder, 1), scale=0.5, guess=True),
        Inpaint(mask="box:20,20,40,44", feather=3),
        SDEdit(strength=0.7),
        Guide(loss="color", weight=5.0),
    ]
    made = edit(picture, plugins, model=sd, **FULL).pixels
    kept = np.ones((90, 75), bool)
    kept[20:44, 20:40] = False
    assert (made[kept] == picture.pixels[kept]).all()
    assert (made == edit(picture, plugins, model=sd, **FULL).pixels).all()
    half = edit(picture, plugins[:4], model=sd, **{**FULL, "dtype": "bf16"}).pixels
    assert (half[kept] == picture.pixels[kept]).all()


def test_in_a_recipe_its_folder_is_relative_to_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from editkit.editing.recipe import from_mapping, to_mapping
    from editkit.plugin.chain import Chain

    (tmp_path / "nets" / "edges").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for given, written, read in (
        ("nets/edges", "../nets/edges", str(tmp_path / "recipes" / ".." / "nets" / "edges")),
        (str(tmp_path / "recipes" / "net"), "net", str(tmp_path / "recipes" / "net")),
        ("owner/name", "owner/name", "owner/name"),
        ("pocket-canny", "pocket-canny", "pocket-canny"),
    ):
        chain = Chain.of([SDEdit(), ControlNet(control="canny", controlnet=given)])
        made: Any = to_mapping(chain, base=tmp_path / "recipes")
        assert made["stages"][0]["plugins"][1]["controlnet"]["controlnet"] == written
        plugin: Any = from_mapping(made, base=tmp_path / "recipes").stages[0].plugins[1]
        assert plugin.controlnet == read


def test_a_hint_of_another_size_is_resized_with_a_notice(sd: str, folder: Path, tmp_path: Path) -> None:
    path, said = tmp_path / "hint.png", []
    Image.fromarray(hint()).save(path)
    plugin = ControlNet(control=str(path), controlnet=saved(folder, 0))
    edit(photo(64, 128), [SDEdit(), plugin], model=sd, notify=said.append, **FULL)
    assert said == ["the hint is 64x64, the picture 128x64; the hint was resized to cover it"]


def test_an_empty_hint_is_told(sd: str, folder: Path) -> None:
    said: list[str] = []
    plugin = ControlNet(control="canny", controlnet=saved(folder, 0))
    edit(Picture(np.full((64, 64, 3), 90, np.uint8)), [SDEdit(), plugin], model=sd, notify=said.append, **FULL)
    assert any("the hint is empty" in message for message in said)


def test_what_is_refused(sd: str, folder: Path, tmp_path: Path) -> None:
    good, picture = saved(folder, 0), photo(64, 64)

    def fails(error: type[EditkitError], message: str, **given: Any) -> None:
        model = given.pop("model", sd)
        with pytest.raises(error, match=message) as caught:
            edit(picture, [SDEdit(), ControlNet(**given)], model=model, **{**FULL, "prompt": None})
        assert "\n" not in str(caught.value)

    fails(UsageError, "there is no such file", control="missing.png", controlnet=good)
    fails(ModelError, "controlnet: .*was not found", control="canny", controlnet=str(tmp_path / "none"))
    fails(ModelError, "offline=True is on", control="canny", controlnet="nobody/nothing")
    fails(ChainError, "needs a model that takes control", control="canny", controlnet=good, model="patches")
    pickled = tmp_path / "pickled"
    shutil.copytree(good, pickled)
    (pickled / "diffusion_pytorch_model.safetensors").rename(pickled / "diffusion_pytorch_model.bin")
    fails(ModelError, "controlnet: .*is a pickle", control="canny", controlnet=str(pickled))
    (tmp_path / "empty").mkdir()
    single = tmp_path / "canny.safetensors"
    single.write_bytes(Path(good, "diffusion_pytorch_model.safetensors").read_bytes())
    fails(ModelError, "a single file, which is not supported; give its hub id", control="canny", controlnet=str(single))
    fails(ModelError, "config.json is missing", control="canny", controlnet=str(tmp_path / "empty"))
    fails(ModelError, r"is a AutoencoderKL; a ControlNetModel is needed", control="canny", controlnet=f"{sd}/vae")
    fails(
        ModelError, r"another family than the model: .*cross_attention_dim 64.* has cross_attention_dim 32",
        control="canny", controlnet=saved(folder, 0, "xl"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"did you mean canny\? installed: .*canny.*scribble"):
        ControlNet(control="cany", controlnet=good)
    with pytest.raises(UsageError, match="looks at a picture, and there is none"):
        run([ControlNet(control="canny", controlnet=good)])


def test_a_recipe_keeps_the_names_of_detectors_and_moves_the_paths_of_hints(tmp_path: Path) -> None:
    from editkit.editing import recipe
    from editkit.plugin.chain import Chain

    for control, written in (("canny:low=5", "canny:low=5"), (str(tmp_path / "a" / "h.png"), "a/h.png")):
        chain = Chain.of(ControlNet(control=control, controlnet="x/y"))
        text = recipe.to_yaml(chain, tmp_path)
        assert f"control: {written}" in text
        assert recipe.from_yaml(text, base=tmp_path).stages[0].plugins == chain.stages[0].plugins
