"""Qwen-Image (Wu et al. 2025, arXiv:2508.02324), -Edit and -Edit-Plus (2509, 2511): a transformer with a vision
language model.

References are tokens after those of the noise, distinguished by their sizes; the edit models encode the text together
with the same pictures. Guidance gives every token (2 x 2 latents) the norm that it has with the prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from editkit.common.process import READING
from editkit.diffusion.conditioning import Conditioning, Prompt, Reference
from editkit.diffusion.control import Control, ControlInputs, Given, Residuals
from editkit.diffusion.model import Model, ModelInfo
from editkit.diffusion.schedule import Level
from editkit.errors import ModelError
from editkit.models.files.layout import Layout
from editkit.models.files.loading import load_network, load_text_encoder
from editkit.models.latent.caching import CachingTransformer
from editkit.models.latent.controls import QwenControl, on_first, qwen_controlnet, with_tables
from editkit.models.latent.language import BesideLanguageModel, Chat, ReadBesidePictures, each_item, limit_logits
from editkit.models.latent.space import to_encoder_device
from editkit.models.latent.tokens import packed, reference_sizes, unpacked
from editkit.models.latent.vaes import FilmSpace, film_factor
from editkit.models.schedules import default_sampler, make_flow
from editkit.pictures.tensors import from_unit

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from editkit.diffusion.noise import Stream

KNOWN = "Qwen-Image, -Edit and -Edit-Plus (QwenImageTransformer2DModel, AutoencoderKLQwenImage)"
PATCH = 2
WINDOW, LEAST = 1024, 512
"""In pixels per side."""
SEEN = 384 * 384
"""Area in pixels of a picture for the language model of -Edit-Plus; -Edit's takes the full size."""
GUIDANCE = 4.0
NO_WORDS = " "
"""The authors' text for an empty negative prompt."""
LENGTH = 1024
"""Most tokens of the prompt."""

DESCRIBE = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of the "
    "objects and background:"
)
ALTER = (
    "Describe the key features of the input image (color, shape, size, texture, objects, background), then explain "
    "how the user's text instruction should alter or modify the image. Generate a new image that meets the user's "
    "requirements while maintaining consistency with the original input where appropriate."
)
"""The instructions to the language model, as in training."""
CUT = {DESCRIBE: 34, ALTER: 64}
"""Tokens of the instructions, which are removed from the text's states."""
PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


def matches(layout: Layout) -> bool:
    """Whether the folder is a pipeline with a QwenImageTransformer2DModel for one picture (not -Layered)."""
    own = layout.is_of("transformer", "QwenImageTransformer2DModel")
    return own and not layout.config("transformer").get("use_layer3d_rope")


def describe(layout: Layout) -> ModelInfo:
    """Describe the model; only the index's class tells its task, since the networks are the same."""
    kind = str(layout.index.get("_class_name"))
    edits, several = kind.startswith("QwenImageEdit"), kind.startswith("QwenImageEditPlus")
    layout.require("vae", "text_encoder", "processor" if edits else "tokenizer", "scheduler")
    transformer = layout.config("transformer")
    if "Layered" in kind or transformer.get("use_additional_t_cond") or transformer.get("guidance_embeds"):
        raise ModelError(f"model {layout.name}: is a {kind} with other inputs (layers, or a scale); known: {KNOWN}")
    takes = {"prompt", "control", "step cache"} | ({"references"} if edits else set())
    return ModelInfo(
        layout.name, KNOWN, frozenset(takes), default_sampler(layout.config("scheduler")), 40 if several else 50,
        WINDOW, LEAST, PATCH * film_factor(layout.config("vae")), guidance=GUIDANCE, shifts=True,
        references=3 if several else 1 if edits else 0, rounds_up=True,
    )  # fmt: skip


def load(layout: Layout, info: ModelInfo, device: torch.device, dtype: torch.dtype) -> Model:
    """Load the model with its networks in `dtype`."""
    edits = "references" in info.takes
    made = networks(layout, "processor" if edits else "tokenizer", device, dtype)
    return (QwenEdit if edits else Qwen)(info, *made, make_flow(layout.config("scheduler"), PATCH))


def networks(layout: Layout, reader: str, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any, Any, Any]:
    """Load the transformer, the VAE, the `reader` (tokenizer or processor) and its language model."""
    from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel

    transformer = load_network(layout, "transformer", QwenImageTransformer2DModel, dtype, device)
    vae = load_network(layout, "vae", AutoencoderKLQwenImage, dtype, device)
    return with_tables(transformer), vae, *load_text_encoder(layout, reader, "text_encoder", dtype, device)


class Qwen(CachingTransformer, BesideLanguageModel, FilmSpace):
    """A QwenImageTransformer2DModel behind an AutoencoderKLQwenImage as a `Model`."""

    frames: int = 1
    """Pictures in one state, with their channels one after the other."""

    def fits(self, cond: Conditioning, steered: bool) -> Hashable:
        """Return the key for batching. Texts of different length are not padded, which would change the rounding."""
        return reference_sizes(cond), self.words(cond).embeds.shape[1]

    def velocities(
        self, x_t: Tensor, level: Level, conds: Sequence[Conditioning], added: Residuals | None
    ) -> Sequence[Tensor]:
        import torch

        n, batch, device, dtype = len(conds), len(x_t), x_t.device, self.transformer.dtype
        looked = [[reference.latent.to(x_t) for reference in cond.references] for cond in conds]
        tokens = torch.cat(
            [torch.cat([self.tokens(x_t), *(packed(r).expand(batch, -1, -1) for r in refs)], 1) for refs in looked]
        )
        words = torch.cat([self.words(cond).embeds.expand(batch, -1, -1) for cond in conds])
        sizes = [(1, *(side // PATCH for side in part.shape[-2:])) for part in (*[x_t] * self.frames, *looked[0])]
        steering = None if added is None else [on_first(part, tokens.shape[1]).to(dtype) for part in added.tensors]
        out = self.transformer(
            hidden_states=tokens.to(dtype),
            timestep=torch.full((n * batch,), level.t, dtype=torch.float32, device=device) / 1000,
            encoder_hidden_states=words.to(device, dtype), img_shapes=[sizes] * (n * batch), return_dict=False,
            controlnet_block_samples=steering, additional_t_cond=self.kind_of(tokens),
        )[0]  # fmt: skip
        return self.from_tokens(out, *x_t.shape[-2:]).to(x_t.dtype).chunk(n)

    def kind_of(self, tokens: Tensor) -> Tensor | None:
        """Return a further input of the network, a number for each of the batch; None: it has none."""
        return None

    def tokens(self, x: Tensor) -> Tensor:
        """Convert states (b, channels, h, w) to tokens, (b, frames h w / 4, 64): one picture after the other."""
        batch, _, height, width = x.shape
        return packed(x.reshape(batch * self.frames, -1, height, width)).reshape(batch, -1, PATCH**2 * self.channels)

    def from_tokens(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """The inverse of `tokens`; drops further tokens."""
        count = self.frames * (height // PATCH) * (width // PATCH)
        frames = tokens[:, :count].reshape(len(tokens) * self.frames, -1, tokens.shape[-1])
        return unpacked(frames, height, width).reshape(len(tokens), -1, height, width)

    def given(self, x_t: Tensor, level: Level, cond: Conditioning) -> Given:
        import torch

        words = self.words(cond).embeds.expand(len(x_t), -1, -1).to(x_t.device, self.transformer.dtype)
        return Given(x_t, torch.full((len(x_t),), level.t, dtype=torch.float32, device=x_t.device), words)

    def controlnet(self, config: Mapping[str, Any]) -> type[Any]:
        return qwen_controlnet(config, self.transformer.config, self.info.name)

    def steered(
        self, network: Any, shown: ControlInputs, scale: float, wanted_only: bool, stream: Stream | None
    ) -> Control:
        """Return the ControlNet with its hint, a draw from the VAE's posterior, as in the pipeline. A network for
        inpainting takes the hint picture with the hole in black, and the mask (1 = known).
        """
        import torch

        layers, network = len(self.transformer.transformer_blocks), with_tables(network)
        if not network.config.extra_condition_channels:
            return QwenControl(network, self.encode(shown.hint, stream), scale, wanted_only, layers)
        hole = torch.ones_like(shown.hint[:, :1]) if shown.mask is None else shown.mask.to(shown.hint)
        known = self.encode(torch.where(hole > 0.5, -1.0, shown.hint))
        region = torch.ones_like(known[:, :1]) if shown.region is None else shown.region.to(known)
        shown_at_once = torch.cat([known, 1.0 - region.expand(len(known), -1, -1, -1)], dim=1)
        return QwenControl(network, shown_at_once, scale, wanted_only, layers)

    def fold(self, without: Tensor, wanted: Tensor, scale: float) -> Tensor:
        """Return w |p| / |w| with w = n + scale (p - n), with the norms per token."""
        import torch

        p, n = self.tokens(wanted), self.tokens(without)
        mixed = n + scale * (p - n)
        length = torch.linalg.vector_norm(mixed, dim=-1, keepdim=True).clamp(min=1e-12)
        folded = mixed * (torch.linalg.vector_norm(p, dim=-1, keepdim=True) / length)
        return self.from_tokens(folded, *wanted.shape[-2:])

    @cached_property
    def _no_words(self) -> Prompt:
        return self.encode_text(NO_WORDS)[0]

    def encode_text(self, text: str) -> tuple[Prompt, str]:
        """Return the language model's last hidden state, (1, tokens, width), of at most 1024 tokens."""
        cut = CUT[DESCRIBE]
        chat = Chat(self.reader, self.encoder, lambda words: format_chat(DESCRIBE, words), LENGTH + cut, padded=False)
        states, _, dropped = chat.read(text)
        return Prompt(states[-1][:, cut:]), dropped

    def pipeline(self) -> Any:
        """Build a diffusers pipeline of these networks."""
        from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline

        return QwenImagePipeline(
            transformer=self.transformer, vae=self.vae, text_encoder=self.encoder,
            tokenizer=self.tokenizer, scheduler=FlowMatchEulerDiscreteScheduler(),
        )  # fmt: skip


class QwenEdit(ReadBesidePictures, Qwen):
    """-Edit and -Edit-Plus: with references, encoded together with the text."""

    def encode_seeing(self, text: str | None, references: Sequence[Reference]) -> tuple[Prompt, str]:
        """Return the last hidden state of the pictures and the whole text, (batch, tokens, width)."""
        import torch

        if len(references) > self.info.references:
            raise ModelError(
                f"model {self.info.name} takes at most {self.info.references} reference pictures, got "
                f"{len(references)}; leave some out, or choose another --model (-Edit-Plus, FLUX.2)"
            )
        items = each_item([reference.picture for reference in references])
        words = NO_WORDS if text is None else text
        return Prompt(torch.cat([self._encode_with_pictures(words, item) for item in items])), ""

    def _encode_with_pictures(self, text: str, pictures: Sequence[Tensor]) -> Tensor:
        """Encode the text with one item's pictures, (1, tokens, width)."""
        several = self.info.references > 1
        images = [to_reader_image(picture, SEEN if several else None) for picture in pictures]
        shown = "".join(f"Picture {k + 1}: {PICTURE}" if several else PICTURE for k in range(len(images)))
        with READING:
            given = self.reader(text=[format_chat(ALTER, shown + text)], images=images or None, return_tensors="pt")
        out = self.encoder(
            **{name: to_encoder_device(given[name], self.encoder) for name in TOLD if given.get(name) is not None},
            output_hidden_states=True, use_cache=False, **limit_logits(self.encoder),
        )  # fmt: skip
        states: Tensor = out.hidden_states[-1]
        return states[:, CUT[ALTER] :]


TOLD = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids")
"""The inputs of the language model from its processor. The last one gives the rows and columns of a picture's tokens;
diffusers 0.42's pipelines leave it out, and with transformers 5 the tokens are then in a single line
(huggingface/diffusers issue 14194).
"""


def format_chat(task: str, words: str) -> str:
    """Return the prompt in the authors' template, whatever template the folder has."""
    system, user = f"<|im_start|>system\n{task}<|im_end|>\n", f"<|im_start|>user\n{words}<|im_end|>\n"
    return f"{system}{user}<|im_start|>assistant\n"


def to_reader_image(picture: Tensor, area: int | None) -> Image.Image:
    """Resize `picture` (1, 3, h, w) in [-1, 1] for a language model: about `area` pixels, sides multiples of 32."""
    from PIL import Image

    image = Image.fromarray(from_unit(picture[:1].cpu(), "uint8"))
    if area is None:
        return image
    width = (area * image.width / image.height) ** 0.5
    sides = [max(32, round(side / 32) * 32) for side in (width, width * image.height / image.width)]
    return image.resize((sides[0], sides[1]), Image.Resampling.LANCZOS)
