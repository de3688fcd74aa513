"""`editkit train`: train the embedded network, and show what it has learned."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from editkit.training.settings import Architecture, Settings

S = TypeVar("S", bound="Settings")

app = typer.Typer(
    help="Train the embedded network, and show what it has learned.",
    no_args_is_help=True,
    add_completion=False,
)


def _log_to_console() -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logger = logging.getLogger("editkit.training")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)


def _set(options: dict[str, Any]) -> dict[str, Any]:
    """Only what was given: the rest are the settings' own defaults."""
    return {name: value for name, value in options.items() if value is not None}


@app.callback()
def _group() -> None:
    """Train the embedded network, and show what it has learned."""


Images = Annotated[Path, typer.Option(help="Folder of photographs; manifest.json in it gives licences and authors.")]
Output = Annotated[Path, typer.Option(help="Folder of the run: checkpoint, log, sheets, export/.")]
Heldout = Annotated[Path | None, typer.Option(help="List of file names never trained on.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Length of the run; the learning rate falls to 0 at its end.")]
Minutes = Annotated[float | None, typer.Option(help="Stop, with a checkpoint, after so many minutes.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Windows a step.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of weights, crops, masks and noise.")]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate.")]
Rule = Annotated[str | None, typer.Option(help="muon or adamw.")]
Warmup = Annotated[int | None, typer.Option(min=0, help="Steps of warm-up.")]
Cooldown = Annotated[float | None, typer.Option(help="Last fraction of the run, in which the rate falls.")]
Average = Annotated[float | None, typer.Option(help="Width of the weight average, as a fraction of the run.")]
Arithmetic = Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Processor threads.")]
CheckpointEvery = Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")]
MeasureEvery = Annotated[int | None, typer.Option(min=1, help="Steps between validation losses.")]
SheetEvery = Annotated[int | None, typer.Option(min=1, help="Steps between sample sheets.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint in --output.")]


@contextmanager
def _told_in_words(output: Path) -> Iterator[None]:
    """Wrong values and what the disk refuses, as one line."""
    from pydantic import ValidationError

    from editkit.errors import EditkitError, UsageError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{'-'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from error
    except OSError as error:
        raise EditkitError(f"{error.filename or output}: {error.strerror or error}") from error


def _settings(kind: type[S], architecture: Architecture, given: dict[str, Any]) -> S:
    return kind(architecture=architecture, **_set({name: given[name] for name in kind.model_fields if name in given}))


@app.command()
def prior(
    images: Images,
    output: Output,
    heldout: Heldout = None,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: BatchSize = None,
    seed: Seed = None,
    learning_rate: Rate = None,
    optimizer: Rule = None,
    warmup: Warmup = None,
    cooldown: Cooldown = None,
    ema: Average = None,
    dtype: Arithmetic = None,
    threads: Threads = None,
    checkpoint_every: CheckpointEvery = None,
    measure_every: MeasureEvery = None,
    sheet_every: SheetEvery = None,
    channels: Annotated[str | None, typer.Option(help="Channels of each level, as 64,128,256.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Residual blocks a level.")] = None,
    window: Annotated[int | None, typer.Option(min=8, help="Side of the windows.")] = None,
    resume: Resume = False,
    init_from: Annotated[Path | None, typer.Option(help="Begin from an exported folder's weights.")] = None,
) -> None:
    """Train `pocket` on a folder of photographs: prior, inpainting, upscaling, colourisation in one
    network.
    """
    from editkit.errors import UsageError
    from editkit.training.settings import Architecture, PriorSettings, architecture_of

    given = dict(locals())
    if resume and init_from is not None:
        raise UsageError("--resume and --init-from exclude each other: one continues a run, the other begins one")
    shape = _set({name: given[name] for name in ("layers", "window")})
    if channels is not None:
        try:
            shape["channels"] = tuple(int(word) for word in channels.split(","))
        except ValueError as error:
            raise UsageError(f"--channels {channels}: whole numbers with commas, as 64,128,256") from error
    with _told_in_words(output):
        base = architecture_of(init_from or output / "export") if resume or init_from else {}
        settings = _settings(PriorSettings, Architecture.model_validate(base | shape), given)
        _log_to_console()
        from editkit.training.loop import Run
        from editkit.training.prior import PriorLesson

        Run(settings, PriorLesson(settings, init_from), resume=resume).run()


@app.command()
def distill(
    images: Images,
    output: Output,
    base: Annotated[Path, typer.Option(help="Folder of the teacher, as `train prior` or this exports it.")],
    student_steps: Annotated[int, typer.Option(min=1, help="Steps of the student; the teacher takes twice as many.")],
    heldout: Heldout = None,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: BatchSize = None,
    seed: Seed = None,
    learning_rate: Rate = None,
    optimizer: Rule = None,
    warmup: Warmup = None,
    cooldown: Cooldown = None,
    ema: Average = None,
    dtype: Arithmetic = None,
    threads: Threads = None,
    checkpoint_every: CheckpointEvery = None,
    measure_every: MeasureEvery = None,
    sheet_every: SheetEvery = None,
    resume: Resume = False,
) -> None:
    """Teach a copy of the network to take half the steps; run it again on the result for a quarter."""
    from editkit.training.settings import Architecture, DistillSettings, architecture_of

    given = dict(locals())
    with _told_in_words(output):
        settings = _settings(DistillSettings, Architecture.model_validate(architecture_of(base)), given)
        _log_to_console()
        from editkit.training.distill import DistillLesson
        from editkit.training.loop import Run

        Run(settings, DistillLesson(settings), resume=resume).run()


@app.command()
def controlnet(
    images: Images,
    output: Output,
    base: Annotated[Path, typer.Option(help="Folder of the network to steer, as `train prior` exports it.")],
    control: Annotated[str, typer.Option(help="The detector of the hints, as canny:low=50,high=150.")] = "canny",
    heldout: Heldout = None,
    steps: Steps = None,
    minutes: Minutes = None,
    batch: BatchSize = None,
    seed: Seed = None,
    learning_rate: Rate = None,
    optimizer: Rule = None,
    warmup: Warmup = None,
    cooldown: Cooldown = None,
    ema: Average = None,
    dtype: Arithmetic = None,
    threads: Threads = None,
    checkpoint_every: CheckpointEvery = None,
    measure_every: MeasureEvery = None,
    sheet_every: SheetEvery = None,
    resume: Resume = False,
) -> None:
    """Train a ControlNet for a network that stays as it is: hints of your photographs by one of the detectors."""
    from editkit import hints
    from editkit.training.settings import Architecture, ControlSettings, architecture_of

    given = dict(locals())
    hints.make(control)
    with _told_in_words(output):
        settings = _settings(ControlSettings, Architecture.model_validate(architecture_of(base)), given)
        _log_to_console()
        from editkit.training.controlnet import ControlLesson
        from editkit.training.loop import Run

        Run(settings, ControlLesson(settings), resume=resume).run()


@app.command()
def report(
    model: Annotated[Path, typer.Option(help="Folder of an exported network.")],
    images: Annotated[Path, typer.Option(help="Folder of the photographs.")],
    output: Annotated[Path, typer.Option(help="Folder for the sheets and figures.json.")],
    heldout: Annotated[
        Path | None, typer.Option(help="List of held-back names (default: the one in --model).")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Samples a picture for the means.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of crops and noise.")] = 0,
) -> None:
    """Measure a trained network on the held-back photographs and draw its sheets."""
    import json

    _log_to_console()
    from editkit.training.report import make_report

    figures = make_report(model, images, output, heldout or model / "heldout.txt", steps, samples, seed)
    typer.echo(json.dumps(figures, indent=2))


@app.command()
def classifier(
    images: Annotated[Path, typer.Option(help="Folder with one folder of pictures a label.")],
    output: Annotated[Path, typer.Option(help="Folder for config.json and model.safetensors.")],
    model: Annotated[
        str | None,
        typer.Option(help="Noise-aware, for this model's space and schedule; without it for clean pictures."),
    ] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Side of the pictures (default 32).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the optimizer (default 2000).")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures a step (default 64).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, order and noise (default 0).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate (default 0.001).")] = None,
    width: Annotated[int | None, typer.Option(min=8, help="Channels of the first stage (default 32).")] = None,
    stages: Annotated[int | None, typer.Option(min=1, max=6, help="Stages (default 3).")] = None,
    minutes: Annotated[float | None, typer.Option(help="Stop after so many minutes.")] = None,
    flip: Annotated[bool | None, typer.Option("--flip", help="Mirror half of the pictures.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Open no socket.")] = False,
) -> None:
    """Train a classifier for `editkit classifier`: folders of pictures are the labels."""
    from pydantic import ValidationError

    from editkit.errors import UsageError

    given = dict(locals())
    _log_to_console()
    from editkit.training.classifier import ClassifierSettings, read_folders, save, train

    names = set(ClassifierSettings.model_fields)
    try:
        settings = ClassifierSettings(**_set({name: given[name] for name in names}))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--{first['loc'][0]}: {first['msg']}, got {first['input']!r}".replace("_", "-")) from error
    guided = None
    if model is not None:
        import torch

        from editkit.models import describe, load

        guided = load(describe(model, offline=offline), torch.device("cpu"), torch.float32, offline=offline)
    network, config = train(read_folders(images, settings.size), settings, guided)
    save(network, config, output)
    kind = f"noise-aware, for {model}" if model else "for clean pictures"
    typer.echo(f"wrote {output}: {len(config['labels'])} labels, {kind}")
