"""The pages of the API reference name what there is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import lit_distill

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "reference").glob("*.md"))
MODULES = sorted({name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)})


def test_names_said_to_be_in_the_top_package_are() -> None:
    index = next(page for page in PAGES if page.name == "index.md").read_text()
    names = re.findall(r"\*\*`(\w+)`\*\*", index)
    assert len(names) > 20
    assert [name for name in names if name not in lit_distill.__all__] == []


@pytest.mark.parametrize("name", MODULES)
def test_modules_of_the_reference_exist(name: str) -> None:
    importlib.import_module(name)


def test_every_page_is_in_the_index() -> None:
    index = next(page for page in PAGES if page.name == "index.md").read_text()
    assert [page.name for page in PAGES if page.name != "index.md" and f"({page.name})" not in index] == []
