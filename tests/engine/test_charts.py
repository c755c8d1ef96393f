"""Bars of the weighted terms of a loss."""

from __future__ import annotations

from typing import Any, get_type_hints

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import Trainer
from matplotlib.axes import Axes

from lit_distill import plot_terms
from lit_distill.criteria import LogitMSE, SoftTarget
from lit_distill.engine.weighted import WeightedCriteria
from lit_distill.outputs import Outputs

mpl.use("Agg")


def bars(axes: Axes) -> dict[str, float]:
    names = [label.get_text() for label in axes.get_yticklabels()]
    found = {name: float(bar.get_width()) for name, bar in zip(names, axes.patches, strict=True)}
    plt.close(axes.figure)
    return found


def test_bars_are_as_long_as_the_weighted_terms() -> None:
    metrics: dict[str, Any] = {
        "train/weighted/hard": torch.tensor(0.25),
        "train/criteria/hard": 0.5,
        "train/weight/hard": 0.5,
        "train/weighted/soft": 1.5,
        "train/loss": 1.75,
    }
    axes = plot_terms(metrics)
    assert axes.get_xlabel() == "weight × value"
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["0.25", "1.5"]
    assert bars(axes) == {"hard": 0.25, "soft": 1.5}


def test_the_losses_of_a_batch_are_drawn() -> None:
    criteria = WeightedCriteria({"mse": LogitMSE(), "soft": SoftTarget(1.0)}, {"mse": 2.0, "soft": 0.5})
    student, teacher = Outputs(torch.tensor([[1.0, 2.0]])), Outputs(torch.tensor([[3.0, 2.0]]))
    losses = criteria(student, teacher, None)
    found = bars(plot_terms(losses.named()))
    assert found["mse"] == pytest.approx(4.0)
    assert sum(found.values()) == pytest.approx(losses.total.item())


def test_given_axes_are_drawn_into() -> None:
    _, axes = plt.subplots()
    assert plot_terms({"distill/weighted/soft": 1.0}, axes) is axes
    plt.close(axes.figure)


def test_metrics_without_terms_are_refused() -> None:
    with pytest.raises(ValueError, match="no weighted terms among the metrics; give .* trainer.callback_metrics"):
        plot_terms(Trainer(logger=False, accelerator="cpu", barebones=True).callback_metrics)


def test_hints_can_be_evaluated_without_matplotlib() -> None:
    """The command line evaluates those of every function of the top package."""
    assert set(get_type_hints(plot_terms)) == {"metrics", "axes", "return"}
