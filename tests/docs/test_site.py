"""The documentation site: every page is in its navigation, and the notebooks hold the outputs of one clean run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))


def in_navigation() -> set[str]:
    """Return the pages that mkdocs.yml lists."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    return set(re.findall(r"[\w/]+\.(?:md|ipynb)", text))


def from_elsewhere() -> set[str]:
    """Return the pages whose files lie outside docs/."""
    return set(
        re.findall(r'^    ".+": "(.+)",$', (DOCS / "site" / "hooks.py").read_text(encoding="utf-8"), re.MULTILINE)
    )


def test_the_navigation_lists_every_page_and_no_other() -> None:
    pages = {str(path.relative_to(DOCS)) for path in (*DOCS.rglob("*.md"), *NOTEBOOKS)}
    assert from_elsewhere()
    assert in_navigation() == pages | from_elsewhere()


def test_pages_from_outside_exist() -> None:
    sources = re.findall(r'^    "(.+)": ".+",$', (DOCS / "site" / "hooks.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert [source for source in sources if not (ROOT / source).is_file()] == []


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_one_clean_run(notebook: Path) -> None:
    cells = code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_light(notebook: Path) -> None:
    assert notebook.stat().st_size < 100_000
