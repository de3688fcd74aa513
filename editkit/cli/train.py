"""`editkit train`: train the embedded network, and show what it has learned."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import typer

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


@app.command()
def prior(
    images: Annotated[
        Path, typer.Option(help="Folder of photographs; manifest.json in it gives licences and authors.")
    ],
    output: Annotated[Path, typer.Option(help="Folder of the run: checkpoint, log, sheets, export/.")],
    heldout: Annotated[Path | None, typer.Option(help="List of file names never trained on.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Length of the run; the learning rate falls to 0 at its end.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop, with a checkpoint, after so many minutes.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows a step.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of weights, crops, masks and noise.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="muon or adamw.")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Steps of warm-up.")] = None,
    cooldown: Annotated[
        float | None, typer.Option(help="Last fraction of the run, in which the rate falls.")
    ] = None,
    ema: Annotated[
        float | None, typer.Option(help="Width of the weight average, as a fraction of the run.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, bf16 or fp32.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Processor threads.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(min=1, help="Steps between checkpoints.")] = None,
    measure_every: Annotated[int | None, typer.Option(min=1, help="Steps between validation losses.")] = None,
    sheet_every: Annotated[int | None, typer.Option(min=1, help="Steps between sample sheets.")] = None,
    channels: Annotated[str | None, typer.Option(help="Channels of each level, as 64,128,256.")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Residual blocks a level.")] = None,
    window: Annotated[int | None, typer.Option(min=8, help="Side of the windows.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the checkpoint in --output.")
    ] = False,
    init_from: Annotated[Path | None, typer.Option(help="Begin from an exported folder's weights.")] = None,
) -> None:
    """Train `pocket` on a folder of photographs: prior, inpainting, upscaling, colourisation in one
    network.
    """
    from pydantic import ValidationError

    from editkit.errors import EditkitError, UsageError
    from editkit.training.settings import Architecture, PriorSettings, architecture_of

    given = dict(locals())
    shape = _set({name: given[name] for name in ("layers", "window")})
    try:
        if channels is not None:
            shape["channels"] = tuple(int(word) for word in channels.split(","))
        base = architecture_of(output, init_from, resume)
        architecture = Architecture.model_validate(base | shape)
        names = set(PriorSettings.model_fields) - {"architecture"}
        settings = PriorSettings(architecture=architecture, **_set({name: given[name] for name in names}))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"--{'-'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from error
    except ValueError as error:
        raise UsageError(f"--channels {channels}: whole numbers with commas, as 64,128,256") from error

    _log_to_console()
    from editkit.training.prior import Run

    try:
        Run(settings, resume=resume, init_from=init_from).run()
    except OSError as error:
        raise EditkitError(f"{error.filename or output}: {error.strerror or error}") from error


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
