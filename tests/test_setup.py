"""LoRA files, a refiner, --compile and --offload: as diffusers does them, or refused with what can be done."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import tiny_latent as tiny
import torch
from test_parity_latent import NEGATIVE, PROMPT

from editkit import edit, sample
from editkit.errors import ModelError, UsageError
from editkit.models import describe, load
from editkit.models.lora import lora_and_weight
from editkit.models.setup import Setup, refiner_and_start
from editkit.plugin.options import Options
from editkit.plugins import SDEdit

CPU = torch.device("cpu")
STEPS = 6


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", diffusers.DDIMScheduler.from_config(tiny.SD))


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYWHERE = (*ATTENTION, "proj_in", "proj_out", "conv1", "conv_shortcut", "ff.net.0.proj", "ff.net.2")
"""As communities train them too: convolutions and the gates of feed-forward layers."""


@cache
def lora(folder: Path, seed: int, width: int = 32, targets: tuple[str, ...] = ATTENTION) -> Path:
    """A LoRA of random weights for layers of the tiny UNet."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = tiny.unet(cross_attention_dim=width)
    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    name = f"{seed}.{width}.safetensors"
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, layers, weight_name=name)
    return folder / name


def latents(model: Any, name: str = "ddim") -> torch.Tensor:
    return sample(
        model, shape=(1, 4, 8, 8), sampler=name, steps=STEPS, seed=5, noise="diffusers", prompt=PROMPT,
        negative=NEGATIVE, guidance_scale=7.5, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize("targets", [ATTENTION, EVERYWHERE])
def test_several_loras_with_weights_are_the_pipelines(sd: Path, tmp_path: Path, targets: tuple[str, ...]) -> None:
    files = [lora(tmp_path, 1, 32, targets), lora(tmp_path, 2, 32, targets)]
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(sd, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    for k, file in enumerate(files):
        pipe.load_lora_weights(str(tmp_path), weight_name=file.name, adapter_name=str(k))
    pipe.set_adapters(["0", "1"], [0.8, -0.5])
    expected = pipe(
        prompt=PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=7.5, height=64, width=64,
        generator=torch.Generator().manual_seed(5), output_type="latent",
    ).images  # fmt: skip
    setup = Setup(lora=(f"{files[0]}:0.8", f"{files[1]}:-0.5"))
    found = latents(load(describe(str(sd)), CPU, torch.float32, setup=setup))
    plain = latents(load(describe(str(sd)), CPU, torch.float32))
    assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max())) * 6  # channels-last
    assert not torch.allclose(found, plain, atol=1e-2)


def test_layers_keep_their_weights_in_blocks_after_a_lora(sd: Path, tmp_path: Path) -> None:
    model: Any = load(
        describe(str(sd)), CPU, torch.float32, setup=Setup(lora=(str(lora(tmp_path, 3, 32, EVERYWHERE)),))
    )
    plain: Any = load(describe(str(sd)), CPU, torch.float32)
    assert [type(m) for m in model.unet.modules()] == [type(m) for m in plain.unet.modules()]


def test_a_lora_of_weight_zero_changes_nothing(sd: Path, tmp_path: Path) -> None:
    setup = Setup(lora=(f"{lora(tmp_path, 1)}:0",))
    found = latents(load(describe(str(sd)), CPU, torch.float32, setup=setup))
    assert torch.allclose(found, latents(load(describe(str(sd)), CPU, torch.float32)), atol=1e-6)


def test_loras_that_do_not_fit_are_refused(
    sd: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from safetensors.torch import save_file

    def given(word: str) -> None:
        load(describe(str(sd)), CPU, torch.float32, setup=Setup(lora=(word,)))

    unfit = r"1\.48\.safetensors does not fit model .*sd: its matrix for \S+ has [\dx ]+ values, and [\dx ]+ are needed"
    with pytest.raises(ModelError, match=unfit) as refused:
        given(str(lora(tmp_path, 1, 48)))
    assert str(refused.value).endswith("choose a LoRA that was trained for this model")
    save_file({"something.else": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match=r"odd\.safetensors does not fit model"):
        given(str(tmp_path / "odd.safetensors"))
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"broken\.safetensors is damaged or not a safetensors file"):
        given(str(tmp_path / "broken.safetensors"))
    (tmp_path / "old.ckpt").write_bytes(b"")
    with pytest.raises(ModelError, match=r"old\.ckpt: LoRAs must be \.safetensors files"):
        given(str(tmp_path / "old.ckpt"))
    with pytest.raises(UsageError, match="there is no such file"):
        given(str(tmp_path / "missing.safetensors"))
    assert capfd.readouterr().err == ""  # one line is the error's own; libraries add none
    assert not caplog.records
    for word, error in ((str(tmp_path / "missing.safetensors"), UsageError), (str(tmp_path / "old.ckpt"), ModelError)):
        with pytest.raises(error):  # before any weight is loaded
            Setup.of(Options(lora=(word,)))
    with pytest.raises(ModelError, match="lora= is for models that diffusers has a pipeline of"):
        edit(torch.zeros(32, 32, 3).byte().numpy(), SDEdit(), model="patches", lora=(str(lora(tmp_path, 1)),))


def test_how_a_lora_and_a_refiner_are_written() -> None:
    assert lora_and_weight("a/b.safetensors") == (Path("a/b.safetensors"), 1.0)
    assert lora_and_weight("a/b.safetensors:0.5") == (Path("a/b.safetensors"), 0.5)
    assert refiner_and_start("owner/refiner") == ("owner/refiner", 0.8)
    assert refiner_and_start("dir/refiner:0.7") == ("dir/refiner", 0.7)
    with pytest.raises(UsageError, match="the weight is 'much'; a number is needed"):
        lora_and_weight("b.safetensors:much")
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        refiner_and_start("dir:1")


def test_a_refiner_of_another_kind_is_refused(sd: Path, tmp_path: Path) -> None:
    inpainting = tiny.save_sd(tmp_path / "sd9", diffusers.DDIMScheduler.from_config(tiny.SD), in_channels=9)
    with pytest.raises(ModelError, match="is not a refiner for"):
        load(describe(str(sd)), CPU, torch.float32, setup=Setup(refiner=str(inpainting)))


def test_compile_and_offload(sd: Path) -> None:
    model: Any = load(describe(str(sd)), CPU, torch.float32, setup=Setup(compile=True))
    assert model.unet._compiled_call_impl is not None
    with pytest.raises(UsageError, match="this run is on the CPU; leave it out"):
        load(describe(str(sd)), CPU, torch.float32, setup=Setup(offload="model"))
    with pytest.raises(ModelError, match="--compile is for models that diffusers has a pipeline of"):
        load(describe("patches"), CPU, torch.float32, setup=Setup(compile=True))


@pytest.mark.parametrize(
    ("how", "called"), [("model", "enable_model_cpu_offload"), ("sequential", "enable_sequential_cpu_offload")]
)
def test_offload_is_diffusers_own(sd: Path, monkeypatch: pytest.MonkeyPatch, how: Any, called: str) -> None:
    from editkit.models import setup

    seen: list[Any] = []
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, called, lambda self, device: seen.append((self, device)))
    model: Any = load(describe(str(sd)), CPU, torch.float32)
    setup.prepare_model(model, Setup(offload=how), torch.device("cuda"), torch.float32, True)
    assert seen[0][0].unet is model.unet
    assert seen[0][1].type == "cuda"


def test_groups_of_layers_that_rest_elsewhere_give_the_same_bits(sd: Path) -> None:
    """The CPU in the place of the GPU; a model whose layers move is lent to one thread at a time."""
    from editkit.models import leasing, setup
    from editkit.models.fast.packing import unpack

    model: Any = load(describe(str(sd)), CPU, torch.float32)
    for network in (model.unet, model.vae, model.text_encoder):
        unpack(network)
    expected = latents(model)
    picture = model.decode(expected)
    assert not leasing._is_movable(model)
    setup.prepare_model(model, Setup(offload="group"), CPU, torch.float32, True)
    assert leasing._is_movable(model)
    found = latents(model)
    assert torch.equal(found, expected)
    assert torch.equal(model.decode(found), picture)


def test_networks_that_rest_elsewhere_layer_by_layer_give_the_same(sd: Path) -> None:
    """accelerate's hooks, which sequential offloading puts on every network, with the CPU in the place of the GPU."""
    from accelerate import cpu_offload

    model: Any = load(describe(str(sd)), CPU, torch.float32)
    for network in (model.unet, model.vae, model.text_encoder):
        network.to(memory_format=torch.contiguous_format)
    expected = latents(model)
    picture = model.decode(expected)
    for network in (model.unet, model.vae, model.text_encoder):
        cpu_offload(network, CPU)
        assert next(network.parameters()).device.type == "meta"
    found = latents(model)
    assert torch.equal(found, expected)
    assert torch.equal(model.decode(found), picture)


@pytest.mark.parametrize("said", [{"unet.r": 10**9}, {"unet.rank_pattern": {"to_q": 10**9}}, {"unet.r": "many"}])
def test_a_lora_says_no_rank_that_its_tensors_have_not(sd: Path, tmp_path: Path, said: Any) -> None:
    """peft makes matrices of the rank that is said before the file's are put there: of 10^9 rows, here."""
    from safetensors.torch import load_file, save_file

    whole, file = lora(tmp_path, 1), tmp_path / "huge.safetensors"
    told = {"unet.r": 2, "unet.target_modules": ["to_q"], **said}
    save_file(load_file(whole), file, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    with pytest.raises(ModelError, match=r"huge\.safetensors: says .* and its tensors' largest side is "):
        load(describe(str(sd)), CPU, torch.float32, setup=Setup(lora=(str(file),)))


@pytest.mark.parametrize("weight", ["nan", "inf", "much"])
def test_a_weight_that_is_no_number_is_refused(weight: str) -> None:
    with pytest.raises(UsageError, match=f"the weight is '{weight}'; a number is needed"):
        lora_and_weight(f"style.safetensors:{weight}")
