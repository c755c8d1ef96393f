"""Names in the package: a public class has one meaning."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "lit_distill"
# One callback in the package of either name of Lightning: the second is a subclass of the first.
TWINS = {"Distill"}


# Each command has a ``main``; the doctor reports on a setup, and ``lit_distill.report`` on a student.
ENTRY_POINTS = {"main", "report"}


def defined_twice(kind: type[ast.ClassDef] | type[ast.FunctionDef]) -> dict[str, list[str]]:
    """Return the files of each public name of a kind that several modules define."""
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, kind) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(PACKAGE)))
    return {name: found for name, found in places.items() if len(found) > 1}


def test_no_public_class_name_is_defined_twice() -> None:
    assert defined_twice(ast.ClassDef).keys() - TWINS == set()


def test_no_public_function_name_is_defined_twice() -> None:
    assert defined_twice(ast.FunctionDef).keys() - ENTRY_POINTS == set()
