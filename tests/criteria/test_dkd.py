import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import DistillationModule, HardTarget
from lit_distill.criteria import DKD, SoftTarget
from lit_distill.schedules import Linear
from tests.conftest import QuickTrainer
from tests.criteria.logits_by_hand import draw, gradient_of, kl, labels, reference_logits, softmax, value_of, without


def parts(row_s: list[float], row_t: list[float], label: int, temperature: float) -> tuple[float, float]:
    """TCKD and NCKD of one row, without T²."""
    p_s, p_t = softmax(row_s, temperature), softmax(row_t, temperature)
    target = kl([p_t[label], 1 - p_t[label]], [p_s[label], 1 - p_s[label]])
    rest = kl(softmax(without(row_t, label), temperature), softmax(without(row_s, label), temperature))
    return target, rest


def by_hand(student: Tensor, teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float) -> float:
    terms = []
    for row_s, row_t, label in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        tckd, nckd = parts(row_s, row_t, label, temperature)
        terms.append(alpha * tckd + beta * nckd)
    return temperature**2 * sum(terms) / len(terms)


def test_reference_value() -> None:
    student, teacher, target = reference_logits()
    criterion = DKD(1.0, 8.0, 4.0)
    found = value_of(criterion, student, teacher, target).item()
    assert found == pytest.approx(43.36941762528547, abs=1e-10, rel=0)
    gradient = gradient_of(criterion, student, teacher, target).norm().item()
    assert gradient == pytest.approx(3.2328584317309277, abs=1e-10, rel=0)


@pytest.mark.parametrize(
    ("alpha", "beta", "temperature"), [(1.0, 8.0, 4.0), (1.0, 0.5, 1.0), (0.0, 2.0, 2.0), (3.0, 0.0, 0.5)]
)
def test_equals_a_hand_computation(alpha: float, beta: float, temperature: float) -> None:
    student, teacher, target = draw(9, 6, seed=1), draw(9, 6, seed=2), labels(9, classes=6)
    expected = by_hand(student, teacher, target, alpha, beta, temperature)
    found = value_of(DKD(alpha, beta, temperature), student, teacher, target).item()
    assert found == pytest.approx(expected, abs=1e-10, rel=0)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_are_tckd_and_nckd_weighted_by_the_teachers_doubt(temperature: float) -> None:
    student, teacher, target = draw(9, 6, seed=1), draw(9, 6, seed=2), labels(9, classes=6)
    total = 0.0
    for row in range(9):
        one = slice(row, row + 1)
        doubt = 1 - torch.softmax(teacher[row] / temperature, 0)[target[row]].item()
        criterion = DKD(1.0, doubt, temperature)
        total += value_of(criterion, student[one], teacher[one], target[one]).item() / 9
    assert value_of(SoftTarget(temperature), student, teacher).item() == pytest.approx(total, abs=1e-12)


def test_the_second_part_does_not_see_the_label() -> None:
    student, teacher, target = draw(9, 6, seed=1), draw(9, 6, seed=2), labels(9, classes=6)
    gradient = gradient_of(DKD(0.0, 1.0), student, teacher, target)
    assert gradient.gather(1, target[:, None]).eq(0).all()
    raised = student.scatter_add(1, target[:, None], draw(9, 1, seed=3))
    plain, moved = (value_of(DKD(0.0, 1.0), z, teacher, target) for z in (student, raised))
    torch.testing.assert_close(moved, plain, rtol=1e-12, atol=0)


def test_t_squared_keeps_the_gradient_norm_within_a_factor_of_two() -> None:
    student, teacher, target = reference_logits()
    norms = [gradient_of(DKD(1.0, 1.0, t), student, teacher, target).norm().item() for t in (2.0, 4.0, 8.0)]
    assert max(norms) < 2 * min(norms)


def test_a_certain_teacher_is_exact_where_a_logarithm_of_a_softmax_is_not() -> None:
    # 1 - p_y is exp(-200) here: below the smallest float32.
    student = torch.tensor([[0.0, 200.0, 0.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0, 0.0, 200.0]])
    found = value_of(DKD(1.0, 0.0, 1.0), student, teacher, torch.tensor([1]))
    assert found.item() == pytest.approx(200 - torch.tensor(3.0).log().item(), rel=1e-5)


def fit(quick_trainer: QuickTrainer, classes: int, **options: object) -> DistillationModule:
    torch.manual_seed(0)
    data = TensorDataset(draw(8, 3).float(), labels(8, classes=classes))
    module = DistillationModule(
        nn.Linear(3, classes),
        nn.Linear(3, classes),
        {"hard": HardTarget(), "dkd": DKD()},
        {"hard": 1.0, "dkd": 1.0},
        **options,  # type: ignore[arg-type]
    )
    quick_trainer(max_epochs=3).fit(module, DataLoader(data, batch_size=4))
    return module


def test_two_classes_are_refused_before_the_first_batch(quick_trainer: QuickTrainer) -> None:
    with pytest.raises(ValueError, match=r"criterion 'dkd' \(DKD\): DKD needs at least 3 classes, and there are 2"):
        fit(quick_trainer, classes=2)


def test_the_warm_up_is_a_schedule_of_the_weight(quick_trainer: QuickTrainer) -> None:
    module = fit(quick_trainer, classes=4, schedules={"dkd.weight": Linear(0.0, 1.0, until=6)})
    assert module.criteria.weights["dkd"] == pytest.approx(2.5 / 6)  # in the second half of the third epoch
    assert module.criteria.weights["hard"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": -1.0}, "alpha must be finite and at least 0, not -1.0"),
        ({"alpha": 0.0, "beta": 0.0}, "alpha and beta are all 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DKD(**arguments)  # type: ignore[arg-type]
