import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import DistillationModule, HardTarget, Outputs
from lit_distill.batch.batch import Batch
from lit_distill.criteria import HardDistillation, OnHead
from tests.conftest import QuickTrainer
from tests.criteria.logits_by_hand import as_pixels, as_tokens, draw, gradient_of, labels, softmax, value_of


def test_equals_a_hand_computation() -> None:
    student, teacher = draw(7, 5, seed=1), draw(7, 5, seed=2)
    terms = []
    for row_s, row_t in zip(student.tolist(), teacher.tolist(), strict=True):
        terms.append(-math.log(softmax(row_s)[row_t.index(max(row_t))]))
    found = value_of(HardDistillation(), student, teacher).item()
    assert found == pytest.approx(sum(terms) / 7, abs=1e-10, rel=0)


def test_only_the_teachers_decision_counts() -> None:
    student, teacher = draw(7, 5, seed=1), draw(7, 5, seed=2)
    sharper = value_of(HardDistillation(), student, 9 * teacher + 3)
    assert torch.equal(sharper, value_of(HardDistillation(), student, teacher))


@pytest.mark.parametrize("lay", [as_tokens, as_pixels])
def test_layouts_and_masks(lay: object) -> None:
    student, teacher = draw(24, 5, seed=1), draw(24, 5, seed=2)
    keep = torch.arange(24) % 4 > 0
    expected = value_of(HardDistillation(), student, teacher)
    torch.testing.assert_close(value_of(HardDistillation(), lay(student), lay(teacher)), expected, rtol=1e-12, atol=0)
    expected = value_of(HardDistillation(), student[keep], teacher[keep])
    found = value_of(HardDistillation(), lay(student), lay(teacher), mask=lay(keep))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(dtype: torch.dtype) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, 1e4]], dtype=dtype)
    for teacher in (student, -student):
        assert value_of(HardDistillation(), student, teacher).isfinite()
        assert gradient_of(HardDistillation(), student, teacher).isfinite().all()


def test_a_teacher_that_learns_too_gets_no_gradient() -> None:
    student, teacher = draw(3, 4, seed=1).requires_grad_(), draw(3, 4, seed=2).requires_grad_()
    value_of(HardDistillation(), student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


def tiny_deit() -> nn.Module:
    models = pytest.importorskip("timm.models.deit")
    model: nn.Module = models.VisionTransformerDistilled(
        img_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=5
    )
    return model


class Teacher(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


def deit_module(smoothing: float = 0.0) -> DistillationModule:
    torch.manual_seed(0)
    criteria = {
        "hard": OnHead(HardTarget(smoothing), "head"),
        "teacher": OnHead(HardDistillation(), "head_dist"),
    }
    return DistillationModule(tiny_deit(), Teacher(), criteria, {"hard": 0.5, "teacher": 0.5})


@pytest.mark.parametrize("two_outputs", [False, True])
def test_each_token_of_deit_learns_from_its_own_side(two_outputs: bool) -> None:
    module = deit_module()
    student = module.student
    if two_outputs:
        student.set_distilled_training(True)
    images, target = draw(6, 3, 8, 8).float(), labels(6, classes=5)
    decisions = module.teacher(images).argmax(1)  # type: ignore[misc]
    outputs = module.distiller.capture.run(images, None, need_grad=True)
    sides = module.distiller.sides(outputs, Outputs(module.teacher(images)), Batch(images, target))  # type: ignore[misc]
    module.criteria(sides.student, sides.teacher, sides.target).total.backward()
    found = {name: parameter.grad for name, parameter in student.named_parameters()}
    tokens = student.forward_features(images)
    for head, token, answer in (("head", 0, target), ("head_dist", 1, decisions)):
        layer = getattr(student, head)
        loss = 0.5 * nn.functional.cross_entropy(layer(tokens[:, token]), answer)
        expected = torch.autograd.grad(loss, layer.weight, retain_graph=True)[0]
        torch.testing.assert_close(found[f"{head}.weight"], expected, rtol=1e-4, atol=1e-7)


def test_deit_trains_and_predicts_with_the_mean_of_its_heads(quick_trainer: QuickTrainer) -> None:
    module = deit_module(smoothing=0.1)
    images, target = draw(8, 3, 8, 8).float(), labels(8, classes=5)
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    quick_trainer(max_epochs=2).fit(module, DataLoader(TensorDataset(images, target), batch_size=4))
    for name in ("head.weight", "head_dist.weight", "dist_token", "cls_token"):
        assert not torch.equal(module.student.state_dict()[name], before[name]), name
    student = module.student.eval()
    tokens = student.forward_features(images)
    expected = (student.head(tokens[:, 0]) + student.head_dist(tokens[:, 1])) / 2
    torch.testing.assert_close(module(images), expected)
