"""Planning of stages: order, conflicts, passes and cost, determined without torch before any weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, get_args

from editkit.common.notify import Notify, silent
from editkit.diffusion.adaptive import Adaptive
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.plan import BELOW, Counting, Plan
from editkit.diffusion.samplers import Sampler, make_sampler
from editkit.editing import fast, idle, notices
from editkit.editing.cost import PassPlan, cost
from editkit.editing.idle import Settled
from editkit.editing.order import in_order
from editkit.errors import ChainError, PluginError, UsageError
from editkit.models import backends
from editkit.plugin import registry
from editkit.plugin.chain import Chain, Stage
from editkit.plugin.options import Options
from editkit.plugin.protocol import DECLARED, HOOKS, Plugin, Slot, called, plugins_of

if TYPE_CHECKING:
    from editkit.diffusion.model import Pass
    from editkit.pictures.picture import Picture

START_FROM_PICTURE = "sdedit"
"""The registered plugin that sets the initial state of an edit if no other plugin does."""

IMPLIED_BY_TEXT: dict[Slot, str] = {"prompt": "prompt", "combine": "cfg"}
"""The registered plugins that hold a slot of a model that takes text, where no other plugin does."""


def arrange(stage: Stage, info: ModelInfo, has_picture: bool) -> tuple[Plugin, ...]:
    """Return the stage's plugins in the order in which they act, with `sdedit` added if none sets the initial state.

    They are sorted by (`order`, position), `acts_before` and `acts_after`. Slots and conditions are checked.

    Raises:
        ChainError: two plugins claim the same slot, the model takes none of the conditions that a plugin needs, a
            plugin needs a picture and there is none, or the required order is circular.
    """
    plugins = list(plugins_of(stage))
    claims = {id(plugin): plugin.claims() for plugin in plugins}
    diffuses = not plugins or any(p.diffuses for p in plugins)
    if has_picture and diffuses and not any(p.fresh or "begin" in claims[id(p)] for p in plugins):
        strengths = [strength for p in plugins if (strength := p.implied_strength(info)) is not None]
        least = {"strength": max(strengths)} if plugins and len(strengths) == len(plugins) else {}
        implied = registry.load(START_FROM_PICTURE)(**least)
        plugins.insert(0, implied)
        claims[id(implied)] = implied.claims()
    for slot, name in IMPLIED_BY_TEXT.items() if "prompt" in info.takes and diffuses else ():
        if not any(slot in held for held in claims.values()):
            implied = registry.load(name)()
            plugins.append(implied)
            claims[id(implied)] = implied.claims()
    for slot in get_args(Slot):
        holders = [p for p in plugins if slot in claims[id(p)]]
        if len(holders) > 1:
            first, second = holders[0].name, holders[1].name
            raise ChainError(
                f"{first} and {second} both set the {slot} of one process; put `then` between them, or leave one out"
            )
    for plugin in plugins:
        if plugin.needs and not plugin.needs & info.takes:
            takes = ", ".join(sorted(info.takes)) or "no conditions"
            raise ChainError(
                f"{plugin.name} needs a model that takes {' or '.join(sorted(plugin.needs))}; "
                f"{info.name} ({info.family}) takes {takes}; choose another --model"
                + (f": {plugin.able}" if plugin.able else "")
            )
        if plugin.needs_picture and not has_picture:
            raise ChainError(f"{plugin.name} needs a picture, but there is none")
    return in_order(plugins)


def preferred_options(plugins: Sequence[Plugin], info: ModelInfo, options: Options) -> Options:
    """Fill unset `options` with the plugins' preferences, and then with the model's sampler."""
    wanted = Options(sampler=info.sampler)
    for plugin in reversed(plugins):  # the first plugin of the stage takes precedence
        wanted = wanted.merged(called(plugin, "default_options", plugin.default_options, info))
    asked = options.model_dump(exclude_unset=True)
    return wanted.model_copy(update={name: value for name, value in asked.items() if value is not None})


def options_of(plugins: Sequence[Plugin], info: ModelInfo, stage: Stage, notify: Notify = silent) -> Options:
    """Return the options of a stage: as by `preferred_options`, and with --fast those of its few-step LoRA.

    Raises:
        UsageError: --fast is given without such a LoRA.
    """
    options = preferred_options(plugins, info, stage.options)
    return (
        fast.settle_options(options, stage.options, info, notify, "fast" in stage.inherited)
        if options.fast
        else options
    )


@dataclass(frozen=True)
class StagePlan:
    """The plan of a stage: everything that is known before its weights are loaded.

    `source` is the input picture, `picture` the result of the plugins' `open`, and `examples` are further pictures to
    learn from.
    """

    info: ModelInfo
    options: Options
    sampler: str
    plugins: tuple[Plugin, ...]
    picture: Picture
    passes: tuple[PassPlan, ...]
    source: Picture
    examples: tuple[Picture, ...] = ()

    def __repr__(self) -> str:
        names = " with ".join(plugin.name for plugin in self.plugins)
        passes = f"{len(self.passes)} passes" if len(self.passes) != 1 else "one pass"
        size = f"{self.picture.width}x{self.picture.height}"
        return f"<{names} by {self.info.name}, {self.sampler}: {passes}, {self.calls} network calls, {size}>"

    @property
    def small(self) -> Picture | None:
        """The input picture, if plugins enlarged all of it and masked nothing; else None."""
        enlarged = self.picture.mask is None and self.picture.width > self.source.width
        return self.source if enlarged else None

    @property
    def diffuses(self) -> bool:
        """Whether a model is needed."""
        return any(plugin.diffuses for plugin in self.plugins)

    @property
    def calls(self) -> int:
        """Number of network evaluations."""
        return self.options.draws * sum(part.cost.calls for part in self.passes)

    @property
    def beside(self) -> int:
        """Number of additional evaluations of plugins' own networks, such as ControlNets."""
        return self.options.draws * sum(part.cost.beside for part in self.passes)

    @property
    def moves(self) -> int:
        """Number of moves in all passes, including upward ones."""
        return self.options.draws * sum(len(part.plan) for part in self.passes)

    @property
    def backward(self) -> int:
        """Largest number of backward passes for energies (an energy may skip a step)."""
        return self.options.draws * sum(part.cost.backward for part in self.passes)

    @property
    def deep(self) -> int:
        """How many of the backward passes go through the network."""
        return self.options.draws * sum(part.cost.deep for part in self.passes)

    def table(self) -> dict[str, tuple[str, ...]]:
        """Return hook -> names of the plugins that override it, in order."""
        uses = [(plugin.name, plugin.uses()) for plugin in self.plugins]
        rows = {hook: tuple(name for name, used in uses if hook in used) for hook in (*DECLARED, *HOOKS)}
        return {hook: names for hook, names in rows.items() if names}


def model_name(stage: Stage) -> str:
    """Return the model's name; for `auto` the preference of the first plugin that has one."""
    if stage.options.model != "auto":
        return stage.options.model
    return next((wish for plugin in plugins_of(stage) if (wish := plugin.default_model()) is not None), "auto")


def for_own_model(stage: Stage) -> Stage:
    """Drop options that were inherited from an earlier stage with another model.

    These are a transformer's file, and for an embedded model also LoRAs and a refiner, which it does not take.
    """
    from editkit.models.families import find_named

    options = stage.options
    if "model" in stage.inherited or "model" not in options.model_fields_set:
        return stage
    embedded = options.model == "auto" or find_named(options.model) is not None
    others = stage.inherited & (
        {"transformer", "lora", "refiner", "backend", "quantize"} if embedded else {"transformer"}
    )
    return replace(stage, options=Options(**options.model_dump(exclude_unset=True, exclude=set(others))))


def describe_model(stage: Stage) -> ModelInfo:
    """Describe a stage's model without loading its weights.

    Raises:
        ModelError: the model cannot be found, or its family is unknown.
    """
    from editkit.models import describe

    options = for_own_model(stage).options
    return describe(model_name(stage), offline=options.offline, transformer=options.transformer)


def _check_options(stage: Stage, info: ModelInfo) -> None:
    """Refuse text for a model without text, and a shift for a model without one, unless inherited."""
    for word in ("prompt", "negative", "guidance_scale"):
        asked = getattr(stage.options, word) is not None and word not in stage.inherited
        if asked and "prompt" not in info.takes:
            raise UsageError(
                f"--{word.replace('_', '-')} is given, but {info.name} ({info.family}) takes no text; choose another "
                f"--model (editkit models suggest lists some)"
            )
    if stage.options.shift is not None and not info.shifts and "shift" not in stage.inherited:
        raise UsageError(
            f"--shift is given, but {info.name} ({info.family}) is not a flow-matching model (SD 3, FLUX, Qwen-Image, "
            f"Z-Image), whose levels have a shift; leave it out, or choose another --model"
        )
    backends.check(info, stage.options.backend, stage.options.device, stage.options.compile)
    backends.check_bits(info, stage.options)


def plan_stage(stage: Stage, picture: Picture, notify: Notify = silent, info: ModelInfo | None = None) -> StagePlan:
    """Plan one stage on `picture`: order, conflicts, passes, cost. Uses no weights and no torch.

    `info` describes a model object; None: describe the model in `stage.options.model`.
    """
    from editkit.models import describe

    stage = for_own_model(stage)
    options = stage.options
    is_auto = info is None and options.model == "auto"
    if info is None and (name := model_name(stage)) != options.model:
        notices.report_chosen_model(name, describe("auto"), notify)
    info = info or describe_model(stage)
    _check_options(stage, info)
    plugins = arrange(stage, info, has_picture=True)
    source = picture
    examples = _examples(plugins, picture, info)
    for plugin in plugins:
        picture = _open_picture(plugin, picture, notify, info)
    if is_auto and info.own_picture and not examples and picture.mask is not None and bool(picture.mask.all()):
        notices.report_nothing_to_learn_from(info, notify)
        info = describe("pocket")
        plugins = arrange(stage, info, has_picture=True)
    notices.report_scattered_pixels(picture, info, bool(examples), notify)
    notices.report_own_sampler(plugins, options, notify)
    sizes = [example.size for example in examples]
    settled = _settle(stage, plugins, info, picture, sizes, notify)
    options, planned = settled.options, settled.passes
    if isinstance(settled.sampler, Adaptive):
        name = settled.sampler.name
        notify(f"sampler {name} calls the network as often as its tolerances need; the plan shows the minimum")
    if not _is_begun(plugins):
        notices.report_idle_fill(picture, info, notify)
        notices.report_invented(picture, source, info, bool(examples), notify)
    notices.report_idle_options(plugins, planned, options, notify)
    again = partial(_settle, plugins=plugins, info=info, picture=picture, examples=sizes, notify=silent)
    idle.report_idle(stage, plugins, info, settled, again, picture.mask is not None, notify)
    notices.report_passes(planned, plugins, info, notify)
    assert options.sampler is not None
    return StagePlan(info, options, options.sampler, plugins, picture, planned, source, tuple(examples))


def _settle(
    stage: Stage,
    plugins: Sequence[Plugin],
    info: ModelInfo,
    picture: Picture,
    examples: Sequence[tuple[int, int]],
    notify: Notify,
) -> Settled:
    """Settle the options of a stage and plan its passes over the opened `picture`; `examples`: (width, height)."""
    from editkit.editing.passes import passes

    options = options_of(plugins, info, stage, notify)
    assert options.sampler is not None
    sampler = make_sampler(options.sampler)
    walked = sampler
    for plugin in plugins:
        walked = called(plugin, "walk", plugin.walk, walked)
    has_lowres = "lowres" in info.takes and any("lowres" in plugin.offers for plugin in plugins)
    found = passes(picture, info, options, not _is_begun(plugins) and not has_lowres, examples)
    counting = Counting(info.rounds_up, options.floats)
    tried = [(at, attempt) for at in found for attempt in range(_tries(at, picture, options))]
    planned = tuple(plan_pass(at, plugins, walked, info, attempt, counting) for at, attempt in tried)
    return Settled(options, sampler, planned)


def _is_begun(plugins: Sequence[Plugin]) -> bool:
    """Whether a plugin sets the initial state, or nothing is denoised."""
    return not any(p.diffuses for p in plugins) or any("begin" in p.claims() for p in plugins)


def plan_stages(
    chain: Chain, picture: Picture, notify: Notify = silent, info: ModelInfo | None = None
) -> tuple[StagePlan, ...]:
    """Plan every stage of `chain`, with inherited options. Uses no weights and no torch.

    A later stage is planned on the picture that the stage before opened, which has the size and opacity of its result,
    but not its colours.
    """
    plans: list[StagePlan] = []
    for stage in chain.stages:
        plans.append(plan_stage(stage, picture, notify, info))
        picture = plans[-1].picture
        if picture.mask is not None:
            picture = picture.opaque_where(picture.mask).with_mask(None)
    return tuple(plans)


def _examples(plugins: Sequence[Plugin], picture: Picture, info: ModelInfo) -> list[Picture]:
    """Collect the further pictures from the plugins.

    Raises:
        ChainError: the model does not learn from pictures.
    """
    found: list[Picture] = []
    for plugin in plugins:
        given = called(plugin, "examples", plugin.examples, picture)
        if given and "examples" not in info.takes:
            raise ChainError(
                f"{plugin.name} has pictures to learn from, but {info.name} ({info.family}) does not learn from "
                f"pictures; use --model patches"
            )
        found += given
    return found


def _open_picture(plugin: Plugin, picture: Picture, notify: Notify, info: ModelInfo) -> Picture:
    """Let `plugin` open `picture`.

    Raises:
        ChainError: it bars a part of the picture, but the model does not learn from the picture.
        PluginError: it sets a mask or another size without declaring it, so that conflicts were not detected.
    """
    opened: Picture = called(plugin, "open", plugin.open, picture, notify)
    changed = {"mask": opened.mask is not picture.mask, "size": opened.size != picture.size}
    for slot, differs in changed.items():
        if differs and slot not in plugin.claims():
            raise PluginError(
                f"plugin {plugin.name}: open sets the {slot} without declaring it; its class needs "
                f'`holds = frozenset({{"{slot}"}})`'
            )
    if opened.barred is not None and not info.own_picture:
        raise ChainError(
            f"{plugin.name} --not-from says where not to copy from, but {info.name} ({info.family}) does not learn "
            "from the picture; leave it out, or use --model patches"
        )
    return opened


def _tries(at: Pass, picture: Picture, options: Options) -> int:
    """Return the number of tries of pass `at`: one if it starts from another pass, or nothing can be compared."""
    within = None if picture.mask is None else picture.mask[at.box.rows, at.box.columns]
    invents = within is not None and at.strength == 1.0 and at.steps > 1 and not bool(within.all())
    return options.tries if invents else 1


def plan_pass(
    at: Pass,
    plugins: Sequence[Plugin],
    sampler: Sampler,
    info: ModelInfo,
    attempt: int = 0,
    counting: Counting = BELOW,
) -> PassPlan:
    """Plan one pass: its moves after all plugins' `plan` hooks, and its cost."""
    diffuses = any(plugin.diffuses for plugin in plugins)
    plan = own = at.plan(counting) if diffuses else Plan.uniform(at.steps).start_at(0.0)
    for plugin in plugins:
        plan = called(plugin, "plan", plugin.plan, plan)
    if at.repeats > 1 and plan == own:
        plan = plan.travel(1, at.repeats)
    return PassPlan(at, plan, cost(plan, plugins, sampler, info), attempt)
