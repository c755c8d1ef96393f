"""The int8 kernels: their values, what they take in, and what they need of PyTorch."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from lit_distill import FrozenTeacher, TeacherRuntime
from lit_distill.teachers.runtime.int8 import DynamicLinear, Ranges, lower


def lowered(model: nn.Module, x: Tensor) -> fx.GraphModule:
    ranges = Ranges(fx.symbolic_trace(model.eval()))
    with torch.no_grad():
        ranges(x)
        return lower(ranges)


def far(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).norm() / expected.norm()).detach())


class Residual(nn.Module):
    """A block with a shortcut that is added last, BatchNorm, and an activation of choice."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.stem, self.first, self.second = (nn.Conv2d(8 if i else 3, 8, 3, padding=1) for i in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.short, self.act, self.head = nn.Conv2d(8, 8, 1, bias=False), activation, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norms[0](self.stem(x)))
        y = self.norms[1](self.second(self.act(self.first(x))))
        y = F.relu(y + self.short(x))
        return self.head(self.act(self.first(y)).mean((2, 3)))


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(), nn.GELU()], ids=["relu", "relu6", "gelu"])
def test_a_block_with_a_shortcut(activation: nn.Module) -> None:
    torch.manual_seed(0)
    model, x = Residual(activation), 3 * torch.randn(32, 3, 8, 8)
    model(x)  # the norms' statistics
    model.eval()
    with torch.no_grad():
        expected, graph = model(x), lowered(model, x)
        assert far(graph(x), expected) < 0.05
        assert torch.equal(graph(x), graph(x))  # the addition overwrites nothing that is read again
    kinds = [type(graph.get_submodule(str(node.target))) for node in graph.graph.nodes if node.op == "call_module"]
    assert not {nn.Conv2d, nn.BatchNorm2d, nn.Linear} & set(kinds)
    assert (nn.ReLU6 in kinds, nn.ReLU in kinds) == (False, False)


def test_values_on_the_grid_are_exact() -> None:
    """Whole numbers whose ranges make every step 1: the kernel's sums are then those of integers."""
    layer = nn.Conv2d(2, 3, 2, stride=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randint(-127, 128, layer.weight.shape).float())
        layer.weight[:, 0, 0, 0] = 127
    x = torch.randint(-100, 156, (4, 2, 6, 6)).float()
    x[0, 0, 0, :2] = torch.tensor([-100.0, 155.0])
    levels = 255 if torch.cpu._is_vnni_supported() else 127
    got, expected = lowered(nn.Sequential(layer), x)(x), layer(x)
    assert far(got, expected) < (1e-5 if levels == 255 else 0.02)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_of_every_dimension(dimensions: int) -> None:
    convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    torch.manual_seed(0)
    model = nn.Sequential(convolution(4, 8, 3, padding=1, groups=2), nn.ReLU(), convolution(8, 8, 3, stride=2))
    x = torch.randn(8, 4, *[7] * dimensions)
    assert far(lowered(model, x)(x), model(x)) < 0.03


@pytest.mark.parametrize("shape", [(6, 16), (3, 5, 16), (2, 3, 5, 16)])
def test_a_dynamic_layer(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    twin = DynamicLinear(layer)
    x = torch.randn(shape)
    with torch.no_grad():
        assert far(twin(x), layer(x)) < 0.02
        assert far(twin(100 * x), layer(100 * x)) < 0.02  # its range is that of each call
        assert twin(x[:0]).shape == layer(x[:0]).shape
        assert twin(x * float("nan")).isnan().all()
    assert twin.weight is layer.weight


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("without", [False, True], ids=["with torch.ao", "without torch.ao"])
@pytest.mark.parametrize("precision", ["int8", "int8_dynamic"])
def test_nothing_warns_and_nothing_needs_torch_ao(
    monkeypatch: pytest.MonkeyPatch, precision: Literal["int8", "int8_dynamic"], without: bool
) -> None:
    if without:
        for name in [name for name in sys.modules if name.startswith("torch.ao")]:
            monkeypatch.setitem(sys.modules, name, None)
    torch.manual_seed(0)
    model, x = Recurrent(), torch.randn(16, 5, 4)
    teacher = FrozenTeacher(model, TeacherRuntime(precision))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        teacher.prepare_runtime(lambda: [x])
        assert far(teacher(x).logits, model(x)) < 0.05


@pytest.mark.parametrize("precision", ["int8", "int8_dynamic"])
def test_a_build_without_the_kernels_is_refused(
    monkeypatch: pytest.MonkeyPatch, precision: Literal["int8", "int8_dynamic"]
) -> None:
    monkeypatch.setattr(torch.ops, "onednn", object())
    teacher = FrozenTeacher(nn.Linear(4, 3), TeacherRuntime(precision))
    with pytest.raises(ValueError, match="no int8 kernels .* use precision 'bf16', or '32' with compile"):
        teacher.prepare_runtime(lambda: [torch.randn(2, 4)])
