"""Scores of samples, and their paired differences, against sums by hand."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
import torch.nn.functional as F

from lit_distill.batch.labels import Task
from lit_distill.reporting.scores import SampleScores, gap, sample_scores


def scores(
    task: Task, logits: torch.Tensor, target: torch.Tensor | None, **more: torch.Tensor
) -> tuple[list[float], ...]:
    found = sample_scores(task, logits, target, more.get("teacher"), more.get("mask"))
    assert found is not None
    return found.total.tolist(), found.count.tolist()


def test_classes_of_whole_samples() -> None:
    logits = torch.tensor([[1.0, 0], [0, 1.0], [0, 1.0]])
    assert scores("multiclass", logits, torch.tensor([0, 0, -100])) == ([1, 0, 0], [1, 1, 0])
    assert scores("multiclass", logits, torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])) == ([1, 0, 1], [1, 1, 1])


def test_positions_are_summed_by_sample() -> None:
    logits = F.one_hot(torch.tensor([[0, 1, 1], [1, 1, 0]]), 2).float()
    target = torch.tensor([[0, 1, 0], [1, -100, 1]])
    assert scores("multiclass", logits, target) == ([2, 1], [3, 2])
    mask = torch.tensor([[True, False, True], [True, True, False]])
    assert scores("multiclass", logits, target, mask=mask) == ([1, 1], [2, 1])
    maps = logits.permute(0, 2, 1).unsqueeze(-1)  # [B, C, H, 1]
    assert scores("multiclass", maps, target.unsqueeze(-1)) == ([2, 1], [3, 2])


def test_labels_by_element() -> None:
    logits = torch.tensor([[1.0, -1.0], [-1.0, 2.0]])
    assert scores("multilabel", logits, torch.tensor([[1.0, 1.0], [0.0, -100.0]])) == ([1, 1], [2, 1])
    assert scores("binary", logits[:, 0], torch.tensor([1, 1])) == ([1, 0], [1, 1])


def test_numbers_and_vectors() -> None:
    outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert scores("regression", outputs, torch.tensor([[1.0, 0.0], [3.0, -100.0]])) == ([4, 0], [2, 1])
    found = sample_scores("embedding", outputs, None, outputs.flip(1), None)
    assert found is not None
    assert found.total.tolist() == pytest.approx([4 / 5, 24 / 25])
    assert sample_scores("embedding", outputs, None, None, None) is None
    assert sample_scores("none", outputs, torch.zeros(2, 2), outputs, None) is None


def test_the_error_of_whole_samples_is_that_of_a_mean_of_differences() -> None:
    student, other = (torch.rand(50) < 0.7).double(), (torch.rand(50) < 0.8).double()
    found = gap(SampleScores(student, torch.ones(50)), SampleScores(other, torch.ones(50)), "teacher", "accuracy")
    assert found is not None
    apart = (student - other).tolist()
    assert found.difference == pytest.approx(statistics.fmean(apart))
    assert found.standard_error == pytest.approx(statistics.stdev(apart) / math.sqrt(50))
    low, high = found.interval() or (0.0, 0.0)
    assert (high - low) / 2 == pytest.approx(2.0096 * found.standard_error, rel=1e-3)  # t, 49 degrees of freedom


def test_positions_that_agree_within_a_sample_count_as_one() -> None:
    right = torch.tensor([1.0, 0, 1, 0, 1, 1])
    once = gap(SampleScores(right, torch.ones(6)), SampleScores(1 - right, torch.ones(6)), "teacher", "accuracy")
    often = gap(
        SampleScores(9 * right, torch.full((6,), 9.0)),
        SampleScores(9 * (1 - right), torch.full((6,), 9.0)),
        "teacher",
        "accuracy",
    )
    assert once is not None
    assert often is not None
    assert often.standard_error == pytest.approx(once.standard_error)


def test_the_interval_covers_the_difference_as_often_as_it_says() -> None:
    draws, covered, samples = 400, 0, 300
    for _ in range(draws):
        hard = torch.rand(samples)
        student, other = (
            (hard + 0.3 * torch.rand(samples) < 0.8).double(),
            (hard + 0.3 * torch.rand(samples) < 0.7).double(),
        )
        ones = torch.ones(samples)
        found = gap(SampleScores(student, ones), SampleScores(other, ones), "teacher", "accuracy")
        assert found is not None
        low, high = found.interval() or (0.0, 0.0)
        covered += low <= 0.1 <= high
    assert 0.92 < covered / draws < 0.98


def test_nothing_to_compare() -> None:
    none = SampleScores(torch.zeros(3), torch.zeros(3))
    assert gap(none, none, "teacher", "accuracy") is None
    alike = SampleScores(torch.ones(3), torch.ones(3))
    same = gap(alike, alike, "teacher", "accuracy")
    assert same is not None
    assert same.interval() is None
