"""Logistic models of mask words, fitted to synthetic scans: the regression, and the module it is written to."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scans import photographs

Array = np.ndarray
Samples = Callable[[Array, int], tuple[list[Array], list[bool]]]
"""Features of the candidates in a damaged photograph (H, W, 3), damaged by the seed `k`, and whether each is damage."""

RIDGE, ROUNDS = 3.0, 30
MASKS = Path(__file__).resolve().parent.parent / "plugins/editkit_plugins/masks"


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


def command(description: str | None, samples: Samples, file: str, word: str, names: tuple[str, ...], most: int) -> None:
    """Run a fitting script: samples of at most `most` photographs, and the module `file` of the word's coefficients."""
    asked = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--photos", type=Path, required=True)
    asked.add_argument("--development", type=int, default=most, help="At most so many photographs.")
    given = asked.parse_args()
    features, damage = [], []
    for k, pixels in enumerate(photographs(given.photos, given.development).values()):
        some, which = samples(pixels, k)
        features += some
        damage += which
    write_model(MASKS / file, word, names, np.array(features), np.array(damage))
