"""The labels that a criterion receives, checks of its value, and errors that name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from lit_distill.batch.batch import Target
from lit_distill.criteria import Criterion


def raise_named(name: str, criterion: Criterion, error: Exception) -> NoReturn:
    """Raise an error of a criterion again, with the criterion's name before its message.

    Raises:
        Exception: Always.
    """
    if isinstance(error, (torch.OutOfMemoryError, FloatingPointError)) or str(error).startswith("criterion "):
        raise error
    label = f"criterion {name!r} ({type(criterion).__name__})"
    if isinstance(error, (ValueError, RuntimeError)):
        own = RuntimeError if isinstance(error, RuntimeError) else ValueError
        raise own(f"{label}: {error}") from error
    raise ValueError(f"{label} failed: {type(error).__name__}: {error}") from error


def check_value_of(name: str, criterion: Criterion, value: Any, device: torch.device) -> None:
    """Refuse a criterion's value that cannot be a loss.

    Raises:
        ValueError: The value is not a floating-point scalar on that device.
    """
    if isinstance(value, Tensor) and not value.dim() and value.is_floating_point() and value.device == device:
        return
    label = f"criterion {name!r} ({type(criterion).__name__})"
    if not isinstance(value, Tensor):
        what = "nothing (None): its forward returns no value" if value is None else f"a {type(value).__name__}"
        raise ValueError(f"{label} gave {what}; a scalar tensor was expected, computed from the student's outputs.")
    if value.dim():
        raise ValueError(
            f"{label} gave a value of shape {list(value.shape)}; a scalar was expected, the mean over the batch."
        )
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise ValueError(
            f"{label} gave a value of {kind}, which has no gradient; a floating-point scalar was expected."
        )
    raise ValueError(
        f"{label} gave a value on {value.device}, and the student's outputs are on {device}: keep its tensors as buffers "
        "(register_buffer), which move with it, or make them with device=student.device."
    )


def labels_for(name: str, criterion: Criterion, target: Target | None) -> Target | None:
    """Select the labels that a criterion receives: those of all tasks if it takes several, else its own.

    Raises:
        ValueError: The criterion needs labels and there are none; it takes one task's labels and there are several; or the
            labels are not a tensor.
    """
    if target is None and criterion.needs_target:
        raise ValueError(
            f"criterion {name!r} ({type(criterion).__name__}) needs labels, and the batches have none; leave it out, or "
            "give it the weight 0."
        )
    if not criterion.needs_target and not isinstance(target, Mapping):
        return target
    if not isinstance(target, Mapping) or criterion.takes_tasks:
        if not isinstance(target, Tensor):
            _check_tensors(name, criterion, target)
        return target
    if criterion.needs_target:
        raise ValueError(
            f"criterion {name!r} takes one target and the batches have several ({', '.join(target)}): wrap it in OnHead."
        )
    return None


def _check_tensors(name: str, criterion: Criterion, target: Any) -> None:
    for task, labels in target.items() if isinstance(target, Mapping) else [("", target)]:
        if not isinstance(labels, Tensor):
            shown = f" of {task!r}" if task else ""
            text = isinstance(labels, str) or (
                isinstance(labels, (list, tuple)) and isinstance(next(iter(labels), 0), str)
            )
            remedy = (
                "Number the classes in the data set: 0, 1, …"
                if text
                else "Have the data set or its collate function make one"
            )
            raise ValueError(
                f"criterion {name!r} ({type(criterion).__name__}) needs labels in a tensor, and those{shown} are "
                f"{'text' if text else 'a ' + type(labels).__name__}, such as {_example(labels)!r}. {remedy}."
            )


def _example(labels: Any) -> Any:
    first = next(iter(labels), None) if isinstance(labels, (list, tuple)) else labels
    return first if isinstance(first, (str, int, float, bool, type(None))) else type(first).__name__
