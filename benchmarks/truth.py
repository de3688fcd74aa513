"""What every sampler and method makes of data whose answer is known, in few steps and many: writes docs/truth.md.

    python benchmarks/truth.py                # the page, about a minute
    python benchmarks/truth.py --steps 4 20   # to standard output

Samplers and linear methods are affine in their noise on Gaussians, so mean and covariance are not sampled: one batch of
unit impulses measures the whole map (as tests/inverse.py). All data here are independent values, so one impulse a draw
serves all of them at once. On the mixture deterministic samplers carry evenly spaced quantiles; the others are sampled.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from editkit import sample
from editkit.diffusion.samplers import SAMPLERS, make_sampler
from editkit.diffusion.schedule import VE, Cosine, Flow, Schedule, Spacing
from editkit.engine.loop import State
from editkit.models import Gaussian, GaussianMixture
from editkit.models.schedules import make_schedule
from editkit.plugin import Plugin
from editkit_plugins.restoring.degradations import Mask
from editkit_plugins.restoring.solving import Inverse

STEPS = (1, 2, 4, 8, 20, 50, 160)
DEVIATIONS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
PAGE = Path(__file__).resolve().parent.parent / "docs" / "truth.md"


def tables() -> dict[str, Schedule]:
    """A table of each family; `cosine, 1000` is `pocket`'s."""
    trained = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
    return {
        "cosine": Cosine(),
        "cosine, 1000": make_schedule(trained),
        "VE": VE(),
        "flow": Flow(),
        "flow, shift 3": Flow(3.0),
    }


def samplers() -> list[str]:
    """All of them on Gaussians but lcm, which is for distilled models alone, and those of the score SDE, which need
    hundreds of steps (docs/directions.md, tests/test_score_sde.py); nor ode, which has no order, and sds,
    which looks for a mode."""
    apart = ("lcm", "sde", "pc", "langevin", "ode", "sds")
    return [name for name in SAMPLERS.names() if name not in apart] + ["ddim:eta=1", "ddpm:variance=large"]


def spectra() -> dict[str, tuple[Tensor, Tensor]]:
    """(means, deviations) of independent values: unit, like pictures (amplitude 1 / f), some of them fixed."""
    f = torch.arange(1.0, 33.0)
    return {
        "isotropic": (torch.full((4,), 0.7), torch.ones(4)),
        "1/f^2": (torch.zeros(32).index_fill(0, torch.tensor(0), 0.5), 1.0 / f),
        "rank-deficient": (torch.full((8,), 0.3), torch.tensor([1.0, 0.5, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0])),
    }


@dataclass
class Impulses:
    """Zeros for item 0; for item 1 + k ones in draw k and zeros in the others."""

    drawn: list[int] = field(default_factory=lambda: [0])
    generators = ()

    def stream(self, owner: str) -> Impulses:
        return self

    def normal(self, shape: Sequence[int]) -> Tensor:
        z = torch.zeros(tuple(shape))
        if self.drawn[0] + 1 < len(z):
            z[1 + self.drawn[0]] = 1.0
        self.drawn[0] += 1
        return z


@dataclass(frozen=True)
class Moments:
    """What a process makes: mean and variance of each value, (d,); `reach`: the state's largest root mean square over
    that of the table's own states, on the way.
    """

    mean: Tensor
    variance: Tensor
    reach: float

    def errors(self, mean: Tensor, variance: Tensor) -> tuple[float, float]:
        """(|m - m*| / sqrt(tr C*), |C - C*|_F / |C*|_F)."""
        m = float((self.mean - mean).norm() / variance.sum().sqrt())
        return m, float((self.variance - variance).norm() / variance.norm())


def moments(
    model: Gaussian, sampler: str, steps: int, plugins: Sequence[Plugin] = (), spacing: Spacing = "auto"
) -> Moments:
    """Exactly: `model` has a diagonal covariance, and all that acts treats values by themselves."""
    own, variance = model._means[0].double(), _variances(model)
    source, reach = Impulses(), [0.0]
    run = {"sampler": sampler, "steps": steps, "spacing": spacing}
    sample(model, plugins, shape=(1, *model.sample_shape), noise=source, **run)

    def watch(state: State) -> None:
        mean, var = _affine(state.x)
        wanted = state.level.alpha**2 * (variance + own**2) + state.level.sigma**2
        reach[0] = max(reach[0], float(((mean**2 + var).mean() / wanted.mean()).sqrt()))

    x = sample(model, plugins, shape=(1 + source.drawn[0], *model.sample_shape), noise=Impulses(), watch=watch, **run)
    return Moments(*_affine(x), reach[0])


def _affine(x: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance) of each value, from item 0 and the columns of the map."""
    x = x.flatten(1).double()
    return x[0], (x[1:] - x[0]).square().sum(0)


def _variances(model: Gaussian) -> Tensor:
    """(d,) of a model whose covariance is diagonal."""
    vectors, values = model._vectors[0].double(), model._values[0].double()
    return (vectors**2) @ values


def gaussian(means: Tensor, deviations: Tensor, table: Schedule) -> Gaussian:
    return Gaussian(means, torch.diag(deviations**2), table)


# --- bounds ---------------------------------------------------------------------------------------------------------

ORDERS = {
    "ddpm": 1, "ddpm:variance=large": 1, "ddim": 1, "ddim:eta=1": 1, "euler": 1, "euler-ancestral": 1,
    "heun": 2, "dpm++2m": 2, "dpm++2m-sde": 2, "unipc": 2,
}  # fmt: skip
LENGTH = math.log(80.0 / 0.002)
"""Of `VE` in log(sigma / alpha)."""

REACH = 3.0
"""How many times the table's own root mean square a state may have."""


def mean_bound(sampler: str, table: Schedule, steps: int, mean: Tensor, variance: Tensor) -> float:
    """Of the mean's error: a process begins from noise without alpha_T m, of which the exact flow makes
    sqrt(C) alpha_T m / sigma_T; 3 times that, since a sampler may make more of it in few steps.
    """
    top = table.levels(steps, "auto", make_sampler(sampler).grid)[-1]
    left = (variance.sqrt() * mean.abs() * top.alpha / top.sigma).norm()
    return 3.0 * float(left / variance.sum().sqrt())


def covariance_bound(sampler: str, steps: int) -> float:
    """Of the covariance's relative error: h^order, and at most that of one step, E[x0], which has no variance; h is the
    length of a step in log(sigma / alpha) on the longest table, VE from 80 to 0.002.

    With f = r^2 / (s^2 + r^2), r = sigma / alpha and s the data's deviation, the flow is d log u / d log r = f. A step
    of Euler's (ddim) is log(1 - (1 - e^-h) f) instead of the integral of f. They differ by -h^2 / 2 f (1 - f), and as
    f' = 2 f (1 - f), even steps together by -h / 4: the variance is e^(-h / 2) of the data's. The ancestral ones lose
    twice that, e^-h, an error below h. Flow tables are uneven about the data's deviation: a third is added to h, which
    is measured (shift 3), not derived. Of second order only the power is derived, not that its factor is below 1. In
    few steps a rule is no better than one step, and `variance=large` overshoots by half.
    """
    most, h = 1.5 if sampler == "ddpm:variance=large" else 1.05, 4.0 / 3.0 * LENGTH / steps
    return min(most, h if ORDERS[sampler] == 1 else min(h**2, h / 2.0))


# --- the page -------------------------------------------------------------------------------------------------------


def percent(value: float) -> str:
    """Two digits, and 0 below a hundredth of a percent: float32 has no more."""
    return "0" if value < 1e-4 else f"{100 * value:.2g}" if value < 0.995 else f"{100 * value:.0f}"


def coloured(value: float) -> str:
    """Percent, with a mark: under 2 %, under 20 %, above."""
    mark = "🟢" if value < 0.02 else "🟡" if value < 0.2 else "🔴"
    return f"{mark} {percent(value)}"


def grid(head: str, columns: Sequence[object], rows: dict[str, list[str]]) -> str:
    lines = [f"| {head} | " + " | ".join(map(str, columns)) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(lines + [f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items()])


def sampled(steps: Sequence[int]) -> str:
    """Sampler x table x spectrum."""
    parts, worst = [], dict.fromkeys(samplers(), 0.0)
    for name, (means, deviations) in spectra().items():
        for label, table in tables().items():
            model, rows = gaussian(means, deviations, table), {}
            for sampler in samplers():
                cells = []
                for n in steps:
                    got = moments(model, sampler, n)
                    worst[sampler] = max(worst[sampler], got.reach)
                    m, c = got.errors(means.double(), deviations.double() ** 2)
                    cells.append(f"{percent(m)} / {coloured(c)}")
                rows[sampler] = cells
            parts.append(f"\n### {name}, {label}\n\n{grid('sampler', steps, rows)}")
    reached = ", ".join(f"{sampler} {reach:.2f}" for sampler, reach in worst.items())
    parts.append(
        f"\nLargest root mean square of the state during sampling, relative to that of the schedule: {reached}."
    )
    return "\n".join(parts)


def ladders(steps: int) -> str:
    """Variance ratios of data of other sizes, by spacing."""
    parts = []
    for label, table in tables().items():
        model, rows = gaussian(torch.zeros(len(DEVIATIONS)), torch.tensor(DEVIATIONS), table), {}
        for sampler, spacing in itertools.product(("ddpm", "ddim", "dpm++2m"), ("auto", "log-snr", "karras")):
            got = moments(model, sampler, steps, spacing=spacing)
            ratio = got.variance / torch.tensor(DEVIATIONS, dtype=torch.float64) ** 2
            rows[f"{sampler}, {spacing}"] = [f"{float(r):.2f}" for r in ratio]
        parts.append(f"\n### {label}\n\n{grid('sampler, spacing', DEVIATIONS, rows)}")
    return "\n".join(parts)


def order(sampler: str, table: Schedule) -> float:
    """log2 of the covariance's errors at 80 and at 160 steps, on data of deviation 1/2."""
    means, deviations = torch.full((4,), 0.7), torch.full((4,), 0.5)
    model = gaussian(means, deviations, table)
    coarse, fine = (moments(model, sampler, n).errors(means.double(), deviations.double() ** 2)[1] for n in (80, 160))
    return math.log2(coarse / max(fine, 1e-12))


SEEN = torch.tensor([True, False, True, False, True, True]).view(1, 1, 6)
METHODS = ("wiener", "ddnm", "ddrm", "diffpir", "pigdm")


def problem(data: str, table: Schedule, sigma: float) -> tuple[Gaussian, Mask, Tensor, Tensor, Tensor]:
    """(model, A, y, mean and variance of x given y): four of six values are seen, with noise."""
    deviations = torch.full((6,), 0.5) if data == "isotropic" else 0.5 / torch.arange(1.0, 7.0)
    prior = (deviations**2).double()
    y = torch.tensor([0.4, -0.3, 0.2, 0.1]) if sigma else torch.tensor([0.3, -0.1, 0.05, 0.05])
    seen = SEEN.flatten()
    mean, variance = torch.zeros(6, dtype=torch.float64), prior.clone()
    gain = prior[seen] / (prior[seen] + sigma**2)
    mean[seen], variance[seen] = gain * y.double(), (1.0 - gain) * prior[seen]
    model = Gaussian(torch.zeros(1, 1, 6), torch.diag(deviations**2), table)
    A = Mask(SEEN[0], (1, 1, 6))
    return model, A, A.forward(torch.zeros(1, 1, 1, 6).masked_scatter(SEEN[None], y)), mean, variance


def solved(
    method: str, data: str, table: Schedule, sigma: float, steps: int, sampler: str, eta: float | None = None
) -> Moments:
    model, A, y, *_ = problem(data, table, sigma)
    return moments(model, sampler, steps, [Inverse(method=method, degradation=A, y=y, sigma=sigma, lam=1.0, eta=eta)])


def inverse(steps: Sequence[int]) -> str:
    """Method x table x data."""
    parts = []
    for data, sigma in itertools.product(("isotropic", "1/f^2"), (0.0, 0.2)):
        rows = {}
        for method, (label, table) in itertools.product(METHODS, tables().items()):
            for sampler in ("ddpm", "dpm++2m") if method in ("wiener", "pigdm") else ("ddpm",):
                *_, mean, variance = problem(data, table, sigma)
                cells = []
                for n in steps:
                    m, c = solved(method, data, table, sigma, n, sampler).errors(mean, variance)
                    cells.append(f"{percent(m)} / {coloured(c)}")
                rows[f"{method}, {sampler}, {label}"] = cells
        parts.append(f"\n### {data}, noise {sigma:g}\n\n{grid('method, sampler, table', steps, rows)}")
    return "\n".join(parts)


# --- a mixture ------------------------------------------------------------------------------------------------------

SHARES, MEANS, WIDTHS = torch.tensor([0.3, 0.7]), torch.tensor([-1.0, 0.8]), torch.tensor([0.2, 0.3])
COUNT = 4000
DETERMINISTIC = ("ddim", "euler", "heun", "dpm++2m", "unipc")


@dataclass
class Quantiles:
    """Evenly spaced quantiles of N(0, 1), for the one draw of a deterministic sampler."""

    generators = ()

    def stream(self, owner: str) -> Quantiles:
        return self

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.special.ndtri((torch.arange(shape[0], dtype=torch.float64) + 0.5) / shape[0]).float()[:, None]


def mixture(table: Schedule) -> GaussianMixture:
    return GaussianMixture(SHARES, MEANS[:, None], (WIDTHS**2)[:, None, None], table)


def mixed(sampler: str, table: Schedule, steps: int) -> tuple[float, float, float]:
    """Errors of the mean (of the data's deviation), of the variance (relative), of the right component's share."""
    noise = Quantiles() if sampler in DETERMINISTIC else "streams"
    x = sample(mixture(table), shape=(COUNT, 1), sampler=sampler, steps=steps, noise=noise).double().flatten()
    mean = float(SHARES @ MEANS)
    variance = float(SHARES @ (WIDTHS**2 + MEANS**2)) - mean**2
    right = float((x > 0.0).double().mean()) - 0.7
    return abs(float(x.mean()) - mean) / variance**0.5, abs(float(x.var()) / variance - 1.0), abs(right)


def mixtures(steps: Sequence[int]) -> str:
    parts = []
    for label, table in tables().items():
        rows = {}
        for sampler in samplers():
            found = [mixed(sampler, table, n) for n in steps]
            rows[sampler] = [f"{percent(m)} / {coloured(v)} / {percent(w)}" for m, v, w in found]
        parts.append(f"\n### {label}\n\n{grid('sampler', steps, rows)}")
    return "\n".join(parts)


INTRODUCTION = """# Accuracy of every sampler and method on known data

Written by `python benchmarks/truth.py`; `tests/test_truth.py` is a short version with a bound for every cell.
Nothing is sampled on Gaussians: samplers and linear methods are affine in their noise, and one batch of unit
impulses measures the whole map. A cell is the error of the mean / of the covariance in percent, |m - m*| /
sqrt(tr C*) and |C - C*|_F / |C*|_F: 🟢 under 2, 🟡 under 20, 🔴 above. `cosine, 1000` is the schedule of `pocket`,
here without the spacing that its configuration names.

**Bias by design.** One step gives E[x0], which has no variance (🔴 100). VE starts from N(0,
sigma_max^2), without the mean of the data: with every sampler an error of 1 / sigma_max = 1.25 % of it remains. The
same holds for `cosine, 1000` from 20 steps on, which starts at the level that `leading` names, as diffusers does
(`--spacing trailing` does not).
`ddpm:variance=large` keeps more variance than the data have in few steps; on VE it is Score SDE's predictor, which
is meant for a thousand steps and diverges in few. Schedules evenly spaced in time fail for data far from unit
standard deviation (second section). The eta of ddrm is its paper's up to 20 steps, and less of the noise is renewed
from 100 steps on, so that unobserved components keep 0.76 of their variance in 100 and 0.94 in 1,000; components
observed with noise keep half of the posterior's above 20 (docs/restoration.md). ddnm with noise (DDNM+) treats y's
noise as new at every step; diffpir renews 0.3 of the noise at every step. wiener and pigdm are exact only for
isotropic data. dps is not affine (docs/restoration.md covers it), lcm is only for distilled models.
"""


def page(steps: Sequence[int]) -> str:
    orders = {sampler: [f"{order(sampler, table):.1f}" for table in tables().values()] for sampler in samplers()}
    parts = (
        INTRODUCTION,
        "## Samplers on Gaussians",
        sampled(steps),
        "\n## Data far from unit standard deviation\n\nThe variance that remains after 50 steps, of 1, by the standard "
        "deviation of the data.",
        ladders(50),
        "\n## Order\n\nlog2 of the ratio of the covariance errors at 80 and 160 steps, for data of standard deviation "
        "1/2. The first and last steps of schedules with infinite log-SNR are of first order; "
        "where an error changes its sign, so does its order.\n",
        grid("sampler", list(tables()), orders),
        "\n## Inverse problems\n\nFour of six values are observed. `lam` is 1.",
        inverse(steps),
        "\n## A mixture\n\n0.3 N(-1, 0.2^2) + 0.7 N(0.8, 0.3^2): mean / variance / share of the right component. "
        f"{COUNT} quantiles for deterministic samplers, {COUNT} samples for the others (chance level: 1.6 / 2 / 0.7).",
        mixtures(steps),
        "",
    )
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, nargs="+", help="these numbers of steps, to standard output")
    chosen = parser.parse_args()
    torch.set_grad_enabled(False)
    if chosen.steps:
        print(page(chosen.steps))
    else:
        PAGE.write_text(page(STEPS), encoding="utf-8")


if __name__ == "__main__":
    main()
