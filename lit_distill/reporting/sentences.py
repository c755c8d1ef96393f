"""What a report comes to, in sentences: how much the student saves, what that costs, and whether the teacher helped."""

from __future__ import annotations

from lit_distill.compare.answers import Answer
from lit_distill.compare.units import Units, latency_text, size
from lit_distill.measures import Latency
from lit_distill.reporting.outcome import Speedup, StudentReport
from lit_distill.reporting.scores import Gap
from lit_distill.reporting.sides import CONTROL, TEACHER
from lit_distill.utils.names import count

_FINE = 5000  # samples from which on a hundredth of a point means something
_LOWER_IS_BETTER = ("mean_squared_error",)


def report_answers(report: StudentReport) -> list[Answer]:
    """Return what the report comes to."""
    return [
        Answer("How much faster and smaller is the student?", (_savings(report),)),
        Answer("What does that cost?", (_cost(report),)),
        Answer("Did the teacher help?", (_help(report),)),
    ]


def units_of(report: StudentReport, metric: str) -> Units:
    """Return how a metric is written: shares in percent."""
    if metric in ("accuracy", "calibration_error", "agreement"):
        return Units(metric, percent=True, decimals=2 if report.samples >= _FINE else 1)
    return Units(metric, percent=False, decimals=4)


def metric_words(metric: str) -> str:
    """Return a metric's name as a sentence has it."""
    return metric.replace("_", " ")


def times(factor: float, more: str, less: str) -> str:
    """Return a ratio in words.

    Example:
        >>> times(8.53, "faster", "slower"), times(0.5, "faster", "slower")
        ('8.53 times faster', '2 times slower')
    """
    large = max(factor, 1 / factor)
    written = f"{large:.3g}" if large < 100 else f"{large:,.0f}"
    return "the same" if written == "1" else f"{written} times {more if factor > 1 else less}"


def setting(one: Latency) -> str:
    """Return with what a latency was measured."""
    where = count(one.threads, "thread") if one.device == "cpu" else one.device
    return f"{count(one.batch, 'sample')}, {where}"


def _savings(report: StudentReport) -> str:
    student, teacher = report.student.run, report.teacher.run
    if student is None or teacher is None:
        return "This teacher has no network of its own that could be measured."
    saved = [_faster(one) for one in report.speedups()]
    own, others = student.cost, teacher.cost
    smaller = times(others.file_bytes / own.file_bytes, "smaller", "larger")
    fewer = ""
    if own.macs and others.macs:
        fewer = f", and it makes {times(others.macs / own.macs, 'fewer', 'more')} multiplications (MACs)"
    return (
        f"It is {'; '.join(saved)}. Its file is {smaller} ({size(own.file_bytes)} to {size(others.file_bytes)}){fewer}."
    )


def _faster(one: Speedup) -> str:
    student, teacher = latency_text(one.student.median_ms), latency_text(one.teacher.median_ms)
    return f"{times(one.factor, 'faster', 'slower')} with {setting(one.student)} ({student} to {teacher})"


def _cost(report: StudentReport) -> str:
    gap = report.gap(TEACHER)
    if gap is not None:
        return (
            f"{_compared(report, gap, 'the teacher')} {_judged(gap, 'that is more than chance', 'that may be chance')}"
        )
    if report.task == "embedding":
        return "The teacher's vectors are the measure, so it has no score of its own to compare with."
    if not report.teacher.metrics:
        return "The teacher's outputs are of another form than the student's: its score cannot be compared."
    return "The task has no score of single samples to compare; the table has the metrics."


def _help(report: StudentReport) -> str:
    gap = report.gap(CONTROL)
    if gap is None:
        return "The task has no score of single samples to compare; the table has the metrics."
    better = gap.difference > 0 if gap.metric not in _LOWER_IS_BETTER else gap.difference < 0
    told = "the teacher helped" if better else "the teacher did harm"
    text = _compared(report, gap, "the same network trained without a teacher")
    return f"{text} {_judged(gap, told, 'that may be chance')}"


def _compared(report: StudentReport, gap: Gap, other: str) -> str:
    units = units_of(report, gap.metric)
    student, others = report.student.metrics[gap.metric], report.of(gap.against).metrics[gap.metric]
    interval = gap.interval()
    difference = units.difference(gap.difference) + (f" {units.interval(interval)}" if interval else "")
    return (
        f"The student's {metric_words(gap.metric)} is {units.score(student)}, and that of {other} "
        f"{units.score(others)}: {difference}."
    )


def _judged(gap: Gap, apart: str, alike: str) -> str:
    interval = gap.interval()
    if interval is None:
        return "They score alike on every sample."
    open_ = interval[0] <= 0 <= interval[1]
    return f"With {count(gap.samples, 'test sample')}, {alike if open_ else apart}."
