"""Words that the answers share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lit_distill.compare.statistics import Difference, TableRow
from lit_distill.compare.units import Units
from lit_distill.utils.names import count

_MOST = 6


def unbroken(text: str) -> str:
    """Return text with spaces that keep an interval, and a number and its unit, on one line."""
    return re.sub(r"\[[^\]]*\]|\d (?=%|ms|s\b|seed|case|point)", lambda found: found[0].replace(" ", "\xa0"), text)


def listed_cases(texts: Sequence[str]) -> str:
    """Join texts that hold commas; beyond a number, the table has the rest."""
    more = len(texts) - _MOST
    return "; ".join([*texts[:_MOST], f"{more} more (see the table)"] if more > 0 else texts)


def joined(texts: Sequence[str], most: int = _MOST) -> str:
    """Join texts as in a sentence; beyond ``most``, the table has the rest.

    Example:
        >>> joined(["a", "b", "c"]), joined(list("abcd"), most=2)
        ('a, b and c', 'a, b and 2 more (see the table)')
    """
    if len(texts) > most:
        return f"{', '.join(texts[:most])} and {len(texts) - most} more (see the table)"
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)


def measured(difference: Difference, units: Units, seeds: bool = True) -> str:
    """Return a difference with its interval, as a sentence has it; without its number of seeds only where that is said."""
    interval = difference.interval()
    text = units.difference(difference.mean) + (f" {units.interval(interval)}" if interval else "")
    return f"{text} ({count(difference.seeds, 'seed')})" if seeds else text


def scored(row: TableRow, units: Units) -> str:
    """Return a row's mean with its number of seeds, as a sentence has it."""
    return f"{units.score(row.mean)} ({count(len(row.seeds), 'seed')})"


def seeds_in_words(differences: Sequence[Difference]) -> str:
    """Return how many seeds differences have, as in ``3 seeds`` or ``2 to 5 seeds``."""
    numbers = sorted({one.seeds for one in differences})
    if len(numbers) > 1:
        return f"{numbers[0]} to {numbers[-1]} seeds"
    return count(numbers[0], "seed")
