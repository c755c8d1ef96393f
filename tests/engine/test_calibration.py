"""The binned calibration error is that of torchmetrics, in memory that does not grow."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

from lit_distill.engine.calibration import BinnedCalibrationError


@pytest.mark.parametrize("scale", [0.1, 3.0, 300.0])
@pytest.mark.parametrize("bins", [5, 15])
def test_it_is_the_one_of_torchmetrics(scale: float, bins: int) -> None:
    logits = scale * torch.randn(3, 400, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 4, (3, 400), generator=torch.Generator().manual_seed(1))
    ours, theirs = BinnedCalibrationError(bins), MulticlassCalibrationError(4, n_bins=bins)
    ours_b, theirs_b = BinnedCalibrationError(bins), BinaryCalibrationError(n_bins=bins)
    for z, y in zip(logits, labels, strict=True):
        p = z.softmax(-1)
        ours.update(*p.max(-1).values.unsqueeze(0), p.argmax(-1) == y)
        theirs.update(p, y)
        q = z[:, 0].sigmoid()
        ours_b.update(q, y > 1)
        theirs_b.update(q, (y > 1).int())
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-6)
    assert ours_b.compute().item() == pytest.approx(theirs_b.compute().item(), abs=1e-6)


def test_edges_of_bins_and_certainty_are_torchmetrics_own() -> None:
    confidence = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    hit = torch.tensor([0, 1, 0, 1, 1, 1, 0])
    ours, theirs = BinnedCalibrationError(5), BinaryCalibrationError(n_bins=5)
    ours.update(confidence, hit)
    theirs.update(confidence, hit)
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), abs=1e-6)


def test_what_is_kept_does_not_grow() -> None:
    metric = BinnedCalibrationError()
    sizes = set()
    for _ in range(3):
        metric.update(torch.rand(10_000), torch.rand(10_000) < 0.5)
        sizes.add(sum(value.numel() for value in metric.metric_state.values()))
    assert sizes == {3 * 16}
    assert metric.counts.sum() == 30_000


def test_half_precision_is_added_up_in_double() -> None:
    metric = BinnedCalibrationError()
    confidence = torch.full((20_000,), 0.5, dtype=torch.float16)
    metric.update(confidence, torch.ones(20_000, dtype=torch.bool))
    assert metric.compute().item() == pytest.approx(0.5, abs=1e-6)
