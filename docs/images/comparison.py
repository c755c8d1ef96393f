"""Write what docs/reading_a_comparison.md shows of a report, from the results of a comparison.

lit-distill compare configs/compare/digits.yaml
python docs/images/comparison.py runs/compare/digits/results.json
"""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from lit_distill.compare.answers import answers_text
from lit_distill.compare.picture import render
from lit_distill.compare.results import read_json, write_json
from lit_distill.compare.summary import Summary, summarize
from lit_distill.compare.tables import table_text

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reading_a_comparison.md"
RESULTS = ROOT / "benchmarks" / "results" / "compare-digits.json"


def blocks(summary: Summary) -> list[str]:
    """Return the page's three quotes of the report: the table and the two answers."""
    losing, choosing = answers_text(summary).split("\n\n")
    return [f"```text\n{text}\n```" for text in (table_text(summary), losing, choosing)]


def main(measured: Path) -> None:
    """Keep the results, and write page and picture."""
    # The page needs neither curves nor weights nor further figures.
    write_json([replace(one, curve=(), figures={}, weights={}) for one in read_json(measured)], RESULTS)
    summary = summarize(read_json(RESULTS))
    PAGE.with_name("images").joinpath("comparison.svg").write_bytes(render(summary))
    quotes = iter(blocks(summary))
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"```text\n.*?\n```", lambda _: next(quotes), text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
