"""Fit the logistic model of `spots` to synthetic scans, and write editkit_plugins/masks/speck_model.py.

    python benchmarks/fit_specks.py --photos ../shared/photos

Photographs of at least 512 pixels that are not in assets/pocket/heldout.txt, damaged as in benchmarks/scans.py with
other seeds. A candidate is dust if it covers more than half of a blot and is mostly on it, and is not if less than 2 %
of it is damaged; the others are left out. The fit is a ridge regression by Newton's method.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from scans import photographs, scan

from editkit.pictures.picture import Picture
from editkit_plugins.masks import spots

Array = np.ndarray
SEEDS, RIDGE, ROUNDS = 500, 3.0, 30
MODEL = Path(__file__).resolve().parent.parent / "plugins/editkit_plugins/masks/speck_model.py"


def samples(pixels: Array, k: int) -> tuple[list[Array], list[bool]]:
    """Features of the candidates of scan k, and whether each is dust."""
    spoiled, truth = scan(pixels, SEEDS + k)
    every = np.any(list(truth.values()), axis=0)
    _, labels = cv2.connectedComponents(truth["spots"].astype(np.uint8))
    sizes = np.bincount(labels.ravel())
    features, dust = [], []
    for speck in spots.specks(Picture(spoiled)):
        at = np.s_[speck.y : speck.y + speck.area.shape[0], speck.x : speck.x + speck.area.shape[1]]
        blots = np.bincount(labels[at][speck.area], minlength=len(sizes))
        blots[0] = 0
        best, area = int(blots.argmax()), int(speck.area.sum())
        is_dust = blots[best] > max(0.5 * sizes[best], 0.3 * area) and best > 0
        if is_dust or every[at][speck.area].mean() < 0.02:
            features.append(speck.features)
            dust.append(bool(is_dust))
    return features, dust


def fit(x: Array, y: Array) -> tuple[Array, float]:
    """Weights and bias of the logistic regression of y (N,) on x (N, K), with a ridge on the weights."""
    a = np.hstack([x, np.ones((len(x), 1))])
    ridge = RIDGE * np.diag(np.r_[np.ones(x.shape[1]), 0.0])
    b = np.zeros(a.shape[1])
    for _ in range(ROUNDS):
        p = 1.0 / (1.0 + np.exp(-a @ b))
        hessian = (a * (p * (1.0 - p))[:, None]).T @ a + ridge + 1e-9 * np.eye(len(b))
        b -= np.linalg.solve(hessian, a.T @ (p - y) + ridge @ b)
    return b[:-1], float(b[-1])


def write_model(path: Path, word: str, names: tuple[str, ...], x: Array, y: Array) -> None:
    """Fit the model of the mask word `word` to features x (N, K) and answers y (N,), and write its module."""
    centres, spreads = x.mean(axis=0), x.std(axis=0)
    weights, bias = fit(np.clip((x - centres) / spreads, -4.0, 4.0), y.astype(float))
    text = [f'"""Coefficients of `{word}`, one for each of its `FEATURES`; written by a script in benchmarks/."""', "",
            "import numpy as np", ""]  # fmt: skip
    for name, values in (("CENTRES", centres), ("SPREADS", spreads), ("WEIGHTS", weights)):
        numbers = [f"{v:.4f}" for v in values]
        lines = [", ".join(numbers[i : i + 8]) for i in range(0, len(numbers), 8)]
        text.append(f"{name} = np.array([\n    " + ",\n    ".join(lines) + ",\n])  # fmt: skip")
    path.write_text("\n".join([*text, f"BIAS = {bias:.4f}", ""]))
    told = ", ".join(f"{name} {w:+.2f}" for name, w in zip(names, weights, strict=True))
    print(f"{len(x)} candidates, {int(y.sum())} of them damage; {told}")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--photos", type=Path, required=True)
    asked.add_argument("--development", type=int, default=180, help="At most so many photographs.")
    given = asked.parse_args()
    features, dust = [], []
    for k, pixels in enumerate(photographs(given.photos, given.development).values()):
        some, which = samples(pixels, k)
        features += some
        dust += which
    write_model(MODEL, "spots", spots.FEATURES, np.array(features), np.array(dust))


if __name__ == "__main__":
    main()
