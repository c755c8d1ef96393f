"""Logits and labels as rows: those that count, with the weight of their sample."""

from __future__ import annotations

import pytest
import torch

from lit_distill.batch.label_rows import counted_rows, labelled
from lit_distill.batch.labels import class_dim, positions
from tests.batch.test_labels import every_layout, indices, logits_for


@every_layout
@pytest.mark.parametrize("masked", [False, True])
def test_rows_are_those_that_count_with_their_samples_weight(layout: str, masked: bool) -> None:
    logits, target = logits_for(layout), indices(layout)
    weight = torch.arange(len(target)) + 1.0
    mask = target != 0 if masked and layout != "rows" else None
    found = labelled(logits, target, "multiclass", mask, weight)
    last, each = logits.movedim(class_dim(logits), -1), weight.reshape(-1, *[1] * (target.dim() - 1)).expand_as(target)
    keep = mask if mask is not None else torch.ones_like(target, dtype=torch.bool)
    assert torch.equal(found.logits, last[keep])
    assert torch.equal(found.labels, target[keep])
    assert found.weight is not None
    assert torch.equal(found.weight, each[keep])
    assert positions(logits) == target.shape


def test_a_mask_of_maps_without_a_dimension_of_classes_is_applied() -> None:
    logits, target = torch.randn(2, 4, 5), torch.randint(0, 2, (2, 4, 5))
    mask = torch.rand(2, 4, 5) < 0.5
    found = labelled(logits, target, "binary", mask)
    assert torch.equal(found.logits, logits[mask].unsqueeze(1))
    assert torch.equal(found.labels, target[mask].unsqueeze(1).float())


def test_masks_and_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a mask of shape \[2, 7\] does not fit logits \[2, 5, 3\]"):
        counted_rows(torch.zeros(2, 5, 3), torch.ones(2, 7).bool())
    target = torch.zeros(4).long()
    with pytest.raises(ValueError, match=r"sample weights \[3\] do not fit a batch of 4.*\[4\]"):
        labelled(torch.zeros(4, 3), target, "multiclass", sample_weight=torch.ones(3))
    with pytest.raises(ValueError, match="at least 0; one is -1"):
        labelled(torch.zeros(4, 3), target, "multiclass", sample_weight=-torch.ones(4))
