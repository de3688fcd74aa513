"""The contract of every plugin: checks on a cheap exact model, for `editkit plugins check NAME` and for tests.

In a plugin's own tests::

    @pytest.mark.parametrize("check", contract.CHECKS)
    def test_contract(check):
        contract.CHECKS[check](registry.load("NAME"))

Each check takes a declaration's class, creates it with the parameters of its `example`, and raises `ContractError` with
a message that says what is wrong and how to fix it. `NotChecked` says why a check could not be made. A check with many
cases returns those that could not be tried, with the reason (`LeftOut`).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.model import ModelInfo, PixelSpace
from editkit.diffusion.prediction import Prediction
from editkit.diffusion.schedule import Cosine, Level, Schedule
from editkit.editing.settle import START_FROM_PICTURE, plan_stage
from editkit.errors import ChainError, EditkitError, ExtraError, ModelError, RecipeError, UsageError
from editkit.pictures.picture import Picture
from editkit.plugin import registry
from editkit.plugin.chain import Chain
from editkit.plugin.protocol import Hooks, Plugin
from editkit.plugin.step import Run

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 4

T = TypeVar("T")

LeftOut = tuple[str, ...]
"""The cases that a check could not try, with the reason: one line each."""


class ContractError(EditkitError):
    """A plugin that breaks its contract."""


class NotChecked(EditkitError):  # noqa: N818
    """A check that could not be made, and why."""


class ExactModel(PixelSpace):
    """The exact model of x0 ~ N(0, s^2 I) on pictures of any size.

    E[x0 | x_t] = s^2 alpha_t x_t / (s^2 alpha_t^2 + sigma_t^2).

    Exact, cheap, and without weights. It takes any condition and ignores it; `calls` counts its evaluations.
    """

    clip: float | None = None

    def __init__(self, takes: frozenset[str] = frozenset()) -> None:
        self.info = ModelInfo("exact", "exact Gaussian", takes=takes, sampler="ddim", steps=STEPS)
        self.schedule: Schedule = Cosine()
        self.calls = 0

    def __call__(self, x_t: Tensor, level: Level, conds: Sequence[Conditioning]) -> tuple[Prediction, ...]:
        self.calls += 1
        s2 = self.data_std**2
        x0 = s2 * level.alpha / (s2 * level.alpha**2 + level.sigma**2) * x_t
        return (Prediction(x0, (x_t - level.alpha * x0) / level.sigma),) * len(conds)

    def attach(self, picture: Tensor | None, mask: Tensor | None) -> ExactModel:
        return self

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return zeros for any text."""
        import torch

        return Prompt(torch.zeros(1, 4, 8)), ""

    def refer(self, picture: Tensor) -> Reference:
        """Return the picture itself as a reference."""
        return Reference(picture, picture)


def picture() -> Picture:
    """Return a small picture of noise, always the same."""
    return Picture(np.random.default_rng(3).integers(0, 256, (30, 36, 3), dtype=np.uint8))


def model_for(*plugins: type[Plugin]) -> ExactModel:
    """Return an exact model that takes what these plugins need; of alternatives the first by name."""
    return ExactModel(frozenset(min(plugin.needs) for plugin in plugins if plugin.needs))


def example(plugin: type[Plugin]) -> Plugin:
    """Create the declaration with the parameters of its `example`."""
    try:
        return plugin(**plugin.example)
    except ValueError as error:
        raise ContractError(f"its example {dict(plugin.example)} is refused by its own fields: {error}") from error


def documented(plugin: type[Plugin]) -> None:
    """It has a docstring of its own, and every parameter a description."""
    require(bool((plugin.__doc__ or "").strip()), "its class needs a docstring of its own")
    for name, info in plugin.model_fields.items():
        require(bool(info.description), f"the parameter {name} needs a description: Field(..., description='...')")


def acting(plugin: type[Plugin]) -> None:
    """It returns a class of hooks, and overrides at least one."""
    made = example(plugin)
    hooks = made.hooks()
    made_of_hooks = isinstance(hooks, type) and issubclass(hooks, Hooks)
    require(made_of_hooks, f"hooks() returns {hooks!r}; a subclass of Hooks is needed")
    require(bool(made.uses()), "it overrides no hook, so it does nothing")


def light(plugin: type[Plugin]) -> None:
    """Its module does not import torch, so that the command line responds quickly."""
    code = f"import sys, {plugin.__module__}; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    require(not last, f"its module cannot be imported by itself: {last}")
    require(done.returncode == 0, "its module imports torch; import it inside the functions that need it")


def harmless(plugin: type[Plugin]) -> None:
    """It does not modify the input picture, and the result has the same bit depth."""
    source = picture()
    before = source.pixels.copy()
    result = _edit(source, example(plugin), model_for(plugin))
    require(np.array_equal(source.pixels, before), "it modifies the pixels of its input picture")
    require(result.pixels.dtype == before.dtype, f"it converts {before.dtype} to {result.pixels.dtype}")


def pure(plugin: type[Plugin]) -> None:
    """Its hooks do not modify their arguments."""

    def bind(self: Plugin, run: Run) -> Hooks[Plugin]:
        hooks = plugin.bind(self, run)
        for name in made.uses() & {"energy", "clean", "after", "finish"}:
            setattr(hooks, name, _check_unmodified(getattr(hooks, name), name))
        return hooks

    made = example(plugin)
    watched: Any = type(plugin.__name__, (plugin,), {"bind": bind, "__module__": plugin.__module__})
    _edit(picture(), watched(**plugin.example), model_for(plugin))


def _check_unmodified(hook: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap `hook` with a check that its argument is not modified."""

    @functools.wraps(hook)
    def checked(*args: Any) -> Any:
        tensor = args[-1]
        before = tensor.detach().clone()
        out = hook(*args)
        require(bool((tensor.detach() == before).all()), f"{name} modifies its argument; work on x.clone()")
        return out

    return checked


def repeatable(plugin: type[Plugin]) -> None:
    """The same seed gives the same bytes, and another seed another result, unless the plugin sets the initial state."""
    one, two, other = (_edit(picture(), example(plugin), model_for(plugin), seed=s).pixels for s in (1, 1, 2))
    require(np.array_equal(one, two), "the same seed gives another picture; draw from step.randn_like or run.stream")
    if "begin" not in example(plugin).claims():
        require(not np.array_equal(one, other), "another seed gives the same picture")


def neutral(plugin: type[Plugin]) -> None:
    """With its neutral parameters it changes no bit of the result."""
    if plugin.neutral is None:
        raise NotChecked("it declares no neutral parameters")
    model = model_for(plugin)
    base = registry.load(START_FROM_PICTURE)()
    idle = plugin(**{**plugin.example, **plugin.neutral})
    if "begin" in idle.claims():
        raise NotChecked("it sets the initial state, so there is nothing to compare it with")
    without, with_it = _edit(picture(), base, model), _edit(picture(), base & idle, model)
    same = np.array_equal(without.pixels, with_it.pixels)
    require(same, f"with its neutral parameters {dict(plugin.neutral)} it changes the result")


def counted(plugin: type[Plugin]) -> None:
    """The plan has the right number of network calls."""
    composes(example(plugin) | registry.load(START_FROM_PICTURE)(), (plugin,))


def composes(chain: Chain, plugins: Sequence[type[Plugin]]) -> None:
    """Run `chain`, made of `plugins`, and check that it calls the network as often as its plan says.

    Additional evaluations by plugins may be of their own networks or of the model.
    """
    model = model_for(*plugins)
    planned, beside, current = 0, 0, picture()
    for stage in chain.using(steps=STEPS).inherited().stages:
        stage = type(stage)(stage.plugins, stage.options.merged(type(stage.options)(steps=STEPS)))
        settled = plan_stage(stage, current, info=model.info)
        planned, beside = planned + settled.calls, beside + settled.beside
        current = settled.picture.with_mask(None)
    _edit(picture(), chain, model)
    allowed = (planned, planned + beside)
    require(model.calls in allowed, f"the plan says {planned} network calls, but there were {model.calls}")


def combines(plugin: type[Plugin]) -> LeftOut:
    """It can be combined with every installed plugin (`with`, `then`), or the conflict is reported in advance."""
    left: dict[str, list[str]] = {}
    tried = 0
    for name in registry.names():
        try:
            other = registry.load(name)
            second = example(other)
        except EditkitError as error:  # the other plugin's fault
            left[f"{name}: that plugin is broken: {error}"] = ["with", "before"]
            continue
        for how, chain in (("with", example(plugin) & second), ("before", example(plugin) | second)):
            try:
                _check_composes(chain, (plugin, other), name)
            except (
                ModelError,
                ExtraError,
                NotChecked,
                UsageError,
            ) as error:  # the two examples do not fit together, or need more
                left.setdefault(f"{name}: {error}", []).append(how)
            else:
                tried += 1
    left_out = tuple(f"{' and '.join(ways)} {what}" for what, ways in left.items())
    if not tried:
        raise NotChecked(f"it could be tried with no other plugin: {left_out[0] if left_out else 'there is none'}")
    return left_out


def _check_composes(chain: Chain, plugins: Sequence[type[Plugin]], name: str) -> None:
    """Run `composes`; a conflict is fine if its message names both plugins. `name`: the second one's, for messages."""
    try:
        composes(chain, plugins)
    except ChainError as error:
        named = plugins[0].name in str(error) and name in str(error)
        require(named, f"with {name}: the conflict does not name both: {error}")
    except ContractError as error:
        raise ContractError(f"with {name}: {error}") from error


def written(plugin: type[Plugin]) -> None:
    """A recipe of it reads back as the same declaration."""
    from editkit.editing import recipe

    chain = Chain.of(example(plugin))
    try:
        text = recipe.to_yaml(chain)
    except RecipeError as error:
        raise NotChecked(f"its example cannot be written: {error}") from error
    require(recipe.from_yaml(text).stages[0].plugins == chain.stages[0].plugins, "its recipe reads back differently")


def _edit(source: Picture, edits: Plugin | Chain, model: ExactModel, seed: int = 0) -> Picture:
    from editkit.editing.api import edit

    try:
        return edit(source, edits, model=model, steps=STEPS, seed=seed)
    except ModelError as error:
        raise NotChecked(f"its example needs a model that is not available: {error}") from error


def require(kept: bool, wrong: str) -> None:
    if not kept:
        raise ContractError(wrong)


Check = Callable[[type[Plugin]], LeftOut | None]
"""Raises ContractError if a plugin violates it, and NotChecked if that cannot be determined. Its docstring states the
requirement. Returns the cases that it left out."""

CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (documented, acting, light, written, harmless, pure, repeatable, neutral, counted, combines)
}
"""Name -> check, in the order in which they are made."""


@dataclass(frozen=True)
class Verdict:
    """The result of one check: kept (True), violated (False) or not checked (None), with the reason.

    For a check that is kept: the cases that it could not try.
    """

    check: str
    kept: bool | None
    reason: str = ""
    left_out: LeftOut = ()


def verdicts(checked: T, checks: Mapping[str, Callable[[T], LeftOut | None]]) -> Iterator[Verdict]:
    """Run all checks on one plugin (or another kind of object), each independently of the others."""
    for name, check in checks.items():
        try:
            left_out = check(checked)
        except (NotChecked, ExtraError) as error:
            yield Verdict(name, None, str(error))
        except EditkitError as error:
            yield Verdict(name, False, str(error))
        except Exception as error:
            yield Verdict(name, False, f"raised {type(error).__name__}: {error}")
        else:
            yield Verdict(name, True, left_out=left_out or ())
