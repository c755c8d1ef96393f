"""The report as one HTML file that asks for nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from lit_distill.compare.answers import Answer, answers
from lit_distill.compare.front import front_text
from lit_distill.compare.picture import INK
from lit_distill.compare.summary import Summary
from lit_distill.compare.tables import cells, footnotes, headings, student_heading
from lit_distill.compare.verdicts import Verdict
from lit_distill.compare.words import unbroken

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --faint: #5f6368; --line: #d5d8dc; --paper: #ffffff;
  --good: #14733c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --faint: #a5abb3; --line: #3c4046; --paper: #17181a;
  --good: #6dd58c; --bad: #f2887f; } }
body { color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; max-width: 72rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1rem; }
p, li { max-width: 50rem; overflow-wrap: anywhere; }
.answer p:first-of-type { font-weight: 600; }
.table { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; white-space: nowrap; }
caption { text-align: left; font-weight: 600; padding: 1rem 0 .3rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; }
.note, pre { color: var(--faint); font-size: .9rem; } pre { overflow-x: auto; }
.better { color: var(--good); font-weight: 600; } .worse { color: var(--bad); font-weight: 600; }
svg { max-width: 100%; height: auto; color: var(--faint); }
"""


def render_page(summary: Summary, title: str, picture: str) -> str:
    """Return the report as HTML, readable in light and dark.

    Args:
        summary: Of ``summarize``.
        title: Of the comparison; any text, as are all names.
        picture: An SVG file's content, or a sentence on why there is none.
    """
    name = escape(title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            f'<head><meta charset="utf-8"><title>{name}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}</style></head>",
            f"<body><main><h1>{name}</h1>",
            *answer_sections(answers(summary), '<section class="answer">'),
            "<h2>Accuracy against cost</h2>" if summary.units.percent else "<h2>Score against cost</h2>",
            embedded(picture, "The picture of the two fronts below"),
            f"<pre>{escape(front_text(summary))}</pre>",
            "<h2>All results</h2>",
            *(_table(summary, student) for student in summary.students),
            *(f'<p class="note">{escape(note)}</p>' for note in footnotes(summary)),
            "</main></body></html>",
            "",
        ]
    )


def answer_sections(found: Iterable[Answer], opening: str = "<section>") -> list[str]:
    """Return each answer as a section, its question as the heading."""
    parts = []
    for answer in found:
        paragraphs = "".join(f"<p>{escape(unbroken(text))}</p>" for text in answer.paragraphs)
        parts.append(f"{opening}<h2>{escape(answer.question)}</h2>{paragraphs}</section>")
    return parts


def embedded(picture: str, label: str) -> str:
    """Return an SVG file's content as a figure in the colors of a page; a sentence on why there is none as a note."""
    if "<svg" not in picture:
        return f'<p class="note">{escape(picture)}</p>'
    # Without the prologue, which names a DTD on the web, and the description, which names a vocabulary there.
    drawing = re.sub(r"<metadata>.*?</metadata>", "", picture[picture.index("<svg") :], flags=re.DOTALL)
    drawing = drawing.replace(INK, "currentColor")
    return f'<figure role="img" aria-label="{escape(label)}">{drawing}</figure>'


def _table(summary: Summary, student: str) -> str:
    rows = summary.of(student)
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in headings(summary.units))
    body = "\n".join(_line(cells(row, summary)) for row in rows)
    return (
        f'<div class="table"><table><caption>{escape(student_heading(rows[0]))}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _line(texts: Sequence[str]) -> str:
    return "<tr>" + "".join(f"<td{_kind(text)}>{escape(text)}</td>" for text in texts) + "</tr>"


def _kind(text: str) -> str:
    return f' class="{text}"' if text in (Verdict.BETTER.value, Verdict.WORSE.value) else ""
