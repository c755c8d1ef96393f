"""A frozen teacher never changes."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import FeatureDistillation, FrozenTeacher, LogitDistillation
from lit_distill.models import MLP, SmallCNN
from lit_distill.teachers import as_teacher
from lit_distill.utils.notices import DistillationWarning


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 1, 8, 8)


@pytest.fixture
def loader(images: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, torch.arange(8)), batch_size=4)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_plain_module_becomes_a_frozen_teacher() -> None:
    model = MLP(4)
    teacher = as_teacher(model)
    assert isinstance(teacher, FrozenTeacher)
    assert teacher.model is model
    assert as_teacher(teacher) is teacher
    assert teacher.frozen
    assert not teacher.follows
    assert teacher.registered is None
    assert teacher.own_loss(teacher(torch.ones(2, 4)), torch.zeros(2)) is None


def test_outputs_are_the_models_in_evaluation_without_gradient(images: Tensor) -> None:
    model = SmallCNN(2)
    expected = copy.deepcopy(model).eval()(images)
    teacher = FrozenTeacher(model)
    teacher.capture_layers(["stage1"])
    outputs = teacher(images)
    torch.testing.assert_close(outputs.logits, expected)
    assert not outputs.logits.requires_grad
    assert not outputs.features["stage1"].requires_grad
    assert not outputs.logits.is_inference()  # they enter the student's graph
    torch.testing.assert_close(teacher.predict(images).logits, outputs.logits)


@pytest.mark.parametrize(
    "disturb",
    [
        lambda module, teacher: module.train(),
        lambda module, teacher: teacher.train(),
        lambda module, teacher: [child.train() for child in teacher.modules()],
        lambda module, teacher: module.unfreeze(),
        lambda module, teacher: teacher.stage1.train(),
    ],
    ids=["module.train", "teacher.train", "children.train", "unfreeze", "one child"],
)
def test_bit_identical_whatever_is_called(
    disturb: Callable[[Any, Any], Any], loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]
) -> None:
    teacher = SmallCNN(3)
    module = FeatureDistillation(SmallCNN(2), teacher, "stage3", "stage3")
    before = snapshot(teacher)
    modes = []

    class Disturbing(FeatureDistillation):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            disturb(self, teacher)
            loss = super().training_step(batch, batch_idx)
            modes.append(any(child.training for child in teacher.modules()))
            return loss

    module.__class__ = Disturbing
    quick_trainer(max_epochs=2).fit(module, loader, loader)
    assert_same(teacher, before)
    assert modes == [False] * 4
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())


def test_it_is_no_part_of_the_module() -> None:
    teacher = SmallCNN(2)
    module = LogitDistillation(SmallCNN(2), teacher)
    held = {id(parameter) for parameter in module.parameters()}
    assert not held & {id(parameter) for parameter in teacher.parameters()}
    assert not [name for name in module.state_dict() if "teacher" in name]
    assert module.teacher is teacher


def test_a_copied_module_shares_the_teacher() -> None:
    module = LogitDistillation(SmallCNN(2), SmallCNN(2))
    twin = copy.deepcopy(module)
    assert twin.teacher is module.teacher
    assert twin.student is not module.student


def test_it_follows_the_device_and_keeps_its_type(images: Tensor) -> None:
    teacher = SmallCNN(2)
    before = snapshot(teacher)
    module = LogitDistillation(SmallCNN(2), teacher)
    for dtype, given in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        module.to(dtype)
        assert {value.dtype for value in teacher.state_dict().values() if value.is_floating_point()} == {torch.float32}
        assert module._teacher(images.to(dtype)).logits.dtype == given
    assert_same(teacher, before)
    module.to(torch.float32).to("meta")
    assert {parameter.device.type for parameter in teacher.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}


def test_pickle(images: Tensor) -> None:
    teacher = FrozenTeacher(SmallCNN(2))
    teacher.capture_layers(["stage*"])
    twin = pickle.loads(pickle.dumps(teacher))
    expected, got = teacher(images), twin(images)
    assert torch.equal(got.logits, expected.logits)
    assert list(got.features) == ["stage1", "stage2", "stage3"]
    assert all(torch.equal(got.features[name], expected.features[name]) for name in got.features)


def test_observing_again_replaces_the_layers(images: Tensor) -> None:
    teacher = FrozenTeacher(SmallCNN(2))
    teacher.capture_layers(["stage1"])
    teacher.capture_layers(["stage2"])
    assert list(teacher(images).features) == ["stage2"]
    assert not teacher.model.stage1._forward_hooks


def test_a_teacher_in_the_students_memory_is_refused() -> None:
    teacher, student = SmallCNN(2), SmallCNN(2)
    student.load_state_dict(teacher.state_dict(), assign=True)
    with pytest.raises(ValueError, match="the teacher shares .* parameters with the student"):
        LogitDistillation(student, teacher)
    student.load_state_dict(copy.deepcopy(teacher.state_dict()), assign=True)
    LogitDistillation(student, teacher)


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_it_computes_in_its_own_type(
    own: torch.dtype, precision: Any, loader: DataLoader[Any], quick_trainer: Callable[..., Trainer]
) -> None:
    teacher = SmallCNN(2).to(own)
    before = snapshot(teacher)
    types = set()
    teacher.classifier.register_forward_hook(lambda layer, args, output: types.add(output.dtype))
    quick_trainer(precision=precision).fit(LogitDistillation(SmallCNN(2), teacher), loader, loader)
    assert_same(teacher, before)
    assert {value.dtype for value in teacher.parameters()} == {own}
    assert types == ({torch.bfloat16} if (own, precision) == (torch.float32, "bf16-mixed") else {own})


def test_a_cache_that_each_call_fills_is_no_change_to_be_told(quick_trainer: Callable[..., Trainer]) -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.register_buffer("keys", torch.zeros(2, 4), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            self.keys[: len(x)] = x.detach()
            return self.head(x)

    data = DataLoader(TensorDataset(torch.randn(8, 4), torch.randint(0, 3, (8,))), batch_size=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the frozen teacher", category=DistillationWarning)
        quick_trainer().fit(LogitDistillation(nn.Linear(4, 3), Caching()), data)
