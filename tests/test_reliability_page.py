"""The reliability page names every promise that tests count, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ROW = re.compile(r"^\| (.+?) \| ([\d,]+) \| \[.*\]\(\.\./(tests/promises/.+)\) \|$", re.MULTILINE)


def _counted(path: Path) -> Iterator[str]:
    """What the tests of a file call ``tally`` with: text, or a name of the module's own for it."""
    tree = ast.parse(path.read_text())
    named = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "tally":
            for given in ast.walk(node.args[0]):
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    yield given.value
                elif isinstance(given, ast.Name) and given.id in named:
                    yield named[given.id]


def test_the_page_names_the_promises_that_are_counted() -> None:
    rows = _ROW.findall((ROOT / "docs" / "reliability.md").read_text())
    promised = {(promise, place) for promise, _, place in rows}
    tests = (ROOT / "tests" / "promises").rglob("test_*.py")
    counted = {(promise, str(path.relative_to(ROOT))) for path in tests for promise in _counted(path)}
    counted = {(promise, place) for promise, place in counted if len(promise.split()) > 3}
    assert counted
    assert counted <= promised
    # Those that a file names in another way are text in it all the same, or in a module beside it.
    for promise, place in promised - counted:
        beside = (ROOT / place).parent.glob("*.py")
        assert any(f'"{promise}"' in path.read_text() for path in beside), promise
