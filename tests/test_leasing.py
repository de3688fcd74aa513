"""Models are leased: loaded once, shared, by any number of threads."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers
from toy import Isotropic
from toy_leasing import CPU, FP32, HOW, MASK, photo, sd, two_threads

from editkit import edit
from editkit.common.process import CrossThreadLock
from editkit.diffusion.capability import capability
from editkit.diffusion.model import ModelInfo
from editkit.editing.api import stream
from editkit.errors import ModelError
from editkit.models import describe, load
from editkit.models.latent.unet import LatentUNet
from editkit.models.leasing import Models
from editkit.models.setup import Setup
from editkit.pictures.picture import Picture
from editkit.plugins import Guide, Inpaint

__all__ = ["sd", "two_threads"]

pytestmark = pytest.mark.slow


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
    both = threading.Barrier(2, timeout=300)

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
            assert go_on.wait(timeout=300)
        return Isotropic()

    models, (quick, waits) = Models(load=slow), infos("quick", "slow")
    with models.lease(quick, CPU, FP32):
        pass
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(lambda: models.lease(waits, CPU, FP32).__enter__())
        assert begun.wait(timeout=300)
        with models.lease(quick, CPU, FP32):
            go_on.set()
        loading.result(timeout=300)


def test_what_moves_while_it_works_is_lent_to_one_thread_at_a_time(sd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from editkit.models import families

    monkeypatch.setattr(families, "estimate_memory", lambda *_: True)  # text encoders stay on disk
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
        waiting.result(timeout=300)
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
    turn = CrossThreadLock()
    turn.__enter__()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(turn.__exit__).result(timeout=300)
        pool.submit(turn.__enter__).result(timeout=300)  # it is free
