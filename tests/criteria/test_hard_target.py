import math

import pytest
import torch
from torch import Tensor

from lit_distill.criteria import HardTarget
from lit_distill.criteria.hard_target import IGNORED_LABEL, hard_target, hard_target_binary
from lit_distill.outputs import Outputs

NOTHING = Outputs.nothing()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value_of(criterion: HardTarget, logits: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    value: Tensor = criterion(Outputs(logits, mask=mask), NOTHING, target)
    return value


def log_softmax(row: list[float]) -> list[float]:
    total = math.log(sum(math.exp(z) for z in row))
    return [z - total for z in row]


def cross_entropy_by_hand(logits: Tensor, weights: list[list[float]]) -> float:
    rows = [log_softmax(row) for row in logits.tolist()]
    losses = [-sum(w * z for w, z in zip(weight, row, strict=True)) for weight, row in zip(weights, rows, strict=True)]
    return sum(losses) / len(losses)


def binary_by_hand(logits: Tensor, targets: Tensor, smoothing: float) -> float:
    losses = []
    for z, label in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True):
        q, y = 1 / (1 + math.exp(-z)), label * (1 - smoothing) + smoothing / 2
        losses.append(-y * math.log(q) - (1 - y) * math.log(1 - q))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_with_label_smoothing_equals_a_hand_computation(smoothing: float) -> None:
    logits, labels = draw(4, 5), [1, 0, 4, 2]
    weights = [[smoothing / 5 + (1 - smoothing) * (c == label) for c in range(5)] for label in labels]
    found = value_of(HardTarget(smoothing), logits, torch.tensor(labels))
    assert found.item() == pytest.approx(cross_entropy_by_hand(logits, weights), rel=1e-12)


def test_class_probabilities_equal_a_hand_computation() -> None:
    logits, weights = draw(3, 4), torch.softmax(draw(3, 4, seed=1), 1)
    found = value_of(HardTarget(), logits, weights)
    assert found.item() == pytest.approx(cross_entropy_by_hand(logits, weights.tolist()), rel=1e-12)


def test_one_hot_probabilities_equal_labels() -> None:
    logits, labels = draw(3, 4), torch.tensor([3, 1, 0])
    one_hot = torch.nn.functional.one_hot(labels, 4).double()
    torch.testing.assert_close(
        value_of(HardTarget(0.1), logits, one_hot), value_of(HardTarget(0.1), logits, labels), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("task", ["binary", "multilabel"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_binary_cross_entropy_equals_a_hand_computation(task: str, smoothing: float, dtype: torch.dtype) -> None:
    logits, labels = draw(4, 3), torch.tensor([[0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 0]]).to(dtype)
    found = value_of(HardTarget(smoothing, task), logits, labels)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(binary_by_hand(logits, labels, smoothing), rel=1e-12)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
@pytest.mark.parametrize("labels_shape", [(4,), (4, 1)])
def test_binary_labels_take_the_shape_of_the_logits(shape: tuple[int, ...], labels_shape: tuple[int, ...]) -> None:
    logits, labels = draw(4), torch.tensor([0, 1, 1, 0])
    found = value_of(HardTarget(task="binary"), logits.reshape(shape), labels.reshape(labels_shape))
    assert found.item() == pytest.approx(binary_by_hand(logits, labels, 0.0), rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_are_the_derivatives(smoothing: float) -> None:
    logits, labels = draw(3, 4).requires_grad_(), torch.tensor([1, IGNORED_LABEL, 3])
    assert torch.autograd.gradcheck(lambda z: hard_target(z, labels, smoothing), (logits,))
    assert torch.autograd.gradcheck(
        lambda z: hard_target_binary(z, (labels > 0)[:, None].expand(3, 4), smoothing), logits
    )


def test_ignored_labels_change_neither_value_nor_gradient() -> None:
    logits, labels = draw(4, 5).requires_grad_(), torch.tensor([1, IGNORED_LABEL, 4, IGNORED_LABEL])
    value = value_of(HardTarget(0.1), logits, labels)
    torch.testing.assert_close(value, value_of(HardTarget(0.1), logits[[0, 2]], labels[[0, 2]]), rtol=1e-12, atol=0)
    value.backward()
    assert logits.grad is not None
    assert logits.grad[[1, 3]].eq(0).all()


def test_rows_tokens_and_pixels_agree() -> None:
    logits, labels = draw(24, 5), torch.arange(24) % 5
    expected = value_of(HardTarget(0.1), logits, labels)
    tokens = value_of(HardTarget(0.1), logits.reshape(4, 6, 5), labels.reshape(4, 6))
    pixels = logits.reshape(4, 2, 3, 5).permute(0, 3, 1, 2)
    torch.testing.assert_close(tokens, expected, rtol=1e-12, atol=0)
    for dense in (pixels, pixels.contiguous(), pixels.contiguous(memory_format=torch.channels_last)):
        found = value_of(HardTarget(0.1), dense, labels.reshape(4, 2, 3))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("dense", [False, True])
def test_masked_positions_change_neither_value_nor_gradient(task: str, dense: bool) -> None:
    criterion = HardTarget(0.1, task)  # type: ignore[arg-type]
    logits, mask = draw(2, 4, 3), torch.tensor([[1, 0, 1, 0], [1, 1, 1, 0]]).bool()
    labels = torch.arange(8).reshape(2, 4) % 3
    if task == "multilabel":
        labels = torch.nn.functional.one_hot(labels, 3)
    expected = value_of(criterion, logits[mask], labels[mask])
    off = ~mask[..., None].expand_as(logits)
    if dense:
        logits, off = (z.reshape(2, 2, 2, 3).permute(0, 3, 1, 2) for z in (logits, off))
        labels = labels.reshape(2, 2, 2, *labels.shape[2:])
        labels = labels.permute(0, 3, 1, 2) if task == "multilabel" else labels
        mask = mask.reshape(2, 2, 2)
    for filled in (logits, torch.where(off, 1e3, logits)):
        leaf = filled.clone().requires_grad_()
        value = value_of(criterion, leaf, labels, mask)
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
        value.backward()
        assert leaf.grad is not None
        assert leaf.grad[off].eq(0).all()
        assert leaf.grad[~off].ne(0).all()


def test_a_token_mask_does_not_apply_to_logits_of_whole_samples() -> None:
    logits, labels, mask = draw(2, 4), torch.tensor([1, 3]), torch.tensor([[1, 0, 0], [1, 1, 0]])
    assert torch.equal(value_of(HardTarget(), logits, labels, mask), value_of(HardTarget(), logits, labels))


def test_copies_and_order_of_the_batch_change_nothing() -> None:
    logits, labels = draw(4, 5), torch.tensor([1, 0, 4, 2])
    expected = value_of(HardTarget(0.1), logits, labels)
    torch.testing.assert_close(value_of(HardTarget(0.1), logits.repeat(3, 1), labels.repeat(3)), expected)
    torch.testing.assert_close(value_of(HardTarget(0.1), logits.flip(0), labels.flip(0)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_extreme_logits_stay_finite_and_half_is_widened(dtype: torch.dtype, task: str) -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype).requires_grad_()
    labels = torch.tensor([0, 0]) if task == "multiclass" else torch.tensor([[1, 0], [1, 0]])
    value = value_of(HardTarget(task=task), logits, labels)  # type: ignore[arg-type]
    assert value.dtype == torch.float32
    wide = float(logits.detach().float().max())
    assert value.item() == pytest.approx(wide if task == "multiclass" else wide / 2, rel=1e-6)
    value.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_properties_that_modules_read() -> None:
    criterion = HardTarget()
    assert (criterion.needs_target, criterion.needs_teacher, criterion.compares_logits) == (True, False, False)


@pytest.mark.parametrize("smoothing", [1.0, -0.1, 1.5, math.nan])
def test_smoothing_out_of_range_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\)"):
        HardTarget(smoothing)


def test_unknown_task_is_refused() -> None:
    with pytest.raises(
        ValueError, match="task must be one of 'multiclass', 'binary', 'multilabel', 'regression', not 'ranking'"
    ):
        HardTarget(task="ranking")  # type: ignore[arg-type]


def test_missing_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="needs labels"):
        HardTarget()(Outputs(torch.zeros(2, 3)), NOTHING, None)


def test_a_batch_without_any_label_teaches_nothing() -> None:
    logits = torch.randn(3, 4, requires_grad=True)
    value = hard_target(logits, torch.full((3,), IGNORED_LABEL))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_mean_is_over_the_labelled(smoothing: float) -> None:
    logits, target = torch.randn(5, 4, dtype=torch.float64), torch.tensor([1, IGNORED_LABEL, 3, IGNORED_LABEL, 0])
    rows = [0, 2, 4]
    log_p = logits[rows] - torch.logsumexp(logits[rows], 1, keepdim=True)
    soft = torch.full((3, 4), smoothing / 4, dtype=torch.float64)
    soft[torch.arange(3), target[rows]] += 1 - smoothing
    assert hard_target(logits, target, smoothing).item() == pytest.approx(
        -(soft * log_p).sum(1).mean().item(), abs=1e-12
    )


# Weights of classes and of samples -----------------------------------------------------------------


def weighted(
    criterion: HardTarget, logits: Tensor, target: Tensor, weight: Tensor, mask: Tensor | None = None
) -> Tensor:
    value: Tensor = criterion(Outputs(logits, mask=mask, sample_weight=weight), NOTHING, target)
    return value


def test_class_weights_are_pytorchs_weighted_mean() -> None:
    logits, target, weights = draw(6, 3), torch.tensor([0, 1, 2, 1, IGNORED_LABEL, 0]), [1.0, 5.0, 0.5]
    for smoothing in (0.0, 0.1):
        found = value_of(HardTarget(smoothing, class_weights=weights), logits, target)
        want = torch.nn.CrossEntropyLoss(torch.tensor(weights).double(), label_smoothing=smoothing)(logits, target)
        assert found.item() == pytest.approx(want.item(), rel=1e-12)


def test_class_weights_of_class_probabilities_are_pytorchs() -> None:
    logits, shares, weights = draw(6, 3), draw(6, 3, seed=1).softmax(1), [1.0, 5.0, 0.5]
    found = value_of(HardTarget(class_weights=weights), logits, shares)
    want = torch.nn.CrossEntropyLoss(torch.tensor(weights).double())(logits, shares)
    assert found.item() == pytest.approx(want.item(), rel=1e-12)


@pytest.mark.parametrize(
    ("task", "shape", "weights"), [("binary", (6,), [4.0]), ("multilabel", (6, 3), [1.0, 5.0, 0.5])]
)
def test_class_weights_of_sigmoids_are_those_of_the_positive_term(
    task: str, shape: tuple[int, ...], weights: list[float]
) -> None:
    logits, target = draw(*shape), (draw(*shape, seed=1) > 0).long()
    found = value_of(HardTarget(task=task, class_weights=weights), logits, target)  # type: ignore[arg-type]
    p = logits.sigmoid()
    want = -(torch.tensor(weights) * target * p.log() + (1 - target) * (1 - p).log()).mean()
    assert found.item() == pytest.approx(want.item(), rel=1e-12)


TASK_CASES = [("multiclass", 3), ("binary", 1), ("multilabel", 3), ("regression", 3)]
LAYOUT_CASES = [(5,), (5, 4), (5, 2, 3), (5, 2, 2, 3)]


def case(task: str, classes: int, layout: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Logits and labels of a task in a layout, classes where that layout has them."""
    last, labels = draw(*layout, classes), (draw(*layout, classes, seed=1) > 0).double()
    if task == "multiclass":
        indices = draw(*layout, classes, seed=1).argmax(-1)
        return (last.movedim(-1, 1) if len(layout) > 2 else last), indices
    if len(layout) > 2:
        return last.movedim(-1, 1), labels.movedim(-1, 1)
    return last, labels


@pytest.mark.parametrize(("task", "classes"), TASK_CASES)
@pytest.mark.parametrize("layout", LAYOUT_CASES)
class TestSampleWeights:
    def test_equal_ones_change_nothing(self, task: str, classes: int, layout: tuple[int, ...]) -> None:
        logits, target = case(task, classes, layout)
        criterion = HardTarget(task=task)  # type: ignore[arg-type]
        found = weighted(criterion, logits, target, torch.full((5,), 0.3))
        assert found.item() == pytest.approx(value_of(criterion, logits, target).item(), rel=1e-6)

    def test_the_value_is_the_weighted_mean_of_the_samples_losses(
        self, task: str, classes: int, layout: tuple[int, ...]
    ) -> None:
        logits, target = case(task, classes, layout)
        criterion, weight = HardTarget(task=task), torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])  # type: ignore[arg-type]
        alone = [value_of(criterion, logits[i : i + 1], target[i : i + 1]).item() for i in range(5)]
        want = sum(w * v for w, v in zip(weight.tolist(), alone, strict=True)) / weight.sum().item()
        for form in (weight, weight.unsqueeze(1)):
            assert weighted(criterion, logits, target, form).item() == pytest.approx(want, rel=1e-6)

    def test_a_sample_of_weight_0_gets_no_gradient(self, task: str, classes: int, layout: tuple[int, ...]) -> None:
        logits, target = case(task, classes, layout)
        leaf = logits.clone().requires_grad_()
        weighted(HardTarget(task=task), leaf, target, torch.tensor([1.0, 0, 1, 1, 0])).backward()  # type: ignore[arg-type]
        assert leaf.grad is not None
        assert [bool(g.any()) for g in leaf.grad] == [True, False, True, True, False]

    def test_ignored_labels_count_nothing(self, task: str, classes: int, layout: tuple[int, ...]) -> None:
        logits, target = case(task, classes, layout)
        criterion = HardTarget(task=task)  # type: ignore[arg-type]
        hidden = target.clone()
        hidden[[1, 3]] = IGNORED_LABEL
        keep = [0, 2, 4]
        want = value_of(criterion, logits[keep], target[keep]).item()
        assert value_of(criterion, logits, hidden).item() == pytest.approx(want, rel=1e-12)
        weight = torch.tensor([1.0, 9.0, 2.0, 9.0, 3.0])
        want = weighted(criterion, logits[keep], target[keep], weight[keep]).item()
        assert weighted(criterion, logits, hidden, weight).item() == pytest.approx(want, rel=1e-6)
        nothing = value_of(criterion, logits, torch.full_like(target, IGNORED_LABEL))
        assert nothing.item() == 0


def test_single_unknown_labels_of_a_sample_are_left_out() -> None:
    logits, target = draw(4, 3), torch.tensor([[0, 1, -100], [1, -100, 1], [0, 0, 0], [-100, -100, -100]])
    known = target >= 0
    for form in (target, target.float(), target.to(torch.int8)):
        found = value_of(HardTarget(0.1, "multilabel"), logits, form)
        want = hard_target_binary(logits[known], target[known], 0.1)
        assert found.item() == pytest.approx(want.item(), rel=1e-12)


def test_weights_of_classes_and_samples_multiply() -> None:
    logits, target, weights = draw(4, 3), torch.tensor([0, 1, 2, 1]), torch.tensor([1.0, 5.0, 0.5]).double()
    sample = torch.tensor([1.0, 2.0, 0.5, 0.0]).double()
    found = weighted(HardTarget(class_weights=weights.tolist()), logits, target, sample)
    losses = -logits.log_softmax(1)[torch.arange(4), target]
    mass = sample * weights[target]
    assert found.item() == pytest.approx(((mass * losses).sum() / mass.sum()).item(), rel=1e-12)


def test_weights_that_are_all_0_teach_nothing() -> None:
    logits = draw(3, 4).requires_grad_()
    value = weighted(HardTarget(), logits, torch.tensor([0, 1, 2]), torch.zeros(3))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_class_weights_follow_the_criterion_and_are_in_no_state_dict() -> None:
    criterion = HardTarget(class_weights=[1.0, 2.0])
    assert criterion.class_weights is not None
    assert "class_weights" not in criterion.state_dict()
    assert criterion.double().class_weights.dtype == torch.float64  # type: ignore[union-attr]


# Regression ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "by_hand"),
    [("l2", lambda d: d * d), ("l1", abs), ("smooth_l1", lambda d: d * d / 2 if abs(d) < 1 else abs(d) - 0.5)],
)
def test_a_regression_is_the_mean_distance(distance: str, by_hand: object) -> None:
    outputs, target = draw(6, 2), draw(6, 2, seed=1)
    gaps = (outputs - target).flatten().tolist()
    found = value_of(HardTarget(task="regression", distance=distance), outputs, target)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(sum(by_hand(d) for d in gaps) / len(gaps), rel=1e-12)  # type: ignore[operator]


def test_a_column_of_outputs_and_a_vector_of_labels_are_not_broadcast() -> None:
    outputs, target = draw(6, 1), draw(6, seed=1)
    found = value_of(HardTarget(task="regression"), outputs, target)
    assert found.item() == pytest.approx((outputs.flatten() - target).square().mean().item(), rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_weights": [1.0, -1.0]}, r"class_weights\[1\] must be finite and at least 0"),
        ({"class_weights": [0.0, 0.0]}, "a number above 0 for some class"),
        ({"class_weights": []}, "a number above 0 for some class"),
        ({"class_weights": "balanced"}, "class_weights is a str; give a list of numbers"),
        ({"task": "regression", "class_weights": [1.0]}, "are of classes, and the task is 'regression'"),
        ({"task": "regression", "label_smoothing": 0.1}, "are of classes, and the task is 'regression'"),
        ({"distance": "l1"}, "distance is of the task 'regression', and the task is 'multiclass'"),
        ({"task": "regression", "distance": "huber"}, "distance must be one of 'l2', 'l1', 'smooth_l1'"),
        ({"task": "embedding"}, "no loss on labels for the task 'embedding'"),
        ({"task": "none"}, "no loss on labels for the task 'none'"),
    ],
)
def test_arguments_that_do_nothing_or_do_not_fit_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        HardTarget(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("task", "shape"), [("multiclass", (4, 3)), ("multilabel", (4, 3))])
def test_another_number_of_class_weights_is_refused(task: str, shape: tuple[int, ...]) -> None:
    target = torch.zeros(4).long() if task == "multiclass" else torch.zeros(shape)
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        value_of(HardTarget(task=task, class_weights=[1.0, 2.0]), draw(*shape), target)  # type: ignore[arg-type]
