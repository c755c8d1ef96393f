"""The chart page that puts student and teacher on the same axes."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch.loggers import TensorBoardLogger

_LAYOUT = {
    "Student and teacher": {
        "accuracy": ["Multiline", [r"val/(.*/)?accuracy/.*"]],
        "cross entropy": ["Multiline", [r"val/(.*/)?cross_entropy/.*"]],
        "calibration error": ["Multiline", [r"val/(.*/)?calibration_error/.*"]],
        "agreement": ["Multiline", [r"val/(.*/)?agreement"]],
        "KL divergence, teacher to student": ["Multiline", [r"val/(.*/)?kl_divergence"]],
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


def add_comparison_charts(loggers: Iterable[object]) -> None:
    """Lay out TensorBoard's Custom Scalars page, for the loggers that write to TensorBoard."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # On other ranks than 0 Lightning hands out a dummy that does nothing.
            logger.experiment.add_custom_scalars(_LAYOUT)
