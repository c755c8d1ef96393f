"""Results made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lit_distill.compare import CONTROL, Result


def run(student: str, teacher: str, method: str, seed: int, score: float, **others: Any) -> Result:
    """One run, of a student that takes 1 ms and 40 bytes unless said otherwise."""
    values: dict[str, Any] = {"teacher_score": 0.99 if teacher else None, "seconds": 2.0, "curve": (), "parameters": 10}
    values |= {"size_bytes": 40, "latency_ms": 1.0, "epochs": 2, **others}
    return Result(student, teacher, method, seed, score, **values)


def runs(student: str, teacher: str, method: str, scores: Sequence[float], **others: Any) -> list[Result]:
    """Runs with seeds 0, 1, …."""
    return [run(student, teacher, method, seed, score, **others) for seed, score in enumerate(scores)]


def controls(student: str, scores: Sequence[float], **others: Any) -> list[Result]:
    """Runs without a teacher, with seeds 0, 1, …."""
    return runs(student, "", CONTROL, scores, **others)
