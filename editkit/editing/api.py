"""Edits from Python: `edit` a picture, `plan` or `stream` its making, `sample` a model with plugins and no picture."""

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
from editkit.editing.made import make, measured
from editkit.editing.processes import process_of
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
        model: a name as for `--model`, or a model of one's own (for all stages).
        notify: is called with what a user should know (one line each).
        models: where loaded models are kept, for many pictures, one after another or at once; None: for this one.
        progress: is called after every step with an `Update`, which has `fraction` and `image`.
        output: also write the result there, with how it was made; a file that is there is found before the work.
        force: replace that file.
        loader: what `models` was in the release before; `models=Models(load=loader)` now.
        options: those of `Options`, for all stages that do not set their own.

    Returns:
        The edited picture; `write` saves it.

    Raises:
        EditkitError: with one line that says how to mend it.
    """
    with in_python("edit"):
        if output is not None:
            check_output(output, force=force)
        chain = _asked(edits, model, options)
        own = None if isinstance(model, str) else model
        kept = _kept(models, loader)
        made = make(Picture.read(picture), chain, watch=progress or (), notify=_told(notify), models=kept, own=own)
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
) -> Making:
    """As `edit`, step by step: yields an `Update` after every step, and its `result` is the picture::

        making = stream("photo.png", SDEdit())
        for update in making:
            print(update.fraction)
        making.result.write("out.png")

    Leave the loop to stop. `tell` is given what plugins measure of the result (`Hooks.measure`).
    """
    said = _told(notify)

    def told(stage: int, plugin: str, figures: Figures) -> None:
        said(measured(plugin, figures))
        if tell is not None:
            tell(stage, plugin, figures)

    def steps() -> Generator[Update, None, Picture]:
        with in_python("stream"):
            return (yield from run_chain(Picture.read(picture), chain, own, said, kept, told))

    with in_python("stream"):
        chain = _asked(edits, model, options)
    own, kept = None if isinstance(model, str) else model, _kept(models, loader)
    return Making(steps())


def _kept(models: Models | None, loader: Load | None) -> Models | None:
    """Where loaded models are kept; `loader` is what the release before took."""
    if loader is None:
        return models
    warnings.warn("loader= is now models=Models(load=loader)", DeprecationWarning, stacklevel=3)
    return models or Models(load=loader)


class Making(Generator[Update, None, Picture]):
    """The steps of an edit, and what comes of them."""

    def __init__(self, steps: Generator[Update, None, Picture]) -> None:
        self._steps = steps
        self._result: Picture | None = None

    @property
    def result(self) -> Picture:
        """The edited picture; what is not made yet is made.

        Raises:
            UsageError: the edit was stopped.
        """
        for _ in self:
            pass
        if self._result is None:
            raise UsageError("this edit was stopped (or failed) before its end, so it has no result; stream it again")
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


def _told(notify: Notify | None) -> Notify:
    """`notify`, which is told in Python's words."""
    return silent if notify is None else lambda message: notify(words(message))


def plan(
    picture: PictureSource,
    edits: Edits,
    *,
    model: str | Model = "auto",
    notify: Notify | None = None,
    **options: Unpack[RunOptions],
) -> tuple[StagePlan, ...]:
    """What `edit` would do with the same arguments, and what it would cost, stage by stage. Loads no weights.

    Each `StagePlan` has the model, the sampler, the plugins in the order they act, the passes with their boxes, sizes
    and levels, and the number of network calls. A later stage is settled on the picture as it came, since the result of
    the stage before is not known: its size and its masks are right, its colours are not.

    Args:
        picture, edits, model, notify, options: as `edit` takes them.

    Raises:
        EditkitError: `edit` would be refused; with one line that says how to mend it.
    """
    own = None if isinstance(model, str) else model.info
    with in_python("plan"):
        return plan_stages(_asked(edits, model, options), Picture.read(picture), _told(notify), own)


def _asked(edits: Edits, model: str | Model, options: Mapping[str, Any]) -> Chain:
    """The chain of `edits`, with what is asked for all its stages, which their own options win over."""
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
    """One reverse process in the model's own space, without pictures: for research and tests.

    Args:
        model: anything that keeps the `Model` protocol, as `editkit.models.Gaussian`.
        plugins: one or several declarations (with).
        shape: (batch, channels, ...): 1-D, 2-D, 3-D, whatever the model takes.
        known: for plugins that need it: a clean sample, broadcastable to `shape`; pixels, for a model of latents.
        mask: where to regenerate it (1), broadcastable likewise.
        watch: is called with the engine's `State` after every move.
        models: where networks of plugins are kept.
        noise: where random numbers come from: as the option of that name, one draw for the whole batch; or a source.
        options: `sampler` (default ddpm), `steps` (100), `seed` (0), `spacing`, `device`.

    Returns:
        x_0 of `shape`, float32.
    """
    with (
        in_python("sample"),
        process_of(model, plugins, shape, known, mask, notify, noise, models, options) as process,
    ):
        return loop.run(process, watch)
