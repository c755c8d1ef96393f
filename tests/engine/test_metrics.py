import math

import pytest
import torch
from torch import Tensor

from lit_distill.batch.labels import Task
from lit_distill.engine.metrics import Evaluation, count_classes

CPU = torch.device("cpu")
Rows = list[list[float]]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(*shape: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(z) for z in row]
    return [power / sum(powers) for power in powers]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def top(row: list[float]) -> int:
    return row.index(max(row))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def calibration_by_hand(confidences: list[float], hits: list[float]) -> float:
    total = 0.0
    for k in range(15):
        chosen = [(c, h) for c, h in zip(confidences, hits, strict=True) if min(int(c * 15), 14) == k]
        total += abs(sum(h for _, h in chosen) - sum(c for c, _ in chosen))
    return total / len(confidences)


def network_by_hand(rows: Rows, labels: list[int]) -> dict[str, float]:
    probabilities = [softmax(row) for row in rows]
    hits = [float(top(row) == y) for row, y in zip(rows, labels, strict=True)]
    return {
        "accuracy": mean(hits),
        "calibration_error": calibration_by_hand([max(p) for p in probabilities], hits),
        "cross_entropy": mean([-math.log(p[y]) for p, y in zip(probabilities, labels, strict=True)]),
    }


def network_of_sigmoids_by_hand(logits: list[float], labels: list[int]) -> dict[str, float]:
    chances = [sigmoid(z) for z in logits]
    return {
        "accuracy": mean([float((z > 0) == bool(y)) for z, y in zip(logits, labels, strict=True)]),
        "calibration_error": calibration_by_hand(chances, [float(y) for y in labels]),
        "cross_entropy": mean([-math.log(q if y else 1 - q) for q, y in zip(chances, labels, strict=True)]),
    }


def check(found: dict[str, Tensor], student: dict[str, float], teacher: dict[str, float], **both: float) -> None:
    expected = {f"{name}/student": value for name, value in student.items()}
    expected |= {f"{name}/teacher": value for name, value in teacher.items()} | both
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def check_rows(found: dict[str, Tensor], student: Tensor, teacher: Tensor, labels: Tensor) -> None:
    rows_s, rows_t = student.tolist(), teacher.tolist()
    check(
        found,
        network_by_hand(rows_s, labels.tolist()),
        network_by_hand(rows_t, labels.tolist()),
        agreement=mean([float(top(s) == top(t)) for s, t in zip(rows_s, rows_t, strict=True)]),
        kl_divergence=mean([kl(softmax(t), softmax(s)) for s, t in zip(rows_s, rows_t, strict=True)]),
    )


def check_sigmoids(
    found: dict[str, Tensor], student: Tensor, teacher: Tensor, labels: Tensor, agreement: float
) -> None:
    flat_s, flat_t, flat_y = (tensor.flatten().tolist() for tensor in (student, teacher, labels))
    chances = [(sigmoid(t), sigmoid(s)) for s, t in zip(flat_s, flat_t, strict=True)]
    check(
        found,
        network_of_sigmoids_by_hand(flat_s, flat_y),
        network_of_sigmoids_by_hand(flat_t, flat_y),
        agreement=agreement,
        kl_divergence=mean([kl([t, 1 - t], [s, 1 - s]) for t, s in chances]),
    )


def test_multiclass_over_two_unequal_batches() -> None:
    student, teacher, labels = draw(25, 4), draw(25, 4, seed=1), labels_of(25, classes=4)
    evaluation = Evaluation("multiclass", 4, CPU)
    for part in (slice(0, 18), slice(18, 25)):
        evaluation.update(student[part], teacher[part], labels[part], None)
    check_rows(evaluation.compute(), student, teacher, labels)


@pytest.mark.parametrize("shape", [(25,), (25, 1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_binary_over_two_unequal_batches(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    student, teacher, labels = draw(*shape), draw(*shape, seed=1), labels_of(25, classes=2).to(dtype)
    evaluation = Evaluation("binary", 1, CPU)
    for part in (slice(0, 18), slice(18, 25)):
        evaluation.update(student[part], teacher[part], labels[part], None)
    agreement = ((student > 0) == (teacher > 0)).double().mean().item()
    check_sigmoids(evaluation.compute(), student, teacher, labels, agreement)


def test_multilabel_over_two_unequal_batches_counts_each_label() -> None:
    student, teacher, labels = draw(13, 3), draw(13, 3, seed=1), labels_of(13, 3, classes=2)
    evaluation = Evaluation("multilabel", 3, CPU)
    for part in (slice(0, 10), slice(10, 13)):
        evaluation.update(student[part], teacher[part], labels[part], None)
    agreement = ((student > 0) == (teacher > 0)).double().mean().item()
    check_sigmoids(evaluation.compute(), student, teacher, labels, agreement)


@pytest.mark.parametrize("dense", [False, True])
def test_masked_positions_are_left_out_and_batches_weigh_by_what_counts(dense: bool) -> None:
    student, teacher, labels = draw(4, 6, 3), draw(4, 6, 3, seed=1), labels_of(4, 6, classes=3)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]).bool()
    evaluation = Evaluation("multiclass", 3, CPU)
    for part in (slice(0, 2), slice(2, 4)):
        parts = [tensor[part] for tensor in (student, teacher)]
        y, keep = labels[part], mask[part]
        if dense:
            parts = [tensor.reshape(2, 2, 3, 3).permute(0, 3, 1, 2) for tensor in parts]
            y, keep = y.reshape(2, 2, 3), keep.reshape(2, 2, 3)
        evaluation.update(parts[0], parts[1], y, keep)
    check_rows(evaluation.compute(), student[mask], teacher[mask], labels[mask])


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_multilabel_positions(dense: bool, masked: bool) -> None:
    student, teacher, labels = draw(2, 6, 3), draw(2, 6, 3, seed=1), labels_of(2, 6, 3, classes=2)
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1]]).bool() if masked else torch.ones(2, 6).bool()
    expected = student[mask], teacher[mask], labels[mask]
    given = mask if masked else None
    if dense:
        student, teacher, labels = (z.reshape(2, 2, 3, 3).permute(0, 3, 1, 2) for z in (student, teacher, labels))
        given = mask.reshape(2, 2, 3) if masked else None
    evaluation = Evaluation("multilabel", 3, CPU)
    evaluation.update(student, teacher, labels, given)
    agreement = ((expected[0] > 0) == (expected[1] > 0)).double().mean().item()
    check_sigmoids(evaluation.compute(), *expected, agreement)


def test_a_token_mask_does_not_apply_to_logits_of_whole_samples() -> None:
    student, teacher, labels = draw(5, 4), draw(5, 4, seed=1), labels_of(5, classes=4)
    evaluation = Evaluation("multiclass", 4, CPU)
    evaluation.update(student, teacher, labels, torch.zeros(5, 7).bool())
    check_rows(evaluation.compute(), student, teacher, labels)


def test_ignored_labels_count_for_agreement_alone() -> None:
    student, teacher, labels = draw(12, 4), draw(12, 4, seed=1), labels_of(12, classes=4)
    labels[[0, 1, 2, 3, 8]] = -100
    evaluation = Evaluation("multiclass", 4, CPU)
    for part in (slice(0, 5), slice(5, 12)):
        evaluation.update(student[part], teacher[part], labels[part], None)
    keep = labels != -100
    rows_s, rows_t = student.tolist(), teacher.tolist()
    check(
        evaluation.compute(),
        network_by_hand(student[keep].tolist(), labels[keep].tolist()),
        network_by_hand(teacher[keep].tolist(), labels[keep].tolist()),
        agreement=mean([float(top(s) == top(t)) for s, t in zip(rows_s, rows_t, strict=True)]),
        kl_divergence=mean([kl(softmax(t), softmax(s)) for s, t in zip(rows_s, rows_t, strict=True)]),
    )


def test_a_batch_with_nothing_to_count_changes_nothing() -> None:
    student, teacher, labels = draw(3, 2, 4), draw(3, 2, 4, seed=1), labels_of(3, 2, classes=4)
    evaluation = Evaluation("multiclass", 4, CPU)
    evaluation.update(student, teacher, torch.full((3, 2), -100), torch.zeros(3, 2).bool())
    evaluation.update(student, teacher, labels, None)
    evaluation.update(student, teacher, labels, torch.zeros(3, 2).bool())
    check_rows(evaluation.compute(), student.flatten(0, 1), teacher.flatten(0, 1), labels.flatten())


def test_class_probabilities_count_as_their_largest() -> None:
    student, soft = draw(6, 4), torch.softmax(draw(6, 4, seed=1), 1)
    evaluation = Evaluation("multiclass", 4, CPU)
    evaluation.update(student, None, soft, None)
    check(evaluation.compute(), network_by_hand(student.tolist(), soft.argmax(1).tolist()), {})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_evaluated_in_float32(dtype: torch.dtype) -> None:
    student, teacher, labels = draw(9, 4).to(dtype), draw(9, 4, seed=1).to(dtype), labels_of(9, classes=4)
    evaluation = Evaluation("multiclass", 4, CPU)
    evaluation.update(student, teacher, labels, None)
    check_rows(evaluation.compute(), student.float(), teacher.float(), labels)


def test_without_a_teacher_there_are_the_students_figures_alone() -> None:
    evaluation = Evaluation("multiclass", 4, CPU)
    evaluation.update(draw(6, 4), None, labels_of(6, classes=4), None)
    assert set(evaluation.compute()) == {"accuracy/student", "calibration_error/student", "cross_entropy/student"}


def test_without_labels_there_are_agreement_and_divergence_alone() -> None:
    evaluation = Evaluation("multiclass", 4, CPU)
    evaluation.update(draw(6, 4), draw(6, 4, seed=1), None, None)
    assert set(evaluation.compute()) == {"agreement", "kl_divergence"}


@pytest.mark.parametrize(("task", "shape"), [("multiclass", (6, 4)), ("binary", (6,)), ("multilabel", (6, 4))])
def test_a_copy_of_the_teacher_agrees_fully(task: Task, shape: tuple[int, ...]) -> None:
    evaluation = Evaluation(task, 4, CPU)
    evaluation.update(draw(*shape), draw(*shape), None, None)
    found = evaluation.compute()
    assert found["agreement"] == 1
    assert found["kl_divergence"].abs() < 1e-7


@pytest.mark.parametrize(
    ("shape", "classes"), [((5,), 1), ((5, 1), 1), ((5, 10), 10), ((5, 7, 10), 10), ((5, 10, 7, 6), 10)]
)
def test_count_classes(shape: tuple[int, ...], classes: int) -> None:
    assert count_classes(torch.zeros(shape)) == classes


def test_a_members_figures_are_its_own_and_leave_the_students_alone() -> None:
    logits, member, labels = draw(8, 3), draw(8, 3, seed=1), labels_of(8, classes=3)
    evaluation = Evaluation("multiclass", 3, CPU)
    for part in (slice(0, 3), slice(3, 8)):
        evaluation.update(logits[part], None, labels[part], None)
        evaluation.update_member("peer_0", member[part], labels[part], None)
    found = {name: value.item() for name, value in evaluation.compute().items()}
    for who, rows in (("student", logits), ("peer_0", member)):
        for name, value in network_by_hand(rows.tolist(), labels.tolist()).items():
            assert found.pop(f"{name}/{who}") == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert not found


@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_ignored_labels_of_single_numbers_count_for_nothing(task: Task, dtype: torch.dtype) -> None:
    student, labels = draw(8, 3), (draw(8, 3, seed=1) > 0).to(dtype)
    if task == "binary":
        student, labels = student[:, 0], labels[:, 0]
    hidden = draw(*labels.shape, seed=2) > 0.5
    found, want = Evaluation(task, 3, CPU), Evaluation("regression" if task == "regression" else "binary", 1, CPU)
    found.update(student, None, labels.masked_fill(hidden, -100), None)
    want.update(student[~hidden], None, labels[~hidden], None)
    assert {k: v.item() for k, v in found.compute().items()} == pytest.approx(
        {k: v.item() for k, v in want.compute().items()}, rel=1e-6
    )


@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_probable_labels_count_as_what_is_likelier(task: Task) -> None:
    logits, labels = torch.tensor([[2.0], [2.0], [-2.0]]), torch.tensor([[0.9], [0.6], [0.1]])
    evaluation = Evaluation(task, 1, CPU)
    evaluation.update(logits, None, labels, None)
    assert evaluation.compute()["accuracy/student"] == 1


def test_dense_class_probabilities_count_as_their_likeliest() -> None:
    student, shares = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1).softmax(1)
    soft, hard = Evaluation("multiclass", 3, CPU), Evaluation("multiclass", 3, CPU)
    soft.update(student, None, shares, None)
    hard.update(student, None, shares.argmax(1), None)
    assert soft.compute() == hard.compute()


def test_volumes_are_measured_as_their_voxels() -> None:
    student, teacher, labels = draw(2, 3, 2, 4, 5), draw(2, 3, 2, 4, 5, seed=1), labels_of(2, 2, 4, 5, classes=3)
    evaluation = Evaluation("multiclass", count_classes(student), CPU)
    evaluation.update(student, teacher, labels, None)
    rows_s, rows_t = (z.movedim(1, -1).flatten(0, -2) for z in (student, teacher))
    check_rows(evaluation.compute(), rows_s, rows_t, labels.flatten())


@pytest.mark.parametrize(
    ("task", "labels", "reason"),
    [
        ("multiclass", torch.tensor([0, 1, 2, 64]), "label 64 is no class"),
        ("multiclass", torch.randn(4, 3), "class probabilities"),
        ("multilabel", torch.full((4, 3), 2), "neither 0, 1"),
        ("regression", torch.zeros(4, 2), "are numbers"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_one_batch_that_does_not_fit_leaves_the_epoch_without_figures(
    task: Task, labels: Tensor, reason: str, first: bool
) -> None:
    fitting = torch.tensor([0, 1, 2, 0]) if task == "multiclass" else torch.zeros(4, 3)
    evaluation = Evaluation(task, 3, CPU)
    for target in (labels, fitting) if first else (fitting, labels):
        evaluation.update(draw(4, 3), draw(4, 3, seed=1), target, None)
    assert evaluation.compute() == {}
    assert evaluation.misfit is not None
    assert reason in evaluation.misfit


def test_what_is_kept_of_an_epoch_does_not_grow() -> None:
    def kept(batches: int, task: Task) -> int:
        evaluation = Evaluation(task, 3, CPU)
        for _ in range(batches):
            labels = labels_of(2, 8, 8, classes=2)
            target = labels if task == "multiclass" else labels.unsqueeze(1).expand(-1, 3, -1, -1).float()
            evaluation.update(draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=1), target, None)
        states = [state for metric in evaluation._metrics.values() for state in metric.metric_state.values()]
        return sum(len(s) * 10**6 if isinstance(s, list) else s.numel() for s in states)

    for task in ("multiclass", "multilabel", "regression", "embedding"):
        assert kept(1, task) == kept(5, task) < 10**3  # type: ignore[arg-type]
