"""Reads labels: the usual forms of each task become one form, or an error names them.

A label of -100 is unknown and counts nothing, in every task and type.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from lit_distill.batch.batch import IGNORED_LABEL
from lit_distill.utils.notices import warn

Task = Literal["multiclass", "binary", "multilabel", "regression", "embedding", "none"]
TASKS: tuple[Task, ...] = get_args(Task)
CLASS_TASKS: tuple[Task, ...] = TASKS[:3]
_TOLERANCE = 0.02  # of a row of class probabilities to 1: half precision and many classes


def class_dim(logits: Tensor) -> int:
    """Return the dimension of the classes: 1 in maps and volumes (4 and more dimensions), the last elsewhere."""
    return 1 if logits.dim() >= 4 else logits.dim() - 1


def positions(logits: Tensor) -> torch.Size:
    """Return the logits' shape without the classes; all of it for logits ``[B]``."""
    if logits.dim() < 2:
        return logits.shape
    place = class_dim(logits)
    return logits.shape[:place] + logits.shape[place + 1 :]


def need_classes(logits: Tensor) -> None:
    """Refuse logits of one class, whose softmax is always 1."""
    if logits.dim() > 1 and logits.shape[class_dim(logits)] > 1:
        return
    raise ValueError(
        f"logits {list(logits.shape)} hold one number for each prediction, and a softmax over one class is always 1: nothing "
        "would be learned. For one sigmoid output set task='binary', in the module and in its criteria; for numbers set "
        "task='regression', or compare the outputs by LogitMSE."
    )


class WrongLabelError(ValueError):
    """Raised for a label outside the task's range, in labels of the right form."""


# One form a task ---------------------------------------------------------------------------------


def read_labels(target: Tensor, logits: Tensor, task: Task, check: bool | None = None) -> Tensor:
    """Convert labels to the one form of their task.

    Args:
        target: Multiclass: class indices of any integer type, bool included, with or without a dimension of 1 for the
            classes; or one-hot or class probabilities of the logits' shape. Binary and multilabel: 0, 1 or a probability,
            of any type. Regression: numbers. The last three in the logits' shape, up to dimensions of 1.
        logits: The logits that they label.
        task: ``multiclass``, ``binary``, ``multilabel`` or ``regression``.
        check: Check the values, for which a GPU has to wait; if None, on the CPU only.

    Returns:
        Multiclass: class indices of int64 without the classes' dimension, or class probabilities of the logits' shape.
        Otherwise floating-point numbers of the logits' shape.

    Raises:
        ValueError: The labels have another form, or a value outside the task's range.

    Example:
        >>> read_labels(torch.tensor([[2], [0]], dtype=torch.uint8), torch.zeros(2, 3), "multiclass")
        tensor([2, 0])
    """
    look = check if check is not None else target.device.type == "cpu"
    if target.is_complex():
        raise ValueError(f"labels {list(target.shape)} are complex numbers, and those of the task {task!r} are real.")
    if task != "multiclass":
        return _elements(target, logits, task, look)
    place, spots = class_dim(logits), positions(logits)
    if logits.dim() > 1:
        column = torch.Size([*spots[:place], 1, *spots[place:]])
        if target.shape == column and not target.is_floating_point():
            target = target.squeeze(place)
        elif target.shape == logits.shape:
            return _shares(target, place, look) if target.is_floating_point() else _from_one_hot(target, place, look)
    if target.shape != spots or target.is_floating_point():
        raise _misfit(target, logits, task)
    if look:
        _check_indices(target, logits.shape[place] if logits.dim() > 1 else 1)
    return target.long()


def class_indices(target: Tensor, logits: Tensor, check: bool | None = None) -> Tensor:
    """Return the class of each label like ``read_labels``; for class probabilities the most likely one."""
    labels = read_labels(target, logits, "multiclass", check)
    if not labels.is_floating_point():
        return labels
    place = class_dim(logits)
    return labels.argmax(place).masked_fill(unknown(labels, place), IGNORED_LABEL)


def unknown(shares: Tensor, dim: int = -1) -> Tensor:
    """Return True where class probabilities are unknown: where one of them is -100."""
    return (shares == IGNORED_LABEL).any(dim)


def _from_one_hot(target: Tensor, place: int, check: bool) -> Tensor:
    target = target.to(torch.uint8) if target.dtype == torch.bool else target
    hidden = unknown(target, place)
    if check:
        ones = target.sum(place, dtype=torch.long)
        wrong = ((target != 0) & (target != 1)).any(place) | (ones != 1)
        if bool((wrong & ~hidden).any()):
            raise ValueError(
                f"labels {list(target.shape)} of integers have the logits' shape, so each must be a one-hot, with a single 1; "
                f"one has {int(ones[wrong & ~hidden][0])} in all. Give class indices {list(hidden.shape)}, or set "
                "task='multilabel' where a sample may have several classes."
            )
    return target.argmax(place).masked_fill(hidden, IGNORED_LABEL)


def _shares(target: Tensor, place: int, check: bool) -> Tensor:
    shares = target if target.dtype == torch.float64 else target.float()
    if not check:
        return shares
    known = ~unknown(shares, place).unsqueeze(place)
    low, high = shares.masked_fill(~known, 0).aminmax() if shares.numel() else (shares.sum(), shares.sum())
    what = f"floating-point labels {list(target.shape)} of the logits' shape are class probabilities"
    if not (float(low) >= -_TOLERANCE and float(high) <= 1 + _TOLERANCE):
        raise ValueError(
            f"{what}, and these run from {float(low):.4g} to {float(high):.4g}. Give probabilities (of scores: their "
            "softmax) or class indices; where the outputs are numbers and no classes, set task='regression'."
        )
    sums = shares.sum(place, keepdim=True)
    wrong = known & ~((sums - 1).abs() <= _TOLERANCE)
    if bool(wrong.any()):
        raise ValueError(
            f"{what} that sum to 1, and one sums to {float(sums[wrong][0]):.4g}. Set task='multilabel' where a sample may "
            "have several classes or none, task='regression' where the outputs are numbers, or give class indices."
        )
    return shares


def _check_indices(target: Tensor, classes: int) -> None:
    values = target.to(torch.uint8) if target.dtype == torch.bool else target
    wrong = ((values < 0) & (values != IGNORED_LABEL)) | (values >= classes)
    if bool(wrong.any()):
        found = int(values[wrong][0])
        raise WrongLabelError(
            f"label {found} is no class: the logits are of {classes} classes, so class indices run from 0 to "
            f"{classes - 1}{_where(wrong)}. "
            f"If {found} means that the label is not known, set BatchFormat(missing_label={found}); where the outputs are no "
            "scores of classes, set the task to what they are ('regression', 'embedding')."
        )


def _where(wrong: Tensor) -> str:
    """Return which sample of the batch has the first of the wrong labels."""
    return f" (sample {int(wrong.nonzero()[0][0])} of {len(wrong)})" if wrong.dim() else ""


def _elements(target: Tensor, logits: Tensor, task: Task, check: bool) -> Tensor:
    if _squeezed(target) != _squeezed(logits):
        raise _misfit(target, logits, task)
    wide = torch.promote_types(target.dtype if target.is_floating_point() else logits.dtype, torch.float32)
    labels = target.reshape(logits.shape).to(wide)
    if not check:
        return labels
    if task == "regression":
        return labels
    wrong = ~((labels >= 0) & (labels <= 1)) & (labels != IGNORED_LABEL)
    if bool(wrong.any()):
        found = float(labels[wrong][0])
        raise WrongLabelError(
            f"label {found:g} is neither 0, 1 nor a probability{_where(wrong)}, which labels of the task {task!r} are. If "
            f"{found:g} means that the label is not known, set BatchFormat(missing_label={found:g}); divide images of 0 and 255"
            " by 255; for class indices set task='multiclass', for numbers task='regression'."
        )
    return labels


def warn_of_ignored_numbers(labels: Tensor) -> None:
    """Warn of labels that are numbers and hold -100, which counts nothing; on the CPU only, as a GPU would have to wait."""
    if labels.is_floating_point() and labels.device.type == "cpu" and bool((labels == IGNORED_LABEL).any()):
        warn(
            f"regression labels of {IGNORED_LABEL} are read as not known and count nothing; where {IGNORED_LABEL} is a "
            f"value like any other, rescale the labels; where it is not, set BatchFormat(missing_label={IGNORED_LABEL})."
        )


def _squeezed(tensor: Tensor) -> list[int]:
    return [*tensor.shape[:1], *(size for size in tensor.shape[1:] if size != 1)]


# Errors for other forms ---------------------------------------------------------------------


def _misfit(target: Tensor, logits: Tensor, task: Task) -> ValueError:
    column = target.dim() == logits.dim() > 1 and target.shape[class_dim(logits)] == 1
    shares = task == "multiclass" and target.is_floating_point() and target.dim() == logits.dim() > 1 and not column
    spots, whole = list(positions(logits)), list(logits.shape)
    if task == "multiclass" and target.is_floating_point() and not shares:
        return ValueError(
            f"labels {list(target.shape)} do not fit logits {whole}: class indices must be integers, and these are "
            f"{str(target.dtype).removeprefix('torch.')}. Give labels.long(), or class probabilities {whole}; where the "
            "outputs are numbers and no classes, set task='regression'."
        )
    forms = {
        "multiclass": f"class indices {spots} of any integer type, or a one-hot or class probabilities {whole}",
        "regression": f"numbers {whole}",
    }.get(task, f"0, 1 or probabilities {whole}, no class indices")
    what = "class probabilities" if shares else "labels"
    remedy = _size_remedy(target, logits)
    if task == "binary" and logits.dim() > 1 and logits.shape[class_dim(logits)] == 2:
        remedy += " Two logits for two classes are task='multiclass'."
    return ValueError(
        f"{what} {list(target.shape)} do not fit logits {whole}: labels of the task {task!r} are {forms}.{remedy}"
    )


def _size_remedy(target: Tensor, logits: Tensor) -> str:
    depth = logits.dim() - 2
    if depth < 1 or target.dim() not in (depth + 1, depth + 2) or target.shape[:1] != logits.shape[:1]:
        return ""
    size_l = target.shape[-depth:] if logits.dim() >= 4 else target.shape[1:2]
    size_z = logits.shape[2:] if logits.dim() >= 4 else logits.shape[1:2]
    if size_l == size_z:
        return ""
    wanted, found = (" x ".join(map(str, size)) for size in (size_l, size_z))
    if logits.dim() == 3:
        return f" There are labels for {wanted} positions, and logits for {found}."
    return (
        f" The labels are {wanted} and the logits {found}: set BatchFormat(resize_logits=True) to resize the logits, or bring "
        "the labels to the logits' size in the data."
    )


def sample_classes(target: Tensor, batch: int) -> Tensor:
    """Return the class of each sample ``[B]`` if no logits show the number of classes.

    Args:
        target: Class indices ``[B]`` or ``[B, 1]`` of any integer type, or one-hot or class probabilities ``[B, C]``.
        batch: ``B``.

    Raises:
        ValueError: The labels are not one per sample.
    """
    if target.dim() == 2 and target.shape == (batch, 1) and not target.is_floating_point():
        target = target.squeeze(1)
    if target.shape == (batch,) and not target.is_floating_point():
        return target.long()
    if target.dim() == 2 and len(target) == batch and target.shape[1] > 1:
        return class_indices(target, target)
    raise ValueError(f"labels {list(target.shape)} are not of {batch} samples: give class indices [{batch}].")
