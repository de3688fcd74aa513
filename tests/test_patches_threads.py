"""Rows shared out among threads: the same numbers, gradients too, and nothing left behind."""

from __future__ import annotations

import threading

import pytest
import torch

from editkit.models.patches.threads import map_rows, row_threads, run_all


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_rows_are_the_same_however_many_compute_them(threads):
    x = torch.randn(1000, 7, generator=torch.Generator().manual_seed(0))
    alone = map_rows(lambda rows: x[rows].square().sum(1), len(x), 64)
    with row_threads():
        assert torch.equal(map_rows(lambda rows: x[rows].square().sum(1), len(x), 64), alone)
    assert torch.equal(alone, x.square().sum(1))


def test_several_threads_take_part_and_each_computes_alone(threads):
    both, seen = threading.Barrier(2, timeout=120), []

    def one() -> torch.Tensor:
        both.wait()  # breaks where the two are not computed at once
        seen.append(torch.get_num_threads())
        return torch.zeros(1)

    with row_threads():
        run_all(one, one)
    assert seen == [1, 1]


def test_gradients_pass_and_are_left_out_as_asked(threads):
    x = torch.randn(300, 4, requires_grad=True)
    with row_threads():
        map_rows(lambda rows: x[rows].pow(3), len(x), 50).sum().backward()
        with torch.no_grad():
            assert not map_rows(lambda rows: x[rows] * 2, len(x), 50).requires_grad
    assert torch.allclose(x.grad, 3 * x.detach().square())


def test_the_number_of_threads_is_given_back(threads):
    def within() -> None:
        with row_threads():
            with row_threads():
                assert torch.get_num_threads() == 1
            assert torch.get_num_threads() == 1
            run_all(lambda: torch.zeros(1), lambda: torch.zeros(1) / (1 // 0))

    with pytest.raises(ZeroDivisionError):
        within()
    assert torch.get_num_threads() == 2
