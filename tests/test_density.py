"""log p by the flow and the variational bound, against exact densities."""

import math

import pytest
import torch
from tiny import TinyModel
from toy import _ROOT, COVARIANCE, MEAN, model

import editkit
from editkit.diffusion.schedule import VE, Cosine, Flow
from editkit.errors import UsageError
from editkit.models import GaussianMixture

TABLES = {"VE": VE(), "VP": Cosine(), "flow": Flow()}
DATA = MEAN + torch.randn((16, 4), generator=torch.Generator().manual_seed(1)) @ _ROOT.T
MEANS, WEIGHTS = torch.stack([MEAN, MEAN + 1.5]), torch.tensor([0.3, 0.7])


def exact(x, mixture):
    normals = [torch.distributions.MultivariateNormal(m.double(), COVARIANCE.double()) for m in MEANS]
    if not mixture:
        return normals[0].log_prob(x.double())
    said = torch.stack([w.double().log() + n.log_prob(x.double()) for w, n in zip(WEIGHTS, normals, strict=True)])
    return said.logsumexp(0)


def made(table, mixture):
    if not mixture:
        return model(TABLES[table])
    return GaussianMixture(WEIGHTS, MEANS, COVARIANCE.expand(2, 4, 4), TABLES[table])


@pytest.mark.parametrize("mixture", [False, True], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("table", TABLES)
def test_log_likelihood_is_exact_to_a_thousandth_and_of_fourth_order(table, mixture):
    """In the mean over the samples. Halving the step divides the error by 16 in the limit."""
    right = float(exact(DATA, mixture).mean())
    found = [float(editkit.log_likelihood(made(table, mixture), DATA, steps=n).nats.mean()) for n in (16, 32, 200)]
    assert abs(found[2] - right) < 1e-3 * abs(right)
    assert abs(found[0] - found[2]) > 8.0 * abs(found[1] - found[2])


def test_item_by_item_and_in_bits():
    told = editkit.log_likelihood(model(), DATA, steps=200)
    torch.testing.assert_close(told.nats, exact(DATA, False), rtol=0.0, atol=0.02)
    torch.testing.assert_close(told.bits_per_dim, -told.nats / (4 * math.log(2.0)) + 7.0)
    assert not told.error.any()
    alone = editkit.log_likelihood(model(), DATA[3:4], steps=200)
    torch.testing.assert_close(alone.nats, told.nats[3:4], rtol=1e-4, atol=1e-4)


def test_hutchinson_is_right_within_its_error():
    found = editkit.log_likelihood(model(), DATA, steps=60, probes=200)
    right = editkit.log_likelihood(model(), DATA, steps=60).nats
    off = (found.nats - right) / found.error
    assert float(off.abs().mean()) < 2.0
    assert float(found.error.max()) > 0.0
    fewer = editkit.log_likelihood(model(), DATA, steps=60, probes=50)
    assert 1.5 < float((fewer.error / found.error).mean()) < 2.7  # 1 / sqrt(K)
    again = editkit.log_likelihood(model(), DATA, steps=60, probes=50)
    assert torch.equal(again.nats, fewer.nats)


def test_pictures_take_probes_by_themselves():
    tiny = TinyModel({"beta_schedule": "linear"}, "epsilon")
    x = torch.rand((2, 3, 10, 10), generator=torch.Generator().manual_seed(0)) - 0.5
    found = editkit.log_likelihood(tiny, x, steps=4)
    assert found.size == 300
    assert bool(torch.isfinite(found.nats).all())
    assert bool(found.error.isnan().all())  # of one probe there is no error


@pytest.mark.parametrize("table", TABLES)
def test_the_bound_is_above_and_its_gap_falls_with_the_levels(table):
    x = MEAN + torch.randn((4000, 4), generator=torch.Generator().manual_seed(2)) @ _ROOT.T
    right = -float(exact(x, False).mean())
    gaps = [float(editkit.variational_bound(made(table, False), x, steps=n).nats.mean()) - right for n in (25, 50, 100)]
    assert min(gaps) > 0.0, gaps
    assert gaps[0] > 1.6 * gaps[1] > 2.4 * gaps[2], gaps
    told = editkit.variational_bound(made(table, False), x[:5], steps=25)
    assert told.terms.shape == (5, 24)
    torch.testing.assert_close(told.nats, told.prior + told.terms.sum(1) + told.decoder)
    assert bool((told.terms >= 0.0).all())
    assert bool((told.prior >= 0.0).all())


def test_what_cannot_be_is_refused():
    for given in ({"steps": 1}, {"probes": 0}):
        with pytest.raises(UsageError, match="needs 4 steps or more"):
            editkit.log_likelihood(model(), DATA, **given)
    with pytest.raises(UsageError, match="needs 2 steps or more"):
        editkit.variational_bound(model(), DATA, steps=1)
