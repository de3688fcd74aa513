"""Weights beside a model's own stand in provenance, and rerun says which are other ones."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny_flow as tiny
import tiny_latent
import tiny_prompts
import torch
from PIL import Image
from safetensors.torch import save_file

from editkit.cli import run
from editkit.editing.named_weights import named_weights
from editkit.models.files.fingerprint import _hash_weights as fingerprints
from editkit.models.files.fingerprint import of_place
from editkit.pictures.files.provenance import read_provenance
from editkit.plugin import Chain
from editkit.plugins import ControlNet, Guide, ImagePrompt, SDEdit


def test_what_a_chain_names(tmp_path: Path) -> None:
    """LoRAs with a weight or without, folders, files of plugins; each once; not those that are not here."""
    for name in ("a", "b", "ip"):
        save_file({"x": torch.full((2,), float(ord(name[0])))}, tmp_path / f"{name}.safetensors")
    (tmp_path / "net").mkdir()
    save_file({"x": torch.zeros(3)}, tmp_path / "net" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "empty").mkdir()
    a, b, ip, net, empty = (
        str(tmp_path / name) for name in ("a.safetensors", "b.safetensors", "ip.safetensors", "net", "empty")
    )
    style = np.zeros((8, 8, 3), np.uint8)
    first = Chain.of([SDEdit(), ControlNet(control="canny", controlnet=net), ImagePrompt(image=style, adapter=ip)])
    chain = first.using(model="./m", lora=(a, f"{b}:0.5")) | ControlNet(control="canny", controlnet=empty)
    found = dict(named_weights(chain))
    assert list(found) == ["a.safetensors", "b.safetensors", "net", "ip.safetensors"]
    assert found == {Path(path).name: of_place(Path(path)) for path in (a, b, net, ip)}
    assert len(set(found.values())) == 4
    assert named_weights(Chain.of(SDEdit() & Guide(brightness=0.5, network=""))) == (), "not the present folder"
    there = named_weights(first.using(lora=("none.safetensors",)))
    assert [name for name, _ in there] == ["net", "ip.safetensors"]


def test_what_lies_beside_an_adapter_and_a_refiner_too(tmp_path: Path) -> None:
    """The image encoder that nobody named is loaded as well; one that is named is in its place."""
    for name in ("image_encoder", "other", "refiner/unet"):
        (tmp_path / name).mkdir(parents=True)
        save_file({"x": torch.full((2,), float(len(name)))}, tmp_path / name / "model.safetensors")
    adapter, style = tmp_path / "ip.safetensors", np.zeros((8, 8, 3), np.uint8)
    save_file({"x": torch.zeros(1)}, adapter)
    beside = Chain.of(SDEdit() & ImagePrompt(image=style, adapter=str(adapter)))
    named = Chain.of(SDEdit() & ImagePrompt(image=style, adapter=str(adapter), encoder=str(tmp_path / "other")))
    refined = beside.using(model="./m", refiner=f"{tmp_path / 'refiner'}:0.8")
    for chain, names in (
        (beside, ["ip.safetensors", "image_encoder"]), (named, ["ip.safetensors", "other"]),
        (refined, ["refiner", "ip.safetensors", "image_encoder"]),
    ):  # fmt: skip
        found = named_weights(chain)
        assert [name for name, _ in found] == names
        assert len({digest for _, digest in found}) == len(names)
    assert dict(named_weights(refined))["refiner"] == of_place(tmp_path / "refiner")


def test_rerun_says_that_an_adapter_is_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_latent.save_sd(tmp_path / "sd", diffusers.DDIMScheduler.from_config(tiny_latent.SD))
    tiny_prompts.with_encoder(tmp_path)
    tiny_prompts.adapter(tmp_path / "ip.safetensors", tiny_latent.unet())
    tiny.picture(64, 64).save("photo.png")
    tiny.picture(40, 40, seed=9).save("style.png")
    words = ["sdedit", "photo.png", "--model", "sd", "--steps", "1", "--strength", "1", "--device", "cpu"]
    words += ["with", "image-prompt", "--image", "style.png", "--adapter", "ip.safetensors", "-o", "a.png"]
    assert run(words) == 0, capsys.readouterr().err
    said = read_provenance("a.png")
    assert said is not None
    files = ("ip.safetensors", "image_encoder")
    assert [(one.name, one.hash) for one in said.files] == [(name, of_place(Path(name))) for name in files]
    assert run(["show", "a.png"]) == 0
    assert f"weights: ip.safetensors ({said.files[0].hash})" in capsys.readouterr().out
    assert run(["rerun", "a.png"]) == 0
    assert "is not the file" not in capsys.readouterr().err
    tiny_prompts.adapter(tmp_path / "ip.safetensors", tiny_latent.unet(), seed=1)
    fingerprints.cache_clear()  # files do not change while a process runs
    assert run(["rerun", "a.png", "--force"]) == 0
    assert "ip.safetensors is not the file that made a.png; the result may differ" in capsys.readouterr().err
    made, again = (np.asarray(Image.open(name)) for name in ("a.png", "a.rerun.png"))
    assert not np.array_equal(made, again)
