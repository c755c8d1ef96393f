"""The report as text and as Markdown: a table with a column for each network, and sentences."""

from __future__ import annotations

from collections.abc import Callable

from lit_distill.compare.units import latency_text, size
from lit_distill.measures import Latency
from lit_distill.reporting.outcome import NetworkFigures, StudentReport
from lit_distill.reporting.sentences import metric_words, report_answers, setting, times, units_of
from lit_distill.reporting.sides import CONTROL, STUDENT, TEACHER
from lit_distill.utils.names import count
from lit_distill.utils.text_tables import aligned

Row = tuple[str, str, str, str, str]  # what, student, control, teacher, student to teacher
_Value = Callable[[NetworkFigures], float | None]


def report_headings() -> Row:
    """Return the heads of the table's columns."""
    return "", STUDENT, CONTROL, TEACHER, "student to teacher"


def report_rows(report: StudentReport) -> list[Row]:
    """Return the lines of the table: what the networks cost, and then how good they are."""
    return [*_cost_rows(report), *_latency_rows(report), *_metric_rows(report)]


def _cost_rows(report: StudentReport) -> list[Row]:
    kinds: list[tuple[str, _Value, Callable[[float], str]]] = [
        ("parameters", lambda one: one.run.cost.parameters if one.run else None, lambda value: f"{value:,.0f}"),
        ("MACs, 1 sample", lambda one: one.run.cost.macs if one.run else None, short),
        ("file of weights", lambda one: one.run.cost.file_bytes if one.run else None, size),
        ("peak memory, 1 sample", lambda one: one.run.cost.peak_bytes if one.run else None, size),
    ]
    return [_cost_row(report, name, value, write) for name, value, write in kinds]


def _cost_row(report: StudentReport, name: str, value: _Value, write: Callable[[float], str]) -> Row:
    found = [value(report.of(role)) for role in (STUDENT, CONTROL, TEACHER)]
    student, control, teacher = ("-" if one is None else write(one) for one in found)
    ratio = times(found[2] / found[0], "less", "more") if found[0] and found[2] else ""
    return name, student, control, teacher, ratio


def _latency_rows(report: StudentReport) -> list[Row]:
    lines = []
    for place, own in enumerate(report.student.run.latencies if report.student.run else ()):
        found = [one.run.latencies[place] if one.run else None for one in (report.control, report.teacher)]
        control, teacher = ("-" if one is None else with_quartiles(one) for one in found)
        ratio = times(found[1].median_ms / own.median_ms, "faster", "slower") if found[1] else ""
        lines.append((f"latency, {setting(own)}", with_quartiles(own), control, teacher, ratio))
    return lines


def _metric_rows(report: StudentReport) -> list[Row]:
    names = dict.fromkeys(name for one in report.networks for name in one.metrics)
    return [_metric_row(report, name) for name in names]


def _metric_row(report: StudentReport, name: str) -> Row:
    units = units_of(report, name)
    found = [report.of(role).metrics.get(name) for role in (STUDENT, CONTROL, TEACHER)]
    student, control, teacher = ("-" if one is None else units.score(one) for one in found)
    gap = report.gap(TEACHER)
    if gap is not None and gap.metric == name:
        interval = gap.interval()
        apart = units.difference(gap.difference) + (f" {units.interval(interval)}" if interval else "")
    else:
        apart = units.difference(found[0] - found[2]) if found[0] is not None and found[2] is not None else ""
    with_teacher = name in ("agreement", "kl_divergence", "mean_squared_difference", "cosine_similarity")
    return metric_words(name) + (" with the teacher" if with_teacher else ""), student, control, teacher, apart


def short(number: float) -> str:
    """Return a large number with a word for its size.

    Example:
        >>> short(41_232_384), short(7680)
        ('41.2 million', '7,680')
    """
    for power, word in ((12, "trillion"), (9, "billion"), (6, "million")):
        if number >= 10**power:
            return f"{number / 10**power:.1f} {word}"
    return f"{number:,.0f}"


def with_quartiles(one: Latency) -> str:
    """Return a latency with its quartiles."""
    low, high = (latency_text(value).removesuffix(" ms") for value in (one.low_ms, one.high_ms))
    return f"{latency_text(one.median_ms)} ({low} to {high})"


def heading(report: StudentReport) -> str:
    """Return what was compared on what."""
    names = ", ".join(f"{one.role} {one.name}" for one in report.networks if one.role != CONTROL)
    return f"{names[:1].upper()}{names[1:]}, on {count(report.samples, 'test sample')}"


def text_of(report: StudentReport) -> str:
    """Return the report for the terminal."""
    lines = [report_headings(), *report_rows(report)]
    table = aligned(lines, left=range(len(lines[0])))
    said = [f"{one.question}\n  {' '.join(one.paragraphs)}" for one in report_answers(report)]
    return "\n\n".join([f"{report.title}\n{heading(report)}", "\n".join(table), *said, *report.notes])


def markdown_of(report: StudentReport) -> str:
    """Return the report as Markdown."""
    lines = [f"| {' | '.join(map(_escaped, line))} |" for line in (report_headings(), *report_rows(report))]
    lines.insert(1, "|---|---|---|---|---|")
    said = [f"**{one.question}** {_escaped(' '.join(one.paragraphs))}" for one in report_answers(report)]
    title = f"# {_escaped(report.title)}\n\n{_escaped(heading(report))}."
    return "\n\n".join([title, "\n".join(lines), *said, *map(_escaped, report.notes)]) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
