"""Soft targets from several teachers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lit_distill import CombinedDistillation, DistillationModule, HardTarget, LogitDistillation, Outputs, SoftTarget
from lit_distill.criteria.ensemble_target import (
    WEIGHTINGS,
    EnsembleTarget,
    agreement_weights,
    confidence_weights,
    smallest_norm,
)
from lit_distill.models import MLP, Ensemble


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def several(*teachers: Tensor) -> Outputs:
    return Outputs(torch.zeros(0), {str(index): z for index, z in enumerate(teachers)})


def kl_by_hand(student: Tensor, mixture: Tensor, temperature: float) -> float:
    """``T² mean_n sum_c p (log p - log q)``, number by number."""
    total = 0.0
    for z_s, p_t in zip(student.tolist(), mixture.tolist(), strict=True):
        powers = [math.exp(z / temperature) for z in z_s]
        total += sum(p * math.log(p / (power / sum(powers))) for p, power in zip(p_t, powers, strict=True))
    return temperature**2 * total / len(student)


def soften(logits: Tensor, temperature: float) -> Tensor:
    return (logits / temperature).exp() / (logits / temperature).exp().sum(1, keepdim=True)


@pytest.fixture
def teachers() -> list[Tensor]:
    return [draw(5, 4, seed=seed) for seed in (1, 2, 3)]


@pytest.fixture
def student() -> Tensor:
    return draw(5, 4, seed=9)


LABELS = torch.tensor([0, 1, 2, 3, 0])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 5.0]])
def test_average_by_hand(
    student: Tensor, teachers: list[Tensor], temperature: float, weights: list[float] | None
) -> None:
    shares = [w / 8 for w in (1, 2, 5)] if weights else [1 / 3] * 3
    mixture = sum(w * soften(z, temperature) for w, z in zip(shares, teachers, strict=True))
    criterion = EnsembleTarget(temperature=temperature, weights=weights)
    found = criterion(Outputs(student), several(*teachers), None)
    assert found.item() == pytest.approx(kl_by_hand(student, mixture, temperature), rel=1e-10)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_confidence_by_hand(student: Tensor, teachers: list[Tensor], temperature: float) -> None:
    weights = torch.zeros(3, 5, dtype=torch.float64)
    for row, label in enumerate(LABELS.tolist()):
        losses = [-math.log(soften(z, 1.0)[row, label].item()) for z in teachers]
        powers = [math.exp(loss) for loss in losses]
        for k in range(3):
            weights[k, row] = (1 - powers[k] / sum(powers)) / 2
    torch.testing.assert_close(confidence_weights(teachers, LABELS).squeeze(-1), weights, rtol=1e-10, atol=0)
    assert weights.sum(0).tolist() == pytest.approx([1.0] * 5)
    mixture = sum(w.unsqueeze(1) * soften(z, temperature) for w, z in zip(weights, teachers, strict=True))
    criterion = EnsembleTarget(weighting="confidence", temperature=temperature)
    found = criterion(Outputs(student), several(*teachers), LABELS)
    assert found.item() == pytest.approx(kl_by_hand(student, mixture, temperature), rel=1e-10)  # type: ignore[arg-type]


def test_confidence_leaves_out_who_is_wrong_and_is_equal_where_no_label_is_known() -> None:
    right, wrong = torch.tensor([[1e4, 0.0], [1e4, 0.0]]), torch.tensor([[0.0, 1e4], [0.0, 1e4]])
    weights = confidence_weights([right, wrong], torch.tensor([0, -100]))
    assert weights[..., 0].tolist() == [[1.0, 0.5], [0.0, 0.5]]


def test_confidence_takes_mixed_labels(teachers: list[Tensor]) -> None:
    found = confidence_weights(teachers, torch.eye(4, dtype=torch.float64)[LABELS])
    torch.testing.assert_close(found, confidence_weights(teachers, LABELS))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_learned_by_hand_and_its_gradients(student: Tensor, teachers: list[Tensor], temperature: float) -> None:
    criterion = EnsembleTarget(weighting="learned", temperature=temperature)
    leaf = student.clone().requires_grad_()
    criterion.build(Outputs(student), several(*teachers))
    assert criterion.mixing is not None
    criterion.mixing.data = torch.tensor([0.3, -0.2, 0.7], dtype=torch.float64)
    powers = [math.exp(v) for v in (0.3, -0.2, 0.7)]
    shares = [power / sum(powers) for power in powers]
    mixture = sum(w * soften(z, temperature) for w, z in zip(shares, teachers, strict=True))
    at_one = [soften(z, 1.0)[range(5), LABELS] for z in teachers]
    likelihood = sum(w * p for w, p in zip(shares, at_one, strict=True))
    nll = -likelihood.log().mean()  # type: ignore[union-attr]
    found = criterion(Outputs(leaf), several(*teachers), LABELS)
    assert found.item() == pytest.approx(kl_by_hand(student, mixture, temperature) + nll.item(), rel=1e-10)  # type: ignore[arg-type]
    found.backward()
    # v hears the labels alone: d nll / d v_k = w_k - mean_n responsibility_k
    expected = [w - (w * p / likelihood).mean().item() for w, p in zip(shares, at_one, strict=True)]
    assert criterion.mixing.grad is not None
    assert criterion.mixing.grad.tolist() == pytest.approx(expected, rel=1e-8)
    pull = temperature / 5 * (soften(student, temperature) - mixture)
    torch.testing.assert_close(leaf.grad, pull, rtol=1e-10, atol=1e-12)


def test_learned_weights_find_the_teacher_that_knows() -> None:
    target = torch.arange(6) % 3
    knows, lost = 4 * torch.eye(3)[target], torch.randn(6, 3)
    criterion = EnsembleTarget(weighting="learned")
    outputs = several(lost, knows)
    criterion.build(Outputs(lost), outputs)
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.3)
    for _ in range(40):
        optimizer.zero_grad()
        criterion(Outputs(lost), outputs, target).backward()
        optimizer.step()
    assert criterion.mixing is not None
    assert criterion.mixing.softmax(0)[1] > 0.95


# Agreement ---------------------------------------------------------------------------------------


def by_enumeration(gram: Tensor, limit: float) -> tuple[float, Tensor]:
    """The least of ``a^T G a`` over all choices of which entries are 0, at the limit, or free."""
    count, best = len(gram), (math.inf, torch.zeros(len(gram), dtype=torch.float64))
    for states in itertools.product("0fL", repeat=count):
        free = [k for k in range(count) if states[k] == "f"]
        a = torch.tensor([limit if s == "L" else 0.0 for s in states], dtype=torch.float64)
        left = 1 - a.sum()
        if free:
            inner = torch.zeros(len(free) + 1, len(free) + 1, dtype=torch.float64)
            inner[:-1, :-1], inner[:-1, -1], inner[-1, :-1] = gram[free][:, free], 1, 1
            right = torch.cat([-(gram @ a)[free], left.view(1)])
            a[free] = torch.linalg.lstsq(inner, right.unsqueeze(1), driver="gelsd").solution[:-1, 0]
        feasible = abs(a.sum() - 1) < 1e-9 and a.min() > -1e-9 and a.max() < limit + 1e-9
        value = (a @ gram @ a).item()
        if feasible and value < best[0] - 1e-13:
            best = (value, a)
    return best


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("limit", [0.5, 0.6, 1.0])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_smallest_norm_is_the_optimum(count: int, limit: float, seed: int) -> None:
    gradients = draw(count, 8, seed=seed) + 0.5
    gram = gradients @ gradients.T
    value, expected = by_enumeration(gram, limit)
    found = torch.tensor(smallest_norm(gram.tolist(), limit), dtype=torch.float64)
    assert found.sum().item() == pytest.approx(1)
    assert found.min() >= 0
    assert found.max() <= limit + 1e-12
    assert (found @ gram @ found).item() == pytest.approx(value, rel=1e-7, abs=1e-9)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_smallest_norm_of_two_in_closed_form() -> None:
    gram = [[4.0, -1.0], [-1.0, 1.0]]  # a = (g22 - g12) / (g11 + g22 - 2 g12) = 2 / 7
    assert smallest_norm(gram, 1.0) == pytest.approx([2 / 7, 5 / 7])
    assert smallest_norm(gram, 0.6) == pytest.approx([0.4, 0.6])
    assert smallest_norm(gram, 0.5) == [0.5, 0.5]
    assert smallest_norm([[0.0, 0.0], [0.0, 0.0]], 1.0) == [0.5, 0.5]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("tolerance", [0.4, 0.6, 1.0])
def test_agreement_by_hand(student: Tensor, teachers: list[Tensor], temperature: float, tolerance: float) -> None:
    """The gradients are autograd's, of the soft targets with respect to the student's logits."""
    gradients = []
    for z in teachers:
        leaf = student.clone().requires_grad_()
        SoftTarget(temperature)(Outputs(leaf), Outputs(z), None).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad.flatten())
    gram = torch.stack(gradients) @ torch.stack(gradients).T
    _, expected = by_enumeration(gram, tolerance)
    found = agreement_weights(student, teachers, temperature, tolerance)
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    mixture = sum(w * soften(z, temperature) for w, z in zip(found, teachers, strict=True))
    criterion = EnsembleTarget(weighting="agreement", temperature=temperature, tolerance=tolerance)
    value = criterion(Outputs(student), several(*teachers), None)
    assert value.item() == pytest.approx(kl_by_hand(student, mixture, temperature), rel=1e-9)  # type: ignore[arg-type]


def test_the_mixed_gradient_lowers_every_teachers_loss(student: Tensor, teachers: list[Tensor]) -> None:
    """At the tolerance 1, a step of the shortest gradient goes towards every teacher (Du et al. 2020)."""
    leaf = student.clone().requires_grad_()
    EnsembleTarget(weighting="agreement", tolerance=1.0)(Outputs(leaf), several(*teachers), None).backward()
    assert leaf.grad is not None
    for z in teachers:
        other = student.clone().requires_grad_()
        SoftTarget()(Outputs(other), Outputs(z), None).backward()
        assert other.grad is not None
        assert (other.grad * leaf.grad).sum() > 0


def test_a_small_tolerance_is_the_plain_average(student: Tensor, teachers: list[Tensor]) -> None:
    found = EnsembleTarget(weighting="agreement", tolerance=0.1)(Outputs(student), several(*teachers), None)
    torch.testing.assert_close(found, EnsembleTarget()(Outputs(student), several(*teachers), None))


# What all of them keep ---------------------------------------------------------------------------


def test_weights_one_and_zero_are_the_single_teacher_to_the_last_bit(student: Tensor, teachers: list[Tensor]) -> None:
    a, b, _ = (z.float() for z in teachers)
    single = SoftTarget(4.0)(Outputs(student.float()), Outputs(a), None)
    assert torch.equal(EnsembleTarget(weights=[1.0, 0.0])(Outputs(student.float()), several(a, b), None), single)
    assert torch.equal(EnsembleTarget(weights=[0.0, 1.0])(Outputs(student.float()), several(b, a), None), single)


@pytest.mark.parametrize("weighting", ["average", "confidence", "agreement"])
def test_one_teacher_is_a_soft_target(student: Tensor, teachers: list[Tensor], weighting: Any) -> None:
    single = SoftTarget(4.0)(Outputs(student), Outputs(teachers[0]), None)
    found = EnsembleTarget(weighting=weighting)(Outputs(student), several(teachers[0]), LABELS)
    torch.testing.assert_close(found, single, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_teachers_order_changes_nothing(student: Tensor, teachers: list[Tensor], weighting: Any) -> None:
    values = [
        EnsembleTarget(weighting=weighting)(Outputs(student), several(*order), LABELS).item()
        for order in itertools.permutations(teachers)
    ]
    assert values == pytest.approx([values[0]] * 6, rel=1e-6)


@pytest.mark.parametrize("weighting", ["average", "confidence", "agreement"])
def test_zero_at_the_mixture(teachers: list[Tensor], weighting: Any) -> None:
    same = [teachers[0] + k for k in range(3)]
    found = EnsembleTarget(weighting=weighting)(Outputs(teachers[0]), several(*same), LABELS)
    assert abs(found.item()) < 1e-12


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(weighting: Any, dtype: torch.dtype) -> None:
    extreme = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [0.0, 1.0, 2.0]]).to(dtype)
    leaf = extreme.flip(0).clone().requires_grad_()
    criterion = EnsembleTarget(weighting=weighting)
    found = criterion(Outputs(leaf), several(extreme, -extreme), torch.tensor([0, 1, 2]))
    found.backward()
    gradients = [leaf.grad, *(parameter.grad for parameter in criterion.parameters())]
    assert found.isfinite()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_rows_that_do_not_count_change_nothing(weighting: Any) -> None:
    student, teachers = draw(2, 3, 4, seed=1), [draw(2, 3, 4, seed=seed) for seed in (2, 3)]
    mask = torch.tensor([[True, True, False], [True, False, False]])
    labels = torch.tensor([[0, 1, 2], [3, 0, 1]])
    found = EnsembleTarget(weighting=weighting)(Outputs(student, mask=mask), several(*teachers), labels)
    rows = EnsembleTarget(weighting=weighting)(
        Outputs(student[mask]), several(*(z[mask] for z in teachers)), labels[mask]
    )
    torch.testing.assert_close(found, rows, rtol=1e-9, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_pixels_are_rows(weighting: Any) -> None:
    student, teachers = draw(2, 4, 3, 2, seed=1), [draw(2, 4, 3, 2, seed=seed) for seed in (2, 3)]
    labels = torch.arange(12).view(2, 3, 2) % 4

    def flat(z: Tensor) -> Tensor:
        return z.movedim(1, -1).reshape(-1, 4)

    found = EnsembleTarget(weighting=weighting)(Outputs(student), several(*teachers), labels)
    rows = EnsembleTarget(weighting=weighting)(Outputs(flat(student)), several(*map(flat, teachers)), labels.flatten())
    torch.testing.assert_close(found, rows, rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weighting": "mean"}, "'average', 'confidence', 'agreement', 'learned'"),
        ({"weighting": "learned", "weights": [1.0]}, "weights do nothing with the weighting 'learned'"),
        ({"weights": [-1.0, 1.0]}, r"weights\[0\] must be finite and at least 0, not -1.0"),
        ({"tolerance": 0.0}, r"tolerance must be in \(0, 1\]"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"teachers": []}, "teachers names no layer"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleTarget(**arguments)


def test_wrong_teachers() -> None:
    student = Outputs(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="teacher layer '1': the student has 3 classes and the teacher 7"):
        EnsembleTarget()(student, several(torch.zeros(2, 3), torch.zeros(2, 7)), None)
    with pytest.raises(ValueError, match="3 weights for 2 networks"):
        EnsembleTarget(weights=[1.0, 1.0, 1.0])(student, several(torch.zeros(2, 3), torch.zeros(2, 3)), None)
    with pytest.raises(ValueError, match="no layer '2' in the teacher's outputs"):
        EnsembleTarget(["0", "2"])(student, several(torch.zeros(2, 3), torch.zeros(2, 3)), None)


def test_only_the_named_teachers_are_mixed(student: Tensor, teachers: list[Tensor]) -> None:
    found = EnsembleTarget(["2", "0"], weights=[1.0, 3.0])(Outputs(student), several(*teachers), None)
    expected = EnsembleTarget(weights=[3.0, 1.0])(Outputs(student), several(teachers[0], teachers[2]), None)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    beside = Outputs(
        torch.zeros(0), {**several(*teachers).features, "0.hidden": torch.zeros(5, 9), "1:input": torch.zeros(5, 9)}
    )
    torch.testing.assert_close(
        EnsembleTarget()(Outputs(student), beside, None), EnsembleTarget()(Outputs(student), several(*teachers), None)
    )


# In training -------------------------------------------------------------------------------------


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.randn(12, 4), torch.arange(12) % 3), batch_size=4)


def distillation(weighting: Any) -> DistillationModule:
    ensemble = Ensemble([MLP(4, (5,), 3), MLP(4, (6,), 3)], average="none")
    criteria = {"hard": HardTarget(), "several": EnsembleTarget(weighting=weighting)}
    return DistillationModule(MLP(4, (3,), 3), ensemble, criteria, {"hard": 0.1, "several": 0.9})


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_it_trains_the_student(loader: DataLoader[Any], weighting: Any, quick_trainer: Callable[..., Trainer]) -> None:
    module = distillation(weighting)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    quick_trainer(max_epochs=2).fit(module, loader)
    moved = [
        name for name, value in module.student.state_dict().items() if not torch.equal(value, before[f"student.{name}"])
    ]
    assert len(moved) == len(module.student.state_dict())
    if weighting == "learned":
        assert module.criteria["several"].mixing.abs().sum() > 0  # type: ignore[union-attr, operator]


def test_learned_weights_are_in_the_checkpoint(
    loader: DataLoader[Any], tmp_path: Any, quick_trainer: Callable[..., Trainer]
) -> None:
    module = distillation("learned")
    trainer = quick_trainer(max_epochs=2)
    trainer.fit(module, loader)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    mixing = module.criteria["several"].mixing
    assert torch.equal(saved["state_dict"]["criteria.several.mixing"], mixing)  # type: ignore[arg-type]
    again = distillation("learned")
    again.on_load_checkpoint(saved)
    again.load_state_dict(saved["state_dict"], strict=True)
    assert torch.equal(again.criteria["several"].mixing, mixing)  # type: ignore[arg-type]


def test_which_modules_take_it() -> None:
    ensemble = Ensemble([MLP(4, (5,), 3), MLP(4, (6,), 3)])
    criteria: dict[str, Any] = {"hard": HardTarget(), "several": EnsembleTarget()}
    weights = {"hard": 0.1, "several": 0.9}
    CombinedDistillation(MLP(4, (3,), 3), ensemble, criteria=criteria, weights=weights)
    with pytest.raises(ValueError, match="several"):
        LogitDistillation(MLP(4, (3,), 3), ensemble, criteria=criteria, weights=weights)


def test_labels_are_asked_for_by_the_criterions_name(quick_trainer: Callable[..., Trainer]) -> None:
    unlabelled = DataLoader(TensorDataset(torch.randn(8, 4)), batch_size=4)
    ensemble: nn.Module = Ensemble([MLP(4, (5,), 3), MLP(4, (6,), 3)])
    for weighting, works in (("average", True), ("agreement", True), ("confidence", False), ("learned", False)):
        criteria: dict[str, Any] = {"several": EnsembleTarget(weighting=weighting)}  # type: ignore[arg-type]
        module = DistillationModule(MLP(4, (3,), 3), ensemble, criteria, {"several": 1.0})
        if works:
            quick_trainer().fit(module, unlabelled)
            continue
        with pytest.raises(ValueError, match="criterion 'several' .* needs labels"):
            quick_trainer().fit(module, unlabelled)
