"""Methods for inverse problems where the posterior is known: Gaussians, exactly, and a mixture of Gaussians, sampled.

    python benchmarks/posteriors.py                    # the tables of docs/restoration.md

Pictures of 3x4x4 = 48 values. On a Gaussian every method but dps is affine in the noise it draws, so its mean and
covariance are computed without sampling (tests/inverse.py). Errors are relative to the posterior's own spread, in
percent: |m - m*| / sqrt(tr C*) and |C - C*|_F / |C*|_F.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from inverse import SIZE, STD, D, correlated, errors, matrix, mean, moments, observation, operators, posterior

from editkit import sample
from editkit.models import Gaussian, GaussianMixture
from editkit_plugins.restoring.degradations import Linear
from editkit_plugins.restoring.solving import Inverse

SAMPLER = "dpm++2m"
METHODS = ("ddnm", "ddrm", "diffpir", "pigdm", "pigdm, C given")
WALKED = ("ddnm", "pigdm")
"""Those whose transitions are the sampler's: also by the two that the commands walk by."""
COUNT = 4000


def declared(method: str, A: Linear, y: Tensor, sigma: float, covariance: Tensor | None = None) -> Inverse:
    given = covariance if method.endswith("given") else None
    return Inverse(method=method.split(",")[0], degradation=A, y=y, sigma=sigma, covariance=given, lam=1.0)


def row(name: str, cells: list[tuple[float, float]]) -> str:
    return f"| {name} | " + " | ".join(f"{100 * a:.1f} / {100 * b:.1f}" for a, b in cells) + " |"


def gaussians(calls: list[int], names: list[str]) -> None:
    """Method x degradation x calls, on an isotropic and on a correlated Gaussian."""
    found = {name: A for name, A in operators().items() if name in names}
    for title, covariance in (("isotropic", STD**2 * torch.eye(D)), ("correlated", correlated())):
        for sigma in (0.0, 0.1):
            print(f"\n{title} Gaussian, noise {sigma}: mean / covariance error in %\n")
            print("| method, calls | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
            for method in METHODS:
                for n in calls:
                    cells = []
                    for A in found.values():
                        y = observation(A, covariance, sigma)
                        got = moments(declared(method, A, y, sigma, covariance), covariance, n, SAMPLER)
                        cells.append(errors(got, posterior(A, y, covariance, sigma)))
                    print(row(f"{method}, {n}", cells), flush=True)
            for method, sampler in itertools.product(WALKED, ("ddpm", "ddim")):
                for n in calls:
                    cells = []
                    for A in found.values():
                        y = observation(A, covariance, sigma)
                        got = moments(declared(method, A, y, sigma), covariance, n, sampler)
                        cells.append(errors(got, posterior(A, y, covariance, sigma)))
                    print(row(f"{method} by {sampler}, {n}", cells), flush=True)
            for n in calls:
                cells = []
                for A in found.values():
                    y = observation(A, covariance, sigma)
                    plugin = declared("dps", A, y, sigma)
                    x = sample(Gaussian(mean(), covariance), plugin, shape=(4000, *SIZE), steps=n, sampler="ddpm")
                    cells.append(errors(empirical(x), posterior(A, y, covariance, sigma)))
                print(row(f"dps (ddpm), {n}", cells), flush=True)


def empirical(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.flatten(1).double()
    return x.mean(0), torch.cov(x.T)


def mixtures(calls: list[int], names: list[str]) -> None:
    """The same on a mixture of three correlated Gaussians with other means and sizes."""
    generator = torch.Generator().manual_seed(7)
    means = mean() + 0.5 * torch.randn(3, *SIZE, generator=generator)
    covariances = torch.stack([scale * correlated() for scale in (0.3, 0.15, 0.5)])
    shares = torch.tensor([0.5, 0.3, 0.2])
    model = GaussianMixture(shares, means, covariances)
    found = {name: A for name, A in operators().items() if name in names}
    for sigma in (0.0, 0.1):
        print(f"\nmixture of three Gaussians, noise {sigma}, {COUNT} samples: mean / covariance error in %\n")
        print("| method, calls | " + " | ".join(found) + " |\n|---|" + "---|" * len(found))
        problems = {}
        for name, A in found.items():
            root = torch.linalg.cholesky(covariances[0].double()).float()
            truth = means[0] + (root @ torch.randn(D, generator=generator)).reshape(SIZE)
            y = A.forward(truth[None]) + sigma * torch.randn(1, *A.observed, generator=generator)
            problems[name] = A, y, *mixed(shares, means, covariances, A, y, sigma)
        cells = [errors(empirical(draws), wanted) for _, _, wanted, draws in problems.values()]
        print(row("draws from the posterior itself", cells))
        for method in (*METHODS[:4], "dps"):
            for n in calls:
                cells = []
                for A, y, wanted, _ in problems.values():
                    plugin, sampler = (
                        declared(method, A, y, sigma),
                        "ddpm" if method == "dps" else SAMPLER,
                    )
                    x = sample(model, plugin, shape=(COUNT, *SIZE), steps=n, sampler=sampler)
                    cells.append(errors(empirical(x), wanted))
                print(row(f"{method}, {n}", cells), flush=True)


def mixed(
    shares: Tensor, means: Tensor, covariances: Tensor, A: Linear, y: Tensor, sigma: float
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """((mean, covariance), draws) of the mixture's posterior given y."""
    M, seen = matrix(A), y.flatten().double()
    parts, weights = [], []
    for share, m, C in zip(shares, means, covariances, strict=True):
        m, C = m.flatten().double(), C.double()
        S = M @ C @ M.T + max(sigma, 1e-4) ** 2 * torch.eye(len(M), dtype=torch.float64)
        gain = C @ M.T @ torch.linalg.inv(S)
        parts.append((m + gain @ (seen - M @ m), C - gain @ M @ C))
        values, vectors = torch.linalg.eigh(S)
        r = vectors.T @ (seen - M @ m)
        weights.append(share.double().log() - 0.5 * (r**2 / values + values.log()).sum())
    w = torch.stack(weights).softmax(0)
    total = sum(k * m for k, (m, _) in zip(w, parts, strict=True))
    spread = sum(k * (C + torch.outer(m - total, m - total)) for k, (m, C) in zip(w, parts, strict=True))
    generator = torch.Generator().manual_seed(1)
    draws = []
    for count, (m, C) in zip((w * COUNT).round().long().tolist(), parts, strict=True):
        values, vectors = torch.linalg.eigh(C)
        z = torch.randn(count, D, dtype=torch.float64, generator=generator)
        draws.append(m + (z * values.clamp_min(0).sqrt()) @ vectors.T)
    return (total, spread), torch.cat(draws)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--calls", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--degradations", nargs="+", default=list(operators()))
    chosen = parser.parse_args()
    torch.set_grad_enabled(False)
    gaussians(chosen.calls, chosen.degradations)
    mixtures(chosen.calls, chosen.degradations)


if __name__ == "__main__":
    main()
