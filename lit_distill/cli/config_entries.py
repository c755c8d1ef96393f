"""Finds which entry of a mapping was refused, where only its class is known."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lit_distill.criteria import Criterion

Step = tuple[int, str, str]  # indentation, kind, name
Given = tuple[int, int, str]  # number of refusals before it, indentation, the value


def name_entries(steps: Sequence[Step], index: int, values: Sequence[Given]) -> tuple[tuple[str, str], ...]:
    """Return the keys and classes on the way to a refusal, with the entries of mappings in between."""
    named: list[tuple[str, str]] = []
    for place, (indent, kind, name) in enumerate(steps):
        before = steps[place - 1] if place else None
        if kind == "class" and before is not None and before[1] == "key":
            inside = (value for after, level, value in values if after > index and before[0] < level < indent)
            entry = _refused_entry(next(inside, ""), name)
            named += [("key", entry)] if entry else []
        named.append((kind, name))
    return tuple(named)


def _refused_entry(value: str, kind: str) -> str | None:
    """Return the first entry of that class that is not parsed yet: those before it are ``Namespace(…)`` by then."""
    try:
        found = ast.parse(value, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    if not isinstance(found, ast.Dict):
        return None
    for key, entry in zip(found.keys, found.values, strict=True):
        if not isinstance(key, ast.Constant) or key.value in ("class_path", "init_args"):
            return None
        if not isinstance(entry, ast.Call) and _class_of(entry).rpartition(".")[2] == kind.rpartition(".")[2]:
            return str(key.value)
    return None


def _class_of(entry: ast.expr) -> str:
    if isinstance(entry, ast.Dict):
        options = zip(entry.keys, entry.values, strict=True)
        entry = next(
            (value for key, value in options if isinstance(key, ast.Constant) and key.value == "class_path"), entry
        )
    return str(entry.value) if isinstance(entry, ast.Constant) else ""


def criterion_behind(error: BaseException, config: Any) -> str:
    """Return ``criterion 'soft' (SoftTarget): `` for an error of a criterion's ``__init__``; empty if none is behind it.

    The error knows only the class, and the config the name: of several entries of one class, it is the first whose options
    are those of the call.
    """
    trace = error.__traceback__
    while trace is not None and not isinstance(trace.tb_frame.f_locals.get("self"), Criterion):
        trace = trace.tb_next
    if trace is None or str(error).startswith("criterion "):
        return ""
    given = trace.tb_frame.f_locals
    kind = type(given["self"]).__name__
    for name, spec in _plain(config).items():
        for made in _specs(spec):
            options = made.get("init_args") or {}
            if str(made["class_path"]).rpartition(".")[2] == kind and all(
                given.get(key) == value for key, value in options.items() if isinstance(value, (int, float, str))
            ):
                return f"criterion {name!r} ({kind}): "
    return ""


def _specs(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the classes that an entry makes: its own, and those among its options."""
    inner = _plain(value)
    if "class_path" in inner:
        yield inner
    for one in value if isinstance(value, (list, tuple)) else inner.values():
        yield from _specs(one)


def _plain(value: Any) -> Mapping[str, Any]:
    found = value.as_dict() if hasattr(value, "as_dict") else value
    return found if isinstance(found, Mapping) else {}
