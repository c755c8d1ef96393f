import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import Hint
from lit_distill.criteria.hint import DISTANCES, NORMALISATIONS, channel_dim, hint, normalise
from lit_distill.outputs import Outputs

SHAPES = [(3, 4), (3, 5, 4), (3, 4, 2, 3)]
WITH_ZERO = [distance for distance in DISTANCES if distance != "log_sum"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rows_of(feature: Tensor) -> list[list[float]]:
    if feature.dim() == 4:
        feature = feature.permute(0, 2, 3, 1)
    found: list[list[float]] = feature.reshape(-1, feature.shape[-1]).tolist()
    return found


def features(**named: Tensor) -> Outputs:
    return Outputs(torch.zeros(1), named)


def value_of(criterion: Hint, student: Tensor, teacher: Tensor) -> Tensor:
    value: Tensor = criterion(features(a=student), features(a=teacher), None)
    return value


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / len(values) + 1e-6)


def normalised_by_hand(rows: list[list[float]], kind: str) -> list[list[float]]:
    if kind == "l2":
        return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in rows]
    if kind == "layer":
        return [[(v - mean_and_deviation(row)[0]) / mean_and_deviation(row)[1] for v in row] for row in rows]
    if kind == "channel":
        statistics = [mean_and_deviation([row[c] for row in rows]) for c in range(len(rows[0]))]
        return [[(v - m) / d for v, (m, d) in zip(row, statistics, strict=True)] for row in rows]
    return rows


def distance_by_hand(student: list[list[float]], teacher: list[list[float]], distance: str) -> float:
    if distance == "cosine":
        cosines = []
        for s, t in zip(student, teacher, strict=True):
            dot = sum(a * b for a, b in zip(s, t, strict=True))
            cosines.append(dot / math.sqrt(sum(a * a for a in s) * sum(b * b for b in t)))
        return sum(1 - c for c in cosines) / len(cosines)
    if distance == "log_sum":
        sums = [sum((a - b) ** 4 for a, b in zip(s, t, strict=True)) for s, t in zip(student, teacher, strict=True)]
        return math.log(sum(sums) / len(sums) + 1e-6)
    gaps = [abs(a - b) for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True)]
    of = {"l2": lambda g: g * g, "l1": lambda g: g, "smooth_l1": lambda g: g * g / 2 if g < 1 else g - 0.5}[distance]
    return sum(of(gap) for gap in gaps) / len(gaps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_value_equals_a_hand_computation(shape: tuple[int, ...], distance: str, kind: str) -> None:
    student, teacher = draw(*shape, seed=1), draw(*shape, seed=2)
    by_hand = [normalised_by_hand(rows_of(feature), kind) for feature in (student, teacher)]
    expected = distance_by_hand(by_hand[0], by_hand[1], distance)
    found = value_of(Hint("a", "a", distance, kind), student, teacher)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_gradient_is_the_derivative(shape: tuple[int, ...], kind: str) -> None:
    student, teacher = draw(*shape, seed=1).requires_grad_(), draw(*shape, seed=2).requires_grad_()
    for distance in DISTANCES:

        def formula(s: Tensor, t: Tensor, distance: str = distance) -> Tensor:
            return hint(normalise(s, kind), normalise(t, kind), distance)  # type: ignore[arg-type]

        assert torch.autograd.gradcheck(formula, (student, teacher))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", WITH_ZERO)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_zero_value_and_gradient_at_the_teacher(shape: tuple[int, ...], distance: str, kind: str) -> None:
    student, teacher = draw(*shape).requires_grad_(), draw(*shape)
    value = value_of(Hint("a", "a", distance, kind), student, teacher)  # type: ignore[arg-type]
    value.backward()
    assert value.abs() < 1e-12
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_copies_and_order_change_nothing(shape: tuple[int, ...], distance: str, kind: str) -> None:
    student, teacher = draw(*shape, seed=1), draw(*shape, seed=2)
    criterion = Hint("a", "a", distance, kind)  # type: ignore[arg-type]
    expected = value_of(criterion, student, teacher)
    order = torch.tensor([2, 0, 3, 1])
    for change in (
        lambda f: torch.cat([f, f]),
        lambda f: f.flip(0),
        lambda f: f.index_select(channel_dim(f), order),
    ):
        torch.testing.assert_close(value_of(criterion, change(student), change(teacher)), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", ["l2", "layer", "channel"])
def test_normalisation_takes_out_the_scale(kind: str) -> None:
    student, teacher = 100 * draw(4, 6, 3, 3, seed=1), 100 * draw(4, 6, 3, 3, seed=2)
    criterion = Hint("a", "a", normalise=kind)  # type: ignore[arg-type]
    found = value_of(criterion, 50 * student, teacher)
    torch.testing.assert_close(found, value_of(criterion, student, teacher), rtol=1e-6, atol=0)


def test_half_the_channel_normalised_square_is_one_minus_the_correlation() -> None:
    student, teacher = draw(64, 1, seed=1), draw(64, 1, seed=2)
    correlation = torch.corrcoef(torch.cat([student, teacher], 1).T)[0, 1]
    found = value_of(Hint("a", "a", normalise="channel"), student, teacher) / 2
    torch.testing.assert_close(found, 1 - correlation, rtol=1e-5, atol=0)


def test_pkd_is_one_minus_each_channels_correlation_over_batch_and_positions() -> None:
    student, teacher = draw(6, 3, 4, 5, seed=1), draw(6, 3, 4, 5, seed=2)
    correlations = []
    for channel in range(3):
        s, t = ([float(v) for v in f[:, channel].flatten()] for f in (student, teacher))
        (mean_s, _), (mean_t, _) = mean_and_deviation(s), mean_and_deviation(t)
        covariance = sum((a - mean_s) * (b - mean_t) for a, b in zip(s, t, strict=True))
        spread = math.sqrt(sum((a - mean_s) ** 2 for a in s) * sum((b - mean_t) ** 2 for b in t))
        correlations.append(covariance / spread)
    found = value_of(Hint("a", "a", normalise="channel"), student, teacher) / 2
    assert found.item() == pytest.approx(sum(1 - c for c in correlations) / 3, rel=1e-5)


def test_log_sum_has_the_gradient_of_the_authors_sum_over_the_batch() -> None:
    student, teacher = draw(5, 4, seed=1), draw(5, 4, seed=2)
    ours, theirs = student.clone().requires_grad_(), student.clone().requires_grad_()
    value = hint(ours, teacher, "log_sum")
    by_authors = torch.log((theirs - teacher).abs().pow(4).sum())
    value.backward()
    by_authors.backward()
    assert value.item() == pytest.approx(by_authors.item() - math.log(5), abs=1e-6)
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=0)


@pytest.mark.parametrize("gap", [0.0, 1e-20, 1e-3, 0.03, 1.0, 1e4])
def test_log_sum_is_finite_as_student_and_teacher_meet(gap: float) -> None:
    teacher = draw(3, 4).float()
    student = (teacher + gap).requires_grad_()
    value = hint(student, teacher, "log_sum")
    value.backward()
    assert value.isfinite()
    assert value >= math.log(1e-6) - 1e-4
    assert student.grad is not None
    assert student.grad.norm() < 73


def test_srd_by_hand() -> None:
    student, teacher = draw(6, 5, seed=1), draw(6, 5, seed=2)
    criterion = Hint("a", "a", "log_sum", "channel", projector="linear")
    criterion.build(features(a=student), features(a=teacher))
    criterion.double()
    weight, bias = criterion.projectors[0].linear.weight.tolist(), criterion.projectors[0].linear.bias.tolist()
    projected = [
        [sum(w * v for w, v in zip(weights, row, strict=True)) + b for weights, b in zip(weight, bias, strict=True)]
        for row in student.tolist()
    ]
    rows = [normalised_by_hand(found, "channel") for found in (projected, teacher.tolist())]
    fourth = sum((a - b) ** 4 for s, t in zip(*rows, strict=True) for a, b in zip(s, t, strict=True))
    assert value_of(criterion, student, teacher).item() == pytest.approx(math.log(fourth / 6 + 1e-6), rel=1e-10)


def test_vkd_by_hand() -> None:
    student, teacher = draw(4, 3, seed=1), 10 * draw(4, 5, seed=2)
    criterion = Hint("a", "a", "smooth_l1", "layer", projector="orthogonal", normalise_student=False)
    criterion.build(features(a=student), features(a=teacher))
    criterion.double()
    matrix = criterion.projectors[0].linear.matrix()
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(3).double(), rtol=0, atol=1e-6)
    projected = [[sum(w * v for w, v in zip(row, x, strict=True)) for row in matrix.tolist()] for x in student.tolist()]
    expected = distance_by_hand(projected, normalised_by_hand(teacher.tolist(), "layer"), "smooth_l1")
    assert value_of(criterion, student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_pefd_by_hand() -> None:
    student, teacher = draw(4, 3, seed=1), draw(4, 3, seed=2)
    criterion = Hint("a", "a", "cosine", num_projectors=3)
    criterion.build(features(a=student), features(a=teacher))
    criterion.double()
    members = [(p.linear.weight.tolist(), p.linear.bias.tolist()) for p in criterion.projectors[0].members]
    assert len({tuple(bias) for _, bias in members}) == 3
    projected = [
        [
            sum(max(0.0, sum(w * v for w, v in zip(ws[c], x, strict=True)) + bs[c]) for ws, bs in members) / 3
            for c in range(3)
        ]
        for x in student.tolist()
    ]
    expected = distance_by_hand(projected, teacher.tolist(), "cosine")
    value = value_of(criterion, student, teacher)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())


@pytest.mark.parametrize("kind", ["l2", "layer", "channel"])
def test_the_students_feature_can_stay_as_it_is(kind: str) -> None:
    student, teacher = draw(4, 3, seed=1), draw(4, 3, seed=2)
    criterion = Hint("a", "a", "l1", kind, normalise_student=False)  # type: ignore[arg-type]
    expected = distance_by_hand(student.tolist(), normalised_by_hand(teacher.tolist(), kind), "l1")
    assert value_of(criterion, student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_several_pairs_are_averaged_in_order() -> None:
    student = features(a=draw(2, 3), b=draw(2, 3, seed=1))
    teacher = features(x=draw(2, 3, seed=2), y=draw(2, 3, seed=3))
    expected = [
        distance_by_hand(rows_of(student.features[s]), rows_of(teacher.features[t]), "l2") for s, t in ("bx", "ay")
    ]
    found = Hint(["b", "a"], ["x", "y"])(student, teacher, None)
    assert found.item() == pytest.approx(sum(expected) / 2, rel=1e-12)


def test_the_student_is_projected_and_the_projector_learns() -> None:
    student, teacher = draw(2, 3, 4, 4).float(), draw(2, 5, 2, 2, seed=1).float()
    criterion = Hint("a", "a", "l2")
    value = value_of(criterion, student, teacher)
    weight, bias = criterion.projectors[0].linear.weight, criterion.projectors[0].linear.bias
    pooled = student.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    projected = torch.einsum("oc,bchw->bohw", weight[:, :, 0, 0], pooled) + bias[:, None, None]
    torch.testing.assert_close(value, (projected - teacher).square().mean())
    value.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in criterion.parameters())


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_projector_norm_reaches_the_projector(norm: str) -> None:
    criterion = Hint("a", "a", projector_norm=norm)  # type: ignore[arg-type]
    value_of(criterion, torch.randn(4, 3), torch.randn(4, 3))
    assert isinstance(criterion.projectors[0].norm, torch.nn.BatchNorm1d if norm == "batch" else torch.nn.LayerNorm)


def test_equal_shapes_need_no_parameters() -> None:
    criterion = Hint("a", "a")
    value_of(criterion, draw(2, 3, 4, 4), draw(2, 3, 4, 4))
    assert not list(criterion.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 4, 6, 6), (2, 17, 4)])
def test_half_features_equal_float32_ones_of_the_same_values(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    student, teacher = draw(*shape).to(dtype), draw(2, 3, 3, 3, seed=1).to(dtype)
    criterion = Hint("a", "a")
    criterion.build(features(a=student), features(a=teacher))
    found = value_of(criterion, student, teacher)
    assert found.dtype == torch.float32
    assert torch.equal(found, value_of(criterion, student.float(), teacher.float()))


def test_memory_formats_give_the_same_value() -> None:
    student, teacher = draw(2, 4, 3, 3), draw(2, 4, 3, 3, seed=1)
    wide = draw(2, 4, 3, 6)
    wide[..., ::2] = student
    for kind in NORMALISATIONS:
        for distance in DISTANCES:
            criterion = Hint("a", "a", distance, kind)
            expected = value_of(criterion, student, teacher)
            for other in (student.contiguous(memory_format=torch.channels_last), wide[..., ::2]):
                torch.testing.assert_close(value_of(criterion, other, teacher), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", NORMALISATIONS)
def test_dead_features_stay_finite(distance: str, kind: str) -> None:
    student = torch.zeros(2, 4, 3, 3, requires_grad=True)
    value = value_of(Hint("a", "a", distance, kind), student, torch.randn(2, 4, 3, 3))  # type: ignore[arg-type]
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_a_detached_teacher_gets_no_gradient() -> None:
    student, teacher = draw(2, 3).requires_grad_(), draw(2, 3, seed=1).requires_grad_()
    Hint("a", "a")(features(a=student), features(a=teacher).detach(), None).backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distance": "l3"}, "distance must be one of 'l2', 'l1', 'smooth_l1', 'cosine', 'log_sum', not 'l3'"),
        ({"normalise": "batch"}, "normalise must be one of 'none', 'l2', 'layer', 'channel', not 'batch'"),
        ({"projector_norm": "group"}, "projector_norm must be one of 'none', 'batch', 'layer', not 'group'"),
        ({"projector": "conv"}, "projector must be one of 'auto', 'linear', 'orthogonal', not 'conv'"),
        ({"num_projectors": 0}, "num_projectors must be at least 1, not 0"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hint("a", "a", **arguments)  # type: ignore[arg-type]


def test_features_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"student feature \[2, 3\] does not match teacher feature \[2, 4\]"):
        hint(torch.zeros(2, 3), torch.zeros(2, 4))
