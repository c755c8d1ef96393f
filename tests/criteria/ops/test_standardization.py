from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_distill import Outputs
from lit_distill.criteria import (
    CTKD,
    DIST,
    DKD,
    NKD,
    OFA,
    RLD,
    SDD,
    TTM,
    WTTM,
    Criterion,
    EnsembleTarget,
    LogitMSE,
    LogitRelation,
    MultiTemperature,
    Mutual,
    SoftTarget,
)
from lit_distill.criteria.ofa import ofa
from lit_distill.criteria.ops.standardization import standardize
from tests.criteria.logits_by_hand import as_pixels, as_tokens, draw, gradient_of, labels, standardized, value_of

EVERY = {
    "SoftTarget": lambda: SoftTarget(2.0, standardize=True),
    "LogitMSE": lambda: LogitMSE(standardize=True),
    "DKD": lambda: DKD(temperature=2.0, standardize=True),
    "DIST": lambda: DIST(standardize=True),
    "NKD": lambda: NKD(standardize=True),
    "TTM": lambda: TTM(standardize=True),
    "WTTM": lambda: WTTM(standardize=True),
    "RLD": lambda: RLD(temperature=2.0, standardize=True),
}
every = pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)


def test_each_row_equals_a_hand_computation() -> None:
    logits = draw(6, 7)
    expected = torch.tensor([standardized(row) for row in logits.tolist()], dtype=torch.float64)
    torch.testing.assert_close(standardize(logits), expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(standardize(as_tokens(draw(24, 5))), as_tokens(standardize(draw(24, 5))))


def test_gradient_is_the_derivative_and_goes_with_one_over_the_scale() -> None:
    logits = draw(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(standardize, (logits,))
    norms = []
    for scale in (1.0, 10.0):
        leaf = (scale * draw(3, 4)).requires_grad_()
        (standardize(leaf) * draw(3, 4, seed=1)).sum().backward()
        norms.append(leaf.grad.norm().item())
    assert norms[0] == pytest.approx(10 * norms[1], rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_row_that_is_all_alike_becomes_zeros_and_has_the_gradient_of_the_centred_row(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0.0] * 7, [0.1] * 7, [1e4] * 7, [-3.3] * 7], dtype=dtype, requires_grad=True)
    found = standardize(rows)
    assert found.eq(0).all()
    pull = draw(4, 7).to(dtype)
    (found * pull).sum().backward()
    torch.testing.assert_close(rows.grad, pull - pull.mean(1, keepdim=True))


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e4])
def test_all_but_constant_and_large_rows_stay_finite(scale: float) -> None:
    leaf = (scale * draw(4, 5)).float().requires_grad_()
    found = standardize(leaf)
    (found * draw(4, 5, seed=1).float()).sum().backward()
    assert found.isfinite().all()
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="a single class cannot be standardized"):
        standardize(draw(3, 1))


@every
def test_every_criterion_forgets_the_scale_of_both_networks(make: type[Criterion]) -> None:
    student, teacher, target = draw(6, 5, seed=1), draw(6, 5, seed=2), labels(6, classes=5)
    expected = value_of(make(), student, teacher, target)
    moved = value_of(make(), 4 * student - 3, 0.3 * teacher + 9, target)
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=0)


@every
def test_every_criterion_standardizes_over_the_classes_of_every_layout(make: type[Criterion]) -> None:
    student, teacher, target = draw(24, 5, seed=1), draw(24, 5, seed=2), labels(24, classes=5)
    expected = value_of(make(), student, teacher, target)
    for lay in (as_tokens, as_pixels):
        found = value_of(make(), lay(student), lay(teacher), lay(target))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@every
def test_every_criterion_is_what_it_is_of_standardized_logits(make: type[Criterion]) -> None:
    student, teacher, target = draw(6, 5, seed=1), draw(6, 5, seed=2), labels(6, classes=5)
    plain = make()
    plain.standardize = False
    rows = [torch.tensor([standardized(row) for row in z.tolist()], dtype=torch.float64) for z in (student, teacher)]
    expected = value_of(plain, *rows, target)
    torch.testing.assert_close(value_of(make(), student, teacher, target), expected, rtol=1e-12, atol=0)


@every
def test_a_head_that_starts_at_zero_does_not_explode(make: type[Criterion]) -> None:
    gradient = gradient_of(make(), torch.zeros(6, 5), draw(6, 5, seed=2).float(), labels(6, classes=5))
    assert 0 < gradient.abs().max() < 30


@pytest.mark.parametrize(
    "criterion", [CTKD(standardize=True), MultiTemperature(standardize=True)], ids=["ctkd", "mlkd"]
)
def test_criteria_that_learn_or_have_several_temperatures_standardize_too(criterion: Criterion) -> None:
    student, teacher = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    criterion = criterion.double()
    value = criterion(Outputs(student), Outputs(teacher), None)
    moved = criterion(Outputs(3 * student + 5), Outputs(0.2 * teacher - 1), None)
    assert moved.item() == pytest.approx(value.item(), rel=1e-5)  # the 1e-7 beside the deviation
    by_hand = [(z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7) for z in (student, teacher)]
    temperatures = [criterion.temperature] if isinstance(criterion, CTKD) else list(criterion.temperatures)
    expected = [
        t**2 * (p * (p / (by_hand[0] / t).softmax(1)).log()).sum(1).mean()
        for t in temperatures
        for p in [(by_hand[1] / t).softmax(1)]
    ]
    assert value.item() == pytest.approx(float(torch.stack(expected).mean()), abs=1e-10)


def rows_by_hand(logits: Tensor) -> Tensor:
    rows = logits.reshape(-1, logits.shape[-1]).tolist()
    return torch.tensor([standardized(row) for row in rows], dtype=torch.float64).reshape(logits.shape)


def read_from_layers(make: Callable[[bool], Criterion], standardize: bool, first: Tensor, second: Tensor) -> Tensor:
    """The value where both networks have these logits as outputs and as layers "0" and "1"."""
    criterion = make(standardize).double()
    target = labels(len(first), classes=first.shape[-1])
    student = Outputs(first.flatten(1)[:, : first.shape[-1]], {"0": first, "1": second})
    teacher = Outputs(second.flatten(1)[:, : first.shape[-1]], {"0": second, "1": first})
    torch.manual_seed(0)
    criterion.build(student, teacher)
    value: Tensor = criterion(student, teacher, target)
    return value


LAYERS: dict[str, tuple[Callable[[bool], Criterion], tuple[int, ...]]] = {
    "SDD": (lambda on: SDD("0", "0", standardize=on), (6, 3, 5)),
    "Mutual": (lambda on: Mutual(["0", "1"], standardize=on), (6, 5)),
    "average": (lambda on: EnsembleTarget(["0", "1"], standardize=on), (6, 5)),
    "agreement": (lambda on: EnsembleTarget(["0", "1"], "agreement", standardize=on), (6, 5)),
    "LogitRelation": (lambda on: LogitRelation(standardize=on), (6, 5)),
}


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_criteria_of_layers_are_what_they_are_of_standardized_logits(
    make: Callable[[bool], Criterion], shape: tuple[int, ...]
) -> None:
    first, second = draw(*shape, seed=1), draw(*shape, seed=2)
    expected = read_from_layers(make, False, rows_by_hand(first), rows_by_hand(second))
    assert expected.item() != pytest.approx(read_from_layers(make, False, first, second).item(), rel=0.01)
    found = read_from_layers(make, True, first, second)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    moved = read_from_layers(make, True, 3 * first + 5, 0.2 * second - 1)
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("weighting", ["confidence", "learned"])
def test_labels_weigh_an_ensemble_before_it_is_standardized(weighting: Any) -> None:
    student, target = draw(6, 5), labels(6, classes=5)
    teachers = {"0": draw(6, 5, seed=1), "1": 4 * draw(6, 5, seed=2)}
    criterion = EnsembleTarget(["0", "1"], weighting, standardize=True)
    criterion.build(Outputs(student), Outputs(student, teachers))
    criterion.double()
    found = criterion(Outputs(student), Outputs(student, teachers), target)
    losses = [torch.nn.functional.cross_entropy(z, target, reduction="none") for z in teachers.values()]
    shares = torch.stack(losses).softmax(0)
    first = 1 - shares[0] if weighting == "confidence" else torch.full((6,), 0.5, dtype=torch.float64)
    p_0, p_1, p_s = ((rows_by_hand(z) / 4).softmax(1) for z in (*teachers.values(), student))
    p_t = first[:, None] * p_0 + (1 - first)[:, None] * p_1
    expected = 16 * (p_t * (p_t / p_s).log()).sum(1).mean()
    if weighting == "learned":
        raw = torch.stack([z.softmax(1) for z in teachers.values()]).mean(0)
        expected = expected - raw[torch.arange(6), target].log().mean()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_exits_and_teacher_are_standardized() -> None:
    student, teacher, target = draw(6, 5, seed=1), draw(6, 5, seed=2), labels(6, classes=5)
    criterion = OFA("a", standardize=True)
    outputs = Outputs(student, {"a": draw(6, 7)})
    criterion.build(outputs, Outputs(teacher))
    exit_logits = criterion.double().exits[0](outputs.features["a"])
    found = criterion(outputs, Outputs(teacher), target)
    expected = sum(ofa(rows_by_hand(z.detach()), rows_by_hand(teacher), target) for z in (exit_logits, student))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_sigmoids_have_nothing_to_standardize() -> None:
    with pytest.raises(ValueError, match="standardize compares classes.*'multilabel' has none"):
        Mutual(["0", "1"], task="multilabel", standardize=True)
