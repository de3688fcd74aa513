"""The plugin protocol: a declaration, its hooks, and the step that every hook is given.

A plugin is a frozen pydantic model that says what it wants (`Plugin`); what it does at each step of the reverse process
is a `Hooks` object made for one run, where tensors live. Hooks return values and never change what they are given. The
table of hooks, in the order the engine calls them::

    open       (picture, notify) -> picture  on the declaration: set the mask, grow the canvas
    examples   (picture) -> pictures         on the declaration: what `patches` may learn from besides the picture
    default_options (info) -> options        on the declaration: options it prefers where the user gives none
    plan       (plan) -> plan                on the declaration: SDEdit starts lower, RePaint travels
    walk       (sampler) -> sampler          on the declaration: wrap the stage's sampler, as `invert` does
    levels     (levels, inputs) -> levels    on the declaration: other noise levels, as `denoise` needs
    bind       (run) -> Hooks                borrow networks, encode pictures; the only one with side effects
    begin      () -> x_t or None             the starting state                                     (slot)
    sampler    () -> Sampler or None         a transition x_t -> x_s of its own                     (slot)
    condition  (step, cond) -> cond          prompts, known picture and mask, ControlNet residuals
    branches   (step, cond) -> conds         the conditionings to evaluate, for `combine`
    combine    (step, predictions) -> one    classifier-free guidance and its variants              (slot)
    energy     (step, x0) -> (batch,)        -log p(y | x), weights included; None: not this time
    shift      (step, dx0) -> dx0            bound, mask or rescale what its own energy moves x0 by
    clean      (step, x0) -> x0              thresholding, projections
    after      (step, x_s) -> x_s            once a flow move, at its end: put known regions back
    finish     (image) -> image              pixels -> pixels, at the picture's own resolution
    measure    (image) -> {name: value}      figures about the result: how well it explains an observation

A plugin uses a hook by overriding it. Nothing else needs to be said: `editkit plan` reads it off the class.
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
"""The version of this protocol. A plugin that was written for another is refused when it is loaded."""

Slot = Literal["begin", "combine", "mask", "prompt", "sampler", "size"]
"""What only one plugin of a stage may hold."""

OVERRIDDEN: tuple[Slot, ...] = ("begin", "combine", "sampler")
"""The slots that are hooks: whoever overrides one holds it."""

CONDITIONS = "conditions"
"""The role of every plugin that offers the model a condition, for `acts_before` and `acts_after`."""

Through = Literal["network", "x0", "x_t"]
"""Where an energy's gradient is taken; see `Hooks.through`."""

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
    "calls": ("int",), "alone": ("bool",), "through": ("str",), "default_model": ("str",),
    "default_options": ("Options",), "found_weights": ("tuple",), "roles": ("frozenset", "set"),
}  # fmt: skip
"""The class, or the classes, of what a hook returns, by its name: looking by name needs no torch."""

MAY_GIVE_NONE = frozenset({"begin", "energy", "default_model"})

ASKED = (
    "hooks", "claims", "uses", "beside", "calls", "alone", "through", "default_model", "default_options",
    "found_weights", "roles",
)  # fmt: skip
"""Methods of a declaration that are called wherever something is to be known of it. Whatever they raise names it."""


class Plugin(Declaration):
    """A declaration: which method, with which parameters. Frozen; holds no tensors.

    Subclasses give `name`, their parameters as fields with a description, and `hooks`. From that one declaration come
    the Python constructor, the command with its options, the recipe's YAML and the reference in the docs.

    Class attributes:
        name: the name of the entry point; the first word of the command.
        order: plugins act in ascending order, then as they were written; constraints that must hold exactly use 100.
        acts_before, acts_after: which others it acts before or after, whatever their `order`: a plugin's name, a
            condition that plugins `offer`, or `CONDITIONS` for all that offer one (`roles`).
        holds: the slots it holds besides those whose hook it overrides: `mask` if it sets the edit's mask, `size` if it
            sets the picture's size or needs the original one, `prompt` if it sets the text.
        offers: the named conditions this plugin can give to a model (`known`, `mask`, `lowres`, `control` ...).
        needs: conditions of which the model must take at least one; other models are refused.
        able: which families take what it needs, as the end of that refusal: "FLUX.2 does".
        fresh: True for an edit that replaces what it works on, so that the process starts from pure noise unless
            another plugin claims `begin`. Other edits of a picture start from the picture, by `sdedit`.
        diffuses: False for a plugin that works on pixels only, in `finish`; a stage of such plugins loads no model.
        needs_picture: True for a plugin that cannot work in `editkit.sample`, where there is no picture.
        group: the heading under which the general help lists it.
        usage: three example commands for its help, without the word `editkit`.
        example: parameters of a small edit that works, for the contract suite; none are needed if all have defaults.
        neutral: parameters with which the plugin changes nothing; None where there are none.
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
            raise ValueError(f"start {self.start} lies after stop {self.stop}")
        return self

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        for name in ASKED:
            if name in cls.__dict__:
                setattr(cls, name, _asked(name, cls.__dict__[name]))

    def hooks(self) -> type[Hooks[Self]]:
        """The class whose overridden methods act at each step; by default one that does nothing."""
        return Hooks

    def bind(self, run: Run) -> Hooks[Self]:
        """Make the hooks for one run: load networks, encode pictures. The only place with side effects."""
        return self.hooks()(self, run)

    def plan(self, plan: Plan) -> Plan:
        """Change the trajectory. Pure: no weights, no pictures."""
        return plan

    def walk(self, sampler: Sampler) -> Sampler:
        """Change how the stage's sampler walks: return a sampler around `sampler` that counts its own calls.

        Pure. A method that has its own sampler, which needs the run, overrides `Hooks.sampler` instead.
        """
        return sampler

    def levels(self, levels: Levels, inputs: Inputs) -> Levels:
        """Change the noise levels that the plan's indices refer to: as many, from the clean one (index 0) up.

        `inputs.model.schedule` makes others. Pure; once a pass, when the model and what it is given are there.
        """
        return levels

    def open(self, picture: Picture, notify: Notify) -> Picture:
        """Prepare the stage's picture before anything runs: set its mask, grow its canvas. Pure, no torch.

        `notify` tells the user something in one line.
        """
        return picture

    def examples(self, picture: Picture) -> Sequence[Picture]:
        """Other pictures that a model which takes `examples` learns from. `picture`: the stage's, as it came."""
        return ()

    def default_options(self, info: ModelInfo) -> Options:
        """The options that its method prefers on this model where the user gives none: `Options(sampler="ddpm")`.

        Only what it sets counts; if two plugins set the same option, the first of the stage decides. The model is named
        by `default_model`, not here.
        """
        return Options()

    def default_model(self) -> str | None:
        """The embedded model that `--model auto` means where this plugin acts; None: the usual one.

        The first plugin of the stage that names one decides, and the user is told.
        """
        return None

    def found_weights(self) -> tuple[str, ...]:
        """Files and folders of weights that no parameter names and that are loaded too, for provenance."""
        return ()

    def claims(self) -> frozenset[Slot]:
        """The slots this plugin holds: those whose hook it overrides, and what it says (`holds`)."""
        used = self.uses()
        return self.holds | {slot for slot in OVERRIDDEN if slot in used}

    def uses(self) -> frozenset[str]:
        """The names of the hooks this declaration acts through, those on the declaration itself included."""
        hooks = self.hooks()
        used = {name for name in HOOKS if getattr(hooks, name) is not getattr(Hooks, name)}
        used |= {name for name in DECLARED if getattr(type(self), name) is not getattr(Plugin, name)}
        return frozenset(used)

    def roles(self) -> frozenset[str]:
        """What `acts_before` and `acts_after` of other plugins may call it: its name, and what it offers."""
        return frozenset({self.name, *self.offers, *([CONDITIONS] if self.offers else [])})

    def through(self) -> Through:
        """Where the energy of this declaration is differentiated; known before anything is loaded."""
        return self.hooks().through

    def alone(self) -> bool:
        """Whether its energy needs a backward pass of its own, because `Hooks.shift` shapes the result."""
        return "shift" in self.uses()

    def beside(self) -> int:
        """How many further network evaluations it causes with each evaluation of the model, where it acts: of its own
        networks, or of the model on something else."""
        return 0

    def calls(self, move: Move) -> int:
        """Network evaluations of one flow move by its own sampler, where it has one (`Hooks.sampler`)."""
        return 1

    def acts(self, index: int, total: int) -> bool:
        """Whether it acts in flow move `index` of `total`: those whose middle is in its window, `start` included and
        `stop` not, so that windows that meet leave none out and share none.
        """
        middle = (index + 0.5) / max(total, 1)
        return self.start <= middle < self.stop

    def __and__(self, other: Plugin | Chain) -> Chain:
        """`with`: both act in the same reverse process."""
        return Chain.of(self) & other

    def __or__(self, other: Plugin | Chain) -> Chain:
        """`then`: `other` starts another process on the result."""
        return Chain.of(self) | other


def plugins_of(stage: Stage) -> tuple[Plugin, ...]:
    """The plugins of a stage.

    Raises:
        ChainError: there is another declaration in it, such as that of a hint.
    """
    for made in stage.plugins:
        if not isinstance(made, Plugin):
            raise ChainError(f"{made!r} is not a plugin; a chain has declarations such as Inpaint(...)")
    return tuple(made for made in stage.plugins if isinstance(made, Plugin))


def called(plugin: Plugin, name: str, hook: Callable[..., R], *args: Any, where: object = None) -> R:
    """`hook(*args)`; what it raises, other than an error for the user, names the plugin, the hook, and `where` it was.

    Raises:
        HookError: the hook raised, or returned something of another kind.
        ExtraError: it needs a library that is not installed.
    """
    try:
        made = hook(*args)
    except EditkitError:
        raise
    except (Exception, SystemExit) as error:  # a library in it that ends the process would end a whole batch
        if isinstance(error, ImportError) and (extra := missing(error)) is not None:
            raise extra from error
        raise HookError(
            f"plugin {plugin.name}: {name} raised {type(error).__name__}: {error}{_placed(where)}"
        ) from error
    wanted = GIVES.get(name, ())
    if not wanted or type(made).__name__ in wanted or any(base.__name__ in wanted for base in type(made).__mro__):
        return made
    if made is None and name in MAY_GIVE_NONE:
        return made
    got = "nothing (is a `return` missing?)" if made is None else f"{short(made)} ({type(made).__name__})"
    raise HookError(f"plugin {plugin.name}: {name} returned {got}; a {' or '.join(wanted)} is needed{_placed(where)}")


def _placed(where: object) -> str:
    return "" if where is None else f" ({where})"


def _asked(name: str, method: Callable[..., R]) -> Callable[..., R]:
    """`method` of a declaration, through `called`."""

    @functools.wraps(method)
    def asked(self: Plugin, *args: Any) -> R:
        return called(self, name, method, self, *args)

    return asked


P = TypeVar("P", bound=Plugin, covariant=True)


Figures = Mapping[str, float | str]
"""What is said of a result: name -> number, or words."""


class Hooks(Generic[P]):
    """What a plugin does during one run. Override what is needed; load and encode in `__init__`.

    Tensors x_t, x_s, x0 are (batch, channels, ...) in the model's space, float32. No hook may change its arguments.
    """

    through: ClassVar[Through] = "network"
    """Where `energy` is differentiated. `network`: dE/dx_t exactly, backward through the model. `x_t`: the energy
    reads `step.x_t` (a noise-aware loss), no backward pass through the model. `x0`: dE/dx0 in the bounded form
    x0' = x0 - s^2 sigma_t^2 / (s^2 alpha_t^2 + sigma_t^2) dE/dx0, cheap."""

    def __init__(self, plugin: P, run: Run) -> None:
        self.plugin = plugin
        self.run = run

    def begin(self) -> Float[Tensor, "b c *size"] | None:
        """The state at the plan's first level; None: noise of the schedule's scale."""
        return None

    def sampler(self) -> Sampler | None:
        """The rule x_t -> x_s of a method that has one of its own, bound to this run; None: the stage's sampler.

        It draws from this plugin's stream. Levels are laid by the stage's sampler.
        """
        return None

    def walk(self, sampler: Sampler) -> Sampler:
        """`Plugin.walk`, for a sampler that reports something to this run; its calls and states must be the same."""
        return self.plugin.walk(sampler)

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        """`cond` with what this plugin gives to the model."""
        return cond

    def branches(self, step: Step, cond: Conditioning) -> Sequence[Conditioning]:
        """The conditionings to evaluate at this step, in one batch; `combine` gets one prediction for each."""
        return (cond,)

    def combine(self, step: Step, predictions: Sequence[Prediction]) -> Prediction:
        """One prediction from those of `branches`."""
        return predictions[0]

    def energy(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, " b"] | None:
        """-log p(y | x0) up to a constant, weights included, for each item; None where it does not act."""
        return None

    def shift(self, step: Step, dx0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """What the energy of this plugin may move x0 by, from what its gradient says (`alone`)."""
        return dx0

    def clean(self, step: Step, x0: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """A better estimate of the clean sample."""
        return x0

    def after(self, step: Step, x_s: Float[Tensor, "b c *size"]) -> Float[Tensor, "b c *size"]:
        """The state at the end of a flow move; `step` stands at level s."""
        return x_s

    def finish(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """The finished picture in [-1, 1], at the resolution of `run.inputs.original`."""
        return image

    def measure(self, image: Float[Tensor, "b 3 h w"]) -> Figures:
        """Figures about the result, rounded as it will be written; shown after the run and in --json."""
        return {}
