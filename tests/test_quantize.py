"""--quantize int8: the linear layers of a denoiser in 8 bits. Tiny networks of random weights, so plumbing is shown."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_latent
import torch
from PIL import Image
from tiny_families import Folders
from torch import Tensor, nn

from editkit import edit, sample
from editkit.cli import run
from editkit.editing.settle import describe_model
from editkit.errors import EditkitError, ExtraError, ModelError, UsageError
from editkit.models import backends, describe, families, load, setup
from editkit.models.fast.packing import unpack
from editkit.models.files import quantising
from editkit.models.files.layout import Layout
from editkit.models.files.quantised import is_quantised
from editkit.models.leasing import Models
from editkit.models.needs import lines, needs
from editkit.models.setup import Setup
from editkit.plugin.chain import Stage
from editkit.plugin.options import Options
from editkit.plugins import SDEdit

CPU = torch.device("cpu")
INT8 = Setup(quantize="int8")
pytestmark = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return Folders(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("models") / "sd"
    return str(tiny_latent.save_sd(place, diffusers.DDIMScheduler(**tiny_latent.SD)))


def loaded(path: str, dtype: torch.dtype = torch.float32, **how: Any) -> Any:
    return load(describe(path), CPU, dtype, setup=Setup(**how))


def latents(model: Any, steps: int = 1) -> Tensor:
    return sample(model, shape=(1, *model.shape(64, 64)), steps=steps, prompt="a dog", seed=1, device="cpu")


def matrices(network: Any) -> Iterator[tuple[str, nn.Linear]]:
    return ((name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear))


def bytes_of(network: Any) -> int:
    """Of its parameters as they lie in memory."""
    unpack(network)
    parts = ((p.qdata, p.scale, p.zero_point) if hasattr(p, "qdata") else (p,) for p in network.parameters())
    return sum(tensor.numel() * tensor.element_size() for own in parts for tensor in own)


@pytest.mark.parametrize("name", ["sd", "klein", "chroma"])
def test_each_weight_is_off_by_half_a_step_and_plan_counts_its_bytes(folders: Folders, sd: str, name: str) -> None:
    path = sd if name == "sd" else folders.model(name)
    one, two = loaded(path), loaded(path, quantize="int8")
    assert is_quantised(two.denoiser)
    assert not is_quantised(one.denoiser)
    assert not is_quantised(two.vae)
    rounding = 2.0**-20  # of the scale and the quotient, in float32, by the largest weight of a row
    for layer, plain in matrices(one.denoiser):
        packed: Any = two.denoiser.get_submodule(layer).weight
        assert packed.qdata.dtype == torch.int8
        largest = plain.weight.abs().amax(1, keepdim=True)
        off = (packed.dequantize().float() - plain.weight).abs()
        assert bool((off <= largest * (0.5 / 127.5 + rounding)).all())
    found, plain_needs = needs(path, [], 4, None, "int8"), needs(path, [], 4)
    assert found is not None
    assert plain_needs is not None
    assert found.network == plain_needs.int8 == bytes_of(two.denoiser)
    assert plain_needs.network == bytes_of(one.denoiser)
    assert (found.packed, found.readers, found.vae) == (True, plain_needs.readers, plain_needs.vae)


def test_a_layer_is_off_by_no_more_than_its_weights_are() -> None:
    """|y' - y| <= sum |x| s / 2, s = max |w| / 127.5, and the roundings of a sum of n products in float32."""
    torch.manual_seed(0)
    layer = nn.Linear(48, 32).requires_grad_(False)
    network = nn.Sequential(layer)
    x = torch.randn(100, 48)
    exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    step = layer.weight.abs().amax(1) / 127.5
    bound = x.abs().sum(1, keepdim=True) * (step / 2 + 64 * torch.finfo(torch.float32).eps * 127 * step)
    network.load_state_dict(dict(quantising.int8(network.state_dict().items(), network)), assign=True)
    off = (network(x).double() - exact).abs()
    assert bool((off <= bound).all())
    assert float(off.max()) > 1e-4


def test_it_goes_where_the_plain_network_goes_and_the_same_each_time(folders: Folders) -> None:
    path = folders.model("klein")
    plain, first, second = latents(loaded(path)), *(latents(loaded(path, quantize="int8")) for _ in range(2))
    assert torch.equal(first, second)
    assert 0 < float((first - plain).norm() / plain.norm()) < 0.1


def test_a_matrix_is_packed_before_the_next_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    asked: list[str] = []

    def read() -> Iterator[tuple[str, Tensor]]:
        for key, tensor in network.state_dict().items():
            asked.append(key)
            yield key, tensor

    packing = quantising.int8(read(), network)
    key, tensor = next(packing)
    assert (key, asked) == ("0.weight", ["0.weight"])
    assert hasattr(tensor, "qdata")
    held = {"a": torch.zeros(1), "b": torch.ones(1)}
    assert next(quantising.pop_items(held))[0] == "b"
    assert [*held] == ["a"]


def test_torch_is_left_as_it_was(sd: str) -> None:
    """torchao's own default changes the precision of every matrix product of the process."""
    before = torch.get_float32_matmul_precision()
    loaded(sd, quantize="int8")
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(
    ("name", "layer"),
    [("klein", "transformer_blocks.0.attn.to_q"),
     ("sd", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")],
)  # fmt: skip
def test_a_lora_stays_beside_it(folders: Folders, sd: str, tmp_path: Path, name: str, layer: str) -> None:
    """It adds to a packed layer what it adds to a plain one, by fusing."""
    from test_flow_families import lora
    from test_setup import lora as lora_sd

    path, word = (sd, lora_sd(tmp_path, 1)) if name == "sd" else (folders.model(name), lora(name, tmp_path))
    live, alone = (loaded(path, quantize="int8", lora=own).denoiser for own in ((str(word),), ()))
    fused, plain = (loaded(path, lora=own).denoiser.get_submodule(layer).weight for own in ((str(word),), ()))
    assert any("lora" in key for key in live.state_dict())
    x = torch.randn(3, plain.shape[1], generator=torch.Generator().manual_seed(1))
    expected = x @ (fused - plain).T
    assert float(expected.abs().max()) > 1e-3
    assert float((live.get_submodule(layer)(x) - alone.get_submodule(layer)(x) - expected).abs().max()) <= 1e-4


def test_layers_that_rest_elsewhere_give_the_same_bits(sd: str) -> None:
    """diffusers' group offloading and accelerate's hooks, with the CPU in the place of the GPU."""
    from accelerate import cpu_offload

    model = loaded(sd, quantize="int8")
    for network in (model.unet, model.vae, model.text_encoder):
        network.to(memory_format=torch.contiguous_format)
    expected = latents(model)
    cpu_offload(model.unet, CPU)
    assert torch.equal(latents(model), expected)
    other = loaded(sd, quantize="int8")
    for network in (other.unet, other.vae, other.text_encoder):
        network.to(memory_format=torch.contiguous_format)
    setup.prepare_model(other, Setup(offload="group"), CPU, torch.float32, True)
    assert torch.equal(latents(other), expected)


def test_rerun_packs_again(sd: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, out, again = (tmp_path / name for name in ("p.png", "out.png", "again.png"))
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(photo)
    shutil.copytree(sd, tmp_path / "sd")
    words = ["sdedit", str(photo), "--strength", "0.6", "--steps", "2", "--model", str(tmp_path / "sd")]
    assert run([*words, "--dtype", "fp32", "--device", "cpu", "--quantize", "int8", "-o", str(out)]) == 0
    assert run(["rerun", str(out), "-o", str(again)]) == 0
    assert np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(again)))
    capsys.readouterr()
    assert run(["show", str(out)]) == 0
    assert "int8" in capsys.readouterr().out


def test_a_packed_model_is_another_model_on_the_shelf(sd: str) -> None:
    made: list[Setup] = []

    def counted(*given: Any, setup: Setup, **named: Any) -> Any:
        made.append(setup)
        return SimpleNamespace(info=given[0])

    models = Models(load=counted)  # type: ignore[arg-type]
    for how in (Setup(), INT8, Setup(), INT8):
        with models.lease(describe(sd), CPU, torch.float32, how):
            pass
    assert made == [Setup(), INT8]


def test_what_it_cannot_pack_is_refused_in_a_line(sd: str, folders: Folders, tmp_path: Path) -> None:
    def refused(kind: type[EditkitError], match: str, **options: Any) -> None:
        stage = Stage((SDEdit(strength=0.5),), Options(quantize="int8", **options))
        with pytest.raises(kind, match=match) as raised:
            edit(np.zeros((64, 64, 3), np.uint8), stage.plugins[0], **options, quantize="int8")
        assert "\n" not in str(raised.value)

    refused(ModelError, "patches comes with editkit; leave it out", model="patches")
    refused(ModelError, "pocket comes with editkit", model="pocket")
    refused(UsageError, "needs .*torch.*, and backend= is openvino", model=sd, backend="openvino", device="cpu")
    (file := tmp_path / "x.gguf").write_bytes(b"")
    with pytest.raises(ModelError, match=r"x\.gguf is quantised already; leave --quantize out"):
        quantising.check(Layout(sd, Path(sd), over=file))
    with pytest.raises(ModelError, match="is a single file"):
        quantising.check(Layout(sd, Path(sd), file=file))
    with pytest.raises(UsageError, match=r"--dtype fp16 do not go together.*use --dtype bf16"):
        loaded(sd, torch.float16, quantize="int8")
    from test_quantised_folders import AO, named

    with pytest.raises(ModelError, match="the transformer of model .* is quantised already, by torchao"):
        loaded(str(named(Path(folders.model("qwen")), tmp_path / "q", AO)), quantize="int8")


def test_without_torchao_the_command_is_named(sd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantising, "find_spec", lambda name: None)
    with pytest.raises(ExtraError, match=r"needs torchao, .* pip install 'editkit\[torchao\]'$"):
        loaded(sd, quantize="int8")
    backends.check_bits(describe(sd), Setup())


def test_a_family_that_reads_its_weights_itself_is_refused(sd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = describe(sd)
    family = SimpleNamespace(load=lambda *_: SimpleNamespace(info=info))
    monkeypatch.setattr(families, "_family", lambda layout: family)
    with pytest.raises(ModelError, match="reads its weights itself"):
        families.load_folder(sd, info, CPU, torch.float32, quantize="int8")


def test_plan_suggests_it_where_it_helps() -> None:
    from editkit.models.needs import Needs

    plain = Needs(8 * 10**9, 10**9, 10**8, 10**9, 10**9, int8=4 * 10**9)
    assert "with --quantize int8, about 4.0 GB: GPU of 8, 12, 16, 24, 48, 80 GB: as it is" in lines(plain, 2)
    packed = plain.in_eight_bits()
    assert packed.network == plain.int8
    assert not any("--quantize" in line for line in lines(packed, 2))


def test_a_later_stage_of_an_embedded_model_does_not_inherit_it() -> None:
    from editkit.editing.settle import for_own_model

    later = Stage((SDEdit(strength=0.5),), Options(model="patches", quantize="int8"), inherited=frozenset({"quantize"}))
    assert for_own_model(later).options.quantize == "none"
    assert describe_model(later).name == "patches"
