"""The layout of TensorBoard's page that shows student and teacher on the same axes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lit_distill.utils.lightning_names import is_a

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
    "Speed": {
        "samples per second": ["Multiline", [r"train/samples_per_second"]],
    },
}


def add_comparison_charts(loggers: Iterable[Any]) -> None:
    """Lay out TensorBoard's Custom Scalars page, for the loggers that write to TensorBoard."""
    for logger in loggers:
        if is_a(logger, "loggers.TensorBoardLogger"):
            # On other ranks than 0 this is Lightning's dummy.
            logger.experiment.add_custom_scalars(_LAYOUT)
