"""Models are leased: loaded once, shared, and after every edit as they were before it."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import tiny_latent as tiny
import torch
import transformers
from test_blocks import TEXT_FIRST
from toy import Isotropic

from editkit import edit
from editkit.batch.driver import batch
from editkit.common.process import Turn, begin_thread, own_threads
from editkit.diffusion.capability import capability, leased, networks
from editkit.diffusion.checkpointing import checkpointed
from editkit.diffusion.model import ModelInfo
from editkit.editing.api import stream
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.latent.space import chunks, padded
from editkit.models.latent.unet import LatentUNet
from editkit.models.leasing import Models
from editkit.models.memory import DECODER, DENOISER
from editkit.models.setup import Setup
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain
from editkit.plugins import Guide, Inpaint

pytestmark = pytest.mark.slow

CPU, FP32 = torch.device("cpu"), torch.float32
MASK = "box:10,10,44,40"
HOW: dict[str, Any] = {"dtype": "fp32", "device": "cpu", "offline": True}


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def photo(k: int, height: int = 56, width: int = 64) -> Picture:
    small = torch.rand((1, 3, 6, 6), generator=torch.Generator().manual_seed(k))
    large = torch.nn.functional.interpolate(small, (height, width), mode="bicubic").clamp(0, 1)
    return Picture((large[0].movedim(0, -1) * 255).round().byte().numpy())


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Stable Diffusion that begins with attention, so that both halves of guidance are looked at once."""
    scheduler = diffusers.DDIMScheduler.from_config(tiny.SD)
    return str(tiny.save_sd(tmp_path_factory.mktemp("models") / "sd", scheduler, **{**TEXT_FIRST, "sample_size": 8}))


def infos(*names: str) -> list[ModelInfo]:
    return [ModelInfo(name, "test") for name in names]


# What is kept


def counting(loaded: list[str]) -> Any:
    def loads(info: ModelInfo, *_: Any, **__: Any) -> Any:
        loaded.append(info.name)
        return Isotropic()

    return loads


def test_a_model_is_loaded_once_and_the_one_that_was_not_used_for_longest_goes_first() -> None:
    loaded: list[str] = []
    models = Models(most=2, load=counting(loaded))

    def use(*given: ModelInfo) -> list[str]:
        loaded.clear()
        for info in given:
            with models.lease(info, CPU, FP32):
                pass
        return list(loaded)

    a, b, c = infos("a", "b", "c")
    assert use(a, b, a, b) == ["a", "b"]
    assert use(a, c, a) == ["c"]  # b went
    assert use(b, c) == ["b", "c"]
    with models.lease(a, CPU, FP32, Setup(lora=("x",))):
        pass
    assert loaded[-1] == "a"  # another setup is another model


def test_what_is_on_loan_stays() -> None:
    loaded: list[str] = []
    models = Models(most=1, load=counting(loaded))
    a, b = infos("a", "b")
    with models.lease(a, CPU, FP32) as first:
        with models.lease(b, CPU, FP32), models.lease(a, CPU, FP32) as again:
            assert again.model is first.model  # it holds nothing of an edit, so there is one
        assert loaded == ["a", "b"]
    with models.lease(b, CPU, FP32):
        pass
    assert loaded == ["a", "b"]
    models.reset()
    with models.lease(b, CPU, FP32):
        pass
    assert loaded == ["a", "b", "b"]


def test_a_model_that_cannot_be_loaded_is_asked_for_again() -> None:
    tried: list[str] = []

    def fails(info: ModelInfo, *_: Any, **__: Any) -> Any:
        tried.append(info.name)
        raise ModelError("no weights")

    models, (a,) = Models(load=fails), infos("a")
    for _ in range(2):
        with pytest.raises(ModelError, match="no weights"), models.lease(a, CPU, FP32):
            pass
    assert tried == ["a", "a"]


def test_an_edit_without_models_lets_go_of_what_it_loaded(sd: str) -> None:
    held: list[Any] = []
    for update in stream(photo(0), Inpaint(mask=MASK), model=sd, steps=1, **HOW):
        held.append(weakref.ref(capability(update.model, LatentUNet).unet))  # type: ignore[union-attr]
        del update
    gc.collect()
    assert [ref() for ref in held] == [None]


def test_a_network_of_a_plugin_is_loaded_once_for_all_edits() -> None:
    made: list[tuple[str, float]] = []

    def network(name: str, *, scale: float) -> object:
        made.append((name, scale))
        return object()

    models = Models(most=2)
    with models.borrow(Isotropic()) as one, models.borrow(Isotropic()) as two:
        first = one.network(network, "a", scale=1.0)
        assert two.network(network, "a", scale=1.0) is first
        assert one.network(network, "a", scale=2.0) is not first
        one.network(network, "b", scale=1.0)  # more than two are on loan, and stay
        assert two.network(network, "a", scale=1.0) is first
    assert made == [("a", 1.0), ("a", 2.0), ("b", 1.0)]
    with models.borrow(Isotropic()) as three:
        assert three.network(network, "a", scale=1.0) is first
        three.network(network, "c", scale=1.0)
    assert made[3:] == [("c", 1.0)]


def test_in_another_process_each_has_one_of_its_own() -> None:
    models = Models(most=3)
    sent = pickle.loads(pickle.dumps(models))
    assert sent is not models
    assert pickle.loads(pickle.dumps(models)) is sent  # with the next item that is sent
    assert pickle.loads(pickle.dumps(Models())) is not sent


# Two at once


@pytest.mark.parametrize(
    ("model", "how"),
    [("patches", {"steps": 1}), ("pocket", {"steps": 1}), ("sd", {"steps": 2}), ("sd", {"steps": 2, "guided": True})],
)
def test_two_edits_at_once_give_the_bytes_of_each_alone(
    sd: str, model: str, how: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """20 edits, each in one of two threads that begin together."""
    if model == "patches":
        request.getfixturevalue("two_threads")  # it changes their number while it works
    models, guided = Models(), how.get("guided", False)

    def made(k: int) -> bytes:
        words: dict[str, Any] = {"prompt": "a red door" if k % 2 else None, "guidance_scale": 5.0 if k % 2 else 1.0}
        plugins: Any = Inpaint(mask=MASK)
        if guided:
            plugins = plugins & Guide(brightness=0.8, checkpoint=bool(k % 2))
        given = {**(words if model == "sd" else {}), **HOW, "steps": how["steps"], "seed": k}
        picture = photo(k % 4, *((28, 32) if model == "patches" else (56, 64)))
        chosen = sd if model == "sd" else model
        mask = "box:8,8,20,18" if model == "patches" else MASK
        plugins = Inpaint(mask=mask) if model == "patches" else plugins
        return edit(picture, plugins, model=chosen, models=models, **given).pixels.tobytes()

    alone = [made(k) for k in range(20)]
    models.reset()  # the first two load it at once
    both = threading.Barrier(2, timeout=60)

    def begun(k: int) -> bytes:
        both.wait()
        return made(k)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(begun, range(20))) == alone


def test_two_threads_that_load_models_of_their_own(sd: str) -> None:
    """It broke the process for good: accelerate exchanged torch's functions for both, and put them back for neither."""

    def loads(_: int) -> torch.Tensor:
        model: Any = load(describe(sd), CPU, FP32)
        weight: torch.Tensor = model.unet.conv_out.weight
        return weight

    alone = loads(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(weight, alone) for weight in pool.map(loads, range(8)))
    assert torch.equal(loads(0), alone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_loading_does_not_change_the_number_that_others_compute_in(
    sd: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers does, for as long as it makes a network; an edit in another thread then computed in bf16."""
    set_to, found = [], torch.set_default_dtype
    monkeypatch.setattr(torch, "set_default_dtype", lambda number: (set_to.append(number), found(number)))
    model: Any = load(describe(sd), CPU, dtype)
    assert {*set_to} <= {torch.float32}
    plain = transformers.CLIPTextModel.from_pretrained(f"{sd}/text_encoder", dtype=dtype)
    assert type(model.text_encoder) is transformers.CLIPTextModel
    assert dtype in set_to  # it would, by itself
    m, t = model.text_encoder, plain
    assert m.config.to_dict() == t.config.to_dict()
    assert [name for name, _ in m.named_parameters()] == [name for name, _ in t.named_parameters()]
    for one, two in ((m.state_dict(), t.state_dict()), (dict(m.named_buffers()), dict(t.named_buffers()))):
        assert one.keys() == two.keys()
        assert all(one[name].dtype == two[name].dtype and torch.equal(one[name], two[name]) for name in one)


def test_a_model_that_is_being_loaded_keeps_nobody_from_another() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(info: ModelInfo, *_: Any, **__: Any) -> Any:
        if info.name == "slow":
            begun.set()
            assert go_on.wait(timeout=60)
        return Isotropic()

    models, (quick, waits) = Models(load=slow), infos("quick", "slow")
    with models.lease(quick, CPU, FP32):
        pass
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(lambda: models.lease(waits, CPU, FP32).__enter__())
        assert begun.wait(timeout=60)
        with models.lease(quick, CPU, FP32):
            go_on.set()
        loading.result(timeout=60)


def test_what_moves_while_it_works_is_lent_to_one_thread_at_a_time(sd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from editkit.models import families

    monkeypatch.setattr(families, "weigh", lambda *_: True)  # text encoders stay on disk
    models, info = Models(), describe(sd)
    entered: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with models.lease(info, CPU, FP32), models.lease(info, CPU, FP32):  # the same thread, as often as it likes

            def other() -> None:
                with models.lease(info, CPU, FP32):
                    entered.append("other")

            waiting = pool.submit(other)
            assert not entered
            entered.append("first")
        waiting.result(timeout=60)
    assert entered == ["first", "other"]


def test_threads_that_read_pictures_leave_no_filter_and_no_log_level(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (32, 32, 3), dtype=np.uint16)
    Picture(pixels).write(tmp_path / "deep.png")
    filters, level = list(warnings.filters), cv2.utils.logging.getLogLevel()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda _: Picture.read(tmp_path / "deep.png").pixels, range(200)))
    finally:
        sys.setswitchinterval(interval)
    assert all(np.array_equal(found, pixels) for found in read)
    assert list(warnings.filters) == filters
    assert cv2.utils.logging.getLogLevel() == level


def test_a_turn_is_given_back_from_any_thread() -> None:
    turn = Turn()
    turn.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(turn.__exit__).result(timeout=60)
        pool.submit(turn.__enter__).result(timeout=60)  # it is free


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
    with checkpointed([unet]) as one:
        with checkpointed([unet]):
            assert one
        assert unet.is_gradient_checkpointing
    assert not unet.is_gradient_checkpointing
    unet.enable_gradient_checkpointing()
    with checkpointed([unet]):
        pass
    assert unet.is_gradient_checkpointing
    with checkpointed([torch.nn.Linear(2, 2)]) as able:
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
    one, two = leased(model), leased(model)
    assert one is not two
    assert [id(network) for network in networks(one)] == [id(network) for network in networks(model)]
    toy = Isotropic()
    assert leased(toy) is toy


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
        return pool.submit(call).result(timeout=60)


def test_a_thread_that_begins_meanwhile_has_the_number_of_all(two_threads: None) -> None:
    from editkit.models.patches.crew import crew

    def begun() -> int:
        begin_thread()
        return torch.get_num_threads()

    with crew():
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
        read = chunks(tokenizer, text) if k % 3 else padded(tokenizer, text, 200)
        ids: list[list[int]] = read["input_ids"].tolist()
        return ids

    alone = [read(k) for k in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert all(ids == alone[k % 6] for k, ids in enumerate(pool.map(read, range(1200))))
