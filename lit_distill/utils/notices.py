"""What the library has to say of a set-up that runs, and may not do what its user thinks."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_warn


class DistillationWarning(UserWarning):
    """Something that runs, and may not be meant: ``lit-distill doctor`` reports each."""


def tell(message: str) -> None:
    """Warn once per place, on the first process alone.

    Args:
        message: What, whose, where, and what would be right.
    """
    rank_zero_warn(message, category=DistillationWarning, stacklevel=5)
