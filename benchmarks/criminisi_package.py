"""Is the exemplar-based filler that holes.py compares with (criminisi.py) no worse than the package on PyPI?

The package takes minutes for a hole at the size of holes.py, so both fill small holes of small pictures:

    pip install --no-deps --target PACKAGE exemplar-based-inpainting==0.2.0    # it asks for documentation tools only
    python benchmarks/criminisi_package.py --package PACKAGE --photos ../shared/photos
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from criminisi import fill
from holes import ROOT, Case, load, make_hole
from measure import FeatureDistance


def packaged(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The package's result with its command's defaults; it takes BGR and masks of 255."""
    from exemplar_based_inpainting.inpainter import Inpainter

    bgr = np.ascontiguousarray(image[..., ::-1])
    made = Inpainter(patch_preference="any", show_progress_bar=False).inpaint(bgr, hole.astype(np.uint8) * 255)
    return np.where(hole[..., None], np.asarray(made)[..., ::-1], image).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", type=Path, required=True, help="folder that pip installed the package into")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--list", type=Path, default=ROOT / "assets" / "pocket" / "heldout.txt")
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--subset", type=int, default=12)
    arguments = parser.parse_args()
    sys.path.append(str(arguments.package))
    names = [n for n in arguments.list.read_text().splitlines() if n.strip() and not n.startswith("#")]
    distance, scores = FeatureDistance(), []
    for name in names[: arguments.subset]:
        case = Case(name, 5, "box", arguments.side)
        truth = load(arguments.photos / name, case.side)
        hole = make_hole(case, *truth.shape[:2])
        hidden = truth.copy()
        hidden[hole] = 128
        row = []
        try:
            for filler in (fill, packaged):
                began = time.process_time()
                filled = filler(hidden, hole)
                seconds = time.process_time() - began
                row += [distance(distance.features(filled), distance.features(truth), hole), seconds]
        except IndexError as error:  # where its search finds one patch only, or none
            print(f"{name}: the package raises IndexError ({error}), left out", flush=True)
            continue
        scores.append(row)
        ours, theirs = (f"{d:.3f} ({seconds:.1f} s)" for d, seconds in (row[:2], row[2:]))
        print(f"{name}: criminisi.py {ours}, the package {theirs}", flush=True)
    means = np.mean(scores, 0)
    nearer = sum(row[0] < row[2] for row in scores)
    print(f"mean: criminisi.py {means[0]:.3f}, the package {means[2]:.3f}; ours nearer on {nearer} of {len(scores)}")


if __name__ == "__main__":
    main()
