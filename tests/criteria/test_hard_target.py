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
