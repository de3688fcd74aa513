"""A transformer or UNet in one file, laid over a folder: networks with random weights, so plumbing is what is shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_flux
import test_parity_qwen
import test_parity_zimage
import test_single_file
import tiny_files
import tiny_flow as tiny
import tiny_latent
import torch
from PIL import Image
from test_parity_flux2 import parts
from test_setup import latents

from editkit.cli import run
from editkit.errors import EditkitError, ModelError, UsageError
from editkit.models import describe, load
from editkit.models.files.fingerprint import _hash_weights as fingerprints
from editkit.models.files.fingerprint import fingerprint
from editkit.models.files.overlay import _rename_tensors, list_tensors
from editkit.models.needs import needs
from editkit.pictures.files.provenance import read_provenance
from editkit.plugins import SDEdit

CPU = torch.device("cpu")


def other(network: Any) -> Any:
    """Another network of the same shapes, so that it is seen which one is used."""
    made = type(network).from_config(network.config)
    return tiny.awake(made, seed=11)


class Pair:
    """A folder of one network, and another network that a file is to hold."""

    def __init__(self, pipe: Any, folder: Path) -> None:
        pipe.save_pretrained(folder)
        self.folder = str(folder)
        self.network = other(pipe.transformer)
        self.state = self.network.state_dict()
        pipe.transformer.__class__.from_config(pipe.transformer.config)  # shapes alone
        whole = Path(shutil.copytree(folder, folder.parent / f"{folder.name}-whole"))
        self.network.save_pretrained(whole / "transformer")
        self.whole = str(whole)

    def laid(self, file: Path, dtype: torch.dtype = torch.float32, **setup: Any) -> Any:
        return load(describe(self.folder, offline=True, transformer=str(file)), CPU, dtype, offline=True, **setup)

    def expected(self) -> Any:
        return load(describe(self.whole, offline=True), CPU, torch.float32, offline=True)


PIPES = {
    "flux2": lambda: diffusers.Flux2KleinPipeline(**parts(), is_distilled=True),
    "z-image": test_parity_zimage.pipe,
    "qwen": lambda: test_parity_qwen.pipe("text", whole=False),
    "flux": lambda: test_parity_flux.pipe("dev"),
}
ORIGINAL = {"flux2": tiny_files.original_flux2, "z-image": tiny_files.original_zimage, "qwen": dict}
"""FLUX.1's converter has that network's width written into it, so a tiny one has no original file."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    return {name: Pair(pipe(), tmp_path_factory.mktemp("models") / name) for name, pipe in PIPES.items()}


@pytest.mark.parametrize("name", PIPES)
def test_a_file_by_diffusers_names_is_the_folder_that_has_it(pairs: dict[str, Pair], name: str, tmp_path: Path) -> None:
    pair = pairs[name]
    laid = pair.laid(tiny_files.saved(pair.state, tmp_path / "x.safetensors"))
    found, expected = tiny.walked(laid), tiny.walked(pair.expected())
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    own = tiny.walked(load(describe(pair.folder), CPU, torch.float32))
    assert tiny.distance(found, own) > 1e-2, "the folder's own weights are not used"


@pytest.mark.parametrize("name", ORIGINAL)
def test_original_names_are_converted(pairs: dict[str, Pair], name: str, tmp_path: Path) -> None:
    pair = pairs[name]
    state = ORIGINAL[name](pair.state)
    assert name == "qwen" or state.keys() - pair.state.keys()
    prefixed = {key if "diffusion_model" in key else f"model.diffusion_model.{key}": v for key, v in state.items()}
    laid = pair.laid(tiny_files.saved(prefixed, tmp_path / "x.safetensors"))
    expected = tiny.walked(pair.expected())
    assert all(torch.equal(x, y) for x, y in zip(tiny.walked(laid), expected, strict=True))


def test_flux_by_its_original_names_has_the_shapes_of_the_real_width() -> None:
    """Without numbers, since its converter has the width of 3072 written into it."""
    with torch.device("meta"):
        network = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    state = network.state_dict()
    found = _rename_tensors("FluxTransformer2DModel", tiny_files.original_flux(state), network.config, state)
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in state.items()}


def test_a_unet_by_the_original_names(tmp_path: Path) -> None:
    sd = tiny_latent.save_sd(tmp_path / "sd", diffusers.DDIMScheduler.from_config(tiny_latent.SD))
    whole = test_single_file.written(tmp_path / "whole.safetensors")
    laid = load(describe(str(sd), offline=True, transformer=str(whole)), CPU, torch.float32, offline=True)
    assert torch.allclose(latents(laid), latents(load(describe(str(sd)), CPU, torch.float32)), atol=1e-5)


def test_the_folders_own_denoiser_is_not_needed(pairs: dict[str, Pair], tmp_path: Path) -> None:
    pair = pairs["flux2"]
    bare = Path(shutil.copytree(pair.folder, tmp_path / "bare"))
    for file in (bare / "transformer").glob("*.safetensors"):
        file.unlink()
    file = tiny_files.saved(pair.state, tmp_path / "x.safetensors")
    laid = load(describe(str(bare), offline=True, transformer=str(file)), CPU, torch.float32, offline=True)
    assert torch.equal(tiny.walked(laid)[-1], tiny.walked(pair.expected())[-1])


# ------------------------------------------------------------------------------------------------------------ GGUF


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "BF16"])
@pytest.mark.parametrize("name", PIPES)
def test_a_gguf_is_the_network_of_its_unpacked_weights(
    pairs: dict[str, Pair], name: str, kind: str, tmp_path: Path
) -> None:
    """What is packed is computed with as its package unpacks it; the rest is as it was."""
    pytest.importorskip("gguf")
    pair = pairs[name]
    state = ORIGINAL.get(name, dict)(pair.state)
    laid = pair.laid(tiny_files.gguf(state, tmp_path / "x.gguf", kind))
    errors = tiny_files.unpacked(state, kind)
    assert any(not torch.equal(errors[key], state[key]) for key in state)
    expected = pair.laid(tiny_files.saved(errors, tmp_path / "errors.safetensors"))
    assert tiny.distance(tiny.walked(laid), tiny.walked(expected)) <= 1e-5
    packed = [key for key, value in laid.transformer.state_dict().items() if value.dtype == torch.uint8]
    assert len(packed) > 5, "the weights stay packed"


def test_a_gguf_works_in_half_precision(pairs: dict[str, Pair], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pair = pairs["qwen"]
    model = pair.laid(tiny_files.gguf(pair.state, tmp_path / "X.GGUF"), torch.bfloat16)
    assert bool(torch.isfinite(tiny.walked(model)[-1]).all())


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0"])
def test_its_bytes_are_those_of_its_header(pairs: dict[str, Pair], kind: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    pair = pairs["flux2"]
    file = tiny_files.gguf(pair.state, tmp_path / "x.gguf", kind)
    listed = list(list_tensors("x", file))
    assert {one.key: one.shape for one in listed} == {key: tuple(value.shape) for key, value in pair.state.items()}
    block = {"Q8_0": 34, "Q4_0": 18}[kind]
    expected = sum(
        block * value.numel() // 32 if value.ndim == 2 and value.shape[-1] % 32 == 0 else 2 * value.numel()
        for value in pair.state.values()
    )
    found, own = needs(pair.folder, [], 2, str(file)), needs(pair.folder, [], 2)
    assert found is not None
    assert own is not None
    assert found.network == expected < own.network
    assert (found.readers, found.vae) == (own.readers, own.vae)


def test_a_lora_stays_live_beside_a_gguf(pairs: dict[str, Pair], tmp_path: Path) -> None:
    """The result is that of the LoRA fused into the unpacked weights."""
    pytest.importorskip("gguf")
    from test_flow_families import lora

    from editkit.models.setup import Setup

    pair = pairs["flux2"]
    asked = Setup(lora=(f"{lora('flux2', tmp_path)}:0.7",))
    live = pair.laid(tiny_files.gguf(pair.state, tmp_path / "x.gguf"), setup=asked)
    plain = tiny_files.saved(tiny_files.unpacked(pair.state), tmp_path / "plain.safetensors")
    fused, without = pair.laid(plain, setup=asked), pair.laid(plain)
    assert any("lora" in key for key in live.transformer.state_dict())
    assert not any("lora" in key for key in fused.transformer.state_dict())
    states = [tiny.walked(model) for model in (live, fused, without)]
    assert tiny.distance(states[0], states[1]) <= 6e-5
    assert tiny.distance(states[0], states[2]) > 1e-3


# ------------------------------------------------------------------------------------- the edit, what is written of it


def test_the_command_the_provenance_and_rerun(
    pairs: dict[str, Pair], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pairs["z-image"]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pair.folder, tmp_path / "model")
    file = tiny_files.saved(pair.state, tmp_path / "x.safetensors")
    tiny.picture(48, 32).save("photo.png")
    words = ["sdedit", "photo.png", "--model", "model", "--prompt", "x", "--steps", "1", "--strength", "1"]
    words += ["--device", "cpu", "--transformer", "x.safetensors"]
    assert run([*words, "--output", "a.png", "--save-recipe", "a.yaml"]) == 0
    assert "transformer: x.safetensors" in Path("a.yaml").read_text()
    said = read_provenance("a.png")
    assert said is not None
    assert said.recipe["stages"][0]["options"]["transformer"] == "x.safetensors"
    (used,) = said.models
    assert used.hash == fingerprint(describe("model", transformer="x.safetensors"))
    assert used.hash != fingerprint(describe("model"))
    capsys.readouterr()
    assert run(["rerun", "a.png"]) == 0
    assert "other weights" not in capsys.readouterr().err
    made, again = (np.asarray(Image.open(name)) for name in ("a.png", "a.rerun.png"))
    assert np.array_equal(made, again)
    tiny_files.saved({key: 0.5 * value for key, value in pair.state.items()}, file)
    fingerprints.cache_clear()  # files do not change while a process runs
    assert run(["rerun", "a.png", "--force"]) == 0
    assert "model model has other weights" in capsys.readouterr().err
    assert not np.array_equal(made, np.asarray(Image.open("a.rerun.png")))


def test_rerun_with_a_stage_of_another_model_and_with_the_folder_elsewhere(
    pairs: dict[str, Pair], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is laid over the first stage's model alone, and over its folder where the user is."""
    pair = pairs["z-image"]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pair.folder, tmp_path / "model")
    (tmp_path / "out").mkdir()
    tiny_files.saved(pair.state, tmp_path / "x.safetensors")
    shutil.copy("x.safetensors", "out")
    for place in (".", "out"):
        tiny.picture(32, 32).save(f"{place}/photo.png")
    words = ["sdedit", "photo.png", "--model", "model", "--prompt", "x", "--steps", "1", "--strength", "1"]
    words += ["--device", "cpu", "--transformer", "x.safetensors"]
    words += ["then", "sdedit", "--model", "patches", "--steps", "1", "--strength", "1"]
    assert run([*words, "--output", "out/a.png"]) == 0
    capsys.readouterr()
    assert run(["rerun", "out/a.png"]) == 0, capsys.readouterr().err
    assert "other weights" not in capsys.readouterr().err
    made, again = (np.asarray(Image.open(f"out/{name}.png")) for name in ("a", "a.rerun"))
    assert np.array_equal(made, again)


def test_a_strip_between_two_pictures_says_it_too(
    pairs: dict[str, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pairs["z-image"]
    monkeypatch.chdir(tmp_path)
    file = str(tiny_files.saved(pair.state, tmp_path / "x.safetensors"))
    for name in ("a.png", "b.png"):
        tiny.picture(32, 32).save(name)
    words = ["interpolate", "a.png", "--to", "b.png", "--frames", "2", "--steps", "2", "--prompt", "x"]
    assert run([*words, "--model", pair.folder, "--transformer", "x.safetensors", "-o", "s.png"]) == 0
    said = read_provenance("s.png")
    assert said is not None
    (used,) = said.models
    assert used.hash == fingerprint(describe(pair.folder, transformer=file))


def test_strangers_provenance_lays_no_file_from_elsewhere(pairs: dict[str, Pair], tmp_path: Path) -> None:
    from editkit.common import trust

    for word in ("/etc/x.gguf", "../x.safetensors", "~/x.gguf"):
        recipe = {"stages": [{"plugins": ["sdedit"], "options": {"transformer": word}}]}
        with pytest.raises(EditkitError, match="lies elsewhere"):
            trust.check_provenance_paths(str(tmp_path / "a.png"), None, recipe)


def test_a_stage_with_another_model_does_not_inherit_it(pairs: dict[str, Pair], tmp_path: Path) -> None:
    from editkit.editing.settle import describe_model
    from editkit.plugin import Chain

    file = str(tiny_files.saved(pairs["qwen"].state, tmp_path / "x.safetensors"))
    first = Chain.of(SDEdit()).using(model=pairs["qwen"].folder, transformer=file)
    one, two = (first | Chain.of(SDEdit()).using(model=pairs["flux2"].folder)).inherited().stages
    assert (describe_model(one).transformer, describe_model(two).transformer) == (file, None)
    _, three = (first | SDEdit()).inherited().stages
    assert describe_model(three).transformer == file


def test_an_embedded_model_inherits_no_lora(tmp_path: Path) -> None:
    from editkit.editing.settle import for_own_model
    from editkit.plugin import Chain

    first = Chain.of(SDEdit()).using(model="./a", lora=("x.safetensors",), refiner="./b", seed=3)
    for model, kept in (("pocket", ()), ("auto", ()), ("./c", ("x.safetensors",))):
        stage = for_own_model((first | Chain.of(SDEdit()).using(model=model)).inherited().stages[1])
        assert (stage.options.lora, stage.options.seed) == (kept, 3)


def test_plan_counts_it_and_needs_no_torch(pairs: dict[str, Pair], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tiny_files.gguf(pairs["flux2"].state, tmp_path / "x.gguf")
    tiny.picture(48, 32).save(tmp_path / "photo.png")
    words = ["plan", "sdedit", str(tmp_path / "photo.png"), "--model", pairs["flux2"].folder, "--prompt", "x"]
    words += ["--transformer", str(file), "--json"]
    code = f"import sys; from editkit.cli import run; sys.exit(run({words!r}) or ('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    found = needs(pairs["flux2"].folder, [], 2, str(file))
    assert found is not None
    assert record["memory"]["network"] == found.network


# -------------------------------------------------------------------------------------------------------- bad input


def refused(pair: Pair, file: Path | str, match: str, kind: type[EditkitError] = ModelError) -> None:
    with pytest.raises(kind, match=match) as raised:
        load(describe(pair.folder, offline=True, transformer=str(file)), CPU, torch.float32, offline=True)
    assert len(str(raised.value)) < 400
    assert "\n" not in str(raised.value)


def test_what_cannot_be_laid_over_is_said(pairs: dict[str, Pair], tmp_path: Path) -> None:
    pair = pairs["flux2"]
    refused(pair, tmp_path / "none.gguf", "no such file", UsageError)
    refused(pair, "x" * 5000, "no such file", UsageError)
    (tmp_path / "x.ckpt").write_bytes(b"")
    refused(pair, tmp_path / "x.ckpt", "is a pickle")
    (tmp_path / "x.onnx").write_bytes(b"")
    refused(pair, tmp_path / "x.onnx", r"must be a \.safetensors or \.gguf file")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    refused(pair, tmp_path / "x.safetensors", "is damaged or not a safetensors file")
    refused(pair, tiny_files.saved({}, tmp_path / "e.safetensors"), "contains no tensors")
    refused(
        pair, tiny_files.saved(pairs["qwen"].state, tmp_path / "q.safetensors"), "does not fit model .* lacks|family"
    )
    part = dict(list(pair.state.items())[:-1])
    refused(pair, tiny_files.saved(part, tmp_path / "p.safetensors"), "lacks 1 of")
    wide = {**pair.state, "proj_out.weight": torch.zeros(64, 32)}
    refused(pair, tiny_files.saved(wide, tmp_path / "w.safetensors"), "another shape than its configuration says")
    more = {**pair.state, "transformer_blocks.1.attn.to_q.weight": torch.zeros(32, 32)}
    refused(
        pair,
        tiny_files.saved(more, tmp_path / "m.safetensors"),
        "that the folder's network does not have|family",
    )
    scaled = {**pair.state, "proj_out.scale_weight": torch.ones(())}
    refused(pair, tiny_files.saved(scaled, tmp_path / "s.safetensors"), "fp8_scaled")


def test_a_mark_of_another_kind_must_be_in_the_configuration(pairs: dict[str, Pair], tmp_path: Path) -> None:
    pair = pairs["qwen"]
    marked = {**pair.state, "__index_timestep_zero__": torch.zeros(0)}
    file = tiny_files.saved(marked, tmp_path / "x.safetensors")
    refused(pair, file, "configuration has zero_cond_t")
    fresh = Path(shutil.copytree(pair.folder, tmp_path / "fresh"))
    config = json.loads((fresh / "transformer" / "config.json").read_text())
    (fresh / "transformer" / "config.json").write_text(json.dumps({**config, "zero_cond_t": True}))
    load(describe(str(fresh), offline=True, transformer=str(file)), CPU, torch.float32, offline=True)


def test_a_file_alone_says_what_is_missing(pairs: dict[str, Pair], tmp_path: Path) -> None:
    file = tmp_path / "klein-Q4.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(
        ModelError, match=r"text encoders, VAE, .* are missing; .* --model FOLDER --transformer .*Q4.gguf"
    ):
        describe(str(file), offline=True)
    with pytest.raises(UsageError, match="is one network; its text encoders, .* by --model"):
        describe("auto", transformer=str(file))
    whole = tiny_files.saved(pairs["qwen"].state, tmp_path / "whole.safetensors")
    with pytest.raises(ModelError, match="needs a folder as the model, and --model .* is a file"):
        describe(str(whole), offline=True, transformer=str(file))


@pytest.mark.parametrize("broken", [b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64, b"<html>", b"x" * 999])
def test_a_damaged_gguf_is_one_line(pairs: dict[str, Pair], tmp_path: Path, broken: bytes) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "x.gguf").write_bytes(broken)
    refused(pairs["flux2"], tmp_path / "x.gguf", r"x\.gguf (is damaged or not a GGUF|is empty|is a web page)")


def test_a_gguf_that_ends_too_early_is_one_line(pairs: dict[str, Pair], tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tiny_files.gguf(pairs["flux2"].state, tmp_path / "x.gguf")
    file.write_bytes(file.read_bytes()[:-500])
    refused(pairs["flux2"], file, r"x\.gguf is damaged")


def test_without_its_package_a_gguf_names_the_command(
    pairs: dict[str, Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(EditkitError, match=r"this needs gguf, .*pip install 'editkit\[gguf\]'"):
        describe(pairs["flux2"].folder, offline=True, transformer=str(tmp_path / "x.gguf"))
