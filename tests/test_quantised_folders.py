"""Folders whose configuration names torchao or bitsandbytes: tiny networks of random weights, so plumbing is shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import test_parity_qwen
import tiny_flow as tiny
import torch

from editkit.common import trust
from editkit.errors import EditkitError, ExtraError, ModelError
from editkit.models import describe, load
from editkit.models.files.loading import find_layout
from editkit.models.files.quantised import check, dequantise_4bit, is_quantised
from editkit.models.needs import needs
from editkit.models.setup import Setup

CPU = torch.device("cpu")
BNB = {
    "quant_method": "bitsandbytes", "_load_in_4bit": True, "_load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16", "bnb_4bit_quant_storage": "uint8", "bnb_4bit_use_double_quant": False,
    "llm_int8_threshold": 6.0, "llm_int8_skip_modules": None, "llm_int8_has_fp16_weight": False,
    "llm_int8_enable_fp32_cpu_offload": False,
}  # fmt: skip
"""As diffusers 0.42 writes it."""
AO = {
    "quant_method": "torchao", "modules_to_not_convert": ["proj_out"],
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"group_size": None,
                                                                                     "set_inductor_config": True}}},
}  # fmt: skip
torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "qwen"
    test_parity_qwen.pipe("text", whole=False).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def int8(plain: Path) -> Path:
    """The same folder, its transformer packed by torchao as diffusers saves it."""
    from diffusers import QwenImageTransformer2DModel, TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    path = Path(shutil.copytree(plain, plain.parent / "int8"))
    shutil.rmtree(path / "transformer")
    network = QwenImageTransformer2DModel.from_pretrained(
        plain,
        subfolder="transformer",
        torch_dtype=torch.float32,
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
    )
    network.save_pretrained(path / "transformer")
    return path


def named(plain: Path, path: Path, config: Any, part: str = "transformer") -> Path:
    """`plain` whose `part` says that it is quantised."""
    shutil.copytree(plain, path)
    file = path / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": config}))
    return path


def loaded(folder: Path, dtype: torch.dtype = torch.float32, **setup: Any) -> Any:
    return load(describe(str(folder), offline=True), CPU, dtype, offline=True, setup=Setup(**setup))


@torchao
def test_a_folder_packed_by_torchao_is_near_to_the_plain_one(plain: Path, int8: Path) -> None:
    """8 bits a number, a scale a row: each is off by at most half a step of 1/127 of the largest in its row."""
    assert "quantization_config" in json.loads((int8 / "transformer" / "config.json").read_text())
    one, two = loaded(plain), loaded(int8)
    assert is_quantised(two.transformer)
    assert not is_quantised(one.transformer)
    for name, layer in one.transformer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            found = two.transformer.get_submodule(name).weight.dequantize().float()
            step = layer.weight.abs().amax(1, keepdim=True) / 127
            assert bool(((found - layer.weight).abs() <= 0.51 * step + 1e-6).all())
    assert 0 < tiny.distance(tiny.walked(two), tiny.walked(one)) < 0.2


@torchao
def test_its_bytes_are_those_that_lie_there(plain: Path, int8: Path) -> None:
    whole, packed = needs(str(plain), [], 4), needs(str(int8), [], 4)
    assert whole is not None
    assert packed is not None
    assert packed.network < 0.5 * whole.network
    assert (packed.readers, packed.vae) == (whole.readers, whole.vae)


@torchao
def test_a_lora_stays_live_beside_torchao(plain: Path, int8: Path, tmp_path: Path) -> None:
    """What it adds is what it adds to plain weights, by fusing."""
    from test_flow_families import lora

    word = str(lora("qwen", tmp_path))
    live, fused, alone = loaded(int8, lora=(word,)), loaded(plain, lora=(word,)), loaded(plain)
    assert any("lora" in key for key in live.transformer.state_dict())
    layer = "transformer_blocks.0.attn.to_q"
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        added = live.transformer.get_submodule(layer)(x) - loaded(int8).transformer.get_submodule(layer)(x)
        expected = fused.transformer.get_submodule(layer)(x) - alone.transformer.get_submodule(layer)(x)
    assert float((added - expected).abs().max()) <= 1e-4
    assert float(expected.abs().max()) > 1e-2


@pytest.mark.parametrize(("library", "config", "gpu"), [("torchao", AO, False), ("bitsandbytes", BNB, True)])
def test_without_its_library_the_command_is_named(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, config: Any, gpu: bool
) -> None:
    import editkit.models.files.quantised as module

    folder = named(plain, tmp_path / "q", config)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == library else find_spec(name))
    layout = find_layout(str(folder), offline=True)
    with pytest.raises(ExtraError, match=rf"transformer is quantised by {library}, .* 'editkit\[{library}\]'"):
        check(layout, "transformer", gpu)


NF4 = (
    -1.0, -0.6961928, -0.52507305, -0.39491749, -0.28444138, -0.18477343, -0.09105004, 0.0, 0.0795803, 0.1609302,
    0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0,
)  # fmt: skip
"""The table of Dettmers et al. 2023, arXiv:2305.14314, appendix E."""


def packed(key: str, weight: torch.Tensor, kind: str) -> dict[str, torch.Tensor]:
    """A matrix as bitsandbytes writes it."""
    if kind == "int8":
        scale = weight.abs().amax(1)
        stem = key.removesuffix("weight")
        return {key: torch.round(weight * 127 / scale[:, None]).to(torch.int8), f"{stem}SCB": scale,
                f"{stem}weight_format": torch.tensor(0, dtype=torch.uint8)}  # fmt: skip
    table, blocks = torch.tensor(NF4), weight.flatten().split(64)
    scales = torch.stack([block.abs().max() for block in blocks])
    parts = [block / scale for block, scale in zip(blocks, scales, strict=True)]
    places = (torch.cat(parts)[:, None] - table).abs().argmin(1).to(torch.uint8)
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": list(weight.shape)}
    state = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
    return {
        key: (places[::2] << 4 | places[1::2])[:, None], f"{key}.absmax": scales, f"{key}.quant_map": table,
        f"{key}.quant_state.bitsandbytes__nf4": state,
    }  # fmt: skip


def pack_here(folder: Path, kind: str) -> None:
    """The transformer packed as bitsandbytes does it, without it."""
    from safetensors.torch import load_file, save_file

    file, config = (folder / "transformer" / name for name in ("diffusion_pytorch_model.safetensors", "config.json"))
    made: dict[str, torch.Tensor] = {}
    for key, tensor in load_file(file).items():
        layer = key.endswith(".weight") and tensor.ndim == 2
        made |= packed(key, tensor, kind) if layer else {key: tensor}
    save_file(made, file)
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": BNB}))


def pack_by_library(plain: Path, folder: Path, kind: str) -> None:
    """As diffusers saves it; it packs on GPUs alone, and is told that there is one."""
    pytest.importorskip("bitsandbytes")
    from diffusers import BitsAndBytesConfig, QwenImageTransformer2DModel
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    small = {"bnb_4bit_compute_dtype": torch.float32, "bnb_4bit_use_double_quant": kind == "fp4"}
    four = {"load_in_4bit": True, "bnb_4bit_quant_type": kind, **small}
    config = BitsAndBytesConfig(**({"load_in_8bit": True} if kind == "int8" else four))
    with pytest.MonkeyPatch.context() as m:
        for quantizer in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
            m.setattr(quantizer, "validate_environment", lambda self, *given, **more: None)
            m.setattr(quantizer, "update_device_map", lambda self, device_map: {"": "cpu"})
        network = QwenImageTransformer2DModel.from_pretrained(
            plain, subfolder="transformer", torch_dtype=torch.float32, quantization_config=config,
            device_map={"": "cpu"},
        )  # fmt: skip
        shutil.rmtree(folder / "transformer")
        network.save_pretrained(folder / "transformer")


@pytest.fixture(
    scope="module", params=["nf4", "int8", "nf4 by bitsandbytes", "fp4 by bitsandbytes", "int8 by bitsandbytes"]
)
def bits(plain: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The same folder, its transformer packed by bitsandbytes, or as bitsandbytes does it."""
    kind, _, library = request.param.partition(" by ")
    path = Path(shutil.copytree(plain, tmp_path_factory.mktemp("bits") / kind))
    if library:
        pack_by_library(plain, path, kind)
    else:
        pack_here(path, kind)
    return path


def test_bitsandbytes_is_unpacked_on_a_cpu(plain: Path, bits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each number is off by at most half the largest gap of its table (nf4: 0.304, fp4: 1/3, 8 bits: 1/127) times the
    largest of its block of 64 numbers, or of its row; for 8 bits the library first rounds to the 11 bits of half
    precision. The scales of fp4 are packed too, here: they are off by less than a fiftieth. The library is not needed.
    """
    import editkit.models.files.quantised as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    stored = json.loads((bits / "transformer" / "config.json").read_text())
    assert stored["quantization_config"]["quant_method"] == "bitsandbytes"
    one, two = loaded(plain), loaded(bits)
    assert not is_quantised(two.transformer)
    most = {"nf4": 0.153, "fp4": 0.168 + 0.02, "int8": 0.65 / 127}[bits.name]
    moved = False
    for name, layer in one.transformer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            wanted, found = layer.weight, two.transformer.get_submodule(name).weight
            parts = wanted.unbind() if bits.name == "int8" else wanted.flatten().split(64)
            off = (found - wanted).flatten().split([part.numel() for part in parts])
            assert all(float(a.abs().max()) <= most * float(b.abs().max()) for a, b in zip(off, parts, strict=True))
            moved = moved or bool((found != wanted).any())
    assert moved
    assert tiny.distance(tiny.walked(two), tiny.walked(one)) > 0


def test_four_bits_are_unpacked_as_the_library_does() -> None:
    """With rows of a block and more: with shorter ones bitsandbytes 0.50 reads other scales on a CPU."""
    functional = pytest.importorskip("bitsandbytes.functional")
    weight = torch.randn(48, 192, generator=torch.Generator().manual_seed(1))
    for kind in ("nf4", "fp4"):
        for twice in (False, True):
            packed, state = functional.quantize_4bit(weight, quant_type=kind, compress_statistics=twice)
            found = dequantise_4bit(packed, state.as_dict(packed=True))
            expected = functional.dequantize_4bit(packed, state)
            assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())


@pytest.mark.parametrize("block", [10**13, 0, -64, 32, "64", None])
def test_a_block_that_is_not_that_of_the_scales_asks_for_no_memory(block: Any) -> None:
    made = packed("k", torch.randn(8, 64, generator=torch.Generator().manual_seed(2)), "nf4")
    beside = {key[2:]: tensor for key, tensor in made.items() if key != "k"}
    told = json.loads(bytes(beside["quant_state.bitsandbytes__nf4"].tolist())) | {"blocksize": block}
    beside["quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(told).encode()), dtype=torch.uint8)
    with pytest.raises(ValueError, match="its blocks should have"):
        dequantise_4bit(made["k"], beside)


def test_unpacked_it_needs_what_the_plain_folder_does(plain: Path, bits: Path) -> None:
    whole, packed = needs(str(plain), [], 4), needs(str(bits), [], 4)
    assert whole is not None
    assert packed is not None
    assert packed.network < 0.6 * whole.network
    assert packed.unpacked == whole.network
    assert whole.unpacked is None


def test_what_stands_beside_packed_weights_has_to_fit_them(bits: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(bits, tmp_path / "broken"))
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    key = "transformer_blocks.0.attn.to_q"
    lost = f"{key}.SCB" if bits.name == "int8" else f"{key}.weight.quant_map"
    save_file({name: tensor for name, tensor in load_file(file).items() if name != lost}, file)
    with pytest.raises(ModelError, match=rf"{key}.* cannot be unpacked: ") as raised:
        loaded(folder)
    assert "\n" not in str(raised.value)


def test_weights_that_are_no_packed_ones_are_one_line(plain: Path, tmp_path: Path) -> None:
    if find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    folder = named(plain, tmp_path / "q", AO)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged") as raised:
        loaded(folder)
    assert "\n" not in str(raised.value)


def test_a_packed_text_encoder_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is quantised by bitsandbytes, which is supported only for transformers"):
        loaded(named(plain, tmp_path / "q", BNB, "text_encoder"))


@pytest.mark.parametrize(
    "change",
    [{"quant_method": "awq"}, {"quant_method": "gptq"}, {"quant_method": None}, {"kernel": "a/b"},
     {"llm_int8_skip_modules": ["os.system('x')"]}, {"bnb_4bit_compute_dtype": "__class__"},
     {"bnb_4bit_quant_type": "hub/kernel"}, {"auto_map": "a.B"}],
)  # fmt: skip
def test_what_says_more_than_numbers_and_names_is_refused(change: Any) -> None:
    trust.check_network_config("m", "config.json", {"quantization_config": BNB})
    trust.check_network_config("m", "config.json", {"quantization_config": AO})
    with pytest.raises(ModelError, match="can choose code"):
        trust.check_network_config("m", "config.json", {"quantization_config": {**BNB, **change}})
    with pytest.raises(EditkitError, match="can choose code"):  # only where diffusers has it
        trust.check_network_config("m", "config.json", {"text_config": {"quantization_config": BNB}})


@torchao
@pytest.mark.parametrize("said", [{"num_layers": 10**7}, {"attention_head_dim": 10**8}])
def test_a_packed_network_is_as_large_as_its_weights(int8: Path, tmp_path: Path, said: Any) -> None:
    """Before diffusers builds it."""
    folder = Path(shutil.copytree(int8, tmp_path / "q"))
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **said}))
    with pytest.raises(ModelError, match=f"its configuration says {next(iter(said))} = 10000000"):
        loaded(folder)


@torchao
def test_shards_of_a_packed_network_lie_beside_their_index(int8: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(int8, tmp_path / "q")) / "transformer"
    next(folder.glob("*.safetensors")).rename(tmp_path / "x.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "../../x.safetensors"}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"lists '\.\./\.\./x\.safetensors'"):
        loaded(folder.parent)


@torchao
def test_libraries_say_nothing_of_each_other() -> None:
    """Where torchao is installed, every error had three lines of theirs before its own."""
    ready = "from editkit.cli.process import configure_process; configure_process()"
    code = f"{ready}; from diffusers import QwenImageTransformer2DModel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
