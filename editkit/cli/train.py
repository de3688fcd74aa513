"""`editkit train`: train the embedded network, and measure what it has learned."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from editkit.cli.options import with_options
from editkit.cli.words import option_name
from editkit.common.spec import field_and_reason
from editkit.errors import EditkitError, UsageError
from editkit.plugin.params import Param, params
from editkit.training.settings import (
    Architecture,
    ClassifierSettings,
    ControlSettings,
    DenoiserSettings,
    DistillSettings,
    PriorSettings,
    Settings,
    architecture_of,
)

if TYPE_CHECKING:
    from editkit.training.loop import Lesson

S = TypeVar("S", bound=Settings)
Command = Callable[[dict[str, Any]], None]

app = typer.Typer(
    help="Train the embedded network, and measure what it has learned.",
    no_args_is_help=True,
    add_completion=False,
)

RESUME = Param("resume", "flag", "Continue from the checkpoint in --output.", False, False)
INIT_FROM = Param("init_from", "text", "Start from the weights of an exported folder.", None, False, metavar="DIR")


@app.callback()
def _group() -> None:
    """Train the embedded network, and measure what it has learned."""


def _with_options(settings: type[BaseModel], *more: Param) -> Callable[[Command], Command]:
    """Register a command whose options are the fields of `settings` and `more`; it is called with the given values."""

    def register(command: Command) -> Command:
        def collect(**given: Any) -> None:
            command({name: value for name, value in given.items() if value is not None})

        own = [p for p in params(settings) if p.name != "architecture"]
        wrapped = with_options(collect, {}, {"the run": [*own, *more]})
        app.command(name=command.__name__, help=inspect.getdoc(command))(wrapped)
        return command

    return register


def _architecture() -> list[Param]:
    """Return the options of the network's architecture; its channels as one value."""
    chosen = {p.name: p for p in params(Architecture) if p.name in ("channels", "layers", "window")}
    return [replace(chosen.pop("channels"), kind="text", repeated=False), *chosen.values()]


def _log_to_console() -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    handler = RichHandler(console=Console(stderr=True), show_path=False, show_level=False)
    logger = logging.getLogger("editkit.training")
    logger.handlers[:] = [handler]
    logger.setLevel(
        logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING
    )  # only the first process logs


@contextmanager
def _report_errors(given: dict[str, Any]) -> Iterator[None]:
    """Report invalid values and file errors in one line."""
    try:
        yield
    except ValidationError as error:
        field, reason = field_and_reason(error)
        raise UsageError(f"{option_name(field) if field else 'the parameters'}: {reason}") from error
    except OSError as error:
        raise EditkitError(f"{error.filename or given['output']}: {error.strerror or error}") from error


def _settings(kind: type[S], architecture: Architecture, given: dict[str, Any]) -> S:
    """Build a run's settings from the given values; the rest are defaults."""
    return kind(architecture=architecture, **{name: given[name] for name in kind.model_fields if name in given})


@_with_options(PriorSettings, *_architecture(), RESUME, INIT_FROM)
def prior(given: dict[str, Any]) -> None:
    """Train `pocket` on a folder of photographs: one network for generation, inpainting, upscaling and
    colourisation.
    """
    resume, init_from = given.get("resume", False), given.get("init_from")
    if resume and init_from is not None:
        raise UsageError("--resume and --init-from exclude each other: one continues a run, the other starts a new one")
    shape = {name: given[name] for name in Architecture.model_fields if name in given}
    with _report_errors(given):
        before = init_from or (Path(given.get("output", ".")) / "export" if resume else None)
        base = architecture_of(Path(before)) if before else {}
        settings = _settings(PriorSettings, Architecture.model_validate(base | shape), given)
        _log_to_console()
        from editkit.training.prior import PriorLesson

        _run(settings, lambda: PriorLesson(settings, Path(init_from) if init_from else None), resume)


@_with_options(DenoiserSettings, *_architecture(), RESUME)
def denoiser(given: dict[str, Any]) -> None:
    """Train `denoiser` on a folder of photographs: it removes white noise, a camera's noise and JPEG artefacts."""
    shape = {name: given[name] for name in Architecture.model_fields if name in given}
    with _report_errors(given):
        base = DenoiserSettings.model_fields["architecture"].default.model_dump()
        settings = _settings(DenoiserSettings, Architecture.model_validate(base | shape), given)
        _log_to_console()
        from editkit.training.denoiser import DenoiserLesson

        _run(settings, lambda: DenoiserLesson(settings), given.get("resume", False))


def _run(settings: Settings, lesson: Callable[[], Lesson], resume: bool) -> None:
    """Run the training, in as many processes as torchrun started."""
    from editkit.training.device import device_of
    from editkit.training.loop import Run
    from editkit.training.process_group import join_process_group

    with join_process_group(settings.batch, device_of(settings)) as place:
        Run(settings, lesson(), resume=resume, together=place).run()


@_with_options(DistillSettings, RESUME)
def distill(given: dict[str, Any]) -> None:
    """Teach a copy of the network to take half the steps; run it again on the result for a quarter."""
    with _report_errors(given):
        settings = _settings(DistillSettings, _architecture_of_base(given), given)
        _log_to_console()
        from editkit.training.distill import DistillLesson

        _run(settings, lambda: DistillLesson(settings), given.get("resume", False))


@_with_options(ControlSettings, RESUME)
def controlnet(given: dict[str, Any]) -> None:
    """Train a ControlNet for a frozen network, with hints that one of the detectors makes from your photographs."""
    from editkit.plugin import hints

    with _report_errors(given):
        settings = _settings(ControlSettings, _architecture_of_base(given), given)
        hints.make(settings.control)
        _log_to_console()
        from editkit.training.controlnet import ControlLesson

        _run(settings, lambda: ControlLesson(settings), given.get("resume", False))


def _architecture_of_base(given: dict[str, Any]) -> Architecture:
    return Architecture.model_validate(architecture_of(Path(given.get("base", ""))))


@app.command()
def report(
    model: Annotated[Path, typer.Option(help="Folder of an exported network.")],
    images: Annotated[Path, typer.Option(help="Folder of the photographs.")],
    output: Annotated[Path, typer.Option(help="Folder for the sheets and figures.json.")],
    heldout: Annotated[Path | None, typer.Option(help="List of held-out names (default: the one in --model).")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps.")] = 20,
    samples: Annotated[int, typer.Option(min=1, help="Samples per picture for the means.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Seed of crops and noise.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing sheets and figures.")] = False,
) -> None:
    """Measure a trained network on the held-out photographs and draw its sheets."""
    import json

    _log_to_console()
    from editkit.training.report import make_report

    figures = make_report(model, images, output, heldout or model / "heldout.txt", steps, samples, seed, force)
    typer.echo(json.dumps(figures, indent=2))


@_with_options(
    ClassifierSettings,
    Param("images", "text", "Folder with one subfolder of pictures for each label.", None, True, metavar="DIR"),
    Param("output", "text", "Folder for config.json and model.safetensors.", None, True, metavar="DIR"),
    Param(
        "model",
        "text",
        "Train a noise-aware classifier for this model's space and schedule (default: for clean pictures).",
        None,
        False,
    ),
    Param("offline", "flag", "Never connect to the internet.", False, False),
    Param("force", "flag", "Replace an existing classifier.", False, False),
)
def classifier(given: dict[str, Any]) -> None:
    """Train a classifier for `editkit classifier` on folders of pictures, one for each label."""
    _log_to_console()
    for name in ("images", "output"):
        if name not in given:
            raise UsageError(f"--{name} is required: name a folder")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "train classifier runs in one process, but torchrun started several; start it without torchrun"
        )
    with _report_errors(given):
        settings = ClassifierSettings(**{k: v for k, v in given.items() if k in ClassifierSettings.model_fields})
    from editkit.training.classifier import FILES, read_folders, save, train
    from editkit.training.network import check_free

    model, offline, output = given.get("model"), given.get("offline", False), Path(given["output"])
    check_free(output, FILES, given.get("force", False))
    guided = None
    if model is not None:
        import torch

        from editkit.models import describe, load

        guided = load(describe(model, offline=offline), torch.device("cpu"), torch.float32, offline=offline)
    network, config = train(read_folders(Path(given["images"]), settings.size), settings, guided)
    save(network, config, output)
    kind = f"noise-aware, for {model}" if model else "for clean pictures"
    typer.echo(f"wrote {output}: {len(config['labels'])} labels, {kind}")
