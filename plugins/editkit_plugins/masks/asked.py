"""`text:the dog` and `point:x,y`: segmentation by networks that the user has downloaded (`--mask-model`).

`text` uses SAM 3; else Grounding DINO's boxes with SAM 2's masks; else CLIPSeg: the first of these among the folders.
If ViTMatte is among them, it refines the mask's edge to a soft alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

from editkit.pictures.picture import Picture
from editkit.pictures.shapes import Mask, NetworkShape, ShapeError, as_mask, coordinates
from editkit_plugins.masks import networks


def by_text(picture: Picture, values: str, models: Sequence[str]) -> Mask:
    """Segment what the words name: (H, W) in [0, 1], all 0 if nothing is found.

    Raises:
        UsageError: `models` has no suitable network.
        ShapeError: there are no words.
    """
    import numpy as np

    if not values.strip():
        raise ShapeError("'text:': write what to find after the colon, as text:the dog")
    there = networks.find_networks(models)
    if "SAM 3" in there:
        mask = networks.by_sam3(there["SAM 3"], picture, values)
    elif {"Grounding DINO", "SAM 2"} <= set(there):
        found = networks.boxes(there["Grounding DINO"], picture, values)
        empty = as_mask(np.zeros((picture.height, picture.width)))
        mask = networks.by_sam2(there["SAM 2"], picture, input_boxes=[found.tolist()]) if len(found) else empty
    elif "CLIPSeg" in there:
        mask = networks.by_clipseg(there["CLIPSeg"], picture, values)
    elif "Grounding DINO" in there:
        raise networks.network_needed_error(f"text:{values}", ["SAM 2"], list(there))
    else:
        raise networks.network_needed_error(f"text:{values}", ["SAM 3", "Grounding DINO", "CLIPSeg"], list(there))
    return soft(picture, mask, models)


def by_point(picture: Picture, values: str, models: Sequence[str]) -> Mask:
    """Segment the object at x,y: (H, W) in [0, 1]. Several points (x,y,x,y) mark one object.

    Raises:
        UsageError: SAM 2 is not among `models`.
        ShapeError: a point is malformed, or outside the picture.
    """
    numbers = coordinates("point", values, picture)
    points = list(zip(numbers[0::2], numbers[1::2], strict=False))
    if len(numbers) % 2 or not all(0 <= x < picture.width and 0 <= y < picture.height for x, y in points):
        raise ShapeError(f"'point:{values}': write point:x,y within the picture of {picture.width}x{picture.height}")
    there = networks.find_networks(models)
    if "SAM 2" not in there:
        raise networks.network_needed_error(f"point:{values}", ["SAM 2"], list(there))
    given = {"input_points": [[[list(p) for p in points]]], "input_labels": [[[1] * len(points)]]}
    return soft(picture, networks.by_sam2(there["SAM 2"], picture, **given), models)


def soft(picture: Picture, mask: Mask, models: Sequence[str]) -> Mask:
    """Return `mask`, (H, W), with its edge refined by ViTMatte if that is among `models`."""
    folder = networks.find_networks(models).get("ViTMatte")
    return mask if folder is None else networks.matte(folder, picture, mask)


TEXT = NetworkShape(
    "text", "text:words", lambda picture, values: by_text(picture, values, ()),
    "What the words name, segmented by a network (--mask-model).", None, True, ask=by_text,
)  # fmt: skip
POINT = NetworkShape(
    "point", "point:x,y", lambda picture, values: by_point(picture, values, ()),
    "The object at a point, by SAM 2 (--mask-model).", None, True, ask=by_point,
)  # fmt: skip
