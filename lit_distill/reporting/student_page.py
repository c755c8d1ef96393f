"""The report as one HTML file that asks for nothing else: no script, no font, no picture from anywhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from lit_distill.compare.page import STYLE, answer_sections, embedded
from lit_distill.reporting.disagreements import Example
from lit_distill.reporting.outcome import StudentReport
from lit_distill.reporting.sentences import report_answers
from lit_distill.reporting.tables import heading, report_headings, report_rows

_MOST = 12  # classes with images
_MORE_STYLE = """
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; } .pictures figure { margin: 0; flex: 0 1 27rem; min-width: 0; }
h1, h2 { overflow-wrap: anywhere; } td:first-child, th:first-child { padding-right: 1.5rem; }
@media (max-width: 40rem) { .stacked thead { display: none; } .stacked tr { display: block; padding: .4rem 0; }
  .stacked th, .stacked td { display: block; border: 0; padding: .05rem 0; white-space: normal; }
  .stacked td:empty { display: none; } .stacked td::before { content: attr(data-label) ": "; color: var(--faint); } }
.examples { display: flex; flex-wrap: wrap; gap: .8rem; } .examples figure { margin: 0; width: 7rem; font-size: .8rem; }
.examples img { width: 6rem; height: 6rem; object-fit: contain; image-rendering: pixelated; display: block; }
"""


def student_page(report: StudentReport, pictures: Mapping[str, str], missing: str = "") -> str:
    """Return the report as HTML, readable in light and dark, and on a phone.

    Args:
        report: The report; any text in it may hold any characters.
        pictures: SVG files' contents, by what they show.
        missing: Why there are none, as a sentence.
    """
    name = escape(report.title)
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            f'<head><meta charset="utf-8"><title>{name}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{STYLE}{_MORE_STYLE}</style></head>",
            f"<body><main><h1>{name}</h1>",
            f"<p>{escape(heading(report))}.</p>",
            *answer_sections(report_answers(report)),
            "<h2>All figures</h2>",
            _figures_table(report),
            *(f'<p class="note">{escape(note)}</p>' for note in report.notes),
            *_drawn(pictures, missing),
            *_examples(report),
            "</main></body></html>",
            "",
        ]
    )


def _figures_table(report: StudentReport) -> str:
    _, *columns = report_headings()
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in ("", *columns))
    body = "\n".join(_line(first, rest, columns) for first, *rest in report_rows(report))
    return f'<div class="table stacked"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _line(first: str, cells: Sequence[str], columns: Sequence[str]) -> str:
    """Return a line whose cells know their column: on a phone they stand below each other."""
    pairs = zip(cells, columns, strict=True)
    told = "".join(f'<td data-label="{escape(column)}">{escape(text)}</td>' for text, column in pairs)
    return f'<tr><th scope="row">{escape(first)}</th>{told}</tr>'


def _drawn(pictures: Mapping[str, str], missing: str) -> list[str]:
    if not pictures:
        return [f'<p class="note">There are no pictures: {escape(missing)}</p>'] if missing else []
    drawn = [f"<div>{_titled(title)}{embedded(picture, title)}</div>" for title, picture in pictures.items()]
    return ["<h2>Pictures</h2>", '<div class="pictures">', *drawn, "</div>"]


def _titled(title: str) -> str:
    return f"<h3>{escape(title[:1].upper() + title[1:])}</h3>"


def _examples(report: StudentReport) -> list[str]:
    """Return images of the classes on which student and teacher differ most."""
    if not report.examples:
        return []
    worst = sorted(report.by_class, key=lambda one: -one.differing / one.samples)[:_MOST]
    parts = [
        "<h2>Images on which they differ</h2>",
        "<p>Of each class, those on which both are surest. Colors are spread over the range of the first batch.</p>",
    ]
    for one in worst:
        shown = [_example(report, example) for example in report.examples if example.label == one.label]
        if shown:
            told = f"{report.class_name(one.label)}: they differ on {one.differing} of {one.samples}"
            parts += [f"<h3>{escape(told)}</h3>", f'<div class="examples">{"".join(shown)}</div>']
    return parts


def _example(report: StudentReport, one: Example) -> str:
    student, teacher = report.class_name(one.student), report.class_name(one.teacher)
    source = base64.b64encode(one.png).decode()
    words = f"student: {escape(student)}<br>teacher: {escape(teacher)}"
    alternative = escape(
        f"{report.class_name(one.label)}, taken for {student} by the student and {teacher} by the teacher"
    )
    return f'<figure><img src="data:image/png;base64,{source}" alt="{alternative}"><figcaption>{words}</figcaption></figure>'
