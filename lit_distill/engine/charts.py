"""Charts: TensorBoard's page of student and teacher on the same axes, and bars of the weighted terms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from lit_distill.utils.lightning_names import is_a
from lit_distill.utils.plotting import Axes, axes_or_new

_LAYOUT = {
    "Student and teacher": {
        "accuracy": ["Multiline", [r"(distill/)?val/(.*/)?accuracy/.*"]],
        "cross entropy": ["Multiline", [r"(distill/)?val/(.*/)?cross_entropy/.*"]],
        "calibration error": ["Multiline", [r"(distill/)?val/(.*/)?calibration_error/.*"]],
        "agreement": ["Multiline", [r"(distill/)?val/(.*/)?agreement"]],
        "KL divergence, teacher to student": ["Multiline", [r"(distill/)?val/(.*/)?kl_divergence"]],
    },
    "Criteria": {
        "total loss": ["Multiline", [r"(train|distill)/loss"]],
        "raw": ["Multiline", [r"(train|distill)/criteria/.*"]],
        "weighted": ["Multiline", [r"(train|distill)/weighted/.*"]],
    },
    "Schedule": {
        "weights": ["Multiline", [r"(train|distill)/weight/.*"]],
        "temperature": ["Multiline", [r"(train|distill)/temperature/.*"]],
        "learning rate": ["Multiline", [r"train/learning_rate"]],
    },
    "Speed": {"samples per second": ["Multiline", [r"train/samples_per_second"]]},
}


def add_comparison_charts(loggers: Iterable[Any]) -> None:
    """Lay out TensorBoard's Custom Scalars page, for the loggers that write to TensorBoard."""
    for logger in loggers:
        if is_a(logger, "loggers.TensorBoardLogger"):
            # On other ranks than 0 this is Lightning's dummy.
            logger.experiment.add_custom_scalars(_LAYOUT)


def plot_terms(metrics: Mapping[str, Tensor | float], axes: Axes | None = None) -> Axes:
    """Draw the weighted terms of a loss as bars; needs the extra ``lit-distill[plot]``.

    Args:
        metrics: Logged metrics by name, such as ``trainer.callback_metrics``; those named ``…/weighted/NAME`` are drawn.
        axes: Matplotlib axes to draw into; new ones if None.

    Returns:
        The axes, with one horizontal bar per criterion, the first at the top.

    Raises:
        ImportError: Matplotlib is not installed.
        ValueError: There is no such metric.
    """
    parts = {key: key.rpartition("weighted/") for key in metrics}
    terms = {name: float(metrics[key]) for key, (_, mark, name) in parts.items() if mark}
    if not terms:
        raise ValueError(
            "no weighted terms among the metrics; give those that a distillation has logged: trainer.callback_metrics."
        )
    axes = axes_or_new(axes)
    axes.bar_label(axes.barh(list(terms), list(terms.values())), fmt="%.3g", padding=3)
    axes.margins(x=0.15)  # room for the numbers
    axes.invert_yaxis()
    axes.set_xlabel("weight × value")
    return axes
