"""Student's t distribution for whole degrees of freedom, which neither PyTorch nor the standard library has."""

from __future__ import annotations

import math


def two_sided_p(t: float, degrees: int) -> float:
    """Return the probability of a value as far from 0 as ``t`` or farther.

    The sums are exact for whole degrees of freedom (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and
    26.7.4).

    Args:
        t: Any number; its sign does not matter.
        degrees: Of freedom, 1 or more.

    Returns:
        In [0, 1], to about 1e-15.

    Example:
        >>> round(two_sided_p(4.3027, 2), 4)
        0.05
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for power in range(odd, degrees - 1, 2):
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return min(1.0, max(0.0, 1.0 - inside))


def quantile(probability: float, degrees: int) -> float:
    """Return the value below which a share of the distribution lies.

    Args:
        probability: In (0, 1), such as 0.975 for the upper end of a 95 % interval.
        degrees: Of freedom, 1 or more.

    Example:
        >>> round(quantile(0.975, 2), 3), round(quantile(0.5, 7), 3)
        (4.303, 0.0)
    """
    if probability < 0.5:
        return -quantile(1 - probability, degrees)
    outside = 2 * (1 - probability)
    low, high = 0.0, 1.0
    while two_sided_p(high, degrees) > outside:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided_p(middle, degrees) > outside else (low, middle)
    return (low + high) / 2
