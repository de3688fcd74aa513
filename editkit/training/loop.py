"""The training loop shared by all runs: workers, optimizer steps, log, validation, checkpoints, signals.

A `Lesson` defines the objective. All randomness of step n is a function of (seed, n): a run that was killed and resumed
gives the same weights as an uninterrupted one, and only weights and optimizer state are stored. On a CPU each worker
takes a part of the batch; a GPU has one worker, and no step waits for the device: statistics are accumulated there and
read for reports, and checkpoints are copied there and written in the background.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor, nn

from editkit.errors import EditkitError
from editkit.training.attribution import attribution
from editkit.training.checkpoint import BackgroundWriter, Progress, check_new, load_checkpoint, save_checkpoint
from editkit.training.device import device_of, has_bf16
from editkit.training.network import to_dtype, write_atomically
from editkit.training.optimizer import Trainer, rate
from editkit.training.pictures import Collection
from editkit.training.process_group import ALONE, ProcessGroup
from editkit.training.settings import Settings
from editkit.training.step_statistics import StepStatistics
from editkit.training.stopping import stop_signals

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """One batch of training: pictures, times, noise and conditions."""

    x0: Tensor
    t: Tensor
    eps: Tensor
    task: Tensor
    condition: Tensor
    mask: Tensor
    s: Tensor
    hint: Tensor | None = None

    def part(self, first: int, workers: int) -> Batch:
        """Return every `workers`-th sample."""
        rows = slice(first, None, workers)
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if value is not None})


class Drawn(Protocol):
    """A batch of any kind of training; task (B,) are indices into the lesson's `tasks`."""

    @property
    def task(self) -> Tensor: ...

    def part(self, first: int, workers: int) -> Drawn:
        """Return every `workers`-th sample."""
        ...


class Network(Protocol):
    """A module of which a part is trained; the rest is frozen."""

    @property
    def learner(self) -> nn.Module: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def children(self) -> Iterator[nn.Module]: ...


class Lesson(Protocol):
    """The objective of a run.

    Its batches depend only on the settings and the step.
    """

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks, in the log."""
        ...

    @property
    def collection(self) -> Collection: ...

    @property
    def network(self) -> Network: ...

    def draw(self, step: int) -> Drawn: ...

    def losses(self, network: Any, batch: Any) -> Tensor:
        """Return the loss of each sample, (B,)."""
        ...

    def validation(self) -> Iterator[Drawn]:
        """Yield the same batches at every call, each of one task, from held-out pictures."""
        ...

    def sheet(self, network: Any) -> Image.Image: ...

    def export(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write the exported folder from the learner's fp32 weights."""
        ...


def _replica(network: Network) -> Network:
    """Return a copy that shares the network's weights but has its own gradients."""
    twin = copy.deepcopy(network)
    for own, shared in zip(twin.parameters(), network.parameters(), strict=True):
        own.data = shared.data
    return twin


def describe(collection: Collection) -> None:
    """Log the used pictures with their licences, and the skipped ones."""
    licences: dict[str, int] = defaultdict(int)
    for photograph in collection.training:
        licences[photograph.facts.get("licence", "licence unknown")] += 1
    log.info(
        "%d photographs: %s",
        len(collection.training),
        ", ".join(f"{n} {name}" for name, n in sorted(licences.items())),
    )
    log.info("%d held back, never trained on", len(collection.heldout))
    for skipped in collection.skipped:
        log.warning("skipped %s: %s", skipped.name, skipped.reason)


def validate(lesson: Lesson, network: Network, pool: Executor) -> dict[str, float]:
    """Return the mean loss of each task on the held-out pictures."""

    @torch.no_grad()
    def measure(batch: Drawn) -> tuple[str, Tensor]:
        return lesson.tasks[int(batch.task[0])], lesson.losses(network, batch)

    found: dict[str, list[Tensor]] = defaultdict(list)
    for task, values in pool.map(measure, lesson.validation()):
        found[task].append(values)
    return {task: float(torch.cat(values).mean()) for task, values in found.items()}


class Run:
    """One training run in a folder: `run()` continues to the last step, the time limit, or a signal."""

    def __init__(
        self, settings: Settings, lesson: Lesson, resume: bool = False, together: ProcessGroup = ALONE
    ) -> None:
        if not resume and together.first:
            check_new(settings)
        self.settings, self.lesson, self.device = settings, lesson, device_of(settings)
        self.together = together
        cores = min(settings.threads or torch.get_num_threads(), settings.batch // together.count)
        self.workers = cores if self.device.type == "cpu" else 1
        network = lesson.network
        dtype = torch.bfloat16 if settings.in_bf16(has_bf16(self.device)) else torch.float32
        nn.Module.to(network.learner, device=self.device)  # the masters are on the network's device
        self.trainer = Trainer(network.learner, settings, self.workers)
        to_dtype(network, dtype, self.device)
        self.replicas = [network, *(_replica(network) for _ in range(self.workers - 1))]
        self.trainer.replicas = [dict(replica.learner.named_parameters()) for replica in self.replicas]
        self.gathered = StepStatistics(lesson.tasks, self.device)
        self.progress, self.seconds = Progress(), 0.0
        describe(lesson.collection)
        if resume:
            self._resume()
        if settings.compile:
            for replica in self.replicas:
                replica.learner.compile()
        count = sum(p.numel() for p in network.learner.parameters())
        beside = f", process {together.place + 1} of {together.count}" if together.count > 1 else ""
        log.info("%.1f M parameters to train, %d workers on %s%s", count / 1e6, self.workers, self.device, beside)

    def _resume(self) -> None:
        found = load_checkpoint(self.settings) if self.together.first else None
        self.progress, tensors, before = cast(Any, self.together.broadcast_first(found))
        try:
            self.trainer.restore(tensors)
        except KeyError as error:
            raise EditkitError(
                f"{self.settings.output}: the checkpoint lacks {error}; it is of another kind of run"
            ) from error
        old, new = before.model_dump(), self.settings.model_dump()
        changed = [f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        log.info("resumed at step %d%s", self.progress.step, f"; changed: {', '.join(changed)}" if changed else "")

    def step(self, pool: Executor, drawn: Future[Drawn], seconds: float = 0.0, stop: bool = False) -> bool:
        """Run one step of Algorithm 1, `seconds` after the start. Each worker of each process takes its part of the
        batch. Returns whether any process was told to stop.
        """
        batch, place, count = drawn.result(), self.together.place, self.together.count
        each = torch.zeros(self.settings.batch, device=self.device)

        def work(first: int) -> None:
            begin, stride = place + first * count, count * self.workers
            lost = self.lesson.losses(self.replicas[first], batch.part(begin, stride))
            torch.autograd.backward(lost.sum() / self.settings.batch)
            each[begin::stride] = lost.detach()

        if self.workers == 1:
            work(0)
        else:
            list(pool.map(work, range(self.workers)))
        gradients = self.trainer.gather(pool)
        if count > 1:
            shared = torch.tensor([float(stop), seconds if self.together.first else 0.0], device=self.device)
            self.together.sum_over_processes([*gradients, each, shared])
            stop, seconds = bool(shared[0] > 0), float(shared[1])
        norm = self.trainer.update(rate(self.settings, self.progress.step, seconds), self.progress.step, pool)
        self.gathered.add(each, batch.task, norm)
        self.seconds = seconds
        return stop

    def run(self) -> Progress:
        """Train to the end; the folder then contains checkpoint, log, sheets and export/."""
        settings = self.settings
        settings.output.mkdir(parents=True, exist_ok=True)
        begun, before = time.monotonic(), self.progress.seconds
        limit = math.inf if settings.minutes is None else 60 * settings.minutes
        with stop_signals() as signals, self._pool() as pool, BackgroundWriter() as aside:
            following = pool.submit(self.lesson.draw, self.progress.step)
            while self.progress.step < settings.steps:
                drawn = following
                following = pool.submit(self.lesson.draw, self.progress.step + 1)
                stop = self.step(pool, drawn, time.monotonic() - begun, bool(signals))
                seconds, step = time.monotonic() - begun, self.progress.step + 1
                self.progress = Progress(step, self.progress.pictures + settings.batch, before + seconds)
                # with several processes the run ends at a step that all know
                ended = (
                    stop or self.seconds >= limit or (self.together.count == 1 and (bool(signals) or seconds >= limit))
                )
                last = ended or step == settings.steps
                self._report(pool, aside, last)
                if ended:
                    why = signals[0] if signals else "another process" if stop else "time limit"
                    log.info("stopped at step %d (%s)", step, why)
                    break
        return self.progress

    def _report(self, pool: Executor, aside: BackgroundWriter, last: bool) -> None:
        """Do what is due after this step: figures, losses on held-out pictures, a checkpoint, a sheet."""
        step, settings = self.progress.step, self.settings
        saves = last or step % settings.checkpoint_every == 0
        if last or saves or step % settings.report_every == 0:
            self._record(self._read(), "train")
        if not self.together.first:
            return
        if self.lesson.collection.heldout and (last or step % settings.measure_every == 0):
            self._measure(pool)
        if saves:
            aside.put(self.snapshot())
        if last or step % settings.sheet_every == 0:
            self._sheet()

    def _read(self) -> dict[str, float]:
        """Return the statistics since the last call. Raises EditkitError if a loss was not finite."""
        found = self.gathered.read()
        if not math.isfinite(found["loss"]):
            raise EditkitError(
                f"step {self.progress.step}: the loss was not finite since the last report; "
                "lower --learning-rate and resume"
            )
        return found

    def _record(self, figures: dict[str, float], kind: str) -> None:
        if not self.together.first:
            return
        p = self.progress
        row = {"kind": kind, "step": p.step, "pictures": p.pictures, "seconds": round(p.seconds, 1)}
        row |= {name: round(value, 6) for name, value in figures.items()}
        with (self.settings.output / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        log.info(
            "%s step %d  %s",
            kind,
            p.step,
            "  ".join(f"{name} {value:.5f}" for name, value in figures.items()),
        )

    @contextmanager
    def use_averaged_weights(self) -> Iterator[Network]:
        """Use the averaged weights within the block, with the uncompiled network, since other batch sizes would compile
        it again.
        """
        self.trainer.write_back(self.trainer.average)
        try:
            with torch.compiler.set_stance("force_eager") if self.settings.compile else nullcontext():
                yield self.lesson.network
        finally:
            self.trainer.write_back(self.trainer.masters)

    @contextmanager
    def _pool(self) -> Iterator[Executor]:
        """Start the workers, and one more that draws the next batch in advance; inside, every operation runs on one
        core.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(self.workers + 1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield pool
        finally:
            torch.set_num_threads(threads)

    def _measure(self, pool: Executor) -> None:
        with self.use_averaged_weights() as network:
            self._record(validate(self.lesson, network, pool), "validation")

    def _sheet(self) -> None:
        torch.set_num_threads(self.workers)
        with self.use_averaged_weights() as network:
            sheet = self.lesson.sheet(network)
        torch.set_num_threads(1)
        path = self.settings.output / "sheets" / f"step{self.progress.step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        sheet.save(path)

    def save(self) -> None:
        """Write checkpoint and export immediately."""
        self.snapshot()()

    def snapshot(self) -> Callable[[], None]:
        """Return a function that writes checkpoint and export in their current state, even if the run continues."""
        settings, progress, trainer = self.settings, self.progress, self.trainer
        tensors = {name: value.detach().clone() for name, value in trainer.state().items()}

        def write() -> None:
            kept = {name: value.cpu() for name, value in tensors.items()}
            save_checkpoint(settings.output, settings, progress, kept)
            folder = settings.output / "export"
            self.lesson.export(folder, {name: kept[f"average.{name}"] for name in trainer.average})
            write_atomically(folder / "ATTRIBUTION.md", attribution(self.lesson.collection).encode("utf-8", "replace"))
            if settings.heldout is not None:
                write_atomically(folder / "heldout.txt", settings.heldout.read_bytes())
            log.info("checkpoint and export of step %d in %s (process %d)", progress.step, settings.output, os.getpid())

        return write
