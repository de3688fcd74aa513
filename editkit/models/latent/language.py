"""Language models as text encoders: hidden states of some layers for a chat with the prompt as a message."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.model import ModelInfo
from editkit.diffusion.schedule import Schedule
from editkit.models.latent.space import to_encoder_device
from editkit.models.latent.tokens import fit_to_area
from editkit.models.latent.transformer import FlowTransformer

if TYPE_CHECKING:
    from torch import Tensor


class BesideLanguageModel(FlowTransformer):
    """A transformer with a language model as its text encoder.

    Args:
        info: from `describe`.
        transformer, vae, encoder: on their device, in their dtype.
        reader: the tokenizer or processor of the language model `encoder`.
        schedule: its noise levels.
    """

    def __init__(
        self, info: ModelInfo, transformer: Any, vae: Any, reader: Any, encoder: Any, schedule: Schedule
    ) -> None:
        super().__init__(info, transformer, vae, schedule)
        self.reader, self.encoder = reader, encoder

    @property
    def tokenizer(self) -> Any:
        """`reader`, or the tokenizer of a processor."""
        return getattr(self.reader, "tokenizer", self.reader)


class ReadBesidePictures(BesideLanguageModel):
    """Encodes the text together with the references; must precede the family's class among the bases."""

    area: int = 1024 * 1024
    """Largest area of a reference, in pixels."""

    def refer(self, picture: Tensor) -> Reference:
        """Resize `picture` (b, 3, h, w) in [-1, 1] to a size for the model."""
        fitted = fit_to_area(picture, self.info.multiple, self.area)
        return Reference(self.encode(fitted), fitted)

    def words(self, cond: Conditioning) -> Prompt:
        return self.encode_seeing(None, cond.references)[0] if cond.prompt is None else cond.prompt

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Like `encode_seeing`, without pictures."""
        return self.encode_seeing(text, ())

    @abstractmethod
    def encode_seeing(self, text: str | None, references: Sequence[Reference]) -> tuple[Prompt, str]:
        """Return (`text` encoded together with the references; the part that did not fit). None: no text."""


@dataclass(frozen=True, eq=False)
class Chat:
    """A language model that encodes a prompt within a chat of `length` tokens, padded at the end.

    Args:
        tokenizer, encoder: the encoder on its device; a processor may replace its tokenizer.
        write_chat: writes the chat for a prompt, with the tokenizer's template.
        length: most tokens; longer chats are truncated.
        padded: pad shorter chats to `length`.
    """

    tokenizer: Any
    encoder: Any
    write_chat: Callable[[str], str]
    length: int = 512
    padded: bool = True

    def read(self, text: str) -> tuple[Sequence[Tensor], Tensor, str]:
        """Return (the hidden states, (1, length, width) for each layer, the embedding first; the mask, (1, length), 0
        for padding; the truncated part of `text`).
        """
        chat, words = self.write_chat(text), getattr(self.tokenizer, "tokenizer", self.tokenizer)
        begins = bool(words.bos_token) and chat.startswith(words.bos_token)  # the template has added it already
        with READING:
            ids = words(
                chat, padding="max_length" if self.padded else False, truncation=True, max_length=self.length,
                return_tensors="pt", add_special_tokens=not begins,
            )  # fmt: skip
            whole = words(chat, verbose=False, add_special_tokens=not begins).input_ids
            rest = words.decode(whole[self.length :]) if len(whole) > self.length else ""
        tokens, mask = (to_encoder_device(ids[name], self.encoder) for name in ("input_ids", "attention_mask"))
        out = self.encoder(
            input_ids=tokens, attention_mask=mask, output_hidden_states=True, use_cache=False,
            **limit_logits(self.encoder),
        )  # fmt: skip
        return out.hidden_states, ids["attention_mask"], prompt_part(rest, chat, text)


def each_item(pictures: Sequence[Tensor]) -> list[list[Tensor]]:
    """Split pictures (batch or 1, 3, h, w) into lists for each item of the batch: (1, 3, h, w) each."""
    count = max((len(picture) for picture in pictures), default=1)
    return [[picture[k : k + 1] if len(picture) > 1 else picture for picture in pictures] for k in range(count)]


def limit_logits(encoder: Any) -> dict[str, int]:
    """Return the argument that limits the logits, which are not needed, to one token."""
    return {"logits_to_keep": 1} if hasattr(encoder, "lm_head") else {}


def prompt_part(rest: str, chat: str, text: str) -> str:
    """Return the part of a chat's truncated text that belongs to the prompt."""
    behind = chat.rpartition(text)[2] if text else chat
    return rest.removesuffix(behind).strip() if len(rest) > len(behind) else ""


def side_by_side(states: Sequence[Tensor], layers: Sequence[int]) -> Tensor:
    """Concatenate the states of these layers for each token: (1, length, layers * width)."""
    import torch

    return torch.cat([states[layer] for layer in layers], dim=-1)
