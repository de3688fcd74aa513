"""Language models as text encoders: the hidden states of some layers, of a chat in which the prompt is a message."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.schedule import Schedule
from editkit.models.latent.space import beside
from editkit.models.latent.tokens import fitting
from editkit.models.latent.transformer import FlowTransformer

if TYPE_CHECKING:
    from torch import Tensor


class BesideLanguageModel(FlowTransformer):
    """A transformer whose text is read by a language model.

    Args:
        info: what `describe` said.
        transformer, vae, encoder: on their device, in their dtype.
        reader: the tokenizer of the language model `encoder`, or its processor.
        schedule: its ladder.
    """

    def __init__(
        self, info: ModelInfo, transformer: Any, vae: Any, reader: Any, encoder: Any, schedule: Schedule
    ) -> None:
        super().__init__(info, transformer, vae, schedule)
        self.reader, self.encoder = reader, encoder

    @property
    def tokenizer(self) -> Any:
        """`reader`, or that of a processor."""
        return getattr(self.reader, "tokenizer", self.reader)


class ReadBesidePictures(BesideLanguageModel):
    """One whose text is read beside the references; named before its family's class among the bases."""

    area: int = 1024 * 1024
    """Pixels of a reference, at most."""

    def refer(self, picture: Tensor) -> Reference:
        """`picture` (b, 3, h, w) in [-1, 1], at a size that the model likes."""
        fitted = fitting(picture, self.info.multiple, self.area)
        return Reference(self.encode(fitted), fitted)

    def words(self, cond: Conditioning) -> Prompt:
        return self.encode_seeing(None, cond.references)[0] if cond.prompt is None else cond.prompt

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """As `encode_seeing`, beside no picture."""
        return self.encode_seeing(text, ())

    @abstractmethod
    def encode_seeing(self, text: str | None, references: Sequence[Reference]) -> tuple[Prompt, str]:
        """(`text` as it is read beside the references; what of it did not fit). None: no text."""


@dataclass(frozen=True, eq=False)
class Chat:
    """A language model that reads a prompt within a chat of `length` tokens, padded behind.

    Args:
        tokenizer, encoder: the encoder on its device; a processor may take the place of its tokenizer.
        said: the chat with a prompt in it, as the tokenizer's template writes it.
        length: tokens that are read; what is longer is cut off at the end.
        padded: shorter chats are filled up to it.
    """

    tokenizer: Any
    encoder: Any
    said: Callable[[str], str]
    length: int = 512
    padded: bool = True

    def read(self, text: str) -> tuple[Sequence[Tensor], Tensor, str]:
        """(the hidden states, one (1, length, width) a layer, the embedding first; the mask of what is no padding,
        (1, length); what of `text` was cut off).
        """
        chat, words = self.said(text), getattr(self.tokenizer, "tokenizer", self.tokenizer)
        begins = bool(words.bos_token) and chat.startswith(words.bos_token)  # by the template, and not once more
        with READING:
            ids = words(
                chat, padding="max_length" if self.padded else False, truncation=True, max_length=self.length,
                return_tensors="pt", add_special_tokens=not begins,
            )  # fmt: skip
            whole = words(chat, verbose=False, add_special_tokens=not begins).input_ids
            rest = words.decode(whole[self.length :]) if len(whole) > self.length else ""
        tokens, mask = (beside(ids[name], self.encoder) for name in ("input_ids", "attention_mask"))
        out = self.encoder(
            input_ids=tokens, attention_mask=mask, output_hidden_states=True, use_cache=False,
            **last_alone(self.encoder),
        )  # fmt: skip
        return out.hidden_states, ids["attention_mask"], of_prompt(rest, chat, text)


def each_item(pictures: Sequence[Tensor]) -> list[list[Tensor]]:
    """Pictures (batch or 1, 3, h, w) that are looked at, apart for each item of the batch: (1, 3, h, w) each."""
    count = max((len(picture) for picture in pictures), default=1)
    return [[picture[k : k + 1] if len(picture) > 1 else picture for picture in pictures] for k in range(count)]


def last_alone(encoder: Any) -> dict[str, int]:
    """The logits are not needed; a model that makes some makes those of one token."""
    return {"logits_to_keep": 1} if hasattr(encoder, "lm_head") else {}


def of_prompt(rest: str, chat: str, text: str) -> str:
    """Of what was cut off a chat, that which is the prompt's."""
    behind = chat.rpartition(text)[2] if text else chat
    return rest.removesuffix(behind).strip() if len(rest) > len(behind) else ""


def side_by_side(states: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """(1, length, layers * width): the states of these layers, each token's one behind the other."""
    import torch

    return torch.cat([states[layer] for layer in layers], dim=-1)
