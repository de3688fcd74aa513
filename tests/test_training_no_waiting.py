"""A training step on a GPU that is not there: nothing in it waits for the device, and nothing lies on another one.

PyTorch's fake tensors have a device and a shape and no values: what reads one raises, and so does what mixes devices.
Only the backward pass needs a real device; its gradients are put there as they would lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from toy_training import photos, settings

from editkit.training import conditions, diffusion, loop, prior
from editkit.training.loop import Batch, Run
from editkit.training.pictures import load_collection, windows
from editkit.training.prior import PriorLesson

__all__ = ["photos"]

GPU = torch.device("cuda:0")


class Here:
    """An executor that does it at once."""

    def map(self, job: Callable[..., Any], *given: Iterable[Any]) -> list[Any]:
        return list(map(job, *given))


@pytest.fixture
def imagined(photos: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Photographs are read before, devices are chosen as on a machine with a GPU."""
    diffusion.tables()
    read = load_collection(photos, 16, photos.parent / "heldout.txt")
    cut = [windows(read.heldout, 16, part) for part in range(2)]
    monkeypatch.setattr(prior, "load_collection", lambda *words: read)
    monkeypatch.setattr(prior, "windows", lambda held, window, part: cut[part])
    for module in (prior, loop):
        monkeypatch.setattr(module, "device_of", lambda settings: GPU)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *words, **more: self)  # it was made there
    with FakeTensorMode(allow_non_fake_inputs=True), torch.device(GPU):
        yield
    diffusion.tables_on.cache_clear()
    conditions._blur_matrices.cache_clear()


@pytest.mark.usefixtures("imagined")
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_step_on_a_gpu_waits_for_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    made = settings(photos, batch=16, optimizer=optimizer)
    lesson = PriorLesson(made)
    assert lesson.store.pixels.device == GPU
    run = Run(made, lesson)
    assert run.workers == 1

    def backward(loss: torch.Tensor) -> None:
        assert loss.device == GPU
        for parameter in lesson.network.parameters():
            parameter.grad = torch.zeros_like(parameter)

    monkeypatch.setattr(torch.autograd, "backward", backward)
    for step in range(2):
        drawn: Future[Batch] = Future()
        drawn.set_result(lesson.draw(step))
        assert {value.device for value in vars(drawn.result()).values() if value is not None} == {GPU}
        run.step(Here(), drawn)  # type: ignore[arg-type]
    assert {value.device for value in run.trainer.average.values()} == {GPU}
    run.snapshot()
    for batch in lesson.validation():
        assert lesson.losses(lesson.network, batch).device == GPU
    with pytest.raises(DataDependentOutputException):
        run.gathered.read()  # a report does wait, as it must
