"""A leased model is after every edit as it was before it; nothing of an edit outlives it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny_latent as tiny
import torch
from toy import Isotropic
from toy_leasing import CPU, FP32, HOW, MASK, photo, sd, two_threads

from editkit import edit
from editkit.batch.driver import batch
from editkit.common.process import init_thread, own_threads
from editkit.diffusion.capability import capability, copy_for_edit, networks
from editkit.diffusion.checkpointing import gradient_checkpointing
from editkit.editing.api import stream
from editkit.models import describe, load
from editkit.models.latent.space import chunks, tokenize_padded
from editkit.models.latent.unet import LatentUNet
from editkit.models.leasing import Models
from editkit.models.memory import DECODER, DENOISER
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint

__all__ = ["sd", "two_threads"]

pytestmark = pytest.mark.slow


# Nothing an edit does outlives it


def state(model: Any) -> dict[str, Any]:
    """All that is set on the networks of a model, on it, and on the process."""
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "random": torch.get_rng_state().tolist()}
    plain = (bool, int, float, str, type(None), torch.dtype)
    for n, network in enumerate(networks(model)):
        for name, module in network.named_modules():
            for key, value in vars(module).items():
                # the function stays behind the switch: another thread may just have looked at that
                if isinstance(value, plain) and key != "_gradient_checkpointing_func":
                    found[f"{n}.{name}.{key}"] = value
            processor = getattr(module, "processor", None)
            found[f"{n}.{name}.processor"] = None if processor is None else (type(processor), dict(vars(processor)))
            found[f"{n}.{name}.dtypes"] = [weight.dtype for weight in module._parameters.values() if weight is not None]
            found[f"{n}.{name}.hooks"] = len(module._forward_hooks) + len(module._forward_pre_hooks)
    found["model"] = {key: id(value) for key, value in vars(model).items()}
    return found


def halves(vae: Any) -> Any:
    """`vae` in bf16, and one that makes NaN of latents until it is in float32."""
    vae = vae.to(torch.bfloat16)
    vae.__class__ = Overflowing
    return vae


class Overflowing(diffusers.AutoencoderKL):  # type: ignore[misc]
    def decode(self, z: Any) -> Any:
        made = super().decode(z)
        if z.dtype != torch.float32:
            made.sample = torch.full_like(made.sample, torch.nan)
        return made


def test_nothing_an_edit_does_outlives_it(sd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles, a VAE in float32, checkpointing, guidance, and whom a model tells."""
    from editkit.editing import stages

    model: Any = load(describe(sd), CPU, FP32)
    model.vae = halves(model.vae)
    models = Models(load=lambda *_, **__: model)
    edit(photo(0), Inpaint(mask=MASK), model=sd, steps=1, models=models, **HOW)  # layers are packed at the first call
    before, said = state(model), list[str]()
    free = 64**2 * DECODER[4] + 1_000_000
    monkeypatch.setattr(stages, "available", lambda device: max(free, 64**2 * DENOISER[4]))
    plugins = Inpaint(mask="box:20,20,150,130") & Guide(brightness=0.8, checkpoint=True)
    given: dict[str, Any] = {"prompt": "a red door", "steps": 2, "notify": said.append, **HOW}
    making = stream(photo(1, 150, 170), plugins, model=sd, models=models, **given)
    first = next(making)
    within: Any = capability(first.model, LatentUNet)
    assert within.vae.use_tiling
    assert within.vae.dtype == torch.float32
    assert within.unet.is_gradient_checkpointing
    assert any("tiles" in line for line in said)
    assert any("float32" in line for line in said)
    for _ in making:
        pass
    assert state(model) == before
    assert model.vae.dtype == torch.bfloat16


def test_a_process_that_is_left_gives_back_what_it_had(sd: str) -> None:
    model: Any = load(describe(sd), CPU, FP32)
    before = state(model)
    making = stream(photo(0), Inpaint(mask=MASK) & Guide(checkpoint=True), model=model, steps=3, **HOW)
    next(making)
    assert model.unet.is_gradient_checkpointing
    making.close()
    assert state(model)["model"] == before["model"]
    assert not model.unet.is_gradient_checkpointing


def test_checkpointing_is_counted_and_what_had_it_before_keeps_it() -> None:
    unet = tiny.unet()
    with gradient_checkpointing([unet]) as one:
        with gradient_checkpointing([unet]):
            assert one
        assert unet.is_gradient_checkpointing
    assert not unet.is_gradient_checkpointing
    unet.enable_gradient_checkpointing()
    with gradient_checkpointing([unet]):
        pass
    assert unet.is_gradient_checkpointing
    with gradient_checkpointing([torch.nn.Linear(2, 2)]) as able:
        assert not able


def test_checkpointing_changes_no_bit(sd: str) -> None:
    """Nor does it where both halves of guidance are looked at once: the backward pass looks at once again."""
    models = Models()
    made = [
        edit(
            photo(0), Inpaint(mask=MASK) & Guide(brightness=0.9, checkpoint=on), model=sd, steps=2, prompt="a red door",
            models=models, **HOW,
        ).pixels
        for on in (False, True)
    ]  # fmt: skip
    assert np.array_equal(*made)


def test_a_copy_for_an_edit_has_the_networks_of_all(sd: str) -> None:
    model: Any = load(describe(sd), CPU, FP32)
    one, two = copy_for_edit(model), copy_for_edit(model)
    assert one is not two
    assert [id(network) for network in networks(one)] == [id(network) for network in networks(model)]
    toy = Isotropic()
    assert copy_for_edit(toy) is toy


def test_a_batch_of_three_whose_first_needs_tiles_and_a_vae_in_float32(
    sd: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures two and three equal themselves alone."""
    from editkit.editing import stages

    seen: list[str] = []

    def loads(*given: Any, **more: Any) -> Any:
        model: Any = load(*given, **more)
        decode = type(model.vae).decode

        class Overflowing(type(model.vae)):  # type: ignore[misc]
            def decode(self, z: Any) -> Any:
                made = decode(self, z)
                if z.dtype != torch.float32 and seen[-1:] == ["large"]:
                    made.sample = torch.full_like(made.sample, torch.nan)
                return made

        model.vae.__class__ = Overflowing
        return model

    def watched(passes: Any, *given: Any) -> bool:
        large = max(at.height for at in passes) > 64
        seen.append("large" if large else "small")
        return large

    monkeypatch.setattr(stages, "settle", watched)
    pictures = {"a.png": photo(0, 150, 150), "b.png": photo(1), "c.png": photo(2)}
    for name, picture in pictures.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        picture.write(tmp_path / "in" / name)
    chain = Chain.of(Inpaint(mask="box:10,10,44,40")).using(
        model=sd, steps=2, dtype="bf16", device="cpu", offline=True, canvas="full"
    )
    told: list[Any] = []
    models = Models(load=loads)
    batch(chain, tmp_path / "in", tmp_path / "out", provenance=False, models=models, watch=told.append)
    assert seen == ["large", "small", "small"]
    assert [any("float32" in line for line in result.notices) for result in told] == [True, False, False]
    for name in ("b.png", "c.png"):
        (tmp_path / name).mkdir()
        pictures[name].write(tmp_path / name / name)
        batch(chain, tmp_path / name, tmp_path / f"{name}.out", provenance=False, models=Models(load=loads))
        assert (tmp_path / f"{name}.out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


# Threads of torch


def in_a_thread(call: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result(timeout=300)


def test_a_thread_that_begins_meanwhile_has_the_number_of_all(two_threads: None) -> None:
    from editkit.models.patches.threads import row_threads

    def begun() -> int:
        init_thread()
        return torch.get_num_threads()

    with row_threads():
        assert torch.get_num_threads() == 1
        assert in_a_thread(begun) == 2
    with own_threads():
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    assert in_a_thread(begun) == 2


def test_texts_read_at_once_are_read_as_alone() -> None:
    """A tokenizer keeps the padding of its last call, and Stable Diffusion 3 asks for two."""
    tokenizer = tiny.tokenizer()

    def read(k: int) -> list[list[int]]:
        text = ("a", "a red door " * 40)[k % 2]
        read = chunks(tokenizer, text) if k % 3 else tokenize_padded(tokenizer, text, 200)
        ids: list[list[int]] = read["input_ids"].tolist()
        return ids

    alone = [read(k) for k in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert all(ids == alone[k % 6] for k, ids in enumerate(pool.map(read, range(1200))))
