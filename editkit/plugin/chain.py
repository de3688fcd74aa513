"""Chains: `with` joins plugins in one reverse process, `then` starts another process on its result.

In Python `&` is `with` and `|` is `then`; as required, `&` binds tighter. `editkit.editing.settle` resolves a chain for
a given picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from editkit.errors import ChainError
from editkit.plugin.declaration import Declaration
from editkit.plugin.options import Options


@dataclass(frozen=True)
class Stage:
    """The declarations of one reverse process, in the order they were written, and its options.

    `inherited`: names of the options that were inherited from an earlier stage.
    """

    plugins: tuple[Declaration, ...]
    options: Options = field(default_factory=Options)
    inherited: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Chain:
    """One or more stages. An option that a stage leaves unset is taken from the stage before it."""

    stages: tuple[Stage, ...]

    @classmethod
    def of(cls, edits: Edits) -> Chain:
        """Make a chain from a chain, a plugin, a list of plugins (with), or a list of such lists (then).

        Raises:
            ChainError: a stage has no plugin, or something in it is not a plugin.
        """
        if isinstance(edits, Chain):
            return edits
        if isinstance(edits, Declaration):
            return cls((Stage((edits,)),))
        stages = [[e] if isinstance(e, Declaration) else e for e in edits]
        if stages and all(isinstance(e, Declaration) for e in edits):
            stages = [[e for e in edits if isinstance(e, Declaration)]]
        for part in stages:
            for plugin in part if isinstance(part, Iterable) else [part]:
                if not isinstance(plugin, Declaration):
                    raise ChainError(f"{plugin!r} is not a plugin; a chain takes declarations such as Inpaint(...)")
        if not stages or not all(stages):
            raise ChainError("a chain needs at least one plugin in every stage")
        return cls(tuple(Stage(tuple(part)) for part in stages))

    def __and__(self, other: Declaration | Chain) -> Chain:
        """`with`: add the plugins of `other` to the last stage."""
        added = Chain.of(other)
        if len(added.stages) != 1:
            raise ChainError("`&` (with) joins plugins of one process, but its right side contains a `|` (then)")
        last = self.stages[-1]
        options = last.options.merged(added.stages[0].options)
        return Chain((*self.stages[:-1], Stage((*last.plugins, *added.stages[0].plugins), options)))

    def __or__(self, other: Declaration | Chain) -> Chain:
        """`then`: run the stages of `other` on the result."""
        return Chain((*self.stages, *Chain.of(other).stages))

    def using(self, **options: Any) -> Chain:
        """Return a chain with `options` set for the last stage, and for stages added after it."""
        last = self.stages[-1]
        return Chain((*self.stages[:-1], replace(last, options=last.options.merged(Options(**options)))))

    def with_options(self, options: Options) -> Chain:
        """Return a chain with the explicitly set fields of `options` in every stage."""
        return Chain(tuple(replace(s, options=s.options.merged(options)) for s in self.inherited().stages)).inherited()

    def with_seed(self, seed: Callable[[int], int]) -> Chain:
        """Return a chain in which `seed` maps the old seed of every stage to a new one."""
        stages = self.inherited().stages
        seeded = [replace(s, options=s.options.merged(Options(seed=seed(s.options.seed)))) for s in stages]
        return Chain(tuple(seeded)).inherited()

    def with_field(self, plugin: Declaration, field: str, value: Any) -> Chain:
        """Return a chain with one parameter of `plugin`, an object of this chain, replaced.

        Raises:
            ParameterError: the value is not valid.
            ValueError: the plugin is not in this chain.
        """
        for number, stage in enumerate(self.stages):
            for k, one in enumerate(stage.plugins):
                if one is plugin:
                    given = {key: getattr(one, key) for key in one.model_fields_set}
                    plugins = (*stage.plugins[:k], type(one)(**{**given, field: value}), *stage.plugins[k + 1 :])
                    changed = replace(stage, plugins=plugins)
                    return Chain((*self.stages[:number], changed, *self.stages[number + 1 :]))
        raise ValueError(f"{plugin.name} is not in this chain")

    def inherited(self) -> Chain:
        """Return a chain in which unset options are filled from the stage before."""
        stages, options = [], Options()
        for stage in self.stages:
            merged = options.merged(stage.options)
            before = {name for name in options.model_fields_set if getattr(merged, name) == getattr(options, name)}
            stages.append(replace(stage, options=merged, inherited=frozenset(before)))
            options = merged
        return Chain(tuple(stages))


Edits = Chain | Declaration | Sequence[Declaration] | Sequence[Sequence[Declaration]]
"""The types that `edit` and `sample` accept as plugins."""
