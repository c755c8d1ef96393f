import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill.criteria import AttentionTransfer, Criterion, HardTarget, Hint, SoftTarget
from lit_distill.outputs import Outputs
from lit_distill.weighted import WeightedCriteria

LABELS = torch.tensor([1, 0, 2, 2])


class Learned(Criterion):
    """A criterion with a parameter that needs no sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return self.scale * student.logits.square().mean()


class Broken(Criterion):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        raise self.error


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def networks(dtype: torch.dtype = torch.float32) -> tuple[Outputs, Outputs]:
    student = Outputs(draw(4, 3).to(dtype), {"a": draw(4, 5, 4, 4, seed=1).to(dtype)})
    teacher = Outputs(draw(4, 3, seed=2).to(dtype), {"b": draw(4, 7, 2, 2, seed=3).to(dtype)})
    return student, teacher


def tracked(outputs: Outputs) -> Outputs:
    features = {name: feature.clone().requires_grad_() for name, feature in outputs.features.items()}
    return Outputs(outputs.logits.clone().requires_grad_(), features)


def everything() -> dict[str, Criterion]:
    return {
        "hard": HardTarget(0.1),
        "soft": SoftTarget(2.0),
        "hint": Hint("a", "b"),
        "attention": AttentionTransfer("a", "b"),
    }


def built(weights: Mapping[str, float]) -> WeightedCriteria:
    found = WeightedCriteria(everything(), weights)
    found.build(*networks())
    return found


def test_total_is_the_weighted_sum() -> None:
    weights = {"hard": 0.1, "soft": 0.9, "hint": 10.0, "attention": 1000.0}
    student, teacher = networks()
    criteria = built(weights)
    losses = criteria(student, teacher, LABELS)
    by_hand = {name: criterion(student, teacher, LABELS) for name, criterion in criteria.criteria().items()}
    assert list(losses.raw) == list(weights)
    for name, value in by_hand.items():
        torch.testing.assert_close(losses.raw[name], value.detach(), rtol=1e-6, atol=0)
    expected = sum(weights[name] * value.item() for name, value in by_hand.items())
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)
    assert losses.total.shape == ()
    assert losses.weights == weights


def test_gradient_is_the_weighted_sum_of_gradients() -> None:
    teacher = networks()[1]
    student = tracked(networks()[0])
    WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 0.3, "soft": 2})(
        student, teacher, LABELS
    ).total.backward()
    expected = torch.zeros(4, 3)
    for criterion, weight in ((HardTarget(), 0.3), (SoftTarget(), 2.0)):
        alone = tracked(networks()[0])
        criterion(alone, teacher, LABELS).backward()
        assert alone.logits.grad is not None
        expected += weight * alone.logits.grad
    torch.testing.assert_close(student.logits.grad, expected)


def test_what_is_logged() -> None:
    student, teacher = networks()
    losses = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 0.5, "soft": 0})(
        tracked(student), teacher, LABELS
    )
    logs = losses.named()
    assert set(logs) == {"loss"} | {
        f"{kind}/{name}" for kind in ("criteria", "weighted", "weight") for name in ("hard", "soft")
    }
    assert logs["loss"] == losses.total.detach()
    assert logs["criteria/soft"] > 0
    assert logs["weighted/soft"] == 0
    assert logs["weighted/hard"] == 0.5 * logs["criteria/hard"]
    assert (logs["weight/hard"], logs["weight/soft"]) == (0.5, 0.0)
    assert not any(value.requires_grad for value in logs.values() if isinstance(value, Tensor))


def test_weight_zero_contributes_nothing_but_is_logged() -> None:
    student, teacher = tracked(networks()[0]), networks()[1]
    criteria = built({"hard": 1.0, "soft": 0.0, "hint": 0.0, "attention": 0.0})
    losses = criteria(student, teacher, LABELS)
    losses.total.backward()
    assert torch.equal(losses.total.detach(), losses.raw["hard"])
    assert all(losses.raw[name] > 0 for name in ("soft", "hint", "attention"))
    alone = tracked(networks()[0])
    HardTarget(0.1)(alone, teacher, LABELS).backward()
    assert torch.equal(student.logits.grad, alone.logits.grad)  # type: ignore[arg-type]
    assert student.features["a"].grad is None
    assert all(p.grad is None for p in criteria.parameters())


def test_a_weight_zero_value_that_is_not_finite_does_not_reach_the_total() -> None:
    student, teacher = networks()
    bad = Outputs(torch.full((4, 3), math.nan))
    losses = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 1.0, "soft": 0.0})(
        student, bad, LABELS
    )
    assert losses.raw["soft"].isnan()
    assert losses.total.isfinite()
    assert teacher.logits.isfinite().all()


def test_build_freezes_the_parameters_of_weight_zero_alone() -> None:
    criteria = WeightedCriteria(
        {"off": Hint("a", "b"), "on": Hint("a", "b"), "learned": Learned()}, {"off": 0.0, "on": 1.0, "learned": 0}
    )
    criteria.build(*networks())
    trainable = {name: p.requires_grad for name, p in criteria.named_parameters()}
    assert trainable == {
        "off.projectors.0.linear.weight": False,
        "off.projectors.0.linear.bias": False,
        "on.projectors.0.linear.weight": True,
        "on.projectors.0.linear.bias": True,
        "learned.scale": False,
    }


def test_weight_zero_is_computed_without_a_graph() -> None:
    seen: dict[str, bool] = {}

    class Watching(Learned):
        def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
            seen["gradient" if torch.is_grad_enabled() else "none"] = True
            return super().forward(student, teacher, target)

    WeightedCriteria({"watched": Watching(), "soft": SoftTarget()}, {"watched": 0, "soft": 1})(*networks(), None)
    assert seen == {"none": True}


def test_without_a_gradient_nothing_is_tracked() -> None:
    student, teacher = tracked(networks()[0]), networks()[1]
    with torch.no_grad():
        losses = built({"hard": 1.0, "soft": 1.0, "hint": 1.0, "attention": 0.0})(student, teacher, LABELS)
    assert not losses.total.requires_grad


def test_parameters_are_registered_and_load_strictly() -> None:
    weights = {"hard": 1.0, "soft": 1.0, "hint": 1.0, "attention": 0.0}
    criteria, other = built(weights), built(weights)
    assert list(criteria.state_dict()) == ["hint.projectors.0.linear.weight", "hint.projectors.0.linear.bias"]
    other.load_state_dict(criteria.state_dict(), strict=True)
    student, teacher = networks()
    assert torch.equal(criteria(student, teacher, LABELS).total, other(student, teacher, LABELS).total)


def test_every_trained_parameter_gets_a_gradient() -> None:
    criteria = built({"hard": 1.0, "soft": 1.0, "hint": 1.0, "attention": 1.0})
    criteria(*networks(), LABELS).total.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criteria.parameters())


def test_layers_of_all_criteria_are_listed() -> None:
    criteria = WeightedCriteria({"x": Hint(["a", "c"], ["b", "d"]), "y": AttentionTransfer("e", "f")}, {"x": 1, "y": 1})
    assert criteria.student_layers == ["a", "c", "e"]
    assert criteria.teacher_layers == ["b", "d", "f"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["hard", "soft", "hint", "attention"])
def test_autocast_gives_what_float32_gives_on_the_same_half_inputs(dtype: torch.dtype, name: str) -> None:
    criteria = built({key: float(key == name) for key in everything()})
    half = networks(dtype)
    wide = [Outputs(o.logits.float(), {k: f.float() for k, f in o.features.items()}) for o in half]
    student = tracked(half[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = criteria(student, half[1], LABELS)
    expected_student = tracked(wide[0])
    expected = criteria(expected_student, wide[1], LABELS)
    assert found.total.dtype == torch.float32
    assert torch.equal(found.total, expected.total)
    assert all(torch.equal(found.raw[key], expected.raw[key]) for key in found.raw)
    found.total.backward()
    expected.total.backward()
    for mine, other in (
        (student.logits, expected_student.logits),
        (student.features["a"], expected_student.features["a"]),
    ):
        assert (mine.grad is None) == (other.grad is None)
        if mine.grad is not None and other.grad is not None:
            torch.testing.assert_close(mine.grad.float(), other.grad, rtol=1e-2, atol=1e-6)


def test_a_criterion_that_needs_labels_is_named_where_there_are_none() -> None:
    criteria = WeightedCriteria({"task": HardTarget(), "soft": SoftTarget()}, {"task": 1.0, "soft": 1.0})
    with pytest.raises(ValueError, match=r"criterion 'task' \(HardTarget\) needs labels.*leave it out"):
        criteria(*networks(), None)


def test_a_criterion_of_weight_0_needs_no_labels() -> None:
    criteria = WeightedCriteria({"task": HardTarget(), "soft": SoftTarget()}, {"task": 0.0, "soft": 1.0})
    losses = criteria(*networks(), None)
    assert set(losses.raw) == {"soft"}
    assert torch.isfinite(losses.total)


def test_labels_are_optional_where_none_needs_them() -> None:
    student, teacher = networks()
    losses = WeightedCriteria({"soft": SoftTarget()}, {"soft": 2.0})(student, teacher, None)
    torch.testing.assert_close(losses.total, 2 * SoftTarget()(student, teacher, None))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"hard": 1.0, "soft": -0.5}, "weight of criterion 'soft' must be finite and at least 0, not -0.5"),
        ({"hard": 1.0, "soft": math.nan}, "weight of criterion 'soft' must be finite.*not nan"),
        ({"hard": 1.0, "soft": math.inf}, "weight of criterion 'soft' must be finite.*not inf"),
        ({"hard": 1.0, "soft": "1"}, "weight of criterion 'soft' must be finite"),
        ({"hard": 1.0}, r"criterion 'soft' has no weight; add it to weights: \{soft: 1.0\}"),
        ({"hard": 1.0, "sotf": 1.0}, "unknown criterion 'sotf'; the criteria are hard, soft. Did you mean 'soft'"),
        ({"hard": 1.0, "soft": 1.0, "zzz": 1.0}, r"unknown criterion 'zzz'; the criteria are hard, soft\.$"),
        ({"hard": 0.0, "soft": 0}, "every weight is 0"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, weights)


def test_no_criteria_are_refused() -> None:
    with pytest.raises(ValueError, match="no criteria; give at least one by name"):
        WeightedCriteria({}, {})


def test_a_value_that_is_no_criterion_is_refused() -> None:
    with pytest.raises(TypeError, match=r"criterion 'mse' is a MSELoss, not a lit_distill\.criteria\.Criterion"):
        WeightedCriteria({"mse": nn.MSELoss()}, {"mse": 1.0})  # type: ignore[dict-item]


@pytest.mark.parametrize("name", ["", "a.b", "a/b", "weights", "keys", "half", "training", "criteria", "forward"])
def test_names_that_modules_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot name a criterion"):
        WeightedCriteria({name: SoftTarget()}, {name: 1.0})


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_what_a_criterion_refuses_starts_with_its_name(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^criterion 'mine' \(Broken\): went wrong") as caught:
        WeightedCriteria({"mine": Broken(kind("went wrong"))}, {"mine": 1.0})(*networks(), None)
    assert str(caught.value.__cause__) == "went wrong"


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError, match=r"^'lost'$"):
        WeightedCriteria({"mine": Broken(KeyError("lost"))}, {"mine": 1.0})(*networks(), None)


def test_a_criterion_that_cannot_be_built_is_named() -> None:
    criteria = WeightedCriteria({"fit": Hint("nowhere", "b")}, {"fit": 1.0})
    with pytest.raises(ValueError, match=r"^criterion 'fit' \(Hint\): no layer 'nowhere' in the student's outputs"):
        criteria.build(*networks())


def test_mismatched_classes_name_the_criterion() -> None:
    student, teacher = Outputs(torch.zeros(2, 3)), Outputs(torch.zeros(2, 5))
    with pytest.raises(
        ValueError, match=r"^criterion 'soft' \(SoftTarget\): the student has 3 classes and the teacher 5"
    ):
        WeightedCriteria({"soft": SoftTarget()}, {"soft": 1.0})(student, teacher, None)
