"""The pictures of a report, each small enough for a phone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lit_distill.compare.picture import INK, SETTINGS
from lit_distill.reporting.outcome import NetworkFigures, StudentReport
from lit_distill.reporting.scores import SCORES
from lit_distill.reporting.sentences import metric_words, setting, units_of
from lit_distill.reporting.sides import CONTROL, STUDENT, TEACHER, Role

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # so that type hints can be evaluated without Matplotlib

_COLORS: dict[Role, str] = {STUDENT: "#0d7fc4", CONTROL: "#e08214", TEACHER: "#1b9e77"}
_MOST_CLASSES = 20


def draw_pictures(report: StudentReport) -> dict[str, Figure]:
    """Return the pictures by what they show, as far as the report has what they need.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("it needs Matplotlib: pip install 'lit-distill[plot]'.") from error
    found: dict[str, Figure] = {}
    metric = SCORES.get(report.task)
    if metric is not None and report.student.run is not None:
        found[f"{metric_words(metric)} against latency"] = _score_against_latency(report, metric)
    for one in report.networks:
        if one.bins:
            found[f"reliability of the {_called(one.role)}"] = _reliability(one)
    if any(one.differing for one in report.by_class):
        found["disagreements by class"] = _disagreements(report)
    return found


def _called(role: Role) -> str:
    return "student without a teacher" if role == CONTROL else role


@contextmanager
def _panel(height: float = 3.2) -> Iterator[tuple[Figure, Any]]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colors: Any = {f"{part}.color": INK for part in ("text", "xtick", "ytick", "axes.label")}
    colors["axes.labelcolor"] = colors.pop("axes.label.color")
    with rc_context({**SETTINGS, **colors, "font.size": 10}):
        figure = Figure(figsize=(4.4, height), layout="constrained")
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        axes.grid(visible=True, color=INK, alpha=0.25, linewidth=0.5)
        for spine in axes.spines.values():
            spine.set_color(INK)
        yield figure, axes


def _score_against_latency(report: StudentReport, metric: str) -> Figure:
    units = units_of(report, metric)
    with _panel() as (figure, axes):
        for one in report.networks:
            if one.run is None or metric not in one.metrics:
                continue
            first, score = one.run.latencies[0], units.shown(one.metrics[metric])
            reach = [[first.median_ms - first.low_ms], [first.high_ms - first.median_ms]]
            look = {"color": _COLORS[one.role], "label": _called(one.role)}
            axes.errorbar(first.median_ms, score, xerr=reach, marker="o", markersize=7, capsize=3, linestyle="", **look)
            axes.set_xlabel(f"latency, ms ({setting(first)})")
        axes.set_ylabel(metric_words(units.label))
        axes.margins(0.15)
        axes.autoscale_view()
        axes.set_xlim(left=0)
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _reliability(one: NetworkFigures) -> Figure:
    with _panel() as (figure, axes):
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--")
        sure, right = [bin_.confidence for bin_ in one.bins], [bin_.accuracy for bin_ in one.bins]
        whole = sum(bin_.count for bin_ in one.bins)
        sizes = [20 + 400 * bin_.count / whole for bin_ in one.bins]
        axes.plot(sure, right, color=_COLORS[one.role], linewidth=1)
        axes.scatter(sure, right, s=sizes, color=_COLORS[one.role], alpha=0.6)
        axes.set(xlim=(0, 1.05), ylim=(-0.05, 1.05), xlabel="confidence", ylabel="share that is right")
        axes.set_title(f"{_called(one.role)}: error {100 * one.metrics['calibration_error']:.1f} %", fontsize=10)
    return figure


def _disagreements(report: StudentReport) -> Figure:
    worst = sorted(report.by_class, key=lambda one: -one.differing / one.samples)[:_MOST_CLASSES]
    kinds = (("teacher right", "teacher_right", TEACHER), ("student right", "student_right", STUDENT))
    with _panel(1.2 + 0.24 * len(worst)) as (figure, axes):
        names = [_short(report.class_name(one.label)) for one in worst]
        left = [0.0] * len(worst)
        for label, attribute, role in (*kinds, ("neither", "neither", None)):
            shares = [100 * getattr(one, attribute) / one.samples for one in worst]
            axes.barh(range(len(worst)), shares, left=left, color=_COLORS[role] if role else INK, label=label)
            left = [before + share for before, share in zip(left, shares, strict=True)]
        axes.set_yticks(range(len(worst)), names)
        axes.invert_yaxis()
        axes.set_xlabel("of the class's samples, %")
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"
