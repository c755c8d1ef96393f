"""The library's warnings about set-ups that run, and may not do what their user thinks."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn


class DistillationWarning(UserWarning):
    """Something that runs, and may not be intended; ``lit-distill doctor`` reports each."""


def warn(message: str) -> None:
    """Warn once per place, on the first process only."""
    rank_zero_warn(message, category=DistillationWarning, stacklevel=5)
