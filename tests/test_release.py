"""The versions that several files state are the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import lit_distill

ROOT = Path(__file__).parents[1]


def pins() -> dict[str, str]:
    lines = (ROOT / ".github" / "oldest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def promised() -> dict[str, str]:
    """The lower bound of every dependency that has one, of those a user installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    tools = ("pytest", "hypothesis", "lit-distill")
    lines = [*project["dependencies"], *extras["test"], *extras["demo"], *extras["safetensors"], *extras["budget"]]
    bounds = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line) for line in lines]
    return {found[1]: found[2] for found in bounds if found and not found[1].startswith(tools)}


def test_the_oldest_promised_versions_are_those_that_ci_installs() -> None:
    installed = pins()
    assert promised().keys() == installed.keys()
    for name, bound in promised().items():
        assert f"{installed[name]}.".startswith(f"{bound}."), name


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {lit_distill.__version__}\n" in citation
