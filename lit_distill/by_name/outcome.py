"""What comes out: the table of student, teacher and control, and the student as a plain network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lit_distill.utils.text_tables import aligned


@dataclass(frozen=True)
class NetworkRow:
    """A network of the table.

    Attributes:
        network: ``student``, ``teacher`` or ``no teacher``.
        name: The name that it was given.
        accuracy: In [0, 1].
        parameters: Their number.
        milliseconds: Of a forward pass for one image of its size, the median of some.
    """

    network: str
    name: str
    accuracy: float
    parameters: int
    milliseconds: float


@dataclass(frozen=True)
class FitResult:
    """The outcome of ``lit_distill.fit``; printed, it is the table.

    Attributes:
        student: The distilled network, plain and in eval mode; it takes images of its own size, normalised as it says.
        rows: The table: student, teacher, and the student without a teacher if it was trained.
        notes: Lines below the table: what it was measured on, and how far it can be trusted.
        classes: Names of the classes, in the order of the logits.
        folder: Where everything is.
        weights: The student's weights, a state dict of its own names.
        config: The config of the distillation: ``lit-distill fit --config`` repeats it.
    """

    student: nn.Module
    rows: tuple[NetworkRow, ...]
    notes: tuple[str, ...]
    classes: tuple[str, ...]
    folder: Path
    weights: Path
    config: Path

    def __str__(self) -> str:
        return rows_as_text(self.rows, self.notes)


def rows_as_text(rows: Sequence[NetworkRow], notes: Sequence[str]) -> str:
    """Return rows as a table in text, and the notes below it."""
    cells = [("", "accuracy", "parameters", "ms/image", "")]
    for row in rows:
        cells.append(
            (row.network, f"{row.accuracy:.1%}", f"{row.parameters:,}", f"{row.milliseconds:.1f}", row.name),
        )
    return "\n".join([*aligned(cells, left=(0, 4)), *notes])
