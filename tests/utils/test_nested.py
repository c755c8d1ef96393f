"""The differences of nested mappings."""

from __future__ import annotations

from typing import Any

from lit_distill.utils.nested import differing

BEFORE: dict[str, Any] = {"a": {"b": 1, "c": (1, 2)}, "d": 2, "gone": 3}
NOW: dict[str, Any] = {"a": {"b": 5, "c": [1, 2]}, "d": 2, "new": 4}


def test_values_of_common_keys_are_compared_by_path() -> None:
    assert list(differing(BEFORE, NOW)) == [("a.b", 1, 5), ("a.c", (1, 2), [1, 2])]


def test_values_are_converted_before_they_are_compared() -> None:
    as_list = lambda value: list(value) if isinstance(value, tuple) else value  # noqa: E731
    assert list(differing(BEFORE, NOW, as_list)) == [("a.b", 1, 5)]


def test_keys_of_only_one_mapping_count_if_asked_for() -> None:
    found = list(differing({"x": 1}, {"y": {"z": 2}}, union=True, path="top"))
    assert found == [("top.x", 1, None), ("top.y", None, {"z": 2})]
