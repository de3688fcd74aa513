"""An edit with everything that is reported about it: the result, its cost, its models, which pixels it could change.

All commands call `make`, for one picture at a time: the edit commands, `editkit batch`, `grid`, `rerun`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from editkit.common.notify import Notify, silent
from editkit.pictures.picture import Picture
from editkit.pictures.shapes import Mask
from editkit.plugin.chain import Chain

if TYPE_CHECKING:
    from editkit.diffusion.model import Model, ModelInfo
    from editkit.editing.drifting import Drift
    from editkit.editing.stages import Update
    from editkit.models.leasing import Models
    from editkit.pictures.files.provenance import Provenance
    from editkit.pictures.files.writing import Written
    from editkit.plugin.protocol import Figures

Watch = Callable[["Update"], None]
"""Callback after every move of an edit."""


@dataclass
class Made:
    """The result of an edit.

    Args:
        source: the input picture.
        chain: the edit, with inherited options.
        picture: the result, without mask.
        calls: number of network evaluations.
        models: the model of each stage.
        masks: what each stage could change; None: everything.
        examples: for each stage, hashes of the further pictures that were learnt from.
        figures: figures that plugins measured on the result: (stage, plugin, name -> value).
    """

    source: Picture
    chain: Chain
    picture: Picture
    calls: int = 0
    models: dict[int, ModelInfo] = field(default_factory=dict)
    masks: dict[int, Mask | None] = field(default_factory=dict)
    examples: dict[int, tuple[str, ...]] = field(default_factory=dict)
    figures: list[tuple[int, str, dict[str, float | str]]] = field(default_factory=list)

    @property
    def changeable(self) -> Mask | None:
        """Return where any stage could change the result: (H, W), above 0; None: everywhere."""
        masks = [mask for mask in self.masks.values() if mask is not None]
        shape = self.picture.pixels.shape[:2]
        if len(masks) < max(len(self.masks), 1) or any(mask.shape != shape for mask in masks):
            return None
        union: Mask = np.max(masks, axis=0)
        return union

    @property
    def kept_deviation(self) -> int | None:
        """Return the largest change of a channel outside the changeable area, in the picture's levels; 0 as promised.

        None if everything could change, or the result has another size.
        """
        mask, before, after = self.changeable, self.source.pixels, self.picture.pixels
        if mask is None or before.shape != after.shape or before.dtype != after.dtype:
            return None
        kept = mask == 0
        return int(np.abs(before[kept].astype(np.int32) - after[kept]).max(initial=0))

    def provenance(self, name: str | Path | None, base: Path) -> Provenance:
        """Return the provenance. `name` is that of the edited file; paths are written relative to `base`."""
        from editkit.editing import recipe
        from editkit.editing.named_weights import named_weights
        from editkit.models.files.fingerprint import fingerprint
        from editkit.pictures.files.provenance import Provenance

        return Provenance.of(
            recipe.to_mapping(self.chain, base),
            models=tuple((info.name, fingerprint(info)) for info in self.models.values()),
            files=named_weights(self.chain),
            seed=self.chain.stages[0].options.seed,
            picture=self.source,
            name=name,
            mask=self.masks.get(0),
            examples=itertools.chain.from_iterable(self.examples.values()),
        )

    def write(
        self, path: str | Path, *, force: bool = False, provenance: Provenance | None = None, quality: int | None = None
    ) -> Written:
        """Write the result atomically; see `editkit.pictures.files.writing.write`."""
        return self.to_write().write(path, force=force, provenance=provenance, quality=quality)

    def to_write(self) -> Picture:
        """Return the result with the changeable area as its mask, to measure a lossy format's effect on the rest."""
        return self.picture.with_mask(self.changeable)


def format_figures(plugin: str, figures: Figures) -> str:
    """Format a plugin's figures about the result in one line."""
    texts = {name: value if isinstance(value, str) else f"{value:.3g}" for name, value in figures.items()}
    return f"{plugin}: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in texts.items())


def hashes(examples: Iterable[Picture], source: Picture) -> tuple[str, ...]:
    """Return the hashes of a stage's `examples`, except its own picture."""
    from editkit.pictures.files.provenance import hash_pixels

    return tuple(hash_pixels(example) for example in examples if example is not source)


def make(
    picture: Picture,
    chain: Chain,
    *,
    watch: Watch | Sequence[Watch] = (),
    notify: Notify = silent,
    models: Models | None = None,
    own: Model | None = None,
    drift: Drift | None = None,
) -> Made:
    """Edit `picture`.

    Args:
        picture: the input picture.
        chain: the edit.
        watch: called after every move.
        notify: called with messages for the user.
        models: cache of loaded models.
        own: a model object for all stages; None: the models named by options.
        drift: motion of the noise, for a video's frame.

    Raises:
        EditkitError: the edit failed. The message is one line and says how to fix it.
    """
    from editkit.editing.running import run_chain

    watchers = (watch,) if callable(watch) else tuple(watch)
    chain = chain.inherited()
    made = Made(picture, chain, picture)

    def tell(stage: int, plugin: str, figures: Figures) -> None:
        made.figures.append((stage, plugin, dict(figures)))
        notify(format_figures(plugin, figures))

    making = run_chain(picture, chain, own, notify, models, tell, drift)
    before, current = 0, (-1, 0, 0)
    while True:
        try:
            update = next(making)
        except StopIteration as done:
            made.picture = done.value
            return made
        if (update.stage, update.draw, update.pass_) != current:
            before, current = 0, (update.stage, update.draw, update.pass_)
            made.models[update.stage] = update.plan.info
            made.masks[update.stage] = update.plan.picture.mask
            if update.stage not in made.examples:
                made.examples[update.stage] = hashes(update.plan.examples, update.plan.source)
        made.calls += update.state.calls - before
        before = update.state.calls
        for each in watchers:
            each(update)
