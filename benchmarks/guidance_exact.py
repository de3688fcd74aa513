"""docs/guidance.md's table of exact cases: how near guidance comes where the answer is known.

    python benchmarks/guidance_exact.py

An observation of a 4-D Gaussian and a class of a 3-D mixture, both asked of x_t; moments of affine maps, not sampled.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import guidance_toy as guided
import toy

from editkit.diffusion.schedule import Cosine, Flow
from editkit.plugins import Classifier

STEPS = {"ddpm": 1000, "ddim": 1000, "heun": 100, "dpm++2m": 200}
Moments = tuple[torch.Tensor, torch.Tensor]


def cell(got: Moments, wanted: Moments) -> str:
    """Error of the mean in standard deviations, of the covariance relative to its norm."""
    (mean, covariance), (m, C) = got, wanted
    return f"{float((mean - m).norm() / C.trace().sqrt()):.4f}, {float((covariance - C).norm() / C.norm()):.4f}"


def main() -> None:
    torch.set_num_threads(1)
    print("| sampler, steps | VP, Gaussian | VP, mixture | flow, Gaussian | flow, mixture |\n|---|---|---|---|---|")
    component = guided.MEANS[1], guided.COVARIANCES[1]
    for sampler, steps in STEPS.items():
        cells = []
        for table in (Cosine(), Flow()):
            seen = guided.exact_moments(toy.model(table), toy.ExactClassifier(), 4, sampler, steps)
            plugin = Classifier(label="second", classifier=guided.Components())
            one = guided.exact_moments(guided.mixture(table), plugin, 3, sampler, steps)
            cells += [cell(seen, toy.given_y()), cell(one, component)]
        print(f"| {sampler}, {steps} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
