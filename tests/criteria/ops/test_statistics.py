import pytest
import torch
from torch import Tensor

from lit_distill.criteria.ops.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("full", [True, False])
def test_batches_add_up_to_the_moments_of_all_their_rows(full: bool) -> None:
    statistics = Statistics(3, full).double()
    batches = [1000 + 2 * draw(size, 3, seed=size) for size in (5, 1, 8, 2)]
    for batch in batches:
        statistics.update(batch)
    rows = torch.cat(batches)
    mean, covariance = statistics.moments(rows[:1])
    torch.testing.assert_close(mean, rows.mean(0))
    expected = torch.cov(rows.T, correction=0)
    torch.testing.assert_close(covariance, expected if full else expected.diagonal(), rtol=1e-9, atol=0)
    assert statistics.count == 16


def test_a_large_mean_does_not_drown_the_variance() -> None:
    statistics = Statistics(2, False)
    rows = 1e4 + draw(400, 2)
    for batch in rows.float().split(50):
        statistics.update(batch)
    torch.testing.assert_close(statistics.moments(rows)[1].double(), rows.var(0, correction=0), rtol=2e-2, atol=0)


@pytest.mark.parametrize("full", [True, False])
def test_before_the_first_batch_the_moments_are_those_of_the_rows_given(full: bool) -> None:
    statistics, rows = Statistics(3, full), draw(6, 3)
    mean, covariance = statistics.moments(rows)
    expected = torch.cov(rows.T, correction=0)
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(covariance, expected if full else expected.diagonal())
    assert statistics.count == 0
