"""Networks that mask words ask: SAM 3, Grounding DINO, SAM 2, CLIPSeg and ViTMatte, by transformers.

What a folder is, its config.json says (`model_type`). It is read as data: `editkit.common.trust` looks through every
configuration before transformers does, the classes are named here and not by the folder, weights are safetensors alone,
and no socket is opened. One network is kept from one picture to the next, since loading takes longer than asking.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from editkit.common import trust
from editkit.common.extras import explained
from editkit.common.small import small_bytes
from editkit.errors import ModelError, UsageError
from editkit.models.files.layout import Layout
from editkit.models.files.weights import bounded, stored, weight_files
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.shapes import Mask, as_mask

SURE = 0.5
"""SAM 3: how sure of an instance it is that is taken."""
BOX, WORD = 0.35, 0.25
"""Grounding DINO: how sure of a box, and that a word belongs to it (those of its authors)."""
HEAT = 0.4
"""CLIPSeg: how hot a pixel is that is taken."""


class Kind(NamedTuple):
    """One kind of network: what its model_type may be, its classes in transformers, where to get one."""

    types: tuple[str, ...]
    model: str
    images: str
    tokenizer: str | None
    get: str


KINDS = {
    "SAM 3": Kind(
        ("sam3", "sam3_video"), "Sam3Model", "Sam3ImageProcessor", "CLIPTokenizerFast", "facebook/sam3 (ask for access)"
    ),
    "Grounding DINO": Kind(
        ("grounding-dino",), "GroundingDinoForObjectDetection", "GroundingDinoImageProcessor", "BertTokenizerFast",
        "IDEA-Research/grounding-dino-tiny",
    ),
    "SAM 2": Kind(("sam2", "sam2_video"), "Sam2Model", "Sam2ImageProcessor", None, "facebook/sam2.1-hiera-small"),
    "CLIPSeg": Kind(
        ("clipseg",), "CLIPSegForImageSegmentation", "ViTImageProcessor", "CLIPTokenizerFast",
        "CIDAS/clipseg-rd64-refined",
    ),
    "ViTMatte": Kind(
        ("vitmatte",), "VitMatteForImageMatting", "VitMatteImageProcessor", None,
        "hustvl/vitmatte-small-composition-1k",
    ),
}  # fmt: skip


def needed(word: str, kinds: Sequence[str], given: Sequence[str]) -> UsageError:
    """The error where none of `kinds` is among the networks that were given for `word`."""
    got = f", got {' and '.join(given)}" if given else ""
    ways = "; ".join(f"{kind}: hf download {KINDS[kind].get} --local-dir FOLDER" for kind in kinds)
    return UsageError(
        f"{word}: needs --mask-model FOLDER with {' or '.join(kinds)}{got} (fetch one once: {ways}; "
        f"docs/masks.md#found-by-words)"
    )


def found(models: Sequence[str]) -> dict[str, Path]:
    """Kind -> folder; what is not a folder (a detector's file) is passed over.

    Raises:
        ModelError: a folder is not there or is none of the kinds; two are of one kind.
    """
    folders: dict[str, Path] = {}
    for name in models:
        path = Path(name)
        if path.is_file() and path.suffix == ".onnx":
            continue
        kind = _kind(path)
        if kind in folders:
            raise ModelError(f"--mask-model {path}: is {kind}, and so is {folders[kind]}; give one of them")
        folders[kind] = path
    return folders


def _kind(folder: Path) -> str:
    if not folder.is_dir():
        raise ModelError(
            f"--mask-model {folder}: there is no such folder; hub ids are not fetched here: hf download OWNER/NAME "
            f"--local-dir FOLDER, then give FOLDER"
        )
    types = {word: kind for kind, row in KINDS.items() for word in row.types}
    return types[trust.configuration(str(folder), "config.json", _json(folder / "config.json"), types)]


def _json(path: Path) -> Any:
    try:
        return json.loads(small_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({type(error).__name__}); fetch the folder anew") from None


class Network(NamedTuple):
    """A network with what prepares its inputs."""

    model: Any
    images: Any
    tokenizer: Any


@lru_cache(maxsize=2)  # a pair, as Grounding DINO and SAM 2
def _loaded(kind: str, folder: Path, stamp: float) -> Network:
    row = KINDS[kind]
    for file in sorted(folder.glob("*.json")):
        if not file.name.endswith(".index.json") and file.name not in ("tokenizer.json", "vocab.json"):
            said = _json(file)
            trust.settings(str(folder), file.name, said)
            if file.name.endswith("processor_config.json"):
                trust.preparation(str(folder), file.name, said)
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: has no .safetensors; other weights can run code: take a revision that has them")
    layout = Layout(str(folder), folder)
    config = _json(folder / "config.json")
    try:
        bounded(str(folder), "", config, stored(str(folder), weight_files(layout, "")[0]))
    except ModelError as error:
        raise ModelError(f"{folder}: {kind} cannot be read: {error}") from None
    with explained():
        import transformers
    from safetensors import SafetensorError

    here = {"local_files_only": True, "trust_remote_code": False}
    transformers.logging.disable_progress_bar()
    try:
        model = getattr(transformers, row.model).from_pretrained(folder, use_safetensors=True, **here).eval()
        images = getattr(transformers, row.images).from_pretrained(folder, **here)
        words = None if row.tokenizer is None else getattr(transformers, row.tokenizer).from_pretrained(folder, **here)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelError(f"{folder}: {kind} cannot be read: {' '.join(str(error).split())[:200]}") from None
    finally:
        transformers.logging.enable_progress_bar()
    return Network(model, images, words)


def network(kind: str, folder: Path) -> Network:
    """The network in `folder`, loaded once as long as its files stay the same."""
    weights = [file.stat().st_mtime for file in folder.glob("*.safetensors")]
    return _loaded(kind, folder.resolve(), max(weights, default=0.0))


def pixels(picture: Picture) -> NDArray[np.uint8]:
    return np.array(at_depth(picture.pixels, np.uint8), dtype=np.uint8)  # a copy: torch wants to own what it is given


def by_sam3(folder: Path, picture: Picture, text: str) -> Mask:
    """The union of all instances of a noun phrase."""
    import torch

    net = network("SAM 3", folder)
    inputs = net.images(images=pixels(picture), return_tensors="pt")
    words = net.tokenizer(text, return_tensors="pt", padding="max_length", max_length=32, truncation=True)
    with torch.inference_mode():
        out = net.model(pixel_values=inputs["pixel_values"], **words)
    size = [(picture.height, picture.width)]
    kept = net.images.post_process_instance_segmentation(out, threshold=SURE, mask_threshold=0.5, target_sizes=size)
    masks = np.asarray(kept[0]["masks"], dtype=bool)
    return as_mask(np.asarray(masks.any(axis=0)) if len(masks) else np.zeros(size[0]))


def boxes(folder: Path, picture: Picture, text: str) -> NDArray[np.float64]:
    """Grounding DINO's boxes of what `text` names: (n, 4), x0, y0, x1, y1 in pixels."""
    import torch
    from transformers import GroundingDinoProcessor

    net = network("Grounding DINO", folder)
    both = GroundingDinoProcessor(net.images, net.tokenizer)
    inputs = both(images=pixels(picture), text=text.lower().rstrip(". ") + ".", return_tensors="pt")
    with torch.inference_mode():
        out = net.model(**inputs)
    size = [(picture.height, picture.width)]
    kept = both.post_process_grounded_object_detection(
        out, inputs["input_ids"], threshold=BOX, text_threshold=WORD, target_sizes=size
    )
    return np.asarray(kept[0]["boxes"], dtype=np.float64).reshape(-1, 4)


def by_sam2(folder: Path, picture: Picture, **prompts: Any) -> Mask:
    """The union of one mask for each box (`input_boxes`) or group of points (`input_points`, `input_labels`)."""
    import torch
    from transformers import Sam2Processor

    net = network("SAM 2", folder)
    both = Sam2Processor(net.images)
    inputs = both(images=pixels(picture), return_tensors="pt", **prompts)
    with torch.inference_mode():
        out = net.model(**inputs, multimask_output=False)
    sizes = inputs["original_sizes"]
    masks = both.post_process_masks(out.pred_masks, sizes)[0]
    return as_mask(np.asarray(np.asarray(masks, dtype=bool).any(axis=(0, 1))))


def by_clipseg(folder: Path, picture: Picture, text: str) -> Mask:
    """Where its heat map, of 352 pixels a side whatever the picture's size, is hot."""
    import cv2
    import torch

    net = network("CLIPSeg", folder)
    inputs = net.images(images=pixels(picture), return_tensors="pt")
    words = net.tokenizer([text], return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = net.model(pixel_values=inputs["pixel_values"], **words)
    heat = torch.sigmoid(out.logits).reshape(out.logits.shape[-2:]).float().numpy()
    return as_mask(cv2.resize(heat, picture.size, interpolation=cv2.INTER_LINEAR) >= HEAT)


def matted(folder: Path, picture: Picture, mask: Mask) -> Mask:
    """ViTMatte's alpha for a mask: what is further than a 100th of the longer side from its edge stays as it is."""
    import cv2
    import torch

    if not 0.0 < float(mask.mean()) < 1.0:
        return mask
    net = network("ViTMatte", folder)
    reach = max(3, round(max(picture.size) / 100)) | 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    hard = (mask > 0.5).astype(np.uint8)
    sure, never = cv2.erode(hard, disc), cv2.dilate(hard, disc) == 0
    trimap = np.where(sure > 0, 255, np.where(never, 0, 128)).astype(np.uint8)
    inputs = net.images(images=pixels(picture), trimaps=trimap, return_tensors="pt")
    with torch.inference_mode():
        alpha = net.model(**inputs).alphas[0, 0, : picture.height, : picture.width].float().numpy()
    return as_mask(np.where(sure > 0, 1.0, np.where(never, 0.0, np.clip(alpha, 0.0, 1.0))))
