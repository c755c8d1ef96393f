import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_distill.balance import GradientNorm, Uncertainty
from lit_distill.criteria import VID, AttentionTransfer, Criterion, HardTarget, Hint, SoftTarget
from lit_distill.engine import weighted
from lit_distill.engine.step import Losses
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs
from lit_distill.schedules import Between, Cosine, Linear, Schedule, Step

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
        ({"hard": 1.0, "soft": "1"}, "weight of criterion 'soft' is a str; give the number, 1"),
        ({"hard": 1.0, "sotf": 1.0}, "unknown criterion 'sotf'; the criteria are hard, soft. Did you mean 'soft'"),
        ({"hard": 1.0, "soft": 1.0, "zzz": 1.0}, r"unknown criterion 'zzz'; the criteria are hard, soft\.$"),
        ({"hard": 0.0, "soft": 0}, "every weight is 0"),
    ],
)
def test_bad_weights_are_refused(weights: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, weights)


def test_no_criteria_are_refused() -> None:
    with pytest.raises(ValueError, match="no criteria; give at least one by name"):
        WeightedCriteria({}, {})


def test_a_value_that_is_no_criterion_is_refused() -> None:
    with pytest.raises(TypeError, match=r"criterion 'mse' is a MSELoss; give a lit_distill\.criteria\.Criterion"):
        WeightedCriteria({"mse": nn.MSELoss()}, {"mse": 1.0})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "name", ["", "a.b", "a/b", "weights", "keys", "half", "training", "criteria", "forward", "balance", "schedules"]
)
def test_names_that_modules_cannot_hold_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' cannot name a criterion"):
        WeightedCriteria({name: SoftTarget()}, {name: 1.0})


@pytest.mark.parametrize("kind", [ValueError, RuntimeError])
def test_what_a_criterion_refuses_starts_with_its_name(kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^criterion 'mine' \(Broken\): went wrong") as caught:
        WeightedCriteria({"mine": Broken(kind("went wrong"))}, {"mine": 1.0})(*networks(), None)
    assert str(caught.value.__cause__) == "went wrong"


def test_other_errors_are_named_with_their_kind() -> None:
    with pytest.raises(ValueError, match=r"^criterion 'mine' \(Broken\) failed: KeyError: 'lost'$") as caught:
        WeightedCriteria({"mine": Broken(KeyError("lost"))}, {"mine": 1.0})(*networks(), None)
    assert isinstance(caught.value.__cause__, KeyError)


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


# Schedules -------------------------------------------------------------------------------------------


class By(Schedule):
    """A user's own schedule, of which no bounds are known."""

    def __init__(self, values: dict[int, float]) -> None:
        self.values = values

    def value(self, step: int, epoch: float) -> float:
        return self.values.get(step, 1.0)


class Around(Criterion):
    """A criterion around another, with numbers of its own and labels of several tasks."""

    takes_tasks = True
    needs_target = True

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.criterion, self.neighbours, self.verbose, self._hidden = criterion, 5, True, 1.0

    def forward(self, student: Outputs, teacher: Outputs, target: Any) -> Tensor:
        value: Tensor = self.criterion(student, teacher, target["colour"])
        return value


def scheduled(schedules: Mapping[str, Schedule], weights: Mapping[str, float] | None = None) -> WeightedCriteria:
    found = WeightedCriteria(
        everything(), {"hard": 1.0, "soft": 1.0, "hint": 1.0, "attention": 0.0} | dict(weights or {}), schedules
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        found.build(*networks())
    return found


def run(criteria: WeightedCriteria, target: Any = LABELS) -> Losses:
    found: Losses = criteria(tracked(networks()[0]), networks()[1], target)
    return found


def test_what_is_scheduled_is_in_force_from_the_start_and_follows_the_progress() -> None:
    criteria = scheduled(
        {
            "hint.weight": Linear(0.0, 0.5, until=10),
            "soft.weight": Between(0.9, end=40),
            "soft.temperature": Cosine(4.0, 1.0, until=100, unit="step"),
            "hard.label_smoothing": Step(0.1, {20: 0.0}),
        }
    )
    expected = {
        # (step, epoch): hint's weight, soft's weight, temperature, label smoothing
        (0, 0.0): (0.0, 0.9, 4.0, 0.1),
        (25, 2.5): (0.125, 0.9, 2.5 + 1.5 * math.sqrt(0.5), 0.1),
        (50, 5.0): (0.25, 0.9, 2.5, 0.1),
        (100, 20.0): (0.5, 0.9, 1.0, 0.0),
        (400, 40.0): (0.5, 0.0, 1.0, 0.0),
    }
    student, teacher = networks()
    for (step, epoch), (hint, soft, temperature, smoothing) in expected.items():
        if step:
            criteria.advance(step, epoch)
        losses = criteria(student, teacher, LABELS)
        assert losses.weights == pytest.approx({"hard": 1.0, "soft": soft, "hint": hint, "attention": 0.0})
        assert criteria.criteria()["soft"].temperature == pytest.approx(temperature)
        torch.testing.assert_close(losses.raw["soft"], SoftTarget(temperature)(student, teacher, None))
        torch.testing.assert_close(losses.raw["hard"], HardTarget(smoothing)(student, teacher, LABELS))
        by_hand = losses.raw["hard"] + soft * losses.raw["soft"] + hint * losses.raw["hint"]
        torch.testing.assert_close(losses.total, by_hand)


def test_what_is_scheduled_is_logged() -> None:
    criteria = scheduled(
        {
            "hard.label_smoothing": Linear(0.2, 0.0, until=4),
            "soft.temperature": Linear(4, 2, 4),
            "hint.weight": Linear(0, 1, 4),
        }
    )
    criteria.advance(7, 1.0)
    logs = run(criteria).named()
    assert {key: value for key, value in logs.items() if key.startswith("schedule/")} == {
        "schedule/hard.label_smoothing": pytest.approx(0.15)
    }
    assert logs["weight/hint"] == 0.25
    assert logs["weighted/hint"] == pytest.approx(0.25 * float(logs["criteria/hint"]))


def test_what_is_in_force_depends_on_the_progress_alone() -> None:
    schedules = {"hint.weight": Linear(0.0, 0.5, until=10), "soft.temperature": Cosine(4.0, 1.0, until=10)}
    went, jumped = scheduled(schedules), scheduled(schedules)
    for step in range(70):
        went.advance(step, step / 10)
    jumped.load_state_dict(copy.deepcopy(went.state_dict()))
    jumped.advance(69, 6.9)
    assert torch.equal(run(went).total, run(jumped).total)
    assert went.weights == jumped.weights
    assert set(went.state_dict()) == {"hint.projectors.0.linear.weight", "hint.projectors.0.linear.bias"}


def test_a_weight_that_is_zero_now_changes_nothing_bit_for_bit() -> None:
    with_it = scheduled({"hint.weight": Between(1.0, begin=5)})
    without = WeightedCriteria({"hard": HardTarget(0.1), "soft": SoftTarget(2.0)}, {"hard": 1.0, "soft": 1.0})
    teacher, inputs, others = networks()[1], tracked(networks()[0]), tracked(networks()[0])
    losses, expected = with_it(inputs, teacher, LABELS), without(others, teacher, LABELS)
    losses.total.backward()
    expected.total.backward()
    assert losses.raw["hint"] > 0
    assert torch.equal(losses.total, expected.total)
    assert torch.equal(inputs.logits.grad, others.logits.grad)  # type: ignore[arg-type]
    assert inputs.features["a"].grad is None
    assert all(p.grad is None for p in with_it.parameters())


def test_a_scheduled_criterions_layers_are_not_frozen_unless_it_never_trains() -> None:
    schedules = {"later": Between(1.0, begin=5), "never": Linear(0.0, 0.0, until=3), "own": By({0: 0.0})}
    criteria = WeightedCriteria(
        {"on": SoftTarget(), **{name: Hint("a", "b") for name in schedules}},
        {"on": 1.0},
        {f"{name}.weight": schedule for name, schedule in schedules.items()},
    )
    criteria.build(*networks())
    trainable = {name.partition(".")[0]: p.requires_grad for name, p in criteria.named_parameters()}
    assert trainable == {"later": True, "never": False, "own": True}
    assert [name for name in criteria.criteria() if criteria.trains(name)] == ["on", "later", "own"]


def test_fitnets_first_stage_moves_nothing_above_the_hint() -> None:
    class Net(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.lower, self.upper, self.head = nn.Linear(6, width), nn.Linear(width, width), nn.Linear(width, 3)

        def forward(self, x: Tensor) -> Outputs:
            hidden = self.lower(x).relu()
            return Outputs(self.head(self.upper(hidden).relu()), {"lower": hidden})

    with torch.random.fork_rng():
        torch.manual_seed(0)
        student, teacher = Net(4), Net(8)
        criteria = WeightedCriteria(
            {"hard": HardTarget(), "soft": SoftTarget(), "hint": Hint("lower", "lower")},
            {},
            {
                "hard.weight": Between(0.1, begin=2),
                "soft.weight": Between(0.9, begin=2),
                "hint.weight": Between(1.0, end=2),
            },
        )
        criteria.build(student(draw(4, 6)), teacher(draw(4, 6)))
    trained = nn.ModuleDict({"student": student, "criteria": criteria})
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.05, weight_decay=0.1)

    def moved_in(epoch: int) -> set[str]:
        before = copy.deepcopy(trained.state_dict())
        for batch in range(3):
            criteria.advance(3 * epoch + batch, epoch + batch / 3)
            x = draw(4, 6, seed=batch)
            with torch.no_grad():
                seen = teacher(x)
            optimizer.zero_grad()
            criteria(student(x), seen, LABELS).total.backward()
            optimizer.step()
        return {name for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}

    own = {f"student.{layer}.{kind}" for layer in ("lower", "upper", "head") for kind in ("weight", "bias")}
    hint = {f"criteria.hint.projectors.0.linear.{kind}" for kind in ("weight", "bias")}
    for epoch in (0, 1):
        assert moved_in(epoch) == {"student.lower.weight", "student.lower.bias"} | hint
    for epoch in (2, 3):
        assert moved_in(epoch) == own  # the projector rests, weight decay and momentum notwithstanding


@pytest.mark.parametrize("bad", [1.0, math.nan, math.inf])
def test_among_processes_a_weight_that_waits_keeps_a_gradient_of_zero(
    monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    monkeypatch.setattr(weighted, "distributed", lambda: True)
    criteria = scheduled({"hint.weight": Between(1.0, begin=5)})
    student, teacher = tracked(networks()[0]), networks()[1]
    broken = Outputs(teacher.logits, {"b": teacher.features["b"] * bad})
    losses = criteria(student, broken, LABELS)
    losses.total.backward()
    gradients = [p.grad for name, p in criteria.named_parameters() if name.startswith("hint")]
    assert len(gradients) == 2
    assert all(g is not None and not g.any() for g in [*gradients, student.features["a"].grad])
    alone = tracked(networks()[0])
    by_hand = HardTarget(0.1)(alone, teacher, LABELS) + SoftTarget(2.0)(alone, teacher, None)
    torch.testing.assert_close(losses.total, by_hand)
    assert all(p.grad is None for p in criteria.criteria()["attention"].parameters())  # its weight is 0 for ever
    with torch.no_grad():
        assert not criteria(student, teacher, LABELS).total.requires_grad


def test_where_every_weight_is_zero_now_nothing_is_trained() -> None:
    criteria = WeightedCriteria({"soft": SoftTarget()}, {}, {"soft.weight": Between(1.0, begin=3)})
    student = tracked(networks()[0])
    losses = criteria(student, networks()[1], None)
    losses.total.backward()
    assert losses.total == 0
    assert not student.logits.grad.any()  # type: ignore[union-attr]


def test_a_weight_that_rises_later_needs_its_labels_at_once() -> None:
    criteria = WeightedCriteria(
        {"hard": HardTarget(), "soft": SoftTarget()}, {"soft": 1.0}, {"hard.weight": Between(1.0, begin=9)}
    )
    with pytest.raises(ValueError, match=r"criterion 'hard' \(HardTarget\) needs labels"):
        criteria(*networks(), None)


def test_numbers_of_a_criterion_inside_another_can_be_scheduled_and_whole_ones_stay_whole() -> None:
    criteria = WeightedCriteria(
        {"outer": Around(SoftTarget(4.0))},
        {"outer": 1.0},
        {"outer.criterion.temperature": Linear(4.0, 2.0, until=2), "outer.neighbours": Step(5, {1: 3, 2: 2.5})},
    )
    student, teacher = networks()
    kinds = []
    for epoch in (0, 1, 2):
        criteria.advance(epoch, float(epoch))
        losses = criteria(student, teacher, {"colour": LABELS})
        torch.testing.assert_close(losses.total, SoftTarget(4.0 - epoch)(student, teacher, None))
        assert losses.scheduled["outer.criterion.temperature"] == 4.0 - epoch
        kinds.append(criteria.criteria()["outer"].neighbours)
    assert kinds == [5, 3, 2.5]
    assert [type(kind) for kind in kinds] == [int, int, float]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "sotf.weight",
            "a schedule for 'sotf.weight', which cannot be scheduled.* Did you mean 'soft.weight'",
        ),
        ("soft.temprature", r"these can: .*soft.temperature.* Did you mean 'soft.temperature'"),
        ("soft", r"these can: hard.weight, hard.label_smoothing, soft.weight"),
        ("soft.divergence", "'soft.divergence', which cannot be scheduled"),  # no number
        ("soft.training", "'soft.training', which cannot be scheduled"),
        ("soft._version", "'soft._version', which cannot be scheduled"),
        ("zzz", r"soft\.temperature, soft\.beta.*\.$"),
    ],
)
def test_schedules_of_nothing_are_refused(key: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedCriteria(
            {"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 1.0, "soft": 1.0}, {key: Linear(1, 2, until=3)}
        )


def test_private_and_logical_settings_are_not_listed() -> None:
    with pytest.raises(ValueError) as caught:
        WeightedCriteria({"x": Around(SoftTarget())}, {"x": 1.0}, {"nothing": Between(1.0)})
    listed = str(caught.value).partition("these can: ")[2]
    assert listed.startswith("x.weight, x.neighbours, x.criterion.temperature, x.criterion.beta")
    assert "divergence" not in listed
    assert "training" not in listed
    assert "._" not in listed


@pytest.mark.parametrize(
    ("key", "schedule", "message"),
    [
        ("soft.weight", Linear(1, -0.5, until=3), "'soft.weight' gives -0.5; a weight must be finite and at least 0"),
        (
            "soft.temperature",
            Cosine(4, 0, until=3),
            "'soft.temperature' gives 0; a temperature must be finite and above 0",
        ),
        ("soft.temperature", Between(2.0, end=3), "'soft.temperature' gives 0; a temperature"),
        ("soft.weight", By({0: math.nan}), r"'soft.weight' gives nan at step 0 \(epoch 0\); a weight must be finite"),
        ("soft.beta", By({0: math.inf}), r"'soft.beta' gives inf at step 0 \(epoch 0\); the value must be finite"),
    ],
)
def test_schedules_out_of_range_are_refused_at_once(key: str, schedule: Schedule, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 1.0, "soft": 1.0}, {key: schedule})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "soft.weight",
            -1.0,
            r"'soft.weight' gives -1 at step 7 \(epoch 0.35\); a weight must be finite and at least 0",
        ),
        ("soft.weight", math.inf, r"'soft.weight' gives inf at step 7"),
        ("soft.temperature", 0.0, r"'soft.temperature' gives 0 at step 7 \(epoch 0.35\); a temperature"),
    ],
)
def test_values_out_of_range_are_refused_when_they_come(key: str, value: float, message: str) -> None:
    criteria = WeightedCriteria({"soft": SoftTarget()}, {"soft": 1.0}, {key: By({7: value})})
    criteria.advance(6, 0.3)
    with pytest.raises(ValueError, match=message):
        criteria.advance(7, 0.35)


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"the schedule of 'soft.weight' is a float; give a lit_distill\.schedules\.Schedule"
    ):
        WeightedCriteria({"soft": SoftTarget()}, {"soft": 1.0}, {"soft.weight": 0.5})  # type: ignore[dict-item]


@pytest.mark.parametrize("schedule", [Linear(0, 1, until=3), Between(1, begin=3), By({})])
def test_weights_of_zero_are_allowed_where_one_is_scheduled_to_rise(schedule: Schedule) -> None:
    WeightedCriteria({"soft": SoftTarget()}, {"soft": 0.0}, {"soft.weight": schedule})


def test_weights_that_are_zero_for_ever_are_refused() -> None:
    with pytest.raises(ValueError, match="every weight is 0"):
        WeightedCriteria({"soft": SoftTarget()}, {"soft": 1.0}, {"soft.weight": Linear(0, 0, until=3)})


# Balance and tasks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", [GradientNorm("hard"), Uncertainty()])
def test_a_balance_is_no_criterion(balance: Any) -> None:
    criteria = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 1.0, "soft": 1.0}, None, balance)
    assert list(criteria.criteria()) == ["hard", "soft"]
    assert criteria.balance is balance
    assert any(name.startswith("balance.") for name in criteria.state_dict())


def test_labels_of_several_tasks_go_only_to_what_takes_them() -> None:
    student, teacher = networks()
    labels = {"colour": LABELS, "shape": LABELS}
    criteria = WeightedCriteria({"both": Around(HardTarget()), "soft": SoftTarget()}, {"both": 1.0, "soft": 1.0})
    losses = criteria(student, teacher, labels)
    torch.testing.assert_close(losses.raw["both"], HardTarget()(student, teacher, LABELS))
    for weight in (1.0, 0.0):
        with pytest.raises(
            ValueError,
            match=r"^criterion 'hard' takes one target and the batches have several \(colour, shape\): wrap it in OnHead",
        ):
            WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": weight, "soft": 1.0})(
                student, teacher, labels
            )


def test_a_value_that_is_no_scalar_is_named() -> None:
    class Rows(Criterion):
        def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
            return student.logits.sum(1)

    outputs = Outputs(torch.randn(4, 3))
    with pytest.raises(
        ValueError, match=r"criterion 'rows' \(Rows\) gave a value of shape \[4\]; a scalar was expected"
    ):
        WeightedCriteria({"rows": Rows()}, {"rows": 1.0})(outputs, outputs, None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_criteria_stay_wide_where_the_networks_are_narrowed(dtype: torch.dtype) -> None:
    vid = VID("a", "a")
    criteria = WeightedCriteria({"vid": vid}, {"vid": 1.0})
    student, teacher = (Outputs(torch.randn(3, 5), {"a": torch.randn(3, width, 4, 4)}) for width in (6, 8))
    criteria.build(student, teacher)
    before = {name: value.clone() for name, value in criteria.state_dict().items()}
    criteria.to(dtype)
    assert all(torch.equal(value, before[name]) for name, value in criteria.state_dict().items())
    narrow = [Outputs(o.logits.to(dtype), {"a": o.features["a"].to(dtype)}) for o in (student, teacher)]
    assert criteria(narrow[0], narrow[1], None).total.dtype == torch.float32
    criteria.to(torch.float64)
    assert all(value.dtype == torch.float64 for value in criteria.parameters())


def test_a_criterion_without_super_init_is_named() -> None:
    class Bare(SoftTarget):
        def __init__(self) -> None:
            pass

    with pytest.raises(TypeError, match=r"criterion 'mine': Bare.__init__ does not call super\(\).__init__\(\)"):
        WeightedCriteria({"mine": Bare()}, {"mine": 1.0})
