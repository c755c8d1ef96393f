"""Checks of the arguments that several criteria take."""

from __future__ import annotations

import math
from collections.abc import Mapping


def check_share(name: str, share: float) -> None:
    """Refuse the weight of a criterion's own term where it is out of range.

    Raises:
        ValueError: It is not finite or below 0.
    """
    if not (math.isfinite(share) and share >= 0):
        raise ValueError(f"{name} must be finite and at least 0, not {share}.")


def check_shares(shares: Mapping[str, float]) -> None:
    """Refuse the weights of a criterion's own terms where one is out of range, or all are 0.

    Raises:
        ValueError: One is not finite or below 0, or none is above.
    """
    for name, share in shares.items():
        check_share(name, share)
    if not any(shares.values()):
        raise ValueError(f"{' and '.join(shares)} are all 0: nothing would be compared.")
