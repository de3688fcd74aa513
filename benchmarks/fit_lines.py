"""Fit the logistic model of `scratches` to synthetic scans, and write editkit_plugins/masks/line_model.py.

    python benchmarks/fit_lines.py --photos ../shared/photos

Photographs and scans as in benchmarks/fit_specks.py. Lines are searched with an eagerness of 1.5. A piece is a scratch
if more than 60 % of it lies on one (within 2 pixels), and is none if less than 20 % of it is near any damage.
"""

from __future__ import annotations

import cv2
import numpy as np
from fit_specks import SEEDS
from fitting import Array, command
from scans import SIDE, near, scan

from editkit.pictures.picture import Picture
from editkit_plugins.masks import overlaid
from editkit_plugins.masks import scratches as found

EAGER, SCALES = 1.5, (1, 2, 4)


def samples(pixels: Array, k: int) -> tuple[list[Array], list[bool]]:
    """Features of the pieces in scan k, and whether each is a scratch."""
    spoiled, truth = scan(pixels, SEEDS + k)
    every, features, scratched = np.any(list(truth.values()), axis=0), [], []
    for whole in found.tones(Picture(spoiled)):
        tone, colours = whole, found.in_levels(Picture(spoiled))
        for scale in SCALES:
            least = max(round(found.LENGTH * SIDE / scale), found.SHORTEST)
            lines, angle = found._lines(tone, EAGER, least)
            lines = cv2.dilate(lines, np.ones((3, 3), np.uint8))
            on, spoilt = (
                near(cv2.resize(np.uint8(z), tone.shape[::-1], interpolation=cv2.INTER_AREA) > 0).ravel()
                for z in (truth["scratches"], every)
            )
            for piece in overlaid.line_pieces(lines, angle, colours, tone):
                share, damaged = on[piece.at].mean(), spoilt[piece.at].mean()
                height = piece.crest[:, 3] - np.maximum(piece.left[:, 3], piece.right[:, 3])
                enough = len(piece.at) >= overlaid.LONG and (height > overlaid.CLEAR).sum() >= overlaid.FEWEST
                if enough and (share > 0.6 or damaged < 0.2):
                    features.append(piece.features())
                    scratched.append(bool(share > 0.6))
            tone, colours = (cv2.resize(z, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for z in (tone, colours))
    return features, scratched


if __name__ == "__main__":
    command(__doc__, samples, "line_model.py", "scratches", overlaid.FEATURES, 44)
