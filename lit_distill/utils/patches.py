"""Attributes that are replaced on single objects for a while."""

from __future__ import annotations

from typing import Any


class Patches:
    """Replaces attributes of objects, whose classes stay as they are, and restores them."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of one object."""
        self._before.append((owner, name, vars(owner).get(name)))
        vars(owner)[name] = value

    def restore(self) -> None:
        """Restore every attribute, once."""
        for owner, name, before in reversed(self._before):
            vars(owner).pop(name, None)
            if before is not None:
                vars(owner)[name] = before
        self._before = []
