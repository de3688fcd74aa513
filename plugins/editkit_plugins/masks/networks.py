"""Networks behind mask words: SAM 3, Grounding DINO, SAM 2, CLIPSeg and ViTMatte, loaded by transformers.

A folder's config.json says which network it holds (`model_type`). Folders are treated as data: `editkit.common.trust`
checks every configuration before transformers sees it, the classes are named here and not by the folder, weights must
be safetensors, and no connection is opened. Networks are cached between pictures, since loading takes longer than
inference.
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
from editkit.common.small import read_limited_bytes
from editkit.errors import ModelError, UsageError
from editkit.models.files.layout import Layout
from editkit.models.files.weights import check_sizes, read_stored, weight_files
from editkit.pictures.picture import Picture
from editkit.pictures.raster import at_depth
from editkit.pictures.shapes import Mask, as_mask

SURE = 0.5
"""SAM 3: score threshold of an instance."""
BOX, WORD = 0.35, 0.25
"""Grounding DINO: score thresholds of a box, and of the words that belong to it (its authors' values)."""
HEAT = 0.4
"""CLIPSeg: threshold on the heat map, in [0, 1]."""


class Kind(NamedTuple):
    """A kind of network: values of its model_type, its classes in transformers, and where to get the weights."""

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


def network_needed_error(word: str, kinds: Sequence[str], given: Sequence[str]) -> UsageError:
    """Return the error for a mask word `word` that needs one of `kinds`, where only `given` are available."""
    got = f", got {' and '.join(given)}" if given else ""
    ways = "; ".join(f"{kind}: hf download {KINDS[kind].get} --local-dir FOLDER" for kind in kinds)
    return UsageError(
        f"{word}: needs --mask-model FOLDER with {' or '.join(kinds)}{got} (fetch one once: {ways}; "
        f"docs/masks.md#found-by-words)"
    )


def find_networks(models: Sequence[str]) -> dict[str, Path]:
    """Identify the networks in folders: kind -> folder. Files of detectors (.onnx) are skipped.

    Raises:
        ModelError: a folder is missing, is of no known kind, or is of the same kind as another.
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
            f"--mask-model {folder}: there is no such folder; hub ids are not downloaded here: run hf download "
            f"OWNER/NAME --local-dir FOLDER, then give FOLDER"
        )
    types = {word: kind for kind, row in KINDS.items() for word in row.types}
    return types[trust.check_transformers_config(str(folder), "config.json", _read_json(folder / "config.json"), types)]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_limited_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({type(error).__name__}); download it again") from None


class Network(NamedTuple):
    """A network with its image processor and tokenizer."""

    model: Any
    images: Any
    tokenizer: Any


@lru_cache(maxsize=2)  # a pair, as Grounding DINO and SAM 2
def _load(kind: str, folder: Path, stamp: float) -> Network:
    row = KINDS[kind]
    for file in sorted(folder.glob("*.json")):
        if not file.name.endswith(".index.json") and file.name not in ("tokenizer.json", "vocab.json"):
            values = _read_json(file)
            trust.check_no_code(str(folder), file.name, values)
            if file.name.endswith("processor_config.json"):
                trust.check_preprocessor_config(str(folder), file.name, values)
    if not list(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: has no .safetensors; other formats can run code: use a revision that has them")
    layout = Layout(str(folder), folder)
    config = _read_json(folder / "config.json")
    try:
        check_sizes(str(folder), "", config, read_stored(str(folder), weight_files(layout, "")[0]))
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
    """Return the network in `folder`; it is loaded again only when its files change."""
    weights = [file.stat().st_mtime for file in folder.glob("*.safetensors")]
    return _load(kind, folder.resolve(), max(weights, default=0.0))


def pixels(picture: Picture) -> NDArray[np.uint8]:
    return np.array(at_depth(picture.pixels, np.uint8), dtype=np.uint8)  # a copy: torch needs a writable array


def by_sam3(folder: Path, picture: Picture, text: str) -> Mask:
    """Return the union of all instances of a noun phrase, (H, W) of 0 and 1."""
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
    """Detect what `text` names with Grounding DINO: boxes (n, 4) of x0, y0, x1, y1 in pixels."""
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
    """Return the union of the masks of all boxes (`input_boxes`) or groups of points (`input_points`, `input_labels`).

    The result is (H, W) of 0 and 1.
    """
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
    """Threshold CLIPSeg's heat map, which is 352x352 whatever the picture's size: (H, W) of 0 and 1."""
    import cv2
    import torch

    net = network("CLIPSeg", folder)
    inputs = net.images(images=pixels(picture), return_tensors="pt")
    words = net.tokenizer([text], return_tensors="pt", padding=True)
    with torch.inference_mode():
        out = net.model(pixel_values=inputs["pixel_values"], **words)
    heat = torch.sigmoid(out.logits).reshape(out.logits.shape[-2:]).float().numpy()
    return as_mask(cv2.resize(heat, picture.size, interpolation=cv2.INTER_LINEAR) >= HEAT)


def matte(folder: Path, picture: Picture, mask: Mask) -> Mask:
    """Refine a mask's edge by ViTMatte: (H, W) in [0, 1].

    Pixels further than a 100th of the longer side from the edge stay as they are.
    """
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
