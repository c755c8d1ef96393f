"""Tables of text for the terminal."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def aligned(lines: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> list[str]:
    """Return rows of cells as lines whose columns stand below each other.

    Args:
        lines: The cells of each row, as many in each.
        left: Columns whose cells stand at the left, from 0; the others stand at the right.

    Example:
        >>> aligned([["layer", "KL"], ["a", "0.25"]])
        ['layer    KL', 'a      0.25']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
