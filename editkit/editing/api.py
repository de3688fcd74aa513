"""The Python API: `edit` a picture, `plan` or `stream` an edit, and `sample` a model with plugins but no picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from editkit.common.notify import Notify, silent
from editkit.diffusion.convention import NoiseName
from editkit.diffusion.model import Model
from editkit.diffusion.noise import Noise
from editkit.editing.in_python import in_python, words
from editkit.editing.processes import process_of
from editkit.editing.result import format_figures, make
from editkit.editing.running import run_chain
from editkit.editing.settle import StagePlan, plan_stages
from editkit.editing.stages import Tell, Update
from editkit.engine import loop
from editkit.engine.loop import State
from editkit.errors import UsageError
from editkit.models.leasing import Load, Models
from editkit.pictures.files.writing import check_output
from editkit.pictures.picture import Picture
from editkit.plugin.chain import Chain, Edits, Stage
from editkit.plugin.options import Options, RunOptions
from editkit.plugin.params import PictureSource
from editkit.plugin.protocol import Figures, Plugin


def edit(
    picture: PictureSource,
    edits: Edits,
    *,
    model: str | Model = "auto",
    notify: Notify | None = None,
    models: Models | None = None,
    progress: Callable[[Update], None] | None = None,
    output: str | Path | None = None,
    force: bool = False,
    loader: Load | None = None,
    **options: Unpack[RunOptions],
) -> Picture:
    """Edit one picture: `edit("photo.png", Inpaint(mask="m.png") & Guide(...) | SDEdit(), steps=30)`.

    Args:
        picture: a path, a PIL image, the bytes of a file, an array (h, w, 3) of uint8 or uint16, or a `Picture`.
        edits: a plugin, a chain made with `&` (with) and `|` (then), or lists of plugins.
        model: a name as for `--model`, or a model object (for all stages).
        notify: called with messages for the user, one line each.
        models: cache of loaded models, for many pictures, one after another or at once; None: load for this call only.
        progress: called after every step with an `Update`, which has `fraction` and `image`.
        output: also write the result to this file, with its provenance; an existing file is an error before the edit.
        force: overwrite that file.
        loader: deprecated; use `models=Models(load=loader)`.
        options: the fields of `Options`, for all stages that do not set their own.

    Returns:
        The edited picture; `write` saves it.

    Raises:
        EditkitError: the edit failed. The message is one line and says how to fix it.
    """
    with in_python("edit"):
        if output is not None:
            check_output(output, force=force)
        chain = _chain_with_options(edits, model, options)
        own = None if isinstance(model, str) else model
        kept = _model_store(models, loader)
        made = make(
            Picture.read(picture), chain, watch=progress or (), notify=_with_python_names(notify), models=kept, own=own
        )
        if output is not None:
            name = picture if isinstance(picture, str | Path) else None
            made.write(output, force=force, provenance=made.provenance(name, Path(output).parent))
        return made.picture


def stream(
    picture: PictureSource,
    edits: Edits,
    *,
    model: str | Model = "auto",
    notify: Notify | None = None,
    models: Models | None = None,
    tell: Tell | None = None,
    loader: Load | None = None,
    **options: Unpack[RunOptions],
) -> RunningEdit:
    """Edit one picture step by step: yields an `Update` after every step, and `result` is the edited picture::

        making = stream("photo.png", SDEdit())
        for update in making:
            print(update.fraction)
        making.result.write("out.png")

    Leave the loop to stop. Arguments are those of `edit`; `tell` is called with the figures that plugins measure on the
    result (`Hooks.measure`).
    """
    python_notify = _with_python_names(notify)

    def tell_figures(stage: int, plugin: str, figures: Figures) -> None:
        python_notify(format_figures(plugin, figures))
        if tell is not None:
            tell(stage, plugin, figures)

    def steps() -> Generator[Update, None, Picture]:
        with in_python("stream"):
            return (yield from run_chain(Picture.read(picture), chain, own, python_notify, kept, tell_figures))

    with in_python("stream"):
        chain = _chain_with_options(edits, model, options)
    own, kept = None if isinstance(model, str) else model, _model_store(models, loader)
    return RunningEdit(steps())


def _model_store(models: Models | None, loader: Load | None) -> Models | None:
    """Where loaded models are kept; `loader` is what the release before took."""
    if loader is None:
        return models
    warnings.warn("loader= is now models=Models(load=loader)", DeprecationWarning, stacklevel=3)
    return models or Models(load=loader)


class RunningEdit(Generator[Update, None, Picture]):
    """A running edit: an iterator over its steps, with the result."""

    def __init__(self, steps: Generator[Update, None, Picture]) -> None:
        self._steps = steps
        self._result: Picture | None = None

    @property
    def result(self) -> Picture:
        """The edited picture; runs the remaining steps first.

        Raises:
            UsageError: the edit was stopped.
        """
        for _ in self:
            pass
        if self._result is None:
            raise UsageError("this edit was stopped or failed before its end, so it has no result; stream it again")
        return self._result

    def send(self, value: None) -> Update:
        try:
            return self._steps.send(value)
        except StopIteration as done:
            self._result = done.value or self._result
            raise StopIteration(self._result) from None

    def throw(self, *error: Any) -> Update:
        return self._steps.throw(*error)

    def close(self) -> None:
        self._steps.close()


def _with_python_names(notify: Notify | None) -> Notify:
    """Wrap `notify` so that messages use Python's names of options."""
    return silent if notify is None else lambda message: notify(words(message))


def plan(
    picture: PictureSource,
    edits: Edits,
    *,
    model: str | Model = "auto",
    notify: Notify | None = None,
    **options: Unpack[RunOptions],
) -> tuple[StagePlan, ...]:
    """Return what `edit` would do with the same arguments, and its cost, stage by stage. Loads no weights.

    Each `StagePlan` has the model, the sampler, the plugins in the order in which they act, the passes with their
    boxes, sizes and levels, and the number of network calls. Later stages are planned on the input picture, since the
    result of the stage before is unknown: sizes and masks are right, but colours are not.

    Args:
        picture, edits, model, notify, options: as for `edit`.

    Raises:
        EditkitError: `edit` would fail. The message is one line and says how to fix it.
    """
    own = None if isinstance(model, str) else model.info
    with in_python("plan"):
        return plan_stages(
            _chain_with_options(edits, model, options), Picture.read(picture), _with_python_names(notify), own
        )


def _chain_with_options(edits: Edits, model: str | Model, options: Mapping[str, Any]) -> Chain:
    """Return the chain of `edits` with options for all stages; options that a stage sets itself take precedence."""
    chain = Chain.of(edits)
    named = {"model": model} if isinstance(model, str) and model != "auto" else {}
    first = Stage(chain.stages[0].plugins, Options(**{**options, **named}).merged(chain.stages[0].options))
    return Chain((first, *chain.stages[1:])).inherited()


def sample(
    model: Model,
    plugins: Plugin | Sequence[Plugin] = (),
    *,
    shape: Sequence[int],
    known: Tensor | None = None,
    mask: Tensor | None = None,
    watch: Callable[[State], None] | None = None,
    notify: Notify = silent,
    noise: Noise | NoiseName = "streams",
    models: Models | None = None,
    **options: Any,
) -> Tensor:
    """Run one reverse process in the model's own space, without pictures; for research and tests.

    Args:
        model: any object that implements the `Model` protocol, such as `editkit.models.Gaussian`.
        plugins: one or several declarations (with).
        shape: shape of the state, (batch, channels, ...), in 1-D, 2-D or 3-D as the model takes.
        known: a clean sample, broadcastable to `shape`, for plugins that need it; for a latent model, pixels.
        mask: where to regenerate it (1), broadcastable likewise.
        watch: called with the engine's `State` after every move.
        notify: called with messages for the user.
        noise: source of random numbers: a value of the option `noise`, or a `Noise` object.
        models: cache for the plugins' networks.
        options: `sampler` (default ddpm), `steps` (100), `seed` (0), `spacing`, `device`.

    Returns:
        x_0 of `shape`, float32.
    """
    with (
        in_python("sample"),
        process_of(model, plugins, shape, known, mask, notify, noise, models, options) as process,
    ):
        return loop.run(process, watch)
