"""LongCat-Image and LongCat-Image-Edit (Meituan 2025): a transformer on FLUX.1's latents with a vision language
model.

The first of a token's three positions is 0 for text, 1 for noise and 2 for a reference picture; the other two count the
text tokens and continue from their number. Text within quotation marks is tokenised letter by letter, so that the model
can write it into the picture.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.control import Residuals
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.language import BesideLanguageModel, ReadBesidePictures, each_item, limit_logits
from editkit.models.latent.space import load_vae, to_encoder_device, vae_factor
from editkit.models.latent.tokens import grid_ids, packed, reference_sizes, unpacked
from editkit.models.schedules import default_sampler, make_flow
from editkit.pictures.tensors import from_unit

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

KNOWN = "LongCat-Image and -Edit (LongCatImageTransformer2DModel, AutoencoderKL)"
PATCH = 2
WINDOW, LEAST = 1024, 512
"""In pixels per side."""
STEPS, GUIDANCE = 50, 4.5
"""diffusers' defaults."""
LENGTH = 512
"""Number of prompt tokens, including padding, which the transformer sees."""
NOISE, REFERENCE = 1, 2
"""The first position of noise and reference tokens."""

DESCRIBE = (
    "As an image captioning expert, generate a descriptive text prompt based on an image content, suitable for input "
    "to a text-to-image model."
)
ALTER = (
    "As an image editing expert, first analyze the content and attributes of the input image(s). Then, based on the "
    "user's editing instructions, clearly and precisely determine how to modify the given image(s), ensuring that only "
    "the specified parts are altered and all other aspects remain consistent with the original(s)."
)
"""The instructions to the language model, as in training."""
SEE, PAD, SEEN = "<|vision_start|>", "<|image_pad|>", "<|vision_end|>"
END = "<|im_end|>\n<|im_start|>assistant\n"
QUOTED = re.compile("|".join(f"{a}[^{a}{b}]*{b}" for a, b in ("''", '""', "\u2018\u2019", "\u201c\u201d")))


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a LongCatImageTransformer2DModel."""
    return layout.is_of("transformer", "LongCatImageTransformer2DModel")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model; only the index's class tells whether it edits, since the networks are the same."""
    edits = str(layout.index.get("_class_name")).startswith("LongCatImageEdit")
    layout.require("vae", "text_encoder", "tokenizer", "scheduler", *(["text_processor"] if edits else []))
    takes = {"prompt"} | ({"references"} if edits else set())
    return ModelInfo(
        layout.name, KNOWN, frozenset(takes), default_sampler(layout.config("scheduler")), STEPS, WINDOW, LEAST,
        PATCH * vae_factor(layout.config("vae")), guidance=GUIDANCE, shifts=True, references=1 if edits else 0,
        rounds_up=True,
    )  # fmt: skip


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    from diffusers import LongCatImageTransformer2DModel

    transformer = load_network(layout, "transformer", LongCatImageTransformer2DModel, dtype, device)
    vae = load_vae(layout, dtype, device)
    edits = "references" in info.takes
    part = "text_processor" if edits else "tokenizer"
    reader, encoder = load_text_encoder(layout, part, "text_encoder", dtype, device)
    schedule = make_flow(layout.config("scheduler"), PATCH)
    return (LongCatEdit if edits else LongCat)(info, transformer, vae, reader, encoder, schedule)


class LongCat(BesideLanguageModel):
    """A LongCatImageTransformer2DModel behind an AutoencoderKL as a `Model`."""

    def fits(self, cond: Conditioning, steered: bool) -> Hashable:
        return reference_sizes(cond), self.words(cond).embeds.shape[1]

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, device, dtype = len(conds), len(x_t), x_t.device, self.transformer.dtype
        words = torch.cat([self.words(cond).embeds.expand(batch, -1, -1) for cond in conds]).to(device, dtype)
        looked = [[reference.latent.to(x_t) for reference in cond.references] for cond in conds]
        tokens = [torch.cat([packed(x_t), *(packed(r).expand(batch, -1, -1) for r in refs)], 1) for refs in looked]
        length = words.shape[1]
        text = torch.zeros(length, 3, dtype=torch.int64, device=device)
        text[:, 1:] = torch.arange(length, device=device)[:, None]
        places = [self._ids(x_t, NOISE, length), *(self._ids(latent, REFERENCE, length) for latent in looked[0])]
        out = self.transformer(
            hidden_states=torch.cat(tokens).to(dtype),
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=device) / 1000,
            encoder_hidden_states=words, txt_ids=text, img_ids=torch.cat(places), return_dict=False,
        )[0]  # fmt: skip
        return unpacked(out, *x_t.shape[-2:]).to(x_t.dtype).chunk(n)

    @staticmethod
    def _ids(latent: Tensor, first: int, start: int) -> Tensor:
        """Return the positions of the tokens of `latent`; rows and columns count from `start`."""
        ids = grid_ids([side // PATCH for side in latent.shape[-2:]], first, 3, latent.device)
        ids[:, 1:] += start
        return ids

    def fold(self, without: Tensor, wanted: Tensor, scale: float) -> Tensor:
        """Return w min(|p| / |w|, 1) with w = n + scale (p - n) and the norms per token: guidance makes no token longer
        than with the prompt alone.
        """
        import torch

        p, n = packed(wanted), packed(without)
        mixed = n + scale * (p - n)
        length = torch.linalg.vector_norm(mixed, dim=-1, keepdim=True) + 1e-8
        shorter = (torch.linalg.vector_norm(p, dim=-1, keepdim=True) / length).clamp(max=1.0)
        return unpacked(mixed * shorter, *wanted.shape[-2:])

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return the language model's last hidden state of the prompt and its padding, (1, 512, width)."""
        head = f"<|im_start|>system\n{DESCRIBE}<|im_end|>\n<|im_start|>user\n"
        with READING:
            before = self.reader(head, add_special_tokens=False).input_ids
        ids, mask, rest = self._read(before, text)
        return Prompt(self._states(ids, mask, len(before))), rest

    def _read(self, before: list[int], text: str) -> tuple[Tensor, Tensor, str]:
        """Return (the chat's tokens with `text` between `before` and its end, (1, n); the mask, 0 for padding; the
        truncated part of `text`).
        """
        import torch

        words = self.tokenizer
        with READING:
            own = [token for part in split_quoted(text) for token in words(part, add_special_tokens=False).input_ids]
            after = words(END, add_special_tokens=False).input_ids
            rest = words.decode(own[LENGTH:])
        kept = own[:LENGTH]
        padding = [words.pad_token_id] * (LENGTH - len(kept))
        mask = torch.ones(1, len(before) + LENGTH + len(after), dtype=torch.int64)
        mask[:, len(before) + len(kept) : len(before) + LENGTH] = 0
        return torch.tensor([[*before, *kept, *padding, *after]]), mask, rest

    def _states(self, ids: Tensor, mask: Tensor, start: int, **seen: Tensor) -> Tensor:
        """Return the last hidden state from `start` to the end of the prompt."""
        words = self.tokenizer
        out = self.encoder(
            input_ids=to_encoder_device(ids, self.encoder), attention_mask=to_encoder_device(mask, self.encoder),
            output_hidden_states=True, use_cache=False,
            **{name: to_encoder_device(value, self.encoder) for name, value in seen.items()},
            **limit_logits(self.encoder),
        )  # fmt: skip
        with READING:
            end = len(words(END, add_special_tokens=False).input_ids)
        states: Tensor = out.hidden_states[-1]
        return states[:, start:-end]

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        import diffusers

        words = self.tokenizer
        edits = "references" in self.info.takes
        kind = diffusers.LongCatImageEditPipeline if edits else diffusers.LongCatImagePipeline
        return kind(
            transformer=self.transformer, vae=self.vae, text_encoder=self.encoder, tokenizer=words,
            text_processor=self.reader if edits else None, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        )  # fmt: skip


class LongCatEdit(ReadBesidePictures, LongCat):
    """With one reference, encoded together with the text; uses plain guidance."""

    def fold(self, without: Tensor, wanted: Tensor, scale: float) -> Tensor:
        return without + scale * (wanted - without)

    def encode_seeing(self, text: str | None, references: Sequence[Reference]) -> tuple[Prompt, str]:
        """Return the last hidden state of the picture, the prompt and its padding, (batch, tokens, width)."""
        import torch

        if len(references) > 1:
            raise ModelError(
                f"model {self.info.name} takes one reference picture, got {len(references)}; leave some out, or "
                "choose another --model (Qwen-Image-Edit-Plus, FLUX.2)"
            )
        items = each_item([reference.picture for reference in references])
        read = [self._encode_with_pictures(text or "", pictures) for pictures in items]
        return Prompt(torch.cat([states for states, _ in read])), read[0][1]

    def _encode_with_pictures(self, text: str, pictures: Sequence[Tensor]) -> tuple[Tensor, str]:
        """Encode the text with one item's picture, or with none."""
        import torch

        head = f"<|im_start|>system\n{ALTER}<|im_end|>\n<|im_start|>user\n"
        seen: dict[str, Tensor] = {}
        with READING:
            if pictures:
                given = self.reader.image_processor(images=halve_picture(pictures[0]), return_tensors="pt")
                seen = {name: given[name] for name in ("pixel_values", "image_grid_thw")}
                count = int(seen["image_grid_thw"].prod()) // self.reader.image_processor.merge_size**2
                head += SEE + PAD * count + SEEN
            before = self.reader.tokenizer(head, add_special_tokens=False).input_ids
        ids, mask, rest = self._read(before, text)
        if pictures:
            seen["mm_token_type_ids"] = (ids == self._id(PAD)).to(torch.int64)
        return self._states(ids, mask, before.index(self._id(SEE)) if pictures else len(before), **seen), rest

    def _id(self, token: str) -> int:
        return int(self.reader.tokenizer.convert_tokens_to_ids(token))


def halve_picture(picture: Tensor) -> Image.Image:
    """Resize `picture` (1, 3, h, w) in [-1, 1] to half its sides, for the language model."""
    from PIL import Image

    image = Image.fromarray(from_unit(picture[:1].cpu(), "uint8"))
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def split_quoted(text: str) -> list[str]:
    """Split `text` into the pieces to tokenise: quoted text letter by letter, with its marks. An apostrophe within a
    word is not a quotation mark.
    """
    hidden = re.sub(r"(?<=[a-zA-Z])'(?=[a-zA-Z])", "\0", text)
    pieces: list[str] = []
    end = 0
    for found in QUOTED.finditer(hidden):
        pieces += [hidden[end : found.start()], *found[0]]
        end = found.end()
    pieces.append(hidden[end:])
    return [piece.replace("\0", "'") for piece in pieces if piece]
