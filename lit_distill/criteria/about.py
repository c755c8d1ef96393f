"""Where a method comes from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class About:
    """A method's origin, for the table of methods.

    Attributes:
        method: Its name in the literature.
        paper: Authors, year and title.
        weight: The weight that the paper or its code uses, in this library's reductions.
    """

    method: str
    paper: str
    weight: float
