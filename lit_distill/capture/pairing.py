"""Pairs the stages of two networks by relative depth and resolution."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lit_distill.capture.stages import Block, Stages, count_positions, quarters

Pair = tuple[Block, Block]
_HALVING = 0.25  # of the depth, that a factor of 2 in each direction counts as


def pair_stages(student: Stages, teacher: Stages, fits: Callable[[Block, Block], bool]) -> list[Pair]:
    """Return as many pairs as the network with fewer stages has, in order; fewer if others do not fit.

    Of all ways to pair, the one with the least difference in depth and resolution is taken. If no stages fit, the vectors
    that the networks' last linear layers take may.

    Args:
        student: The student's stages.
        teacher: The teacher's stages.
        fits: Whether two layers can be compared.
    """
    pairs = match(*candidates(student, teacher), fits)
    if pairs:
        return pairs
    lasts = [stages.ends[-1] if stages.ends else None for stages in (student, teacher)]
    for pair in ((lasts[0], teacher.head), (student.head, lasts[1]), (student.head, teacher.head)):
        if pair[0] is not None and pair[1] is not None and fits(pair[0], pair[1]):
            return [(pair[0], pair[1])]
    return []


def candidates(student: Stages, teacher: Stages) -> tuple[Sequence[Block], Sequence[Block]]:
    """Return the layers of both networks that may pair, the fewer of which all shall.

    A network of one resolution offers all its blocks to one with stages. Of two such networks, the shallower offers the ends
    of parts that divide both networks evenly, if it can be.
    """
    if not (student.uniform and teacher.uniform):
        return _offered(student, teacher), _offered(teacher, student)
    if len(student.blocks) > len(teacher.blocks):
        return tuple(reversed(candidates(teacher, student)))  # type: ignore[return-value]
    both = math.gcd(len(student.blocks), len(teacher.blocks))
    parts = max((parts for parts in range(1, len(student.ends) + 1) if both % parts == 0), default=1)
    ends = quarters(student.blocks, parts) if parts > 1 and student.evenly and teacher.evenly else student.ends
    return ends, teacher.blocks


def _offered(stages: Stages, other: Stages) -> Sequence[Block]:
    return stages.blocks if len(stages.ends) >= len(other.ends) else stages.ends


def match(student: Sequence[Block], teacher: Sequence[Block], fits: Callable[[Block, Block], bool]) -> list[Pair]:
    """Return the most pairs in the order of both lists, of these the ones with the least differences."""
    best: dict[tuple[int, int], tuple[int, float, list[Pair]]] = {}
    for i in range(len(student) + 1):
        for j in range(len(teacher) + 1):
            options = [(0, 0.0, [])] if not (i and j) else [best[i - 1, j], best[i, j - 1]]
            if i and j and fits(student[i - 1], teacher[j - 1]):
                count, cost, pairs = best[i - 1, j - 1]
                pair = student[i - 1], teacher[j - 1]
                options.append((count + 1, cost + difference(*pair), [*pairs, pair]))
            best[i, j] = min(options, key=lambda option: (-option[0], option[1]))
    return best[len(student), len(teacher)][2]


def difference(student: Block, teacher: Block) -> float:
    """Return how far two layers are apart, in shares of the depth."""
    ratio = count_positions(student.feature) / count_positions(teacher.feature)
    return abs(student.depth - teacher.depth) + _HALVING * abs(math.log2(ratio)) / 2
