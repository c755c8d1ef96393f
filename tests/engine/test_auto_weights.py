"""Weights that are left out are found from gradients; numbers stay exactly themselves."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import CombinedDistillation, Distill, GradientNorm, LogitDistillation
from lit_distill.criteria import AttentionTransfer, Criterion, HardTarget, LogitMSE, OnHead, SoftTarget
from lit_distill.engine.auto_weights import AutoWeights, ratio_of
from lit_distill.engine.step import Losses
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.models import MLP, SmallCNN
from lit_distill.outputs import Outputs
from lit_distill.schedules import Between, Linear
from lit_distill.teachers import EMATeacher
from tests.plain import quiet_trainer

LABELS = torch.tensor([0, 1, 2, 1])


class Silent(Criterion):
    """A criterion whose gradient is 0."""

    def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
        return 0 * student.logits.sum()


def logits(seed: int) -> Tensor:
    return torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))


def train(criteria: WeightedCriteria, parameter: torch.nn.Parameter, seed: int = 0) -> Losses:
    """One training batch of a student whose only parameter is added to its logits."""
    if criteria.balance is not None:
        criteria.balance.measures(list(criteria.weights))
    found: Losses = criteria(Outputs(logits(seed) + parameter), Outputs(logits(9)), LABELS, [parameter])
    return found


def start() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.full((4, 3), 0.1))


def norm(value: Tensor, parameter: Tensor) -> float:
    return float(torch.autograd.grad(value, parameter, retain_graph=True)[0].double().norm())


@pytest.mark.parametrize("weights", [{}, {"soft": "auto"}, {"hard": "auto", "mse": "auto"}, {"hard": 0.25}])
def test_each_found_weight_gives_its_criterion_the_ratio_to_the_label_loss(weights: dict[str, Any]) -> None:
    made = {"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}
    made["mse"].auto_ratio = 2.0
    parameter = start()
    losses = train(WeightedCriteria(made, weights), parameter)
    hard = norm(losses.terms["hard"] * losses.weights["hard"], parameter)
    assert losses.weights["hard"] == (0.25 if weights.get("hard") == 0.25 else pytest.approx(1 / 7))
    assert norm(losses.terms["soft"] * losses.weights["soft"], parameter) == pytest.approx(4 * hard, rel=1e-5)
    assert norm(losses.terms["mse"] * losses.weights["mse"], parameter) == pytest.approx(2.0 * hard, rel=1e-5)
    expected = sum(losses.weights[name] * float(term.detach()) for name, term in losses.terms.items())
    assert float(losses.total.detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("strength", [0.5, 1.0, 3.0])
def test_with_no_number_given_the_parts_add_up_to_the_gradient_of_the_labels(strength: float) -> None:
    parameter = start()
    made = {"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}
    criteria = WeightedCriteria(made, {}, strength=strength)
    losses = train(criteria, parameter)
    parts = {name: norm(losses.terms[name] * losses.weights[name], parameter) for name in made}
    assert sum(parts.values()) == pytest.approx(norm(losses.terms["hard"], parameter), rel=1e-5)
    assert parts["soft"] / parts["hard"] == pytest.approx(4 * strength, rel=1e-5)
    assert criteria.given_weights == dict.fromkeys(made, "auto")


def test_with_no_number_given_and_no_labels_they_add_up_to_the_gradient_of_the_first() -> None:
    parameter = start()
    losses = train(WeightedCriteria({"soft": SoftTarget(), "mse": LogitMSE()}, {}, strength=2), parameter)
    total = sum(norm(losses.terms[name] * losses.weights[name], parameter) for name in ("soft", "mse"))
    assert total == pytest.approx(2 * norm(losses.terms["soft"], parameter), rel=1e-5)


@pytest.mark.parametrize("weights", [{"mse": 2.0}, {"hard": 1.0}])
def test_labels_left_out_next_to_a_number_have_the_weight_1(weights: dict[str, Any]) -> None:
    made = {"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}
    assert train(WeightedCriteria(made, weights), start()).weights["hard"] == 1.0
    scheduled = WeightedCriteria(made, {}, {"mse.weight": Between(1.0, begin=0, end=1)})
    assert train(scheduled, start()).weights["hard"] == 1.0


def test_a_number_means_itself_next_to_weights_that_are_found() -> None:
    criteria = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}, {"soft": 0.7})
    assert train(criteria, start()).weights["soft"] == 0.7
    assert criteria.found == ("mse",)


def test_numbers_for_all_need_no_balance() -> None:
    assert WeightedCriteria({"soft": SoftTarget()}, {"soft": 2.0}).balance is None


def test_without_labels_the_fixed_criteria_are_the_reference_and_else_the_first() -> None:
    parameter = start()
    fixed = train(WeightedCriteria({"soft": SoftTarget(), "mse": LogitMSE()}, {"soft": 2.0}), parameter)
    assert norm(fixed.terms["mse"] * fixed.weights["mse"], parameter) == pytest.approx(
        norm(fixed.terms["soft"] * 2.0, parameter), rel=1e-5
    )
    free = train(WeightedCriteria({"soft": SoftTarget(), "mse": LogitMSE()}, {}), parameter)
    assert norm(free.terms["mse"] * free.weights["mse"], parameter) == pytest.approx(
        norm(free.terms["soft"] * free.weights["soft"], parameter), rel=1e-5
    )


def test_one_criterion_without_labels_is_never_measured() -> None:
    criteria = WeightedCriteria({"soft": SoftTarget()}, {})
    assert not criteria.balance.measures(["soft"])  # type: ignore[union-attr]
    assert train(criteria, start()).weights == {"soft": 1.0}


@pytest.mark.parametrize("weights", [{"soft": 0.9, "mse": 2.0}, {"soft": 0.9}, {}, {"hard": 0.0}])
def test_strength_multiplies_the_weights_of_what_needs_a_teacher(weights: dict[str, Any]) -> None:
    def made(strength: float) -> dict[str, float]:
        criteria = {"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}
        return train(WeightedCriteria(criteria, weights, strength=strength), start()).weights

    plain, strong = made(1.0), made(2.5)
    if weights:  # with no number given the ratio to the labels' counts, whose weight is then lower
        assert strong["hard"] == plain["hard"]
    labels = strong["hard"] / plain["hard"] if plain["hard"] else 1.0
    assert [strong[name] / plain[name] / labels for name in ("soft", "mse")] == pytest.approx([2.5, 2.5])


@pytest.mark.parametrize("weights", [{"hard": 1.0, "soft": 0.9, "mse": 2.0}, {"soft": 0.9}, {}])
def test_a_strength_of_zero_turns_the_teacher_off(weights: dict[str, Any]) -> None:
    def trained(criteria: WeightedCriteria) -> tuple[Losses, Tensor]:
        parameter = start()
        losses = train(criteria, parameter)
        losses.total.backward()
        assert parameter.grad is not None
        return losses, parameter.grad

    made = {"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}
    off = WeightedCriteria(made, weights, strength=0)
    losses, gradient = trained(off)
    alone, expected = trained(WeightedCriteria({"hard": HardTarget()}, {}))
    assert torch.equal(losses.total, alone.total)
    assert torch.equal(gradient, expected)
    assert off.balance is None
    assert losses.weights == {"hard": 1.0, "soft": 0.0, "mse": 0.0}
    assert set(losses.raw) == set(made)  # still logged


def test_a_strength_of_zero_needs_something_else_that_trains() -> None:
    with pytest.raises(ValueError, match="strength is 0, and every criterion with a weight needs a teacher"):
        LogitDistillation(MLP(), MLP(), criteria={"soft": SoftTarget()}, weights={"soft": 1.0}, strength=0)


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength must be finite and at least 0"):
        LogitDistillation(MLP(), MLP(), strength=strength)
    with pytest.raises(ValueError, match="strength must be finite and at least 0"):
        Distill(MLP(), strength=strength)


def test_a_longer_memory_of_the_teacher_takes_as_much_off_its_found_weight() -> None:
    plain, shorter = (WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"hard": 0.5}) for _ in "ab")
    assert isinstance(shorter.balance, AutoWeights)
    shorter.balance.remember({"hard": 2.0, "soft": 14.0})
    first, second = (train(criteria, start()) for criteria in (plain, shorter))
    assert second.weights["soft"] == pytest.approx(first.weights["soft"] / 7)
    assert second.weights["hard"] == 0.5
    shorter.balance.remember({})
    assert train(shorter, start()).weights["soft"] == pytest.approx(first.weights["soft"])


def test_the_scale_of_a_criterion_does_not_matter() -> None:
    class Larger(LogitMSE):
        def forward(self, student: Outputs, teacher: Outputs, target: Tensor | None) -> Tensor:
            return 1000 * super().forward(student, teacher, target)

    totals = [
        float(train(WeightedCriteria({"hard": HardTarget(), "mse": kind()}, {}), start()).total.detach())
        for kind in (LogitMSE, Larger)
    ]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


def test_a_criterion_of_an_early_layer_is_compared_in_the_layers_that_it_reads() -> None:
    early, late = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    balance = AutoWeights(["hint"], ["hard"])
    balance.build(["hint"])
    terms = {"hard": 3 * early.sum() + 100 * late.sum(), "hint": 12 * early.sum()}
    balance.measures(["hard", "hint"])
    assert balance(terms, {"hard": 1.0, "hint": 0.5}, [early, late])[1] == {"hard": 1.0, "hint": 0.125}


@pytest.mark.parametrize("criteria", [("soft",), ("soft", "mse", "srd")])
def test_seven_batches_are_measured_and_then_none(criteria: tuple[str, ...]) -> None:
    balance = AutoWeights(criteria, ["hard"])
    balance.build(["hard", *criteria])
    parameter = torch.nn.Parameter(torch.ones(()))
    terms = dict.fromkeys(("hard", *criteria), parameter * 2)
    due = []
    for _ in range(300):
        due.append(balance.measures(list(terms)))
        balance(terms, dict.fromkeys(terms, 1.0), [parameter])
    assert [place for place, now in enumerate(due) if now] == [0, 1, 3, 7, 15, 31, 63]


def test_a_criterion_that_begins_later_is_measured_from_there_and_the_others_stay() -> None:
    balance = AutoWeights(["soft", "late"], ["hard"])
    balance.build(["hard", "soft", "late"])
    parameter = torch.nn.Parameter(torch.ones(()))

    def weights(names: Sequence[str], size: float) -> dict[str, float]:
        terms = {name: parameter * (1.0 if name == "hard" else size) for name in names}
        balance.measures(names)
        found: dict[str, float] = balance(terms, dict.fromkeys(terms, 1.0), [parameter])[1]
        return found

    for _ in range(100):
        weights(["hard", "soft"], 2.0)
    late = [weights(["hard", "soft", "late"], size) for size in (8.0, 4.0)]
    assert late[0] == {"hard": 1.0, "soft": 0.5, "late": 0.125}
    assert late[1] == {"hard": 1.0, "soft": 0.5, "late": pytest.approx(1 / 6)}


def test_buffers_are_read_again_only_after_they_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    whole = Tensor.tolist
    monkeypatch.setattr(Tensor, "tolist", lambda self: (reads.append(1), whole(self))[1])
    course = Course()
    for _ in range(100):
        course.weight(2.0)
    assert len(reads) == 2 + 7  # each buffer at first, and the norms after each measurement: a read waits for a GPU
    course.balance.train()
    course.weight(2.0)
    course.balance.load_state_dict({**course.balance.state_dict(), "norms": torch.tensor([8.0])})
    assert course.balance.known() == {"soft": 8.0}


def test_a_checkpoint_without_these_buffers_loads_and_the_weights_are_found_anew() -> None:
    numbers = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {"soft": 0.9})
    found = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {})
    expected = train(found, start()).weights
    state = found.state_dict()
    numbers.load_state_dict(state, strict=True)  # of a run that found them, now given by hand
    found.load_state_dict({}, strict=True)
    assert all(math.isnan(norm) for norm in found.balance.known().values())  # type: ignore[union-attr]
    assert train(found, start()).weights == expected
    more = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}, {})
    more.load_state_dict(state, strict=True)  # one weight more is found: all are, anew
    assert more.balance.seen.tolist() == [0, 0]  # type: ignore[arg-type, union-attr]


def test_gradients_too_small_for_half_precision_are_measured() -> None:
    parameter = nn.Parameter(torch.full((2,), 1.0, dtype=torch.float16))
    balance = AutoWeights(["soft"], ["hard"])
    balance.build(["soft"])
    terms = {"hard": parameter.sum().float() * 1e-9, "soft": parameter.sum().float() * 4e-9}
    assert balance(terms, {"hard": 1.0, "soft": 1.0}, [parameter])[1]["soft"] == pytest.approx(0.25, rel=1e-2)


def test_a_copy_with_the_saved_state_goes_on_to_the_bit() -> None:
    whole, resumed = (WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {}) for _ in range(2))
    for batch in range(5):
        train(whole, start(), batch)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()), strict=True)
    for batch in range(5, 12):
        one, other = train(whole, start(), batch), train(resumed, start(), batch)
        assert torch.equal(one.total, other.total)
        assert one.weights == other.weights


@pytest.mark.parametrize(("criteria", "named"), [({"hard": HardTarget(), "x": Silent()}, "'x'")])
def test_a_criterion_without_a_gradient_is_refused_by_name(criteria: Mapping[str, Criterion], named: str) -> None:
    weighted = WeightedCriteria(criteria, {})
    for batch in range(63):
        assert train(weighted, start(), batch).weights["x"] == 0.0  # no number is right yet
    with pytest.raises(ValueError, match=f"no weight .* criterion {named} and that of hard.*by hand"):
        train(weighted, start(), 63)


class Course:
    """Two terms of one parameter, whose gradients are set by hand, batch by batch."""

    def __init__(self) -> None:
        self.balance = AutoWeights(["soft"], ["hard"])
        self.balance.build(["soft"])
        self.parameter = nn.Parameter(torch.ones(()))

    def weight(self, soft: float, hard: float = 1.0) -> float:
        self.balance.measures(["hard", "soft"])
        terms = {"hard": self.parameter * hard, "soft": self.parameter * soft}
        found: float = self.balance(terms, {"hard": 1.0, "soft": 1.0}, [self.parameter])[1]["soft"]
        return found


@pytest.mark.parametrize("lost", [0.0, math.inf, math.nan])
def test_a_gradient_lost_for_a_while_leaves_the_weight_alone(lost: float) -> None:
    course = Course()
    assert course.weight(2.0) == 0.5
    assert [course.weight(lost) for _ in range(20)] == [0.5] * 20
    assert [course.weight(2.0, lost) for _ in range(20)] == [0.5] * 20
    assert course.weight(2.0) == 0.5


def test_after_the_first_batches_the_weight_stays() -> None:
    course = Course()
    assert {course.weight(2.0) for _ in range(64)} == {0.5}
    fitted = {course.weight(soft, hard) for soft, hard in ((2e-9, 1.0), (2.0, 1e-9), (1e9, 1.0))}
    assert fitted == {0.5}


def test_the_weight_is_the_ratio_of_the_sums_so_that_a_gradient_that_begins_near_zero_cannot_blow_it_up() -> None:
    course = Course()
    assert course.weight(1e-5) == pytest.approx(1e5)
    assert course.weight(3.0, 2.0) == pytest.approx((1 + 2) / 3, rel=1e-5)
    assert course.weight(5.0) == pytest.approx(1.0, rel=1e-5)  # the third batch is not measured
    assert course.weight(6.0) == pytest.approx(4 / 9, rel=1e-5)


def test_rounding_errors_are_no_gradient_and_the_first_that_follows_is_measured() -> None:
    course = Course()
    assert [course.weight(3e-7) for _ in range(5)] == [0.0] * 5
    assert course.weight(0.01) == pytest.approx(100)  # in no batch that is measured in any case
    assert course.weight(0.01) == pytest.approx(100)


@pytest.mark.parametrize("averaged", [True, False])
def test_a_student_that_starts_as_its_teacher_has_no_weight_until_they_differ(averaged: bool) -> None:
    torch.manual_seed(0)
    student = MLP(6, [16], 3)
    teacher = EMATeacher() if averaged else copy.deepcopy(student)
    module = LogitDistillation(
        student,
        teacher,
        criteria={"hard": HardTarget(), "soft": SoftTarget()},
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05),
    )
    curve: list[float] = []

    class Curve(Callback):
        def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
            curve.append(module.criteria.balance.known()["soft"])  # type: ignore[union-attr]

    data = DataLoader(TensorDataset(torch.randn(24, 6), torch.randint(0, 3, (24,))), batch_size=2)
    quiet_trainer(max_epochs=1, accumulate_grad_batches=4, callbacks=[Curve()], enable_checkpointing=False).fit(
        module, data
    )
    assert all(map(math.isnan, curve[:4]))  # the first step is made after these
    assert 1e-5 < curve[4] < 1
    assert all(value.isfinite().all() and value.abs().max() < 5 for value in student.state_dict().values())


def test_a_balance_of_ones_own_needs_numbers() -> None:
    criteria = {"hard": HardTarget(), "soft": SoftTarget()}
    with pytest.raises(ValueError, match=r"criterion 'soft' has no weight, and GradientNorm multiplies weights; add"):
        WeightedCriteria(criteria, {"hard": 1.0}, balance=GradientNorm("hard"))


def test_a_criterion_in_another_aims_at_its_own_ratio() -> None:
    inner = LogitMSE()
    inner.auto_ratio = 0.7
    assert ratio_of(OnHead(inner, "a", "a")) == 0.7
    assert ratio_of(OnHead(LogitMSE(), "a", "a")) == 4.0
    assert ratio_of(AttentionTransfer("stage2", "stage2")) == 1.0


def test_evaluation_measures_nothing_and_changes_nothing() -> None:
    criteria = WeightedCriteria({"hard": HardTarget(), "soft": SoftTarget()}, {}).eval()
    criteria(Outputs(logits(0)), Outputs(logits(9)), LABELS)
    assert all(math.isnan(value) for value in criteria.balance.known().values())  # type: ignore[union-attr]


def digits_like() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(24, 1, 8, 8, generator=generator)
    return DataLoader(TensorDataset(images, torch.arange(24) % 10), batch_size=8)


def trainer(folder: Path, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, max_epochs=2, enable_checkpointing=False, **{**quiet, **options})


def test_a_fit_with_no_weights_logs_and_prints_what_it_finds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    criteria: dict[str, Criterion] = {
        "hard": HardTarget(),
        "soft": SoftTarget(),
        "attention": AttentionTransfer("stage2", "stage2"),
    }
    module = CombinedDistillation(SmallCNN(), SmallCNN(), criteria=criteria)
    fit = trainer(tmp_path, log_every_n_steps=1)
    with caplog.at_level("INFO"):
        fit.fit(module, digits_like())
    said = caplog.text + capfd.readouterr().out
    assert "Criterion soft: SoftTarget, weight found in training." in said
    assert said.count("Weights found in training: soft: 1 = ") == 1
    assert said.count("; attention: 1 = ") == 1
    logged = fit.callback_metrics
    assert float(logged["train/weight/hard"]) == pytest.approx(1 / 6)
    found = float(logged["train/weight/attention"])
    assert found > 0
    assert found != 0.3
    assert float(logged["train/weighted/attention"]) == pytest.approx(
        found * float(logged["train/criteria/attention"]), rel=1e-5
    )
    assert module.hparams["weights"] == {"hard": "auto", "soft": "auto", "attention": "auto"}


def test_distill_finds_the_weights_left_out_in_a_module_of_ones_own(tmp_path: Path) -> None:
    class Host(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = MLP()

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.model(x)
            return logits

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01)

    host = Host()
    distill = Distill(MLP(), {"mse": LogitMSE()})
    assert distill.criteria.found == ("mse",)
    fit = trainer(tmp_path, callbacks=[distill], log_every_n_steps=1)
    fit.fit(host, digits_like())
    assert float(fit.callback_metrics["distill/weight/task"]) == pytest.approx(0.2)
    assert float(fit.callback_metrics["distill/weight/mse"]) not in (0.0, 1.0)


def test_a_schedule_multiplies_a_weight_that_is_auto_and_is_one_that_is_left_out() -> None:
    made = {"hard": HardTarget(), "soft": SoftTarget(), "mse": LogitMSE()}
    plan = Linear(0.5, 1.0, until=10)
    plain = WeightedCriteria(made, {"hard": 1.0})
    relative = WeightedCriteria(copy.deepcopy(made), {"soft": "auto"}, {"soft.weight": plan})
    absolute = WeightedCriteria(copy.deepcopy(made), {}, {"soft.weight": plan})
    assert (relative.found, absolute.found) == (("soft", "mse"), ("mse",))
    assert relative.given_weights["soft"] == "auto"
    for epoch, share in ((0, 0.5), (5, 0.75), (20, 1.0)):
        for criteria in (relative, absolute):
            criteria.advance(0, epoch)
        expected = train(plain, start()).weights
        found = train(relative, start()).weights
        assert found["soft"] == pytest.approx(share * expected["soft"])
        assert found["mse"] == pytest.approx(expected["mse"])
        assert train(absolute, start()).weights["soft"] == share


def test_a_weight_that_is_auto_and_begins_at_0_is_found_when_it_rises() -> None:
    made = {"hard": HardTarget(), "soft": SoftTarget()}
    criteria = WeightedCriteria(made, {"soft": "auto"}, {"soft.weight": Between(1.0, begin=2)})
    assert train(criteria, start()).weights["soft"] == 0
    assert criteria.balance.seen.tolist() == [0]
    criteria.advance(0, 2)
    assert train(criteria, start()).weights["soft"] == pytest.approx(
        train(WeightedCriteria(copy.deepcopy(made), {"hard": 1.0}), start()).weights["soft"]
    )


def test_without_labels_a_schedule_multiplies_what_is_found_among_the_teachers_criteria() -> None:
    made = {"mse": LogitMSE(), "soft": SoftTarget()}
    found = []
    for share in (1.0, 0.5):
        plan = {"soft.weight": Linear(share, share, until=1)}
        criteria = WeightedCriteria(copy.deepcopy(made), {"mse": "auto", "soft": "auto"}, plan)
        found.append(train(criteria, start()).weights["soft"])
    assert 0 < found[1] == pytest.approx(0.5 * found[0])
