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
from editkit.models.files.quantised import quantised
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
    assert quantised(two.transformer)
    assert not quantised(one.transformer)
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


@pytest.mark.parametrize(("library", "config"), [("torchao", AO), ("bitsandbytes", BNB)])
def test_without_its_library_the_command_is_named(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, config: Any
) -> None:
    import editkit.models.files.quantised as module

    folder = named(plain, tmp_path / "q", config)
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == library else find_spec(name))
    with pytest.raises(ExtraError, match=rf"transformer is quantised by {library}, .* 'editkit\[{library}\]'"):
        loaded(folder)


def test_bitsandbytes_on_the_cpu_is_refused_with_what_can(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import editkit.models.files.quantised as module

    monkeypatch.setattr(module, "find_spec", lambda name: True)
    with pytest.raises(ModelError, match=r"bitsandbytes, which diffusers computes with on GPUs alone; .*FILE\.gguf"):
        loaded(named(plain, tmp_path / "q", BNB))


def test_weights_that_are_no_packed_ones_are_one_line(plain: Path, tmp_path: Path) -> None:
    if find_spec("torchao") is None:
        pytest.skip("torchao is not installed")
    folder = named(plain, tmp_path / "q", AO)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged") as raised:
        loaded(folder)
    assert "\n" not in str(raised.value)


def test_a_packed_text_encoder_is_refused(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="text_encoder is quantised by bitsandbytes, which is read for transformers"):
        loaded(named(plain, tmp_path / "q", BNB, "text_encoder"))


@pytest.mark.parametrize(
    "change",
    [{"quant_method": "awq"}, {"quant_method": "gptq"}, {"quant_method": None}, {"kernel": "a/b"},
     {"llm_int8_skip_modules": ["os.system('x')"]}, {"bnb_4bit_compute_dtype": "__class__"},
     {"bnb_4bit_quant_type": "hub/kernel"}, {"auto_map": "a.B"}],
)  # fmt: skip
def test_what_says_more_than_numbers_and_names_is_refused(change: Any) -> None:
    trust.network_configuration("m", "config.json", {"quantization_config": BNB})
    trust.network_configuration("m", "config.json", {"quantization_config": AO})
    with pytest.raises(ModelError, match="can choose code"):
        trust.network_configuration("m", "config.json", {"quantization_config": {**BNB, **change}})
    with pytest.raises(EditkitError, match="can choose code"):  # only where diffusers has it
        trust.network_configuration("m", "config.json", {"text_config": {"quantization_config": BNB}})


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
    code = "from editkit.cli.process import settle; settle(); from diffusers import QwenImageTransformer2DModel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
