"""Criteria that people write, and that are right: the doctor finds no bug in them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lit_distill.doctor import examine, examining
from tests.doctor.bugs import OnFeatures, OnLogits, kl
from tests.doctor.setups import with_criterion

Formula = Callable[[Tensor, Tensor, Tensor], Tensor]


class WrittenOnLogits(OnLogits):
    needs_target = True

    def __init__(self, formula: Formula) -> None:
        super().__init__(4.0)
        self.formula = formula

    def compare(self, student: Tensor, teacher: Tensor, target: Tensor | None) -> Tensor:
        assert target is not None
        return self.formula(student, teacher, target)


class WrittenOnFeatures(OnFeatures):
    def __init__(self, formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.formula = formula

    def compare(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.formula(student, teacher)


def _divergences(s: Tensor, t: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(s, -1), F.log_softmax(t, -1), log_target=True, reduction="none").sum(-1)


def _infonce(s: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(F.normalize(s, dim=-1) @ F.normalize(t, dim=-1).T / 0.1, torch.arange(len(s)))


def _sorted(p: Tensor) -> Tensor:
    return p.softmax(-1).sort(-1)[0]


ON_LOGITS: dict[str, Formula] = {
    "labels and KL": lambda s, t, y: 0.5 * F.cross_entropy(s, y) + 0.5 * kl(s, t),
    "soft cross-entropy": lambda s, t, y: F.cross_entropy(s, t.softmax(-1)),
    "the teacher's class": lambda s, t, y: F.cross_entropy(s, t.argmax(-1)),
    "squared error": lambda s, t, y: F.mse_loss(s, t),
    "squared error of probabilities": lambda s, t, y: F.mse_loss(s.softmax(-1), t.softmax(-1)),
    "absolute error": lambda s, t, y: F.l1_loss(s, t),
    "sigmoids": lambda s, t, y: F.binary_cross_entropy_with_logits(s, t.sigmoid()),
    "likeness": lambda s, t, y: 1 - F.cosine_similarity(s, t, -1).mean(),
    "sorted probabilities": lambda s, t, y: (_sorted(s) - _sorted(t)).abs().sum(-1).mean(),
    "where the teacher is right": lambda s, t, y: (_divergences(s, t) * (t.argmax(-1) == y)).mean(),
    "the hardest half": lambda s, t, y: _divergences(s, t).topk(max(1, len(s) // 2))[0].mean(),
    "weighted by a loss": lambda s, t, y: (
        F.cross_entropy(s, y, reduction="none").detach() * _divergences(s, t)
    ).mean(),
}
ON_FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "unit length": lambda s, t: F.mse_loss(F.normalize(s, dim=-1), F.normalize(t, dim=-1)),
    "contrast": _infonce,
    "dropout": lambda s, t: F.mse_loss(F.dropout(s, 0.3), t),
    "a guarded root": lambda s, t: (s - t).pow(2).sum(-1).add(1e-6).sqrt().mean(),
    "a margin": lambda s, t: F.relu((s - t).abs() - 0.1).mean(),
    "a logarithm": lambda s, t: torch.log((s - t).pow(4).sum() + 1e-6),
    "covariance": lambda s, t: -((s - s.mean(0)) * (t - t.mean(0))).mean(),
}


@pytest.mark.parametrize("name", ON_LOGITS)
def test_finds_no_bug_on_logits(name: str) -> None:
    module, data = with_criterion(WrittenOnLogits(ON_LOGITS[name]))
    assert [finding for finding in examine(module, data, steps=2) if finding.severity == "bug"] == []


@pytest.mark.parametrize("name", ON_FEATURES)
def test_finds_no_bug_on_features(name: str) -> None:
    module, data = with_criterion(WrittenOnFeatures(ON_FEATURES[name]))
    assert [finding for finding in examine(module, data, steps=2) if finding.severity == "bug"] == []


def test_says_what_a_slow_criterion_was_not_checked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examining, "_PATIENCE", 0.0)
    module, data = with_criterion(WrittenOnLogits(ON_LOGITS["labels and KL"]))
    notes = examining.report(module, data, steps=1).notes
    assert any("is slow, and was not checked for scalar, gradient" in note for note in notes), notes
