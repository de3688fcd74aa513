"""Pixel-space diffusers folders: what they are, what they give, and how bad ones are refused. Weights are random."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import unet2d
from torch import Tensor

from editkit import sample
from editkit.diffusion.noise import OneStream
from editkit.errors import ModelError
from editkit.models import Conditioning, describe, load
from editkit.models.families import cached_models
from editkit.models.pixel import PixelUNet

CPU = torch.device("cpu")


def saved(path: Path, scheduler: Any, **unet: Any) -> Path:
    diffusers.DDPMPipeline(unet2d(**unet), scheduler).save_pretrained(path)
    return path


@pytest.fixture
def ddpm(tmp_path: Path) -> Path:
    return saved(tmp_path / "ddpm", diffusers.DDPMScheduler())


def loaded(path: Path, dtype: torch.dtype = torch.float32) -> Any:
    """As `load` gives it, but in diffusers' memory format: channels-last rounds differently, and a random network over
    ten steps makes 6e-5 of that."""
    model = load(describe(str(path)), CPU, dtype, offline=True)
    assert isinstance(model, PixelUNet)
    model.network.to(memory_format=torch.contiguous_format)
    return model


def generated(path: Path, steps: int, sampler: str, spacing: str = "leading") -> Tensor:
    return sample(
        loaded(path), shape=(2, 3, 32, 32), sampler=sampler, steps=steps, spacing=spacing, noise=OneStream.seeded(3),
        device="cpu",
    )  # fmt: skip


def test_what_a_folder_is(ddpm: Path) -> None:
    info = describe(str(ddpm))
    assert (info.sampler, info.steps, info.window, info.multiple, info.takes) == ("ddpm", 250, 32, 2, frozenset())


def test_describing_imports_neither_torch_nor_diffusers(ddpm: Path) -> None:
    code = (
        "import sys; from editkit.models import describe; describe(sys.argv[1]);"
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ddpm)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_is_the_pipeline(tmp_path: Path, kind: str, variance: str) -> None:
    path = saved(tmp_path, diffusers.DDPMScheduler(prediction_type=kind, variance_type=variance))
    found = generated(path, 10, describe(str(path)).sampler)
    as_near_as_the_pipeline(found, diffusers.DDPMPipeline, path)


def as_near_as_the_pipeline(found: Tensor, kind: Any, path: Path, **given: Any) -> None:
    """`found` in float32 is about as near to the pipeline in float64 as the pipeline in float32 is.

    A random network over ten steps magnifies rounding, on every processor otherwise, so no fixed bound is right. What
    is no rounding (another rule, another ladder, another order of draws) is a thousand times as far.
    """
    images = {}
    for dtype in (torch.float32, torch.float64):
        pipe = kind.from_pretrained(path).to(dtype)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler.alphas_cumprod = pipe.scheduler.alphas_cumprod.to(dtype)
        with pytest.MonkeyPatch.context() as patch:
            for module in (sys.modules[kind.__module__], sys.modules[type(pipe.scheduler).__module__]):
                patch.setattr(module, "randn_tensor", partial(single_draws, as_dtype=dtype))
            made = pipe(2, torch.Generator().manual_seed(3), num_inference_steps=10, output_type="np", **given).images
        images[dtype] = torch.from_numpy(made).double()
    exact = images[torch.float64]
    image = (found.double() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    theirs = float((images[torch.float32] - exact).square().mean().sqrt())
    assert float((image - exact).square().mean().sqrt()) <= 10.0 * theirs + 1e-7
    assert theirs < 1e-4


def single_draws(shape: Any, generator: torch.Generator, *, as_dtype: torch.dtype, **where: Any) -> Tensor:
    """diffusers' randn_tensor, drawing in float32 whatever the pipeline's dtype."""
    return torch.randn(tuple(shape), generator=generator).to(as_dtype)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_is_the_pipeline(tmp_path: Path, kind: str, eta: float) -> None:
    path = saved(tmp_path, diffusers.DDIMScheduler(prediction_type=kind))
    as_near_as_the_pipeline(generated(path, 10, f"ddim:eta={eta}"), diffusers.DDIMPipeline, path, eta=eta)


def test_learned_variance(tmp_path: Path) -> None:
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range")
    path = saved(tmp_path, scheduler, out_channels=6)
    found = generated(path, 10, "ddpm")
    generator, unet = torch.Generator().manual_seed(3), unet2d(out_channels=6)
    x = torch.randn((2, 3, 32, 32), generator=generator)
    scheduler.set_timesteps(10)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x, generator=generator).prev_sample
    assert float((found - x).abs().max()) <= 1e-5


def test_a_score_network_knows_pixels_from_0_to_1(tmp_path: Path) -> None:
    """Parity of the predictor alone; the pipeline's Langevin corrector is not here (correct_steps=0)."""
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=10.0, correct_steps=0, sampling_eps=1e-7)
    path = tmp_path / "ve"
    unet = {"time_embedding_type": "fourier"}
    diffusers.DDPMPipeline(unet2d(**unet), diffusers.DDPMScheduler()).save_pretrained(path)
    scheduler.save_pretrained(path / "scheduler")
    model = loaded(path)
    white = torch.ones(1, 3, 32, 32)
    assert torch.equal(model.encode(-white), 0 * white)
    assert torch.equal(model.decode(model.encode(white)), white)
    states: list[Tensor] = []
    sample(
        model, shape=(2, 3, 32, 32), sampler="ddpm:variance=large", steps=12, noise=OneStream.seeded(3), device="cpu",
        watch=lambda state: states.append(state.x),
    )  # fmt: skip
    network, generator = unet2d(**unet), torch.Generator().manual_seed(3)
    x = torch.randn((2, 3, 32, 32), generator=generator) * 10.0
    scheduler.set_timesteps(12)
    scheduler.set_sigmas(12)
    with torch.no_grad():
        for k, t in enumerate(scheduler.timesteps):
            score = network(x, scheduler.discrete_sigmas[11 - k].expand(2)).sample
            out = scheduler.step_pred(score, t, x, generator=generator)
            x = out.prev_sample if k < 11 else out.prev_sample_mean
            assert float((states[k] - x).abs().max()) <= 1e-5 * float(x.abs().max()), f"step {k + 1}"


def test_classes(tmp_path: Path) -> None:
    path = saved(tmp_path, diffusers.DDPMScheduler(), num_class_embeds=10)
    model = loaded(path)
    assert model.info.takes == {"class"}
    x, level = torch.randn(2, 3, 32, 32), model.schedule.levels(10)[5]
    with pytest.raises(ModelError, match="trained with classes"):
        model(x, level, [Conditioning()])
    one, two = model(x, level, [Conditioning(label=torch.tensor([1])), Conditioning(label=torch.tensor([2, 3]))])
    with torch.no_grad():
        alone = unet2d(num_class_embeds=10)(x, level.t, torch.tensor([2, 3])).sample
    assert float((two.eps - alone).abs().max()) <= 1e-5
    assert not torch.allclose(one.eps, two.eps)


def test_grey_pictures(tmp_path: Path) -> None:
    path = saved(tmp_path, diffusers.DDPMScheduler(), in_channels=1, out_channels=1)
    model = loaded(path)
    assert model.shape(8, 6) == (1, 8, 6)
    assert model.decode(model.encode(torch.zeros(1, 3, 8, 6))).shape == (1, 3, 8, 6)


def test_the_network_alone_runs_in_the_dtype(ddpm: Path) -> None:
    model = loaded(ddpm, torch.bfloat16)
    assert model.network.dtype == torch.bfloat16
    pred = model(torch.randn(1, 3, 32, 32), model.schedule.levels(10)[5], [Conditioning()])[0]
    assert pred.x0.dtype == pred.eps.dtype == torch.float32


def test_gradients_reach_x_t(ddpm: Path) -> None:
    x = torch.randn(1, 3, 32, 32).requires_grad_()
    model = loaded(ddpm)
    model(x, model.schedule.levels(10)[5], [Conditioning()])[0].x0.sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for p in model.network.parameters())


def test_a_bare_network_with_its_scheduler(tmp_path: Path) -> None:
    unet2d().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="without a scheduler_config.json"):
        describe(str(tmp_path))
    diffusers.DDIMScheduler().save_pretrained(tmp_path)
    assert describe(str(tmp_path)).sampler == "ddim"
    assert loaded(tmp_path).network.config.sample_size == 32


def weights(path: Path) -> tuple[Path, dict[str, Tensor]]:
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    return file, load_file(file)


def test_missing_tensors(ddpm: Path) -> None:
    file, tensors = weights(ddpm)
    for key in ("conv_in.weight", "conv_in.bias"):
        del tensors[key]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"lacks 2 of \d+ tensors, the first is conv_in.bias"):
        loaded(ddpm)


def test_misshapen_tensors(ddpm: Path) -> None:
    file, tensors = weights(ddpm)
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:, :2].contiguous()
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"1 tensors of another shape.*conv_in.weight: \(32, 2, 3, 3\) instead of"):
        loaded(ddpm)


def test_damaged_weights(ddpm: Path) -> None:
    file, _ = weights(ddpm)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ModelError, match="is (missing|damaged)"):
        loaded(ddpm)


def test_a_pickle_is_refused_with_the_way_to_convert_it(ddpm: Path) -> None:
    file, _ = weights(ddpm)
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ModelError, match=r"is a pickle.*convert it once"):
        loaded(ddpm)
    with pytest.raises(ModelError, match="is a pickle"):
        describe(str(file.with_suffix(".bin")))
    file.with_suffix(".bin").unlink()
    with pytest.raises(ModelError, match="no safetensors weights in unet"):
        loaded(ddpm)


def test_variants_and_shards(tmp_path: Path) -> None:
    unet = unet2d()
    for name, how in {"fp16": {"variant": "fp16"}, "shards": {"max_shard_size": "200KB"}}.items():
        path = tmp_path / name
        saved(path, diffusers.DDPMScheduler())
        weights(path)[0].unlink()
        unet.save_pretrained(path / "unet", **how)
        assert torch.equal(loaded(path).network.conv_in.weight, unet.conv_in.weight)
    next((tmp_path / "shards" / "unet").glob("*-of-*")).unlink()
    with pytest.raises(ModelError, match="is (missing|damaged)"):
        loaded(tmp_path / "shards")


def test_families_that_are_not_known(tmp_path: Path, ddpm: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(ModelError, match="neither model_index.json nor config.json"):
        describe(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=f"is not a complete model; give {re.escape(str(ddpm))}"):
        describe(str(tmp_path))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "KandinskyPipeline", "movq": ["x", "VQ"]}))
    with pytest.raises(ModelError, match=r"family that is not known \(KandinskyPipeline\); known: .*pixel-space"):
        describe(str(tmp_path))
    (tmp_path / "model_index.json").write_text("[")
    with pytest.raises(ModelError, match="cannot be read"):
        describe(str(tmp_path))
    (ddpm / "unet" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"unet/config.json is missing"):
        describe(str(ddpm))


def test_a_network_that_is_none_for_pictures(tmp_path: Path) -> None:
    path = saved(tmp_path, diffusers.DDPMScheduler(), in_channels=4, out_channels=4)
    with pytest.raises(ModelError, match="takes 4 channels and gives 4"):
        describe(str(path))


def test_not_found_says_where_and_whether_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"no folder 'someone/model'.*--offline is on"):
        describe("someone/model", offline=True)
    with pytest.raises(ModelError, match="there is no such folder"):
        describe("./nowhere")


def test_a_hub_id_from_the_cache_without_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """conftest.py refuses every socket."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--someone--model"
    saved(root / "snapshots" / ("0" * 40), diffusers.DDPMScheduler())
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0" * 40)
    for name in ("someone/model", "someone/model@main"):
        info = describe(name, offline=True)
        assert load(info, CPU, torch.float32, offline=True).info.window == 32
    with pytest.raises(ModelError, match="--offline is on"):
        describe("someone/model@another", offline=True)
    other = tmp_path / "models--someone--words" / "snapshots" / ("1" * 40)
    other.mkdir(parents=True)
    (other / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    assert [info.name for info in cached_models()] == ["someone/model"]
    for file in (root / "snapshots").rglob("*.safetensors"):
        pickle = file.rename(file.with_suffix(".bin"))
        assert cached_models() == ()  # a pickle is not loaded
        pickle.unlink()
    assert cached_models() == ()  # the configuration alone can do nothing
    with pytest.raises(ModelError, match="no safetensors weights in unet; --offline is on, so the hub was not asked"):
        load(info, CPU, torch.float32, offline=True)


def test_other_revisions_of_the_cache_are_listed_as_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    root = tmp_path / "models--someone--model"
    saved(root / "snapshots" / ("0" * 40), diffusers.DDPMScheduler())
    saved(root / "snapshots" / ("1" * 40), diffusers.DDPMScheduler())
    (root / "refs").mkdir()
    (root / "refs" / "v2").write_text("0" * 40)
    names = [info.name for info in cached_models()]
    assert names == [f"someone/model@{'1' * 40}", "someone/model@v2"]
    for name in names:
        assert load(describe(name, offline=True), CPU, torch.float32, offline=True).info.window == 32


def test_a_variant_of_the_weights(tmp_path: Path) -> None:
    """`:fp16` takes that copy, and says where there is none."""
    path = saved(tmp_path / "model", diffusers.DDPMScheduler())
    plain = path / "unet" / "diffusion_pytorch_model.safetensors"
    values = load_file(plain)
    save_file({key: value + 1.0 for key, value in values.items()}, plain.with_suffix(".fp16.safetensors"))
    for name, more in ((str(path), 0.0), (f"{path}:fp16", 1.0)):
        model: Any = load(describe(name), CPU, torch.float32)
        key = "conv_in.weight"
        assert torch.allclose(model.network.state_dict()[key], values[key] + more)
    with pytest.raises(ModelError, match=r"no weights of the variant 'bf16'; it has: fp16"):
        describe(f"{path}:bf16")
    with pytest.raises(ModelError, match="a single file has no variants; leave out :fp16"):
        describe(f"{plain}:fp16")


def test_a_variant_is_fetched_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fnmatch import fnmatch

    path = saved(tmp_path, diffusers.DDPMScheduler())
    plain = path / "unet" / "diffusion_pytorch_model.safetensors"
    plain.rename(plain.with_suffix(".fp16.safetensors"))
    there = [f"unet/diffusion_pytorch_model{kind}.safetensors" for kind in ("", ".fp16", ".non_ema")]
    fetched: list[str] = []

    def snapshot(repo: str, *, allow_patterns: list[str], ignore_patterns: list[str], **more: Any) -> str:
        assert (repo, more) == ("someone/model", {"revision": "v2", "local_files_only": False})
        wanted = [f for f in there if any(fnmatch(f, p) for p in allow_patterns)]
        fetched.extend(f for f in wanted if not any(fnmatch(f, p) for p in ignore_patterns))
        return str(path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("editkit.common.hub.unreachable", lambda: None)
    load(describe("someone/model@v2:fp16"), CPU, torch.float32)
    assert fetched == ["unet/diffusion_pytorch_model.fp16.safetensors"]


def test_only_what_is_loaded_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No safety checker, no second copy of the weights, no single-file checkpoint beside the folders."""
    from fnmatch import fnmatch

    saved(tmp_path, diffusers.DDPMScheduler())
    there = [
        "model_index.json", "v1-5-pruned.safetensors", "safety_checker/model.safetensors", "unet/model.ckpt",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.bin",
    ]  # fmt: skip
    fetched: list[str] = []

    def snapshot(repo: str, *, allow_patterns: list[str], ignore_patterns: list[str], **more: Any) -> str:
        assert (repo, more) == ("someone/model", {"revision": "v2", "local_files_only": False})
        wanted = [f for f in there if any(fnmatch(f, p) for p in allow_patterns)]
        fetched.extend(f for f in wanted if not any(fnmatch(f, p) for p in ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("editkit.common.hub.unreachable", lambda: None)
    info = describe("someone/model@v2")
    assert not any(f.endswith("safetensors") for f in fetched)
    load(info, CPU, torch.float32)
    assert [f for f in fetched if f.endswith(("safetensors", "bin"))] == ["unet/diffusion_pytorch_model.safetensors"]
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="no safetensors weights"):
        load(info, CPU, torch.float32)
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in fetched


def test_no_cache_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "nowhere"))
    assert cached_models() == ()
