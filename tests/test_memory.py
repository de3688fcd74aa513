"""Memory: said before it runs out, and what helps."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import diffusers
import numpy as np
import psutil
import pytest
import tiny_latent as tiny
import torch
from diffusers.models.autoencoders.vae import DecoderOutput
from test_parity_latent import adapter

from editkit import edit
from editkit.cli.process import return_free_memory
from editkit.diffusion.model import Pass
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.fast.packing import _BlockedWeights
from editkit.models.files.layout import Layout
from editkit.models.files.weights import AheadReader, read, weight_files
from editkit.models.latent.space import in_float32
from editkit.models.memory import DECODER, DENOISER, estimate_memory, settle
from editkit.models.setup import Setup
from editkit.pictures.boxes import Box
from editkit.plugins import Inpaint, PromptText

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", diffusers.DDIMScheduler.from_config(tiny.SD))


def whole(side: int, window: int | None = None) -> list[Pass]:
    return [Pass(Box(0, 0, side, side), side, side, 10, window=window)]


def test_weights_are_counted_from_their_headers(sd: Path) -> None:
    model = load(describe(str(sd)), CPU, torch.float32)
    needed, readers = (
        4 * sum(p.numel() for part in parts for p in part.parameters())
        for parts in ((model.unet, model.vae), (model.text_encoder,))
    )
    layout = Layout("sd", sd)
    assert not estimate_memory(layout, 4, needed + readers + 10_000)
    assert estimate_memory(layout, 4, needed + readers - 10_000)
    assert estimate_memory(layout, 4, needed + 10_000)
    with pytest.raises(ModelError, match=r"need .* GB of memory without the text encoders, .*--dtype bf16"):
        estimate_memory(layout, 4, needed - 10_000)
    with pytest.raises(
        ModelError,
        match=r"what helps: --offload model, --quantize int8, a GGUF of its network \(--transformer FILE.gguf\), a "
        r"smaller --model",
    ):
        estimate_memory(layout, 2, 1000, gpu=True)


def test_text_encoders_make_room_for_the_run_too(sd: Path) -> None:
    """Everything fits, but with nothing left for a step: text encoders on disk, and it runs."""
    layout = Layout("sd", sd)
    at = 4_000_000_000
    while estimate_memory(layout, 4, at // 2, 0) is False:
        at //= 2
    assert not estimate_memory(layout, 4, at)
    assert estimate_memory(layout, 4, at, beside=at)


def test_models_in_pixels_are_weighed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from editkit.models import families

    unet = diffusers.UNet2DModel(
        sample_size=32, block_out_channels=(8, 16), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "whole")
    unet.save_pretrained(tmp_path / "bare")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "bare")
    monkeypatch.setattr(families, "available", lambda device: 1000)
    for name in ("whole", "bare"):
        with pytest.raises(ModelError, match="its weights need 0.0 GB of memory, and 0.0 GB are free"):
            load(describe(str(tmp_path / name)), CPU, torch.float32)


def test_what_is_offloaded_is_loaded_into_main_memory(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose memory takes nothing: weights rest in main memory, and accelerate moves what is used."""
    from editkit.models import families

    asked: list[str] = []
    monkeypatch.setattr(families, "available", lambda device: asked.append(device.type) or 10_000_000_000)
    moved: list[torch.device] = []
    monkeypatch.setattr(
        diffusers.StableDiffusionPipeline, "enable_model_cpu_offload", lambda self, device: moved.append(device)
    )
    cuda = torch.device("cuda")
    model: Any = load(describe(str(sd)), cuda, torch.float32, setup=Setup(offload="model"))
    assert asked == ["cpu"]
    assert moved == [cuda]
    assert model.unet.device.type == "cpu"
    assert not any(
        isinstance(module, _BlockedWeights) for module in model.unet.modules()
    )  # accelerate moves ordinary layers


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with memory for the networks, but not for the text encoders."""
    from editkit.models import families

    monkeypatch.setattr(families, "estimate_memory", lambda *_: True)


PHOTO = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
HOW: dict[str, Any] = {"prompt": "a red door", "steps": 2, "dtype": "fp32", "device": "cpu", "offline": True}


def test_text_encoders_stay_on_disk_where_memory_is_short(
    sd: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    plugins = [Inpaint(mask="box:9,9,40,40")]
    expected = edit(PHOTO, plugins, model=str(sd), **HOW).pixels
    request.getfixturevalue("short")
    said: list[str] = []
    made = edit(PHOTO, plugins, model=str(sd), notify=said.append, **HOW).pixels
    assert (made == expected).all()
    assert any(line.startswith("memory is short: the text encoders stay on disk") for line in said)
    assert "meta device" not in caplog.text


def test_text_encoders_on_disk_hold_no_memory(sd: Path, short: None) -> None:
    model = load(describe(str(sd)), CPU, torch.float32)
    before = model.encode_text("a red door")[0].embeds
    assert all(parameter.device.type == "meta" for parameter in model.text_encoder.parameters())
    assert torch.equal(model.encode_text("a red door")[0].embeds, before)
    with pytest.raises(ModelError, match="weights for words need the text encoders in memory"):
        edit(PHOTO, [Inpaint(mask="box:9,9,40,40"), PromptText(weights=True)], model=str(sd), **HOW)
    with pytest.raises(ModelError, match="--lora .* memory is too small for its text encoders"):
        load(describe(str(sd)), CPU, torch.float32, setup=Setup(lora=("any.safetensors",)))


def test_the_decoder_works_in_tiles_where_it_does_not_fit_at_once() -> None:
    said: list[str] = []
    free = 2_000_000_000
    assert not settle(whole(512), 2, free, said.append, 512)
    assert said == []
    assert settle(whole(4096, 512), 2, free, said.append, 512)
    need = f"{4096**2 * DECODER[2] / 1e9:.1f} GB"
    assert said == [f"decoding in tiles of 512: the whole picture would need {need}, and 2.0 GB are free"]
    with pytest.raises(ModelError, match=r"needs about .* GB of memory in addition to the model, and 0.1 GB are free"):
        settle(whole(512), 4, 100_000_000, said.append, 512)
    with pytest.raises(ModelError, match=r"--canvas crop"):
        settle(whole(4096), 2, free, said.append, 512)
    with pytest.raises(ModelError, match=r"needs about 4.0 GB"):  # tiles of a VAE that was trained at 2,000
        settle(whole(4096, 512), 2, free, said.append, 2000)
    with pytest.raises(ModelError, match=r"what helps: --offload model, --canvas crop"):
        settle(whole(4096), 2, free, said.append, 512, gpu=True)
    with pytest.raises(ModelError, match=rf"needs about {need}"):  # no tiles: all of it at once
        settle(whole(4096, 512), 2, free, said.append, None)


def test_an_edit_in_tiles_keeps_what_is_known(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from editkit.editing import stages

    needed = 64**2 * DECODER[4] + 1_000_000  # for a tile of this VAE, and for the UNet at its own size
    monkeypatch.setattr(stages, "available", lambda device: max(needed, 64**2 * DENOISER[4]))
    said: list[str] = []
    photo = np.random.default_rng(0).integers(0, 256, (150, 170, 3), dtype=np.uint8)
    mask = np.zeros((150, 170), np.uint8)
    mask[20:130, 30:150] = 255
    how: dict[str, Any] = {"steps": 2, "dtype": "fp32", "device": "cpu", "offline": True, "notify": said.append}
    made = edit(photo, Inpaint(mask=mask), model=str(sd), **how).pixels
    assert any(line.startswith("decoding in tiles of 64") for line in said)
    assert (made[mask == 0] == photo[mask == 0]).all()
    assert (made[mask > 0] != photo[mask > 0]).any()


def overflowing(where: tuple[torch.dtype, ...]) -> object:
    """A tiny VAE in bf16 that makes NaN when it decodes in one of these dtypes."""

    class Overflowing(diffusers.AutoencoderKL):
        def decode(self, z: torch.Tensor) -> object:  # type: ignore[override]
            made = super().decode(z)
            return DecoderOutput(torch.full_like(made.sample, torch.nan)) if z.dtype in where else made

    vae = tiny.vae().to(torch.bfloat16)
    vae.__class__ = Overflowing
    return vae


def test_a_vae_that_overflows_is_run_again_in_float32_and_said_so() -> None:
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"}, vae=overflowing((torch.bfloat16,)))
    said: list[str] = []
    model.notify = said.append
    assert bool(torch.isfinite(model.decode(torch.zeros(1, 4, 8, 8))).all())
    assert said == ["the VAE overflowed in half precision; it was run again in float32"]


def test_a_vae_that_overflows_on_the_way_in_is_run_again_too() -> None:
    broken = SimpleNamespace(latent_dist=SimpleNamespace(mean=torch.full((1, 4, 8, 8), torch.inf)))

    class Overflowing(diffusers.AutoencoderKL):
        def encode(self, image: torch.Tensor) -> object:  # type: ignore[override]
            return broken if image.dtype == torch.bfloat16 else super().encode(image)

    vae = tiny.vae().to(torch.float16).to(torch.bfloat16)
    vae.__class__ = Overflowing
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"}, vae=vae)
    said: list[str] = []
    model.notify = said.append
    assert bool(torch.isfinite(model.encode(torch.zeros(1, 3, 64, 64))).all())
    assert said == ["the VAE overflowed in half precision; it was run again in float32"]
    model.vae.encode = lambda image: broken
    with pytest.raises(ModelError, match="the VAE made NaN or infinity of a picture"):
        model.encode(torch.zeros(1, 3, 64, 64))


def test_a_vae_whose_weights_are_elsewhere_is_copied_to_float32_too() -> None:
    vae = tiny.vae().to(torch.bfloat16)
    latents = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        expected = in_float32(vae, CPU).decode(latents).sample
        accelerate.cpu_offload(vae, execution_device=CPU)
        made = in_float32(vae, CPU)
        assert all(weight.is_meta for weight in vae.parameters())
        assert made.dtype == torch.float32
        assert torch.equal(made.decode(latents).sample, expected)


def test_nan_from_the_vae_is_never_a_picture() -> None:
    model = adapter(4, {**tiny.SD, "prediction_type": "epsilon"}, vae=overflowing((torch.bfloat16, torch.float32)))
    with pytest.raises(ModelError, match="the VAE made NaN or infinity of finite latents; no picture was written"):
        model.decode(torch.zeros(1, 4, 8, 8))


def test_weights_read_ahead_are_the_weights(sd: Path) -> None:
    layout = Layout("sd", sd)
    ahead = AheadReader(layout, {"unet": torch.bfloat16, "vae": torch.float32})
    taken = ahead.take("unet", torch.bfloat16)
    assert taken is not None
    plain = dict(read("sd", weight_files(layout, "unet")[0], lambda _: torch.bfloat16))
    assert taken.keys() == plain.keys()
    assert all(torch.equal(taken[key], value) for key, value in plain.items())
    assert ahead.take("unet", torch.bfloat16) is None  # once
    assert ahead.take("vae", torch.bfloat16) is None  # other numbers
    ahead.end()


def test_weights_that_are_missing_are_said_when_they_are_wanted(sd: Path, tmp_path: Path) -> None:
    ahead = AheadReader(Layout("empty", tmp_path), {"unet": torch.float32})
    with pytest.raises(ModelError, match="model empty: no safetensors weights in unet"):
        ahead.take("unet", torch.float32)
    ahead.end()
    assert not any(thread.name.startswith("weights") for thread in threading.enumerate())


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc has it")
def test_what_is_free_between_what_stays_is_returned_to_the_system() -> None:
    """A tenth of 128 MB stays, in pieces."""
    pieces = [np.ones(64 << 10, np.uint8) for _ in range(2048)]
    stays = pieces[::10]
    del pieces
    before = psutil.Process().memory_info().rss
    return_free_memory()
    assert before - psutil.Process().memory_info().rss > 64 << 20
    assert all(piece.all() for piece in stays)
