"""What an exact model takes, and what it says of its data."""

import pytest
import torch

from editkit.errors import ModelError
from editkit.models import Gaussian, GaussianMixture


@pytest.mark.parametrize("seed", range(5))
def test_covariances_of_low_rank_are_taken_as_float32_rounds_them(seed):
    root = torch.randn(50, 10, generator=torch.Generator().manual_seed(seed))
    assert Gaussian(torch.zeros(50), root @ root.T).data_std > 0.0


@pytest.mark.parametrize(
    ("covariance", "weight", "message"),
    [
        ([[1.0, 0.5], [0.4, 1.0]], 1.0, "not symmetric"),
        ([[1.0, 2.0], [2.0, 1.0]], 1.0, "negative eigenvalue"),
        ([[1.0, 0.0], [0.0, 1.0]], -1.0, "weights of a mixture are"),
    ],
)
def test_what_is_no_mixture_is_refused(covariance, weight, message):
    with pytest.raises(ModelError, match=message):
        GaussianMixture(torch.tensor([2.0, weight]), torch.zeros(2, 2), torch.tensor([covariance, covariance]))


def test_the_deviation_of_a_mixture_has_the_means_and_weights_in_it():
    """0.9 of N(-1, 0.2^2) and 0.1 of N(3, 0.5^2): the deviation of a draw, by its definition."""
    g = GaussianMixture(torch.tensor([9.0, 1.0]), torch.tensor([[-1.0], [3.0]]), torch.tensor([[[0.04]], [[0.25]]]))
    mean = 0.9 * -1.0 + 0.1 * 3.0
    wanted = (0.9 * (0.04 + (-1.0 - mean) ** 2) + 0.1 * (0.25 + (3.0 - mean) ** 2)) ** 0.5
    assert g.data_std == pytest.approx(wanted, rel=1e-6)
    assert Gaussian(torch.ones(2), torch.diag(torch.tensor([1.0, 3.0]))).data_std == pytest.approx(2.0**0.5)
