import pytest
import torch
from torch import Tensor

from lit_distill.criteria.ops.phi_s import hadamard, phi_s

# Orders of each construction, and usual widths of networks.
ORDERS = [1, 2, 4, 8, 12, 16, 20, 28, 36, 40, 64, 76, 192, 320, 384, 512, 768, 1024, 1152, 1280]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("order", ORDERS)
def test_hadamard_matrices_are_orthogonal_with_entries_of_one_size(order: int) -> None:
    matrix = hadamard(order)
    assert matrix.shape == (order, order)
    torch.testing.assert_close(matrix.abs(), torch.full((order, order), order**-0.5, dtype=torch.float64))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(order, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("order", [3, 6, 10, 52, 92])
def test_orders_without_a_matrix_are_refused(order: int) -> None:
    with pytest.raises(ValueError, match=f"no Hadamard matrix of order {order}.*standardise: dimension"):
        hadamard(order)


@pytest.mark.parametrize("width", [4, 12, 20])
def test_every_dimension_gets_variance_one_by_a_rotation_and_one_scale(width: int) -> None:
    features = draw(500, width) @ (draw(width, width, seed=1) * torch.logspace(-3, 2, width, dtype=torch.float64))
    centred = features - features.mean(0)
    covariance = centred.T @ centred / len(features)
    rotation, scale = phi_s(covariance)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(width).double(), rtol=0, atol=1e-10)
    assert scale.item() == pytest.approx(sum(covariance[i, i].item() for i in range(width)) ** 0.5 / width**0.5)
    balanced = centred / scale @ rotation.T
    torch.testing.assert_close(balanced.var(0, correction=0), torch.ones(width).double(), rtol=1e-8, atol=0)
    # Distances are those of before, over one number: nothing is bent.
    torch.testing.assert_close(torch.pdist(balanced), torch.pdist(features) / scale)


def test_features_without_variance_have_the_scale_one() -> None:
    rotation, scale = phi_s(torch.zeros(4, 4))
    assert scale == 1
    assert rotation.isfinite().all()
