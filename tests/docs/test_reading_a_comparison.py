"""The page on reading a comparison quotes the report of the results that are kept with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from lit_distill.compare.results import read_json
from lit_distill.compare.summary import summarize
from lit_distill.compare.tables import headings
from lit_distill.compare.verdicts import Verdict

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "images" / "comparison.py"


def test_the_page_quotes_the_report() -> None:
    spec = importlib.util.spec_from_file_location("comparison", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    comparison = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(comparison)
    page = comparison.PAGE.read_text(encoding="utf-8")
    summary = summarize(read_json(comparison.RESULTS))
    assert len(summary.cases) == 12
    for block in comparison.blocks(summary):
        assert block in page, "run: python docs/images/comparison.py RESULTS.json"
    for name in (*headings(summary.units)[4:], *Verdict):
        assert f"`{name}`" in page
    assert (comparison.PAGE.parent / "images" / "comparison.svg").is_file()
