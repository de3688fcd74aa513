"""Damage with its truth: scratches, dust, dates, watermarks and objects set into photographs, for benchmarks/masks.py.

Each maker takes (H, W, 3) uint8 and a generator and gives the spoiled picture and (H, W) bool, True where it differs by
more than a trace (a 20th of the way to the damage's own colour).
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray
TRACE = 0.05


def laid(pixels: Array, cover: Array, colour: Array) -> tuple[Array, Array]:
    """`colour` over `pixels` by `cover`, (H, W) in [0, 1]."""
    made = pixels + cover[..., None] * (colour - pixels.astype(np.float32))
    return np.clip(np.rint(made), 0, 255).astype(np.uint8), cover > TRACE


def _curve(rng: np.random.Generator, size: tuple[int, int], straight: bool = False) -> Array:
    """Points of a slightly bent line of 0.2 to 0.8 longer sides (through the whole picture where straight)."""
    width, height = size
    long = max(size) * (1.5 if straight else rng.uniform(0.2, 0.8))
    angle = rng.uniform(0, np.pi)
    middle = np.array([rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height])
    along = np.array([np.cos(angle), np.sin(angle)])
    t = np.linspace(-0.5, 0.5, 60)[:, None]
    bend = 0.0 if straight else rng.normal(0.0, 0.06) * long
    return middle + t * long * along + bend * (4 * t**2) * np.array([-along[1], along[0]])


def scratched(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Three to eight scratches of 1 to 3 pixels, white or black, half to quite opaque, and one fold of 3 to 5."""
    made, truth = pixels, np.zeros(pixels.shape[:2], bool)
    count = int(rng.integers(3, 9))
    for k in range(count + 1):
        fold = k == count
        cover = np.zeros(pixels.shape[:2], np.uint8)
        points = np.rint(_curve(rng, pixels.shape[1::-1], fold) * 16).astype(np.int32)
        cv2.polylines(
            cover, [points], False, 255, int(rng.integers(3, 6) if fold else rng.integers(1, 4)), cv2.LINE_AA, 4
        )
        strength = rng.uniform(0.3, 0.6) if fold else rng.uniform(0.5, 0.95)
        tone = rng.uniform(215, 255) if rng.random() < 0.7 else rng.uniform(0, 40)
        made, there = laid(made, cover / 255.0 * strength, np.float32(tone))
        truth |= there
    return made, truth


def spotted(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Twenty to fifty blots of radius 1.5 to 6 pixels."""
    made, truth = pixels, np.zeros(pixels.shape[:2], bool)
    height, width = truth.shape
    for _ in range(int(rng.integers(20, 51))):
        r = rng.uniform(1.5, 6.0)
        x, y = rng.uniform(8, width - 8), rng.uniform(8, height - 8)
        cover = np.zeros(truth.shape, np.uint8)
        axes = (round(16 * r), round(16 * r * rng.uniform(0.6, 1.0)))
        cv2.ellipse(cover, (round(16 * x), round(16 * y)), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA, 4)
        tone = rng.uniform(215, 255) if rng.random() < 0.6 else rng.uniform(0, 40)
        made, there = laid(made, cover / 255.0 * rng.uniform(0.6, 0.95), np.float32(tone))
        truth |= there
    return made, truth


def torn(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A corner, or a piece of an edge, torn off: the scanner's white or black, with a ragged outline and some grain."""
    height, width = pixels.shape[:2]
    deep, steps = rng.uniform(0.06, 0.18, 2) * max(height, width), np.linspace(0.0, 1.0, 24)
    rough = rng.normal(0.0, 0.02 * deep.mean(), (24, 2))
    if rng.random() < 0.7:  # a corner: from the left edge to the upper one
        outline = np.stack([deep[0] * steps, deep[1] * (1.0 - steps)], -1) + rough
        outline = np.concatenate([[[-9.0, -9.0], [-9.0, deep[1]]], outline, [[deep[0], -9.0]]])
    else:  # a bite out of the upper edge
        outline = np.stack([2.0 * deep[0] * steps, 0.6 * deep[1] * np.sin(np.pi * steps)], -1) + rough
        outline = np.concatenate([[[0.0, -9.0]], outline, [[2.0 * deep[0], -9.0]]])
        outline[:, 0] += rng.uniform(0.1, 0.6) * width
    cover = np.zeros((height, width), np.uint8)
    cv2.fillPoly(cover, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    cover = np.ascontiguousarray(cover[:: rng.choice([-1, 1]), :: rng.choice([-1, 1])])
    tone = rng.uniform(236, 255) if rng.random() < 0.7 else rng.uniform(0, 14)
    grain = rng.normal(0.0, rng.choice([0.0, 1.5]), (height, width, 1)).astype(np.float32)
    return laid(pixels, cover / 255.0, np.float32(tone) + grain)


SEGMENTS = {
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc",
    "8": "abcdefg", "9": "abcdfg",
}  # fmt: skip
ENDS = {
    "a": (0, 0, 1, 0), "b": (1, 0, 1, 1), "c": (1, 1, 1, 2), "d": (0, 2, 1, 2), "e": (0, 1, 0, 2), "f": (0, 0, 0, 1),
    "g": (0, 1, 1, 1),
}  # fmt: skip


def _segments(text: str, high: int) -> Array:
    """`text` as seven segments, as cameras expose it: (high + 4, ...) in [0, 1]."""
    step, wide = round(0.75 * high), round(0.45 * high)
    image = Image.new("L", (4 * (step * len(text) + 8), 4 * (high + 8)))
    draw = ImageDraw.Draw(image)
    for k, letter in enumerate(text):
        x, y = 4 + k * step, 4
        for name in SEGMENTS.get(letter, ""):
            x0, y0, x1, y1 = ENDS[name]
            gap = 0.06 * high
            dx, dy = gap * (x1 > x0), gap * (y1 > y0)
            ends = (x + x0 * wide + dx, y + y0 * high / 2 + dy, x + x1 * wide - dx, y + y1 * high / 2 - dy)
            draw.line([4 * v for v in ends], fill=255, width=max(4, round(4 * 0.12 * high)))
        if letter == "'":
            draw.line(
                [4 * v for v in (x + wide, y, x + wide, y + high / 4)], fill=255, width=max(4, round(0.48 * high))
            )
    small = image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255.0


def _typed(text: str, high: int) -> Array:
    font = ImageFont.load_default(size=high * 1.3)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (round(right - left) + 8, round(bottom - top) + 8))
    ImageDraw.Draw(image).text((4 - left, 4 - top), text, fill=255, font=font)
    return np.asarray(image, dtype=np.float32) / 255.0


DATES = ("'98 7 24", "12 24 '03", "2003 12 24", "24/12/2003", "2011-08-05 14:32", "05.08.2011")
COLOURS = ((255, 140, 30), (255, 96, 24), (255, 48, 32), (255, 190, 60), (250, 250, 250))


def dated(pixels: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """A date in a corner, 2.5 to 4.5 % of the height, orange, red, yellow or white, in segments or type, a bit soft."""
    height, width = pixels.shape[:2]
    text = DATES[rng.integers(len(DATES))]
    high = max(9, round(height * rng.uniform(0.025, 0.045)))
    drawn = _segments(text, high) if set(text) <= set("0123456789 '") else _typed(text, high)
    drawn = cv2.GaussianBlur(drawn, (0, 0), 0.6)
    down, across = rng.uniform(0.03, 0.07, 2)
    y = round(height * (1 - down)) - drawn.shape[0] if rng.random() < 0.8 else round(height * down)
    x = round(width * (1 - across)) - drawn.shape[1] if rng.random() < 0.7 else round(width * across)
    cover = np.zeros((height, width), np.float32)
    cover[y : y + drawn.shape[0], x : x + drawn.shape[1]] = drawn
    return laid(pixels, cover * rng.uniform(0.8, 0.98), np.float32(COLOURS[rng.integers(len(COLOURS))]))


def mark(rng: np.random.Generator) -> Array:
    """A watermark as people have it: (h, w, 4) uint8, white letters with a dark rim in a ring, the rest transparent."""
    text = "".join(rng.choice(list("ABCDEGHKMNPRSTUW"), 6))
    letters = _typed(text, 44)
    ring = np.zeros((letters.shape[0] + 60, letters.shape[1] + 60), np.uint8)
    cv2.ellipse(ring, (ring.shape[1] // 2, ring.shape[0] // 2), (ring.shape[1] // 2 - 6, ring.shape[0] // 2 - 6),
                0, 0, 360, 255, 4, cv2.LINE_AA)  # fmt: skip
    alpha = ring / 255.0
    alpha[30:-30, 30:-30] = np.maximum(alpha[30:-30, 30:-30], letters)
    made = np.full((*alpha.shape, 4), 255, np.uint8)
    made[..., 3] = np.rint(alpha * 255)
    return made


def watermarked(
    pixels: Array, example: Array, opacity: float, rng: np.random.Generator, scale: float = 1.0, tiles: bool = False
) -> tuple[Array, Array]:
    """`example` (h, w, 4) at `opacity` somewhere, `scale` times its size, or everywhere in rows."""
    size = (round(example.shape[1] * scale), round(example.shape[0] * scale))
    alpha = cv2.resize(example[..., 3], size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255.0
    height, width = pixels.shape[:2]
    cover = np.zeros((height, width), np.float32)
    if tiles:
        places = [
            (y, x) for y in range(10, height - size[1], size[1] + 60) for x in range(10, width - size[0], size[0] + 50)
        ]
    else:
        places = [(int(rng.integers(0, height - size[1])), int(rng.integers(0, width - size[0])))]
    for y, x in places:
        cover[y : y + size[1], x : x + size[0]] = alpha
    return laid(pixels, opacity * cover, np.float32(255.0))


def composed(pixels: Array, other: Array, rng: np.random.Generator) -> tuple[Array, Array, tuple[int, ...]]:
    """A smooth blob of `other` in the middle third; with the box x0, y0, x1, y1 that a user would draw around it."""
    height, width = pixels.shape[:2]
    other = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA)
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    radius = 1.0 + sum(rng.normal(0, 0.22 / k) * np.cos(k * angle + rng.uniform(0, 6)) for k in range(1, 6))
    x = width * rng.uniform(0.4, 0.6) + 0.2 * width * radius * np.cos(angle)
    y = height * rng.uniform(0.4, 0.6) + 0.24 * height * radius * np.sin(angle)
    cover = np.zeros((height, width), np.uint8)
    cv2.fillPoly(cover, [np.rint(np.stack([x, y], -1) * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    made, truth = laid(pixels, cover / 255.0, other.astype(np.float32))
    rows, columns = np.flatnonzero(truth.any(1)), np.flatnonzero(truth.any(0))
    margin = round(0.02 * width)
    box = (max(int(columns[0]) - margin, 0), max(int(rows[0]) - margin, 0),
           min(int(columns[-1]) + margin, width), min(int(rows[-1]) + margin, height))  # fmt: skip
    return made, truth, box


def faded(pixels: Array, rng: np.random.Generator) -> Array:
    """Black lifted to 30 to 60, white lowered to 190 to 225, each channel otherwise, as old prints are."""
    black = rng.uniform(30, 60) + rng.uniform(-12, 12, 3)
    white = rng.uniform(190, 225) + rng.uniform(-18, 18, 3)
    return np.clip(np.rint(black + pixels / 255.0 * (white - black)), 0, 255).astype(np.uint8)
