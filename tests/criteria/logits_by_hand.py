"""Formulas of logits in plain loops, and the logits that the reference values belong to: no code of the library."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lit_distill import Criterion, Outputs

Row = list[float]


def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int, classes: int, seed: int = 5) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def reference_logits() -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's logits ``[8, 10]`` and labels ``[8]``."""
    g = torch.Generator().manual_seed(0)
    student = 2 * torch.randn(8, 10, generator=g, dtype=torch.float64)
    teacher = 3 * torch.randn(8, 10, generator=g, dtype=torch.float64)
    return student, teacher, torch.randint(0, 10, (8,), generator=g)


def softmax(row: Row, temperature: float = 1.0) -> Row:
    powers = [math.exp(z / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def kl(p: Row, q: Row) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def without(row: Row, index: int) -> Row:
    return [value for place, value in enumerate(row) if place != index]


def correlation(x: Row, y: Row, epsilon: float = 0.0) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    product = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    norms = math.sqrt(sum((a - mean_x) ** 2 for a in x)) * math.sqrt(sum((b - mean_y) ** 2 for b in y))
    return product / (norms + epsilon)


def standardized(row: Row) -> Row:
    mean = sum(row) / len(row)
    std = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
    return [(z - mean) / (std + 1e-7) for z in row]


def value_of(
    criterion: Criterion, student: Tensor, teacher: Tensor, target: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    value: Tensor = criterion(Outputs(student, mask=mask), Outputs(teacher), target)
    return value


def gradient_of(
    criterion: Criterion, student: Tensor, teacher: Tensor, target: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    leaf = student.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value_of(criterion, leaf, teacher, target, mask).backward()
    assert leaf.grad is not None
    return leaf.grad


def as_tokens(rows: Tensor) -> Tensor:
    """24 rows as 4 sequences of 6 tokens: ``[4, 6, C]`` of ``[24, C]``, ``[4, 6]`` of ``[24]``."""
    return rows.reshape(4, 6, *rows.shape[1:])


def as_pixels(rows: Tensor) -> Tensor:
    """24 rows as 4 maps of 2x3 pixels: ``[4, C, 2, 3]`` of ``[24, C]``, ``[4, 2, 3]`` of ``[24]``."""
    maps = rows.reshape(4, 2, 3, *rows.shape[1:])
    return maps.permute(0, 3, 1, 2).contiguous() if rows.dim() == 2 else maps
