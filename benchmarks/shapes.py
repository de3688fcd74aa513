"""Drawn shapes with captions, what finds them again without a network, and the two small networks trained on them.

A picture is 16x16: a circle, square or triangle in red, green, blue or yellow on a light ground, anywhere, of any size.
Twelve captions, as "a red circle". `recognised` measures colour and shape with OpenCV alone.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

SIDE = 16
COLOURS = {"red": (220, 30, 30), "green": (30, 160, 40), "blue": (40, 60, 220), "yellow": (235, 200, 20)}
SHAPES = ("circle", "square", "triangle")
GROUND = 232
CAPTIONS = tuple(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES)
SCALE = 8
"""Drawn so many times larger, then averaged: edges are soft."""


def picture(caption: str, x: float, y: float, radius: float) -> np.ndarray:
    """(16, 16, 3) uint8; centre and radius in pixels."""
    _, colour, shape = caption.split()
    large = np.full((SIDE * SCALE, SIDE * SCALE, 3), GROUND, np.uint8)
    cx, cy, r = (round(v * SCALE) for v in (x, y, radius))
    if shape == "circle":
        cv2.circle(large, (cx, cy), r, COLOURS[colour], -1)
    elif shape == "square":
        h = round(r * 0.9)
        cv2.rectangle(large, (cx - h, cy - h), (cx + h, cy + h), COLOURS[colour], -1)
    else:
        corners = np.array([(cx, cy - r), (cx - r, cy + r), (cx + r, cy + r)])
        cv2.fillPoly(large, [corners], COLOURS[colour])
    return cv2.resize(large, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def drawn(n: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """(pictures (n, 3, 16, 16) in [-1, 1], numbers of their captions (n,)), uniform over captions."""
    y = torch.randint(len(CAPTIONS), (n,), generator=generator)
    u = torch.rand((n, 3), generator=generator)
    made = []
    for k, (a, b, c) in zip(y.tolist(), u.tolist(), strict=True):
        r = 3.5 + 2.5 * c
        span = SIDE - 2 * r - 1
        made.append(picture(CAPTIONS[k], r + 0.5 + a * span, r + 0.5 + b * span, r))
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).float() / 127.5 - 1.0, y


def recognised(image: np.ndarray) -> str:
    """The caption of (16, 16, 3) uint8 by colour and by how much of its bounding box a thing fills; "" for nothing."""
    x = image.astype(np.float64)
    names, palette = list(COLOURS), np.array(list(COLOURS.values()), np.float64)
    ground = np.full(3, float(GROUND))
    away = palette - ground
    share = ((x - ground)[:, :, None] * away).sum(-1) / (away**2).sum(-1)  # of each colour in each pixel
    residue = ((x - ground)[:, :, None] - share[..., None] * away) ** 2
    hue = int(residue.sum((-1, 0, 1)).argmin())
    soft = np.clip(share[..., hue], 0.0, 1.0)
    count, labels, stats, _ = cv2.connectedComponentsWithStats((soft > 0.5).astype(np.uint8))
    if count < 2:
        return ""
    best = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[best, cv2.CC_STAT_AREA] < 16 or stats[1:, cv2.CC_STAT_AREA].sum() > 1.25 * stats[best, cv2.CC_STAT_AREA]:
        return ""
    grown = cv2.dilate((labels == best).astype(np.uint8), np.ones((3, 3), np.uint8))
    own = soft * grown
    rows, columns = own.max(1), own.max(0)  # soft lengths: a partly covered row counts partly
    fill = own.sum() / (rows.sum() * columns.sum())
    shape = "triangle" if fill < 0.66 else "circle" if fill < 0.9 else "square"
    return f"a {names[hue]} {shape}"


def recognised_all(x: Tensor) -> list[str]:
    """Of pictures (n, 3, 16, 16) in [-1, 1]."""
    pixels = ((x.clamp(-1.0, 1.0) + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    return [recognised(image) for image in pixels]


# ---------------------------------------------------------------------------------------------------- a small open_clip

WORDS = ("a", *COLOURS, *SHAPES)
MODEL = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": SIDE, "patch_size": 4, "width": 64, "layers": 3, "head_width": 16, "mlp_ratio": 2.0},
    "text_cfg": {
        "context_length": 8, "vocab_size": len(WORDS) + 4, "width": 32, "heads": 2, "layers": 2,
        "hf_tokenizer_name": "words",
    },
}  # fmt: skip
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "size": [SIDE, SIDE], "mode": "RGB"}


def save_tokenizer(folder: Path) -> None:
    """One token a word; the end of the text has the highest number, which is where open_clip looks for it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: k for k, word in enumerate(("<pad>", "<unk>", *WORDS, "<start>", "<end>"))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.normalizer, words.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [(name, vocabulary[name]) for name in ("<start>", "<end>")]
    words.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<start>", eos_token="<end>"
    ).save_pretrained(folder)


def train_clip(folder: Path, steps: int, noisy: tuple[float, float] | None = None, seed: int = 0) -> None:
    """A small open_clip model in open_clip's own layout; with `noisy` on x_t of log-SNR in that range (noise-aware).

    Image against the twelve captions: cross-entropy of the scaled cosines.
    """
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(folder)
    config = {"model_cfg": MODEL, "preprocess_cfg": PREPROCESS} | ({"log_snr": list(noisy)} if noisy else {})
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    torch.manual_seed(seed)
    cfg = json.loads(json.dumps(MODEL))
    model = open_clip.model.CLIP(**cfg)
    texts = open_clip.get_tokenizer(f"local-dir:{folder}")(list(CAPTIONS))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    generator = Generator().manual_seed(seed + 1)
    began, right = time.process_time(), 0.0
    pool, answers = drawn(20_000, generator)
    for step in range(1, steps + 1):
        rows = torch.randint(len(pool), (128,), generator=generator)
        x, y = pool[rows], answers[rows]
        if noisy:
            low, high = noisy
            snr = (low + (high - low) * torch.rand((128, 1, 1, 1), generator=generator)).exp()
            alpha, sigma = snr / (1 + snr**2).sqrt(), 1 / (1 + snr**2).sqrt()
            x = alpha * x + sigma * torch.randn(x.shape, generator=generator)
        else:  # a little noise, so that it does not hang on single pixels
            x = x + 0.15 * torch.rand((128, 1, 1, 1), generator=generator) * torch.randn(x.shape, generator=generator)
        image = F.normalize(model.encode_image(x), dim=-1)
        text = F.normalize(model.encode_text(texts), dim=-1)
        logits = model.logit_scale.exp().clamp(max=100.0) * image @ text.T
        loss = F.cross_entropy(logits, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
        right += (logits.argmax(1) == y).float().mean().item()
        if step % 250 == 0:
            spent = time.process_time() - began
            print(f"clip: step {step}, right {right / 250:.3f}, {spent:.0f} processor s", flush=True)
            right = 0.0
    weights = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors", {"format": "pt"})


def train_shapes_prior(folder: Path, steps: int) -> None:
    """The unconditional model of the pictures."""
    from small_prior import train_prior

    pool, _ = drawn(20_000, Generator().manual_seed(7))
    train_prior(
        lambda n, g: pool[torch.randint(len(pool), (n,), generator=g)], folder, SIDE, 3, (16, 32, 64), steps, batch=32
    )


LOG_SNR = (-math.log(100.0), math.log(100.0))
