"""A check, the decorator that makes a function one, and what a check finds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

Severity = Literal["bug", "warning"]
Case = TypeVar("Case")


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or looks wrong.

    Attributes:
        check: The check that found it, a name in ``CHECKS``.
        severity: ``bug``: the training does not do what it says. ``warning``: it may be intended; check it.
        where: The criterion, parameter or network.
        found: What was seen, with numbers.
        remedy: What to do.
    """

    check: str
    severity: Severity
    where: str
    found: str
    remedy: str


def bug(where: str, found: str, remedy: str) -> list[Finding]:
    """Return one finding of severity ``bug``; ``@check`` adds the check's name."""
    return [Finding("", "bug", where, found, remedy)]


def warning(where: str, found: str, remedy: str) -> list[Finding]:
    """Return one finding of severity ``warning``; ``@check`` adds the check's name."""
    return [Finding("", "warning", where, found, remedy)]


@dataclass(frozen=True)
class Check(Generic[Case]):
    """A named check of a trial fit, or of one criterion."""

    name: str
    holds: str  # true if it finds nothing, as the report says it
    # Returns None if the check does not apply. Its docstring stands in docs/doctor.md.
    find: Callable[[Case], list[Finding] | None]

    def __call__(self, case: Case) -> list[Finding] | None:
        """Return what was found, with the check's name, or None if the check does not apply."""
        found = self.find(case)
        return None if found is None else [replace(finding, check=self.name) for finding in found]


def check(name: str, holds: str) -> Callable[[Callable[[Case], list[Finding] | None]], Check[Case]]:
    """Make a function a check, by its name in the report and what is true if it finds nothing."""
    return lambda find: Check(name, holds, find)
