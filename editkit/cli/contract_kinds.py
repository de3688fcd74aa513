"""The contracts of samplers, models, mask words, batch engines and hint detectors.

There is one contract for each kind of entry point other than plugins (`editkit.editing.contract`), for `editkit plugins
check NAME` and for tests. A check takes the name, loads the entry point, and raises `ContractError` if it is violated.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from editkit.batch import engines
from editkit.batch.folder import Item
from editkit.diffusion import samplers
from editkit.diffusion.adaptive import Adaptive
from editkit.diffusion.conditioning import Conditioning
from editkit.diffusion.plan import Move
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import VE, Cosine, Flow, Schedule
from editkit.editing.contract import ExactModel, LeftOut, NotChecked, require
from editkit.errors import ModelError, UsageError
from editkit.models import families
from editkit.models.files.layout import Layout
from editkit.pictures import shapes
from editkit.pictures.picture import Picture
from editkit.plugin import hints, registry

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.diffusion.schedule import Level

Check = Callable[[str], LeftOut | None]

TABLES: Mapping[str, Schedule] = {"cosine": Cosine(), "flow": Flow(), "VE": VE(0.02, 20.0)}


def picture() -> Picture:
    """Return a small picture with transparency, 64x48, always the same."""
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    alpha = np.full((48, 64), 255, np.uint8)
    alpha[:10, :10] = 0
    return replace(Picture(pixels), alpha=alpha)


# -- samplers


def documented_sampler(name: str) -> None:
    """Its class has a docstring of its own."""
    require(bool((samplers.load(name).__doc__ or "").strip()), "its class needs a docstring of its own")


def walks(name: str) -> LeftOut:
    """It gives finite results on every schedule in 1, 4 and 20 steps, with the declared number of calls.

    An adaptive sampler may make more calls.
    """
    left: list[str] = []
    for table, schedule in TABLES.items():
        for steps in (1, 4, 20):
            sampler = samplers.make_sampler(name)
            try:
                levels = schedule.levels(steps, grid=sampler.grid)
            except UsageError as error:
                left.append(f"the {table} schedule in {steps} steps: it has no levels there: {error}")
                continue
            on = sampler.on(schedule) if isinstance(sampler, Adaptive) else sampler
            made, calls = _run_sampler(on, levels)
            planned = sum(sampler.calls(Move(k, k - 1)) for k in range(steps, 0, -1))
            require(math.isfinite(float(made.sum())), f"it makes NaN or infinity ({table}, {steps} steps)")
            right = calls == planned or (calls > planned and on is not sampler)
            require(right, f"it says {planned} network calls and makes {calls} ({table}, {steps} steps)")
    if len(left) == 3 * len(TABLES):
        raise NotChecked(f"it works on no schedule: {left[0]}")
    return tuple(left)


def remembers_nothing(name: str) -> None:
    """It has no state: one object gives the same result twice, and does not modify x_t."""
    sampler = samplers.make_sampler(name)
    levels = Cosine().levels(6, grid=sampler.grid)
    first, second = (_run_sampler(sampler, levels)[0] for _ in range(2))
    require(bool((first == second).all()), "the same object gives another result the second time; return its memory")


def goes_up(name: str) -> None:
    """If it is reversible, it maps a picture to its noise."""
    import torch

    sampler = samplers.make_sampler(name)
    if not sampler.reversible:
        raise NotChecked("it is not declared as reversible")
    levels, model = Cosine().levels(20, grid=sampler.grid), ExactModel()
    x, memory = torch.full((1, 3, 4, 4), 0.3), None

    def predict(x: Tensor, at: Level) -> Prediction:
        """Predict at the next level instead of the clean one, as the engine does."""
        return model(x, at if at.sigma > 0.0 else levels[1], (Conditioning(),))[0]

    for t, s in pairwise(levels):
        x, memory = sampler.step(x, t, s, predict, _zero_noise, memory)
    require(math.isfinite(float(x.sum())), "it makes NaN or infinity on the way up")


def _zero_noise(t: Level, s: Level) -> Tensor:
    import torch

    return torch.zeros(1, 3, 4, 4)


def _run_sampler(sampler: samplers.Sampler, levels: tuple[Level, ...]) -> tuple[Tensor, int]:
    """Run the sampler from noise on the exact model: (final state, number of network calls)."""
    import torch

    model, generator = ExactModel(), torch.Generator().manual_seed(0)

    def noise(t: Level, s: Level) -> Tensor:
        return torch.randn((2, 3, 4, 4), generator=generator)

    x, memory = levels[-1].sigma * torch.randn((2, 3, 4, 4), generator=generator), None
    for t, s in zip(levels[:0:-1], levels[-2::-1], strict=True):
        before = x.clone()
        made, memory = sampler.step(x, t, s, lambda x, at: model(x, at, (Conditioning(),))[0], noise, memory)
        require(bool((x == before).all()), "it modifies its input state; work on a copy")
        x = made
    return x, model.calls


# -- models


def says_what_it_is(name: str) -> None:
    """A family describes itself and rejects an empty folder; a named model returns its own name."""
    found = families.load_family(name)
    if isinstance(found, families.Family):
        require(bool(str(found.KNOWN).strip()), "KNOWN must say in words which models these are")
        with tempfile.TemporaryDirectory() as empty:
            require(not found.matches(Layout("empty", Path(empty))), "matches() says that an empty folder is its own")
    if isinstance(found, families.Named):
        require(found.info().name == name, f"info() is of {found.info().name!r}; the entry point's name is {name!r}")


def keeps_the_model_protocol(name: str) -> None:
    """A named model predicts, encodes and decodes in the shapes that it declares."""
    import torch

    from editkit.diffusion.model import Enlarges
    from editkit.models import load

    found = families.load_family(name)
    if not isinstance(found, families.Named):
        raise NotChecked("a family of folders: there is none here to load; test it on a folder of your own")
    model = load(found.info(), torch.device("cpu"), torch.float32, offline=True)
    generator = torch.Generator().manual_seed(0)
    side = model.info.multiple * -(-32 // model.info.multiple)
    image = 0.5 * torch.randn((1, 3, side, side), generator=generator).clamp(-1, 1)
    mask = torch.zeros(1, 1, side, side)
    mask[..., : side // 3, : side // 3] = 1.0
    cond = Conditioning()
    if isinstance(model, Enlarges) and not model.info.own_picture:  # it knows nothing but a small picture
        model, cond = model.enlarging(image[..., ::2, ::2], 2.0), Conditioning(lowres=image)
    model = model.attach(image, mask)
    shape = (1, *model.shape(side, side))
    x0 = model.encode(image)
    require(tuple(x0.shape) == shape, f"encode gives {tuple(x0.shape)}, shape() says {shape}")
    require(tuple(model.decode(x0).shape) == (1, 3, side, side), "decode does not give the picture's size back")
    level = model.schedule.levels(4)[3]
    x_t = level.alpha * x0 + level.sigma * torch.randn(shape, generator=generator)
    for made in model(x_t, level, (cond,)):
        fits = tuple(made.x0.shape) == shape == tuple(made.eps.shape)
        require(fits and math.isfinite(float(made.x0.sum())), "a prediction is not finite, or of another shape")


# -- masks


def draws(name: str) -> None:
    """Its example gives a mask of the picture's size, always the same, and does not modify the picture.

    The mask of a word that detects something (`finds`) may be empty.
    """
    shape, photo = shapes.load(name), picture()
    if shape.example is None:
        raise NotChecked("it needs a file")
    before = photo.pixels.copy()
    words = f"{name}:{shape.example}" if shape.example else name
    first, second = (shapes.from_words(words, photo) for _ in range(2))
    require(bool((first == second).all()), "the same words draw another mask the second time")
    require(shape.finds or float(first.max()) > 0.0, f"its example {words!r} draws nothing")
    require(np.array_equal(photo.pixels, before), "it changes the picture")


def written_as_named(name: str) -> None:
    """Its form begins with its name."""
    shape = shapes.load(name)
    require(shape.form.partition(":")[0] == name, f"its form {shape.form!r} does not begin with {name!r}")
    require(bool(shape.summary.strip()), "it needs a summary of one line")


# -- engines


def name_as_bytes(item: Item) -> engines.Result:
    """Work for the check: return the item's name as bytes, and an error for one item."""
    return engines.Result(item, item.name.encode(), error="as asked" if item.name == "3" else None)


def maps(name: str) -> None:
    """It returns every item once, with its result or error."""
    items = [Item(str(k), "", "", "") for k in range(7)]
    engine = engines.load_engine(name).make("", 1)
    results = list(engine(name_as_bytes, items))
    names = sorted(result.item.name for result in results)
    require(names == [item.name for item in items], f"of 7 items {len(results)} came back: {', '.join(names)}")
    require(all(r.data == r.item.name.encode() for r in results), "a result belongs to another item")
    require([r.item.name for r in results if r.error] == ["3"], "an item's error was lost")


# -- hints


def sees(name: str) -> None:
    """It returns a hint of the picture's size, and does not modify the picture."""
    photo = picture()
    before = photo.pixels.copy()
    try:
        hints.detect(hints.make(name), photo.pixels, offline=True)
    except ModelError as error:
        raise NotChecked(f"it needs weights that are not available: {error}") from error
    require(np.array_equal(photo.pixels, before), "it changes the picture")


def _by_name(*checks: Check) -> dict[str, Check]:
    return {check.__name__.replace("_", " "): check for check in checks}


CONTRACTS: dict[str, tuple[Callable[[], list[str]], dict[str, Check]]] = {
    "sampler": (samplers.SAMPLERS.names, _by_name(documented_sampler, walks, remembers_nothing, goes_up)),
    "model": (families.FAMILIES.names, _by_name(says_what_it_is, keeps_the_model_protocol)),
    "mask": (shapes.MASKS.names, _by_name(written_as_named, draws)),
    "engine": (engines.ENGINES.names, _by_name(maps)),
    "hint": (hints.names, _by_name(sees)),
}
"""Kind of entry point -> (its names, its checks)."""


def kinds_of(name: str) -> list[str]:
    """Return the kinds that have an entry called `name`; `plugin` is one of them."""
    found = [kind for kind, (names, _) in CONTRACTS.items() if name in names()]
    return (["plugin"] if name in registry.names() else []) + found
