"""--backend openvino: what OpenVINO computes is what torch computes, and it is said where it cannot."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import test_parity_sd3
import test_parity_sdxl
import tiny
import tiny_latent
import torch
from PIL import Image
from tiny_families import Folders
from torch import Tensor

from editkit import edit, sample
from editkit.cli import run
from editkit.errors import ExtraError, ModelError, UsageError
from editkit.models import backends, describe, load
from editkit.models.backends import check
from editkit.models.fast import programs
from editkit.models.fast.converted import OpenVINONetwork, PlainRebuild, flatten_call, unflatten_call
from editkit.models.setup import Setup
from editkit.plugins import Guide, SDEdit

CPU = torch.device("cpu")
OPENVINO = Setup(backend="openvino")
INSTALLED = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_latent.save_sd(tmp_path_factory.mktemp("models") / "sd", diffusers.DDIMScheduler(**tiny_latent.SD))


def pixel(batch: int, side: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    return tiny.unet2d(), (torch.randn(batch, 3, side, side), torch.full((batch,), 500.0)), {"class_labels": None}


def xl(batch: int, side: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    added = {"text_embeds": torch.randn(batch, 32), "time_ids": torch.rand(batch, 6)}
    named = {"encoder_hidden_states": torch.randn(batch, 77, 64), "added_cond_kwargs": added}
    given = torch.randn(batch, 4, side // 4, side // 4), torch.full((batch,), 500.0)
    return test_parity_sdxl.parts(4)["unet"], given, {**named, "cross_attention_kwargs": {"copies": 1}}


def sd3(batch: int, side: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    named = {
        "hidden_states": torch.randn(batch, 16, side // 4, side // 4), "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, 5, 80), "pooled_projections": torch.randn(batch, 64),
    }  # fmt: skip
    return test_parity_sd3.parts(16)["transformer"], (), named


def controlled(batch: int, side: int) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """With what a ControlNet adds, in a list."""
    side //= 4
    shapes = [(32, side), (32, side), (32, side // 2), (64, side // 2), (64, side // 2)]
    named = {
        "encoder_hidden_states": torch.randn(batch, 77, 32),
        "down_block_additional_residuals": [torch.randn(batch, n, size, size) for n, size in shapes[: len(shapes)]],
        "mid_block_additional_residual": torch.randn(batch, 64, side // 2, side // 2),
    }
    given = torch.randn(batch, 4, side, side), torch.full((batch,), 500.0)
    return tiny_latent.unet(), given, named


def largest(found: Tensor, expected: Tensor) -> float:
    """The largest difference, by the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


@INSTALLED
@pytest.mark.parametrize("call", [pixel, xl, sd3, controlled])
def test_a_converted_network_is_torchs_in_other_sizes_and_numbers(call: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    network = call(1, 32)[0].requires_grad_(False)
    converted = OpenVINONetwork(network, PlainRebuild(network, ""), "unet")
    for batch, side in ((2, 32), (1, 32), (3, 48)):
        _, given, named = call(batch, side)
        plain = {name: value for name, value in named.items() if name != "cross_attention_kwargs"}
        with torch.no_grad():
            expected = network(*given, **plain, return_dict=False)[0]
            found = converted(*given, **named, return_dict=False)[0]
        assert largest(found, expected) <= 1e-4
    assert len(converted._models) == 1


@INSTALLED
@pytest.mark.parametrize("name", ["flux", "klein", "longcat", "chroma"])
def test_a_transformer_is_torchs_in_other_sizes(tmp_path: Path, name: str) -> None:
    path = Folders(tmp_path).model(name)
    info = describe(path)
    theirs, ours = (load(info, CPU, torch.float32, setup=setup) for setup in (Setup(), OPENVINO))
    for height, width, batch in ((32, 48, 1), (64, 32, 1), (64, 32, 2)):
        shape = (batch, *theirs.shape(height, width))
        found, expected = (
            sample(model, shape=shape, steps=1, prompt="a dog", seed=1, device="cpu") for model in (ours, theirs)
        )
        assert largest(found, expected) <= 1e-4


@INSTALLED
@pytest.mark.parametrize("name", ["sd", "pocket"])
def test_an_edit_is_torchs_and_the_same_bytes_each_time(sd: Path, name: str) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (72, 64, 3), dtype=np.uint8)
    how: dict[str, Any] = {"model": str(sd) if name == "sd" else name, "steps": 2, "dtype": "fp32", "device": "cpu"}
    theirs = edit(picture, SDEdit(strength=0.6), **how).pixels.astype(int)
    ours = [edit(picture, SDEdit(strength=0.6), **how, backend="openvino").pixels for _ in range(2)]
    assert np.abs(ours[0] - theirs).max() <= 1
    assert np.array_equal(*ours)


@INSTALLED
def test_gradients_copies_and_image_prompts_are_torchs(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = load(describe(str(sd)), CPU, torch.float32, setup=OPENVINO).unet  # type: ignore[attr-defined]
    monkeypatch.setattr(OpenVINONetwork, "_program", lambda *_: pytest.fail("OpenVINO was asked"))
    x, t, words = torch.randn(1, 4, 8, 8), torch.tensor([500.0]), torch.randn(1, 77, 32)
    unet(x.requires_grad_(), t, words, return_dict=False)[0].square().sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0
    with torch.no_grad():
        copy.deepcopy(unet)(x, t, words)
        unet(x, t, words, cross_attention_kwargs={"shown": None, "copies": 1, "odd": object()})


@INSTALLED
def test_a_plugin_that_guides_works_by_torch(sd: Path) -> None:
    picture = np.full((64, 64, 3), 90, np.uint8)
    chain = SDEdit(strength=0.5) & Guide(loss="brightness", weight=5.0)
    how: dict[str, Any] = {"model": str(sd), "steps": 2, "dtype": "fp32", "device": "cpu"}
    theirs, ours = (edit(picture, chain, **how, backend=name).pixels.astype(int) for name in ("torch", "openvino"))
    assert np.abs(ours - theirs).max() <= 1


def small() -> Any:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return tiny.unet2d(block_out_channels=(8, 8), norm_num_groups=4, **blocks).requires_grad_(False)


def made(network: Any) -> tuple[OpenVINONetwork, Callable[[], Tensor]]:
    """`network` converted, and a call of it."""
    converted = OpenVINONetwork(network, PlainRebuild(network, ""), "network")
    x, t = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16), torch.tensor([500.0])

    def call() -> Tensor:
        with torch.no_grad():
            out: Tensor = converted(x, t, return_dict=False)[0]
        return out

    return converted, call


@INSTALLED
def test_what_was_converted_is_kept_by_its_weights_and_nothing_else_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    network = small()
    first = made(network)[1]()
    (kept,) = (tmp_path / "editkit" / "openvino").iterdir()
    assert sorted(file.name for file in kept.iterdir()) == ["network.bin", "network.xml"]

    convert, asked = programs._convert, []
    monkeypatch.setattr(programs, "_convert", lambda *given: asked.append(1) or convert(*given))
    assert torch.equal(made(network)[1](), first)
    assert not asked

    kept.chmod(0o777)  # one who may write to it may have put another network there
    (kept / "network.xml").write_text("<planted/>")
    assert torch.equal(made(network)[1](), first)
    assert len(asked) == 1
    assert (kept / "network.xml").read_text() == "<planted/>"

    kept.chmod(0o700)  # one's own that was damaged is made anew
    assert torch.equal(made(network)[1](), first)
    assert len(asked) == 2
    assert b"planted" not in (kept / "network.xml").read_bytes()

    network.conv_in.weight.data *= 1.01  # other weights are another network
    assert not torch.equal(made(network)[1](), first)
    assert len(list(kept.parent.iterdir())) == 2
    shutil.rmtree(tmp_path / "editkit")
    (tmp_path / "editkit").write_text("no folder")
    assert largest(made(network)[1](), first) < 1  # nothing can be kept: converted all the same


def test_a_call_is_taken_apart_and_put_together() -> None:
    x, y = torch.zeros(2, 3), torch.ones(1)
    value = ((x, None, 0.5), {"a": [y, (x,)], "b": {"copies": 2}, "c": {}, "d": {"copies": 1, "e": y}})
    apart = flatten_call(value)
    assert apart is not None
    hash(apart.form)
    assert [len(tensor) for tensor in apart.tensors] == [2, 1, 2, 1]
    again = unflatten_call(apart.form, iter(apart.tensors))
    assert repr(again) == repr(((x, None, 0.5), {"a": [y, (x,)], "b": None, "c": {}, "d": {"e": y}}))
    assert flatten_call({"a": object()}) is None


def test_what_it_cannot_compute_is_refused_in_a_line(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = describe(str(sd))
    with pytest.raises(ModelError, match="patches has none"):
        check(describe("patches"), "openvino", "cpu", False)
    with pytest.raises(UsageError, match="--device is cuda:1"):
        check(info, "openvino", "cuda:1", False)
    with pytest.raises(UsageError, match="two ways of compiling"):
        check(info, "openvino", "cpu", True)
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"pip install 'editkit\[openvino\]'$"):
        check(info, "openvino", "cpu", False)
    check(info, "torch", "cuda", True)


@INSTALLED
def test_networks_that_were_not_tried_are_refused(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editkit.models.fast.converted.KNOWN", ("AutoencoderKL",))
    with pytest.raises(ModelError, match=r"the unet of model .* is a UNet2DConditionModel; .* leave --backend out"):
        load(describe(str(sd)), CPU, torch.float32, setup=OPENVINO)


@INSTALLED
def test_a_network_that_cannot_be_converted_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_convert", lambda *_: [][0])
    with pytest.raises(ModelError, match="the network cannot be converted: list index out of range"):
        made(small())[1]()


@INSTALLED
def test_plan_says_it(sd: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = tmp_path / "p.png"
    Image.new("RGB", (64, 64), (90, 80, 70)).save(photo)
    words = ["plan", "sdedit", str(photo), "--strength", "0.5", "--model", str(sd), "--prompt", "a dog"]
    assert run([*words, "--backend", "openvino"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "networks by OpenVINO 20" in said
    assert "by torch where gradients" in said
    assert run(words) == 0
    assert "OpenVINO" not in capsys.readouterr().out


def test_a_cache_of_others_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "open").write_text("")
    (tmp_path / "open").chmod(0o622)
    (tmp_path / "file").chmod(0o600)
    assert programs._is_trusted(tmp_path / "file")
    assert not any(programs._is_trusted(tmp_path / name) for name in ("link", "open", "none"))


@INSTALLED
def test_its_makers_are_told_nothing(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO comes with a library that reports its use; converting a network is no use that it hears of."""
    telemetry = pytest.importorskip("openvino_telemetry")
    told: list[object] = []
    monkeypatch.setattr(telemetry.Telemetry, "__init__", lambda self, *given, **named: told.append((given, named)))
    monkeypatch.setattr(programs, "_read_cached", lambda place: None)
    sample(load(describe(str(sd)), CPU, torch.float32, setup=OPENVINO), shape=(1, 4, 8, 8), steps=2, seed=1)
    assert told == []
