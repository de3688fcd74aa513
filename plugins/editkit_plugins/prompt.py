"""The prompt: what the result should show, and what it should not, given to a model that takes text.

It is part of every process on such a model, as is `cfg`, without being written. The words are the run's own options
(`--prompt`, `--negative`), so that they are inherited by later stages.
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
    """Give --prompt and --negative to the model; implied by every model that takes text.

    `with prompt --weights` reads `(a red door)1.3`, `door++` and `sky-` as weights of these words, as compel does;
    without it every character is text.
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
            return  # it reads the texts beside the pictures that other plugins give, when these are there
        self.prompt = self._encoded(run.options.prompt or "")
        # without a negative prompt the model's own idea of "no text" stands (SDXL: zeros)
        if run.options.negative is not None:
            self.negative = self._encoded(run.options.negative)

    def _encoded(self, text: str) -> Prompt:
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
            raise ModelError(f"model {model.info.name} says that it takes text, but has no encode_text")
        prompt, dropped = plain.encode_text(text)
        if dropped:
            self.run.notify(f"the prompt is longer than the model can read; left out: {dropped}")
        return prompt

    def _beside(self, sees: SeesPictures, references: tuple[Reference, ...]) -> None:
        """Both texts beside these pictures, once."""
        if self.seen is not None and _same(self.seen, references):
            return
        self.seen = references
        self.prompt, dropped = sees.encode_seeing(self.run.options.prompt or "", references)
        self.negative, _ = sees.encode_seeing(self.run.options.negative, references)
        if dropped:
            self.run.notify(f"the prompt is longer than the model can read; left out: {dropped}")

    def condition(self, step: Step, cond: Conditioning) -> Conditioning:
        if self.sees is not None:
            self._beside(self.sees, cond.references)
        return replace(cond, prompt=self.prompt, negative=self.negative)


def _same(one: Sequence[Reference], other: Sequence[Reference]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
