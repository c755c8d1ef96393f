"""What every criterion is put through: one case each, with what it promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lit_distill import Criterion, Outputs

CLASSES = 5


@dataclass(frozen=True)
class Case:
    """A criterion with one setting.

    Attributes:
        name: Shown by pytest.
        make: Makes the criterion.
        kind: What it reads of both networks: ``logits`` alone, or features of layers "a": ``vector`` [B, D], ``tokens``
            [B, N, D], ``map`` [B, C, H, W].
        zero_at_equality: The value is 0 (its minimum) where student and teacher put out the same.
        same_width: Student's and teacher's features have one shape in the zero test and everywhere.
        finite_at: Largest magnitude of logits or features at which value and gradient must be finite.
        finite_in_float16: The same in float16, whose largest number a gradient may exceed.
        batch_of_one: "works", or a part of the error message that refuses it.
        extra: What a test is to leave out, with its reason: {"channels_last": "…"}.
        positions: Of dense logits [B, C, H, W]: (H, W).
    """

    name: str
    make: Callable[[], Criterion]
    kind: str = "logits"
    zero_at_equality: bool = True
    same_width: bool = False
    finite_at: float = 1e4
    finite_in_float16: float = 1e4
    batch_of_one: str = "works"
    extra: dict[str, str] = field(default_factory=dict)
    positions: tuple[int, ...] = ()


def example(
    case: Case, batch: int = 6, seed: int = 0, scale: float = 1.0, **options: Any
) -> tuple[Outputs, Outputs, Tensor]:
    """Outputs of both networks, in float64 unless ``dtype`` says otherwise, and labels."""
    generator = torch.Generator().manual_seed(seed)
    dtype = options.get("dtype", torch.float64)

    def draw(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64)).to(dtype)

    width_t = 8 if case.same_width else 12
    shapes = {"vector": [(8,), (width_t,)], "tokens": [(9, 8), (9, width_t)], "map": [(8, 4, 4), (width_t, 4, 4)]}
    features: list[dict[str, Tensor]] = [{}, {}]
    if case.kind != "logits":
        features = [{"a": draw(batch, *shape)} for shape in shapes[case.kind]]
    logits = [draw(batch, CLASSES, *case.positions), draw(batch, CLASSES, *case.positions)]
    target = torch.randint(0, CLASSES, (batch, *case.positions), generator=generator)
    return Outputs(logits[0], features[0]), Outputs(logits[1], features[1]), target


def leaves(outputs: Outputs) -> Outputs:
    """The same values as leaves that collect gradients."""
    features = {name: value.detach().clone().requires_grad_() for name, value in outputs.features.items()}
    return Outputs(outputs.logits.detach().clone().requires_grad_(), features, outputs.mask)


def built(case: Case, dtype: torch.dtype = torch.float64, seed: int = 1) -> Criterion:
    """The criterion with its layers sized, the same initial weights each time."""
    torch.manual_seed(seed)
    criterion = case.make()
    student, teacher, _ = example(case)
    criterion.build(student, teacher)
    return criterion.to(dtype)
