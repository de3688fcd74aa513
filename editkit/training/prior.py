"""The training loop: Algorithm 1 of Ho et al. 2020 (arXiv:2006.11239) for four tasks at once.

    repeat: x0 ~ photographs, t ~ stratified 0..999, eps ~ N(0, I)
            descend the gradient of  weight_t * mean(where * |v - v_hat(x_t, t, task, condition, mask)|^2)

where v = alpha_t eps - sigma_t x0, and for inpainting `where` is 1 in the hole and 0.1 outside (divided by
its mean). Everything random in step n comes from a generator seeded by (seed, n): a run that was killed and
resumed gives the weights of one that was not, and nothing but weights and optimizer has to be kept.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from torch import Generator, Tensor

from editkit.errors import EditkitError
from editkit.training import diffusion
from editkit.training.attribution import attribution
from editkit.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from editkit.training.conditions import TASKS, conditions, deal_tasks
from editkit.training.device import has_bf16
from editkit.training.fast import hasten
from editkit.training.network import Pocket, export, load, to_dtype, write_atomically
from editkit.training.optimizer import Trainer
from editkit.training.pictures import Collection, Photograph, crop, draw_batch, load_collection
from editkit.training.settings import PriorSettings

log = logging.getLogger(__name__)
OUTSIDE = 0.1
"""Weight of the known pixels in the inpainting loss, where the hole has 1."""


@dataclass(frozen=True)
class Batch:
    """One batch of training: pictures, times, noise and what the network is told."""

    x0: Tensor
    t: Tensor
    eps: Tensor
    task: Tensor
    condition: Tensor
    mask: Tensor

    def take(self, rows: Tensor, device: torch.device) -> Batch:
        """Some of its samples, on a device."""
        return Batch(**{name: value[rows].to(device) for name, value in vars(self).items()})


def _replica(network: Pocket) -> Pocket:
    """A copy that shares the network's weights and has gradients of its own."""
    twin = copy.deepcopy(network)
    for own, shared in zip(twin.parameters(), network.parameters(), strict=True):
        own.data = shared.data
    return twin


def generator_of(seed: int, step: int, stream: int = 0) -> Generator:
    """The generator of one step. The odd multipliers keep (seed, step, stream) apart."""
    return Generator().manual_seed((seed * 1_000_003 + step * 7_919 + stream * 104_729) % (2**63))


def draw(photographs: tuple[Photograph, ...], settings: PriorSettings, step: int) -> Batch:
    """The batch of a step: a function of (settings.seed, step) alone."""
    generator = generator_of(settings.seed, step)
    x0 = draw_batch(photographs, settings.batch, settings.architecture.window, generator)
    task = deal_tasks(settings.batch, generator)
    condition, mask = conditions(x0, task, generator)
    t = diffusion.stratified_times(settings.batch, generator)
    return Batch(x0, t, torch.randn(x0.shape, generator=generator), task, condition, mask)


def losses(network: torch.nn.Module, batch: Batch) -> Tensor:
    """Unweighted loss of each sample (B,): mean squared error of v, for inpainting drawn to the hole."""
    x_t, v = diffusion.noised(batch.x0, batch.eps, batch.t)
    v_hat = network(x_t, batch.t, batch.task, batch.condition, batch.mask)
    error: Tensor = (v_hat - v).square().mean(dim=1, keepdim=True)
    where = torch.where(batch.mask > 0, 1.0, OUTSIDE)
    each: Tensor = (error * where).sum(dim=(1, 2, 3)) / where.sum(dim=(1, 2, 3))
    return each


def validation_batches(photographs: tuple[Photograph, ...], settings: PriorSettings) -> Iterator[Batch]:
    """Fixed crops of the held-back pictures, each task at the same times: the same batches at every call."""
    window = settings.architecture.window
    for task in range(len(TASKS)):
        for part in range(2):
            generator = generator_of(0, part, stream=task + 1)
            crops = generator_of(0, part, stream=99)
            x0 = torch.stack([crop(p, window, crops) for p in photographs])
            count = len(x0)
            tasks = torch.full((count,), task)
            condition, mask = conditions(x0, tasks, generator)
            t = diffusion.stratified_times(count, generator)
            yield Batch(x0, t, torch.randn(x0.shape, generator=generator), tasks, condition, mask)


def validate(
    network: torch.nn.Module, photographs: tuple[Photograph, ...], settings: PriorSettings, pool: Executor
) -> dict[str, float]:
    """Mean weighted loss of each task on the held-back pictures."""

    @torch.no_grad()
    def measure(batch: Batch) -> tuple[str, Tensor]:
        return TASKS[int(batch.task[0])], losses(network, batch) * diffusion.weight(batch.t)

    found: dict[str, list[Tensor]] = defaultdict(list)
    for task, values in pool.map(measure, validation_batches(photographs, settings)):
        found[task].append(values)
    return {task: float(torch.cat(values).mean()) for task, values in found.items()}


@contextmanager
def stop_signals() -> Iterator[list[str]]:
    """Within it SIGINT and SIGTERM only fill the list; the loop then ends with a checkpoint."""
    seen: list[str] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(signal.Signals(number).name)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(collection: Collection) -> None:
    """Log what is used, with licences, and what is not."""
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


class Run:
    """One training run in a folder: `run()` goes to the last step, or to the time limit, or to a signal."""

    def __init__(self, settings: PriorSettings, resume: bool = False, init_from: Path | None = None) -> None:
        if resume and init_from is not None:
            raise EditkitError(
                "--resume and --init-from exclude each other: one continues a run, the other begins one"
            )
        self.workers = min(settings.threads or torch.get_num_threads(), settings.batch)
        if torch.cuda.is_available():
            self.workers = 1
        self.settings = settings
        self.collection = load_collection(settings.images, settings.architecture.window, settings.heldout)
        describe(self.collection)
        self.accelerator = Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available())
        bf16 = settings.dtype == "bf16" or (settings.dtype == "auto" and has_bf16())
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            network = Pocket(settings.architecture) if init_from is None else load(init_from)
        if network.architecture != settings.architecture:
            raise EditkitError(
                f"{init_from}: is of another architecture than this run's; leave out the options that differ"
            )
        hasten(network.unet)
        network.to(self.accelerator.device)
        self.trainer = Trainer(network.unet, settings, self.workers)
        to_dtype(network, self.dtype)
        self.network: Pocket = network
        self.replicas = [network, *(_replica(network) for _ in range(self.workers - 1))]
        self.trainer.replicas = [dict(replica.unet.named_parameters()) for replica in self.replicas]
        self.progress = Progress()
        if resume:
            self._resume()
        count = sum(p.numel() for p in network.parameters())
        log.info(
            "%.1f M parameters, %s, %d threads", count / 1e6, str(self.dtype).split(".")[-1], self.workers
        )

    def _resume(self) -> None:
        self.progress, tensors, before = load_checkpoint(self.settings.output, self.settings.architecture)
        try:
            self.trainer.restore(tensors)
        except KeyError as error:
            raise EditkitError(
                f"{self.settings.output}: the checkpoint lacks {error}; it is of another kind of run"
            ) from error
        old, new = before.model_dump(), self.settings.model_dump()
        changed = [f"{key} {old[key]} -> {new[key]}" for key in new if old[key] != new[key]]
        log.info(
            "resumed at step %d%s", self.progress.step, f"; changed: {', '.join(changed)}" if changed else ""
        )

    def step(self, pool: Executor, drawn: Future[Batch]) -> dict[str, float]:
        """One step of Algorithm 1; returns what it measured. Each worker takes its part of the batch."""
        batch = drawn.result()
        parts = [torch.arange(self.settings.batch)[i :: self.workers] for i in range(self.workers)]
        each = torch.empty(self.settings.batch)

        def work(replica: Pocket, rows: Tensor) -> None:
            part = batch.take(rows, self.accelerator.device)
            weighted = losses(replica, part) * diffusion.weight(part.t.cpu()).to(part.t.device)
            self.accelerator.backward(weighted.sum() / self.settings.batch)
            each[rows] = weighted.detach().cpu()

        list(pool.map(work, self.replicas, parts))
        if not bool(torch.isfinite(each).all()):
            raise EditkitError(
                f"step {self.progress.step}: the loss is not finite; lower --learning-rate and resume"
            )
        norm = self.trainer.update(self.progress.step, pool)
        found = {"loss": float(each.mean()), "gradient": norm}
        for index, name in enumerate(TASKS):
            if bool((batch.task == index).any()):
                found[name] = float(each[batch.task == index].mean())
        return found

    def run(self) -> Progress:
        """Train to the end; the folder then holds checkpoint, log, sheets and export/."""
        settings = self.settings
        settings.output.mkdir(parents=True, exist_ok=True)
        begun, before = time.monotonic(), self.progress.seconds
        recent: dict[str, list[float]] = defaultdict(list)
        with stop_signals() as signals, self._pool() as pool:
            following = pool.submit(draw, self.collection.training, settings, self.progress.step)
            while self.progress.step < settings.steps:
                drawn = following
                following = pool.submit(draw, self.collection.training, settings, self.progress.step + 1)
                for name, value in self.step(pool, drawn).items():
                    recent[name].append(value)
                seconds = before + time.monotonic() - begun
                step = self.progress.step + 1
                self.progress = Progress(step, self.progress.pictures + settings.batch, seconds)
                ended = bool(signals) or (
                    settings.minutes is not None and time.monotonic() - begun > settings.minutes * 60
                )
                last = ended or step == settings.steps
                if step % 25 == 0 or last:
                    self._record(
                        {name: sum(values) / len(values) for name, values in recent.items()}, "train"
                    )
                    recent.clear()
                if self.collection.heldout and (step % settings.measure_every == 0 or last):
                    self._measure(pool)
                if step % settings.sheet_every == 0 or last:
                    self._sheet()
                if step % settings.checkpoint_every == 0 or last:
                    self.save()
                if ended:
                    log.info("stopped at step %d (%s)", step, signals[0] if signals else "time limit")
                    break
        return self.progress

    def _record(self, figures: dict[str, float], kind: str) -> None:
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
    def averaged(self) -> Iterator[Pocket]:
        """The network with the averaged weights, within the block."""
        self.trainer.write_back(self.trainer.average)
        try:
            yield self.network
        finally:
            self.trainer.write_back(self.trainer.masters)

    @contextmanager
    def _pool(self) -> Iterator[Executor]:
        """The workers, and one more that draws the next batch meanwhile; within it every operation runs on
        one core.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(
                self.workers + 1, initializer=torch.set_num_threads, initargs=(1,)
            ) as pool:
                yield pool
        finally:
            torch.set_num_threads(threads)

    def _measure(self, pool: Executor) -> None:
        with self.averaged() as network:
            self._record(validate(network, self.collection.heldout, self.settings, pool), "validation")

    def _sheet(self) -> None:
        from editkit.training.sheets import training_sheet

        shown = self.collection.heldout or self.collection.training
        torch.set_num_threads(self.workers)
        with self.averaged() as network:
            sheet = training_sheet(network, shown)
        torch.set_num_threads(1)
        path = self.settings.output / "sheets" / f"step{self.progress.step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        sheet.save(path)

    def save(self) -> None:
        """Checkpoint and export."""
        settings = self.settings
        save_checkpoint(settings.output, settings, self.progress, self.trainer.state())
        folder = settings.output / "export"
        export(folder, settings.architecture, self.trainer.average)
        write_atomically(folder / "ATTRIBUTION.md", attribution(self.collection).encode())
        if settings.heldout is not None:
            write_atomically(folder / "heldout.txt", settings.heldout.read_bytes())
        log.info(
            "checkpoint and export at step %d in %s (process %d)",
            self.progress.step,
            settings.output,
            os.getpid(),
        )
