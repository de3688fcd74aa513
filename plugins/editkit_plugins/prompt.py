"""The prompt and the negative prompt of models that take text.

Like `cfg`, this plugin is part of every process on such a model without being named. The texts are options of the run
(`--prompt`, `--negative`), so later stages inherit them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from editkit.plugin import (
    Hooks,
    ModelError,
    Plugin,
    ReadsText,
    ReadsWeights,
    Run,
    Section,
    SeesPictures,
    Slot,
    Step,
    capability,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from editkit.plugin import Conditioning, Prompt, Reference


class PromptText(Plugin):
    """Pass --prompt and --negative to the model; implied by every model that takes text.

    `with prompt --weights` reads `(a red door)1.3`, `door++` and `sky-` as weighted words, as compel does. Without it
    every character is plain text.
    """

    holds: ClassVar[frozenset[Slot]] = frozenset({"prompt"})
    name: ClassVar[str] = "prompt"
    group: ClassVar[Section] = "advanced"
    usage: ClassVar[tuple[str, ...]] = (
        'sdedit photo.png --model DIR --prompt "a (red:1.3) barn" with prompt --weights',
        'inpaint photo.png --mask mask.png --model DIR --prompt "a (red:1.3) barn" with prompt --weights',
        'plan sdedit photo.png --model DIR --prompt "a barn" with prompt',
    )
    order: ClassVar[int] = -50
    offers: ClassVar[frozenset[str]] = frozenset({"prompt"})
    needs: ClassVar[frozenset[str]] = frozenset({"prompt"})

    weights: bool = Field(False, description="Read (words)1.3, word++ and word- as weights.")

    def hooks(self) -> type[Hooks[PromptText]]:
        return _PromptHooks


class _PromptHooks(Hooks[PromptText]):
    def __init__(self, plugin: PromptText, run: Run) -> None:
        super().__init__(plugin, run)
        self.seen: tuple[Reference, ...] | None = None
        self.sees = None if plugin.weights else capability(run.model, SeesPictures)
        self.prompt: Prompt | None = None
        self.negative: Prompt | None = None
        if self.sees is not None:
            return  # encoded later, together with the reference pictures that other plugins add
        self.prompt = self._encode(run.options.prompt or "")
        # without a negative prompt the model's own "no text" is used (SDXL: zeros)
        if run.options.negative is not None:
            self.negative = self._encode(run.options.negative)

    def _encode(self, text: str) -> Prompt:
        model = self.run.model
        if self.plugin.weights:
            reader = capability(model, ReadsWeights)
            if reader is None:
                raise ModelError(
                    f"prompt --weights is for Stable Diffusion 1.x, 2.x and XL; {model.info.name} "
                    f"({model.info.family}) has no weights for words"
                )
            return reader.encode_weighted(text)
        plain = capability(model, ReadsText)
        if plain is None:
            raise ModelError(f"model {model.info.name} declares that it takes text, but has no encode_text")
        prompt, dropped = plain.encode_text(text)
        if dropped:
            self.run.notify(f"the prompt is longer than the model can read; left out: {dropped}")
        return prompt

    def _encode_seeing(self, sees: SeesPictures, references: tuple[Reference, ...]) -> None:
        """Encode both texts together with these pictures, unless that has been done already."""
        if self.seen is not None and _are_same(self.seen, references):
            return
        self.seen = references
        self.prompt, dropped = sees.encode_seeing(self.run.options.prompt or "", references)
        self.negative, _ = sees.encode_seeing(self.run.options.negative, references)
        if dropped:
            self.run.notify(f"the prompt is longer than the model can read; left out: {dropped}")

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if self.sees is not None:
            self._encode_seeing(self.sees, cond.references)
        return replace(cond, prompt=self.prompt, negative=self.negative)


def _are_same(one: Sequence[Reference], other: Sequence[Reference]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
