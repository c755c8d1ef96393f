import copy
import math

import pytest
import torch
from torch import Tensor

from lit_distill import DistillationModule
from lit_distill.criteria import HardTarget, MultiTeacher
from lit_distill.criteria.multi_teacher import Standardiser, match_features
from lit_distill.criteria.ops.phi_s import phi_s
from lit_distill.models import MLP, Ensemble
from lit_distill.outputs import Outputs


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def distance_by_hand(student: Tensor, teacher: Tensor, cosine: float = 0.9) -> float:
    rows = [
        f.movedim(1, -1).reshape(-1, f.shape[1]).tolist() if f.dim() == 4 else f.tolist() for f in (student, teacher)
    ]
    cosines, smooth = [], []
    for s, t in zip(*rows, strict=True):
        dot = sum(a * b for a, b in zip(s, t, strict=True))
        cosines.append(1 - dot / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t)))
        gaps = [abs(a - b) for a, b in zip(s, t, strict=True)]
        smooth.extend(g * g / 2 if g < 1 else g - 0.5 for g in gaps)
    return cosine * sum(cosines) / len(cosines) + (1 - cosine) * sum(smooth) / len(smooth)


def outputs(**features: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), features)


def built(criterion: MultiTeacher, student: Outputs, teacher: Outputs) -> MultiTeacher:
    torch.manual_seed(0)
    criterion.build(student, teacher)
    return criterion.double()


def head(criterion: MultiTeacher, index: int, feature: Tensor) -> Tensor:
    linear = criterion.projectors[index].linear
    return (feature @ linear.weight.T + linear.bias).detach()


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 2, 3)])
@pytest.mark.parametrize("cosine", [0.0, 0.9, 1.0])
def test_the_distance_by_hand(shape: tuple[int, ...], cosine: float) -> None:
    student, teacher = draw(*shape), 2 * draw(*shape, seed=1)
    expected = distance_by_hand(student, teacher, cosine)
    assert match_features(student, teacher, cosine).item() == pytest.approx(expected, rel=1e-10)


def test_value_with_each_dimension_standardised_by_hand() -> None:
    student, teacher = outputs(a=draw(6, 3)), outputs(x=100 * draw(6, 5, seed=1), y=0.01 * draw(6, 3, seed=2) + 7)
    criterion = built(MultiTeacher("a", ["x", "y"], "dimension", [1.0, 0.5]), student, teacher)
    expected = 0.0
    for index, (name, weight) in enumerate([("x", 1.0), ("y", 0.5)]):
        feature = teacher.features[name]
        standard = (feature - feature.mean(0)) / feature.std(0, correction=0)
        expected += weight * distance_by_hand(head(criterion, index, student.features["a"]), standard)
    assert criterion(student, teacher, None).item() == pytest.approx(expected, rel=1e-9)


def test_value_with_phi_s_by_hand() -> None:
    student, teacher = outputs(a=draw(6, 3)), outputs(x=100 * draw(6, 4, seed=1) + 3)
    criterion = built(MultiTeacher("a", ["x"]), student, teacher)
    feature = teacher.features["x"]
    centred = feature - feature.mean(0)
    rotation, scale = phi_s(centred.T @ centred / 6)
    balanced = centred @ rotation.T / scale
    torch.testing.assert_close(balanced.var(0, correction=0), torch.ones(4).double())
    # The head's last matrix, rotated: what a head that predicts the rotated feature would have.
    expected = distance_by_hand(head(criterion, 0, student.features["a"]) @ rotation.T, balanced)
    assert criterion(student, teacher, None).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("kind", ["dimension", "phi_s"])
def test_statistics_are_gathered_over_the_first_training_batches_and_then_stay(kind: str) -> None:
    standardiser = Standardiser(4, kind, batches=3).double()  # type: ignore[arg-type]
    batches = [draw(5, 4, seed=i) * (i + 1) + i for i in range(5)]
    for index, batch in enumerate(batches):
        standardiser(batch.clone().requires_grad_(), batch)
        seen = torch.cat(batches[: min(index + 1, 3)])
        mean, covariance = standardiser.statistics.moments(batch)
        torch.testing.assert_close(mean, seen.mean(0))
        expected = torch.cov(seen.T, correction=0)
        torch.testing.assert_close(covariance, expected if kind == "phi_s" else expected.diagonal())
    _, standard = standardiser(batches[0], torch.cat(batches[:3]))
    torch.testing.assert_close(standard.mean(0), torch.zeros(4).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(standard.var(0, correction=0), torch.ones(4).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["dimension", "phi_s"])
@pytest.mark.parametrize("mode", ["eval", "no_grad"])
def test_nothing_is_gathered_outside_training(kind: str, mode: str) -> None:
    student, teacher = outputs(a=draw(4, 3)), outputs(x=draw(4, 4))
    criterion = built(MultiTeacher("a", ["x"], kind), student, teacher)  # type: ignore[arg-type]
    before = copy.deepcopy(criterion.state_dict())
    criterion.train(mode == "no_grad")
    with torch.set_grad_enabled(mode == "eval"):
        assert criterion(student, teacher, None).isfinite()
    assert all(torch.equal(value, before[name]) for name, value in criterion.state_dict().items())


@pytest.mark.parametrize("kind", ["dimension", "phi_s"])
def test_a_teachers_scale_and_shift_change_nothing(kind: str) -> None:
    student, teacher = outputs(a=draw(8, 3)), draw(8, 4, seed=1)
    values = []
    for other in (teacher, 1e4 * teacher - 300):
        criterion = built(MultiTeacher("a", ["x"], kind), student, outputs(x=teacher))  # type: ignore[arg-type]
        values.append(criterion(student, outputs(x=other), None))
    torch.testing.assert_close(values[0], values[1])


def test_without_standardisation_features_stay_as_they_are() -> None:
    student, teacher = outputs(a=draw(4, 3)), outputs(x=10 * draw(4, 6, seed=1))
    criterion = built(MultiTeacher("a", ["x"], "none"), student, teacher)
    expected = distance_by_hand(head(criterion, 0, student.features["a"]), teacher.features["x"])
    assert criterion(student, teacher, None).item() == pytest.approx(expected, rel=1e-9)
    assert list(criterion.state_dict()) == ["projectors.0.linear.weight", "projectors.0.linear.bias"]


def test_every_teacher_has_a_head_at_equal_widths_too_and_all_of_them_learn() -> None:
    student, teacher = outputs(a=draw(4, 4).requires_grad_()), outputs(x=draw(4, 4, seed=1), y=draw(4, 4, seed=2))
    criterion = built(MultiTeacher("a", ["x", "y"]), student, teacher)
    criterion(student, teacher, None).backward()
    assert len(list(criterion.parameters())) == 4
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())


def test_a_dimension_without_variance_stays_finite() -> None:
    student, feature = outputs(a=draw(4, 3).float().requires_grad_()), draw(4, 4, seed=1).float()
    feature[:, 2] = 5
    for kind in ("dimension", "phi_s"):
        criterion = MultiTeacher("a", ["x"], kind)  # type: ignore[arg-type]
        criterion.build(student, outputs(x=feature))
        value = criterion(student, outputs(x=feature), None)
        value.backward()
        assert value.isfinite()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in criterion.parameters())


def test_an_ensembles_members_teach_one_student() -> None:
    torch.manual_seed(0)
    teacher = Ensemble([MLP(6, [8], 3), MLP(6, [12], 3)])
    criteria = {"hard": HardTarget(), "many": MultiTeacher("hidden", ["0.hidden", "1.hidden"], batches=4)}
    module = DistillationModule(MLP(6, [4], 3), teacher, criteria, {"hard": 1.0, "many": 1.0})
    data = draw(16, 6).float(), torch.arange(16) % 3
    module.dry_run(module._read_training(data))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        sides = module.distiller.run(module._read_training(data))
        losses = module.criteria(sides.student, sides.teacher, sides.target)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        values.append(losses.raw["many"].item())
    assert values[-1] < 0.6 * values[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"standardise": "whiten"}, "standardise must be one of 'dimension', 'phi_s', 'none', not 'whiten'"),
        ({"cosine": 1.5}, r"cosine must be in \[0, 1\], not 1.5"),
        ({"batches": 0}, "batches must be at least 1, not 0"),
        ({"teacher_weights": [1.0]}, "1 teacher_weights for 2 teachers"),
        ({"teacher_weights": [1.0, -1.0]}, r"teacher_weights\[1\] must be finite and at least 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiTeacher("a", ["x", "y"], **arguments)  # type: ignore[arg-type]


def test_a_width_without_a_hadamard_matrix_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match="no Hadamard matrix of order 5"):
        MultiTeacher("a", ["x"]).build(outputs(a=draw(2, 3)), outputs(x=draw(2, 5)))


def test_a_glob_of_several_layers_for_one_teacher_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot pair|name one layer for each"):
        MultiTeacher("a", ["[xy]"]).build(outputs(a=draw(2, 3)), outputs(x=draw(2, 4), y=draw(2, 4)))
