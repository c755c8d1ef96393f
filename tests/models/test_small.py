"""The small networks."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from lit_distill.models import MLP, MultiHeadCNN, SmallCNN
from lit_distill.utils.tensors import count_parameters


@pytest.mark.parametrize(("width", "classes", "channels", "size"), [(2, 10, 1, 8), (4, 3, 3, 16)])
def test_small_cnn(width: int, classes: int, channels: int, size: int) -> None:
    model = SmallCNN(width, classes, channels).eval()
    x = torch.randn(2, channels, size, size)
    assert model(x).shape == (2, classes)
    assert model.stage1(x).shape == (2, width, size, size)
    middle = model.pool(model.stage2(model.stage1(x)))
    assert middle.shape == (2, 2 * width, size // 2, size // 2)
    torch.testing.assert_close(model(x), model.classifier(model.stage3(middle).mean((2, 3))))
    weights = 9 * (channels * width + 2 * width**2 + 4 * width**2)
    assert count_parameters(model) == weights + 2 * 5 * width + (2 * width + 1) * classes


def test_multi_head_cnn() -> None:
    model = MultiHeadCNN({"digit": 10, "parity": 2}, width=4).eval()
    x = torch.randn(3, 1, 8, 8)
    found = model(x)
    assert {task: logits.shape for task, logits in found.items()} == {"digit": (3, 10), "parity": (3, 2)}
    alone = SmallCNN(4).eval()
    shared = {name: value for name, value in model.state_dict().items() if not name.startswith("heads.")}
    head = {f"classifier.{name}": value for name, value in model.heads["digit"].state_dict().items()}
    alone.load_state_dict({**shared, **head}, strict=True)
    torch.testing.assert_close(found["digit"], alone(x))


def test_activations_are_not_in_place() -> None:
    model = SmallCNN(2)
    assert not any(getattr(module, "inplace", False) for module in model.modules())


@pytest.mark.parametrize("hidden", [(), (5,), (7, 5)])
def test_mlp(hidden: tuple[int, ...]) -> None:
    model = MLP(6, hidden, 3)
    x = torch.randn(4, 2, 3)
    expected = x.flatten(1)
    for layer in model.hidden:
        expected = F.relu(expected @ layer[0].weight.T + layer[0].bias)
    torch.testing.assert_close(model(x), expected @ model.classifier.weight.T + model.classifier.bias)
    widths = [6, *hidden, 3]
    assert count_parameters(model) == sum((a + 1) * b for a, b in pairwise(widths))


def test_mlp_defaults_fit_the_digits() -> None:
    assert MLP()(torch.randn(2, 1, 8, 8)).shape == (2, 10)
