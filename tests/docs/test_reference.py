"""The pages of the API reference name what there is."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import lit_distill
from lit_distill.cli.command import VERBS

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "reference").glob("*.md"))
NAMES = sorted({name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)})


def test_names_said_to_be_in_the_top_package_are() -> None:
    index = next(page for page in PAGES if page.name == "index.md").read_text()
    names = re.findall(r"\*\*`(\w+)`\*\*", index)
    assert len(names) > 20
    assert [name for name in names if name not in lit_distill.__all__] == []


@pytest.mark.parametrize("name", NAMES)
def test_what_the_reference_describes_exists(name: str) -> None:
    assert pkgutil.resolve_name(name) is not None


@pytest.mark.parametrize("module", ["lit_distill.models", "lit_distill.criteria", "lit_distill.teachers"])
def test_functions_that_their_module_hides_are_named(module: str) -> None:
    package = pkgutil.resolve_name(module)
    inner = {found.name for found in pkgutil.iter_modules(package.__path__)}
    assert {f"{module}.{name}.{name}" for name in inner & set(package.__all__)} <= set(NAMES)


def test_every_page_is_in_the_index() -> None:
    index = next(page for page in PAGES if page.name == "index.md").read_text()
    assert [page.name for page in PAGES if page.name != "index.md" and f"({page.name})" not in index] == []


def test_every_verb_is_on_the_page_of_the_command_line() -> None:
    page = next(page for page in PAGES if page.name == "cli.md").read_text()
    verbs = {word for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE) for word in re.findall(r"`(\w+)", row)}
    assert verbs == set(VERBS)
