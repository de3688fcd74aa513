"""The plugin protocol: a declaration, its hooks, and the step that every hook receives.

A plugin is a frozen pydantic model with the parameters (`Plugin`). What it does at each step of the reverse process is
in a `Hooks` object, which is created for one run and may hold tensors. Hooks return values and never modify their
arguments. The hooks, in the order in which the engine calls them::

    open       (picture, notify) -> picture  on the declaration: set the mask, grow the canvas
    examples   (picture) -> pictures         on the declaration: further pictures that `patches` may learn from
    default_options (info) -> options        on the declaration: preferred options, where the user gives none
    plan       (plan) -> plan                on the declaration: SDEdit starts lower, RePaint jumps back
    walk       (sampler) -> sampler          on the declaration: wrap the stage's sampler, as `invert` does
    levels     (levels, inputs) -> levels    on the declaration: other noise levels, as `denoise` needs
    bind       (run) -> Hooks                borrow networks, encode pictures; the only one with side effects
    begin      () -> x_t or None             the initial state                                      (slot)
    sampler    () -> Sampler or None         a transition x_t -> x_s of its own                     (slot)
    condition  (step, cond) -> cond          prompts, known picture and mask, ControlNet residuals
    branches   (step, cond) -> conds         the conditionings to evaluate, for `combine`
    combine    (step, predictions) -> one    classifier-free guidance and its variants              (slot)
    energy     (step, x0) -> (batch,)        -log p(y | x), weights included; None: does not act in this step
    shift      (step, dx0) -> dx0            bound, mask or rescale the shift of x0 by its own energy
    clean      (step, x0) -> x0              thresholding, projections
    after      (step, x_s) -> x_s            at the end of each flow move: put known regions back
    finish     (image) -> image              pixels -> pixels, at the picture's own resolution
    measure    (image) -> {name: value}      figures about the result, such as its distance to an observation

A plugin uses a hook by overriding it; nothing else is needed. `editkit plan` inspects the class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, model_validator

from editkit.common.extras import missing
from editkit.common.notify import Notify, silent
from editkit.diffusion.plan import Move, Plan
from editkit.errors import ChainError, EditkitError, HookError, short
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.declaration import Declaration
from editkit.plugin.options import Options
from editkit.plugin.sections import Section
from editkit.plugin.step import Inputs, Opening, Run, Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from editkit.diffusion.conditioning import Conditioning
    from editkit.diffusion.model import ModelInfo
    from editkit.diffusion.prediction import Prediction
    from editkit.diffusion.samplers import Sampler
    from editkit.diffusion.schedule import Levels
    from editkit.pictures.picture import Picture

__all__ = [
    "API", "CONDITIONS", "DECLARED", "HOOKS", "Hooks", "Inputs", "Notify", "Opening", "Plugin", "Run", "Slot", "Step",
    "Through", "called", "plugins_of", "silent",
]  # fmt: skip

R = TypeVar("R")

API = 1
"""Version of this protocol. A plugin written for another version is refused when it is loaded."""

Slot = Literal["begin", "combine", "mask", "prompt", "sampler", "size"]
"""A role that only one plugin of a stage may have."""

OVERRIDDEN: tuple[Slot, ...] = ("begin", "combine", "sampler")
"""The slots that are hooks: a plugin holds such a slot if it overrides the hook."""

CONDITIONS = "conditions"
"""The role of all plugins that offer the model a condition, for `acts_before` and `acts_after`."""

Through = Literal["network", "x0", "x_t"]
"""How an energy is differentiated; see `Hooks.through`."""

DECLARED = ("open", "examples", "default_options", "plan", "walk", "levels")
"""The hooks of `Plugin` itself."""

HOOKS = (
    "begin", "sampler", "condition", "branches", "combine", "energy", "shift", "clean", "after", "finish", "measure",
)  # fmt: skip
"""The hooks of `Hooks`, in the order the engine calls them."""

GIVES: dict[str, tuple[str, ...]] = {
    "open": ("Picture",), "plan": ("Plan",), "levels": ("tuple",), "bind": ("Hooks",), "begin": ("Tensor",),
    "condition": ("Conditioning",), "combine": ("Prediction",), "energy": ("Tensor",), "shift": ("Tensor",),
    "clean": ("Tensor",), "after": ("Tensor",), "finish": ("Tensor",), "examples": ("list", "tuple"),
    "branches": ("list", "tuple"), "measure": ("dict",),
    "hooks": ("type",), "claims": ("frozenset", "set"), "uses": ("frozenset", "set"), "beside": ("int",),
    "calls": ("int",), "alone": ("bool",), "through": ("str",), "default_model": ("str",), "found_weights": ("tuple",),
    "implied_strength": ("float", "int"), "default_options": ("Options",), "roles": ("frozenset", "set"),
    "steers": ("bool",), "idle": ("dict",),
}  # fmt: skip
"""Hook -> names of the classes that it may return. Comparing names does not need torch."""

MAY_GIVE_NONE = frozenset({"begin", "energy", "default_model", "implied_strength"})

ASKED = (
    "hooks", "claims", "uses", "beside", "calls", "alone", "through", "default_model", "default_options",
    "implied_strength", "steers", "found_weights", "roles", "idle",
)  # fmt: skip
"""Methods of a declaration that query it. Exceptions in them are converted to errors that name the plugin."""


class Plugin(Declaration):
    """The declaration of a method with its parameters. Frozen; holds no tensors.

    Subclasses define `name`, their parameters as fields with a description, and `hooks`. The Python constructor, the
    command with its options, the recipe's YAML and the reference in the docs are all derived from it.

    Class attributes:
        name: name of the entry point, and first word of the command.
        order: plugins act in ascending order, then as they were written. Constraints that must hold exactly use 100.
        acts_before, acts_after: plugins before or after which it acts, whatever their `order`: a plugin's name, a
            condition that plugins `offer`, or `CONDITIONS` for all plugins that offer one (`roles`).
        holds: slots that it holds in addition to those of overridden hooks: `mask` if it sets the edit's mask, `size`
            if it sets the picture's size or needs the original size, `prompt` if it sets the text.
        offers: names of the conditions that it can pass to a model (`known`, `mask`, `lowres`, `control` ...).
        needs: conditions of which the model must take at least one; other models are refused.
        able: model families that meet `needs`, as the end of the error message: "FLUX.2 does".
        fresh: True for an edit that replaces the content it works on: the process starts from pure noise unless
            another plugin claims `begin`. Other edits of a picture start from the picture, by `sdedit`.
        diffuses: False for a plugin that only works on pixels, in `finish`. A stage of such plugins loads no model.
        needs_picture: True for a plugin that does not work in `editkit.sample`, where there is no picture.
        group: heading under which the general help lists it.
        usage: three example commands for its help, without the word `editkit`.
        example: parameters of a small working edit, for the contract suite.
        neutral: parameters with which the plugin changes nothing; None if there are none.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    api: ClassVar[int] = API
    order: ClassVar[int] = 0
    acts_before: ClassVar[frozenset[str]] = frozenset()
    acts_after: ClassVar[frozenset[str]] = frozenset()
    holds: ClassVar[frozenset[Slot]] = frozenset()
    offers: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    able: ClassVar[str] = ""
    fresh: ClassVar[bool] = False
    diffuses: ClassVar[bool] = True
    needs_picture: ClassVar[bool] = False
    group: ClassVar[Section] = "other"
    usage: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[Mapping[str, Any]] = {}
    neutral: ClassVar[Mapping[str, Any] | None] = None

    start: float = Field(0.0, ge=0.0, le=1.0, description="Act from this fraction of the stage's steps on.")
    stop: float = Field(1.0, ge=0.0, le=1.0, description="Act up to this fraction of the stage's steps.")

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.start > self.stop:
            raise ValueError(f"start {self.start} is after stop {self.stop}")
        return self

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for name in ASKED:
            if name in cls.__dict__:
                setattr(cls, name, _wrap_query(name, cls.__dict__[name]))

    def hooks(self) -> type[Hooks[Self]]:
        """Return the class whose overridden methods act at each step; the default does nothing."""
        return Hooks

    def bind(self, run: Run) -> Hooks[Self]:
        """Create the hooks for one run: load networks, encode pictures. The only method with side effects."""
        return self.hooks()(self, run)

    def plan(self, plan: Plan) -> Plan:
        """Change the plan of moves. Pure: uses no weights and no pictures."""
        return plan

    def walk(self, sampler: Sampler) -> Sampler:
        """Wrap the stage's sampler. The returned sampler must count its own network calls.

        Pure. A method whose own sampler needs the run overrides `Hooks.sampler` instead.
        """
        return sampler

    def levels(self, levels: Levels, inputs: Inputs) -> Levels:
        """Replace the noise levels that the plan's indices refer to, by as many, from the clean level (index 0) up.

        `inputs.model.schedule` makes levels. Pure; called once a pass, when the model and its inputs are known.
        """
        return levels

    def open(self, picture: Picture, notify: Notify) -> Picture:
        """Prepare the stage's picture before anything runs: set its mask, grow its canvas. Pure, without torch."""
        return picture

    def examples(self, picture: Picture) -> Sequence[Picture]:
        """Return further pictures to learn from, for models that take `examples`. `picture`: the stage's input."""
        return ()

    def default_options(self, info: ModelInfo) -> Options:
        """Return the preferred options on this model, where the user gives none: `Options(sampler="ddpm")`.

        Only explicitly set options count. If two plugins set the same option, the first one in the stage wins. The
        model itself is chosen by `default_model`, not here.
        """
        return Options()

    def implied_strength(self, info: ModelInfo) -> float | None:
        """Return the strength of the `sdedit` that is added if no plugin sets the initial state; None: its default."""
        return None

    def default_model(self) -> str | None:
        """Return the embedded model for `--model auto`; None: the usual one. The stage's first wins, with a notice."""
        return None

    def found_weights(self) -> tuple[str, ...]:
        """Return files and folders of further weights that no parameter names, for provenance."""
        return ()

    def claims(self) -> frozenset[Slot]:
        """Return the slots that this plugin holds: those of overridden hooks, and `holds`."""
        used = self.uses()
        return self.holds | {slot for slot in OVERRIDDEN if slot in used}

    def uses(self) -> frozenset[str]:
        """Return the names of the hooks that this plugin overrides, including those on the declaration."""
        hooks = self.hooks()
        used = {name for name in HOOKS if getattr(hooks, name) is not getattr(Hooks, name)}
        used |= {name for name in DECLARED if getattr(type(self), name) is not getattr(Plugin, name)}
        return frozenset(used)

    def roles(self) -> frozenset[str]:
        """Return the names for it in `acts_before` and `acts_after` of other plugins: its name, and what it offers."""
        return frozenset({self.name, *self.offers, *([CONDITIONS] if self.offers else [])})

    def steers(self, info: ModelInfo) -> bool:
        """Whether its energy, if it has one, acts with this model."""
        return True

    def idle(self, info: ModelInfo) -> dict[str, str]:
        """Return its parameters that have no effect with the others on this model: name -> why, or what needs them."""
        return {}

    def through(self) -> Through:
        """Return how the energy is differentiated; known before anything is loaded."""
        return self.hooks().through

    def alone(self) -> bool:
        """Whether its energy needs a separate backward pass, because `Hooks.shift` modifies the result."""
        return "shift" in self.uses()

    def beside(self) -> int:
        """Return the number of evaluations of its own networks for each one of the model, or on other inputs."""
        return 0

    def calls(self, move: Move) -> int:
        """Return the network evaluations of one flow move by its own sampler, if it has one (`Hooks.sampler`)."""
        return 1

    def acts(self, index: int, total: int) -> bool:
        """Whether it acts in flow move `index` of `total`: if the middle of the move is in [start, stop).

        Thus adjacent windows neither skip nor share a move.
        """
        middle = (index + 0.5) / max(total, 1)
        return self.start <= middle < self.stop

    def __and__(self, other: Plugin | Chain) -> Chain:
        """`with`: let both act in the same reverse process."""
        return Chain.of(self) & other

    def __or__(self, other: Plugin | Chain) -> Chain:
        """`then`: run `other` as another process on the result."""
        return Chain.of(self) | other


def plugins_of(stage: Stage) -> tuple[Plugin, ...]:
    """Return the plugins of a stage; ChainError if it contains another kind of declaration, such as a hint detector."""
    for made in stage.plugins:
        if not isinstance(made, Plugin):
            raise ChainError(f"{made!r} is not a plugin; a chain takes declarations such as Inpaint(...)")
    return tuple(made for made in stage.plugins if isinstance(made, Plugin))


def called(plugin: Plugin, name: str, hook: Callable[..., R], *args: Any, where: object = None) -> R:
    """Call `hook(*args)`. Unexpected exceptions become errors that name the plugin, the hook, and `where`.

    Raises:
        HookError: the hook raised, or returned an object of the wrong type.
        ExtraError: the hook needs a library that is not installed.
    """
    try:
        made = hook(*args)
    except EditkitError:
        raise
    except (Exception, SystemExit) as error:  # a library that calls sys.exit would end a whole batch
        if isinstance(error, ImportError) and (extra := missing(error)) is not None:
            raise extra from error
        raise HookError(
            f"plugin {plugin.name}: {name} raised {type(error).__name__}: {error}{_where(where)}"
        ) from error
    wanted = GIVES.get(name, ())
    if not wanted or type(made).__name__ in wanted or any(base.__name__ in wanted for base in type(made).__mro__):
        return made
    if made is None and name in MAY_GIVE_NONE:
        return made
    got = "nothing (is a `return` missing?)" if made is None else f"{short(made)} ({type(made).__name__})"
    raise HookError(f"plugin {plugin.name}: {name} returned {got}; a {' or '.join(wanted)} is needed{_where(where)}")


def _where(where: object) -> str:
    return "" if where is None else f" ({where})"


def _wrap_query(name: str, method: Callable[..., R]) -> Callable[..., R]:
    """Wrap a declaration's `method` in `called`."""

    @functools.wraps(method)
    def asked(self: Plugin, *args: Any) -> R:
        return called(self, name, method, self, *args)

    return asked


P = TypeVar("P", bound=Plugin, covariant=True)

Figures = Mapping[str, float | str]
"""Figures about a result: name -> number or text."""


class Hooks(Generic[P]):
    """What a plugin does during one run. Override the hooks that you need; load and encode in `__init__`.

    The tensors x_t, x_s and x0 are (batch, channels, ...) in the model's space, float32. Hooks must not modify their
    arguments.
    """

    through: ClassVar[Through] = "network"
    """How `energy` is differentiated. `network`: the exact dE/dx_t, by a backward pass through the model. `x_t`: the
    energy reads `step.x_t` (a noise-aware loss), without a backward pass through the model. `x0`: dE/dx0 in the bounded
    form x0' = x0 - s^2 sigma_t^2 / (s^2 alpha_t^2 + sigma_t^2) dE/dx0, which is cheap."""

    def __init__(self, plugin: P, run: Run) -> None:
        self.plugin = plugin
        self.run = run

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """Return the state at the plan's first level; None: noise of the schedule's scale."""
        return None

    def sampler(self) -> Sampler | None:
        """Return the method's own sampler x_t -> x_s, bound to this run; None: the stage's sampler.

        It draws from this plugin's noise stream. The spacing of the levels is still that of the stage's sampler.
        """
        return None

    def walk(self, sampler: Sampler) -> Sampler:
        """Do the same as `Plugin.walk`, with a sampler that reports to this run; calls and states must be equal."""
        return self.plugin.walk(sampler)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        """Add this plugin's conditions to `cond`."""
        return cond

    def branches(self, step: Step, cond: Conditioning) -> Sequence[Conditioning]:
        """Return the conditionings to evaluate at this step, in one batch; `combine` gets a prediction for each."""
        return (cond,)

    def combine(self, step: Step, predictions: Sequence[Prediction]) -> Prediction:
        """Combine the predictions of `branches` into one."""
        return predictions[0]

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        """Return -log p(y | x0) up to a constant, weights included, (batch,); None if it does not act in this step."""
        return None

    def shift(self, step: Step, dx0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Limit or rescale dx0, the shift of x0 by this plugin's energy (`alone`)."""
        return dx0

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Return a corrected estimate of the clean sample."""
        return x0

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """Return the corrected state at the end of a flow move; `step` is at level s."""
        return x_s

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Return the finished picture in [-1, 1], at the resolution of `run.inputs.original`."""
        return image

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        """Return figures about the result, with pixels rounded as in the file; shown after the run and in --json."""
        return {}
