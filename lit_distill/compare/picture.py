"""The picture of a comparison: score against latency and against size, with the Pareto front."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lit_distill.compare.front import Cost, bytes_of, latency, pareto_front
from lit_distill.compare.statistics import TableRow
from lit_distill.compare.summary import Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # so that type hints can be evaluated without Matplotlib

INK = "#767676"  # reads on white and on black alike; the page replaces it by its own color of text
_COLORS = ("#0d7fc4", "#e08214", "#1b9e77", "#d95f5f", "#9a7fd1", "#a6761d", "#e7298a", "#66a61e")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_APART = 5.0  # points between neighbours that have the same cost
SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "lit-distill", "text.parse_math": False, "font.size": 9}


def draw_comparison(summary: Summary) -> Figure:
    """Draw the mean scores against latency and against size, with one standard deviation and the Pareto front.

    A student's rows have the same latency and size; its best is drawn there, the others beside it.

    Args:
        summary: Of ``summarize``.

    Returns:
        A Matplotlib figure.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("it needs Matplotlib: pip install 'lit-distill[plot]'.") from error
    colors: Any = {f"{part}.color": INK for part in ("text", "xtick", "ytick")}
    with rc_context({**SETTINGS, **colors}):
        figure = Figure(figsize=(10, 4.4), layout="constrained")
        looks = _Looks.of(summary)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, cost, label in (
            (panels[0], latency, "latency, ms for one sample"),
            (panels[1], bytes_of, "size, kB"),
        ):
            _panel(axes, summary, looks, cost, 1e-3 if cost is bytes_of else 1.0)
            axes.set_xlabel(label, color=INK)
        panels[0].set_ylabel(f"{summary.units.label} ({_seeds(summary)})", color=INK)
        _legend(figure, looks)
    return figure


def render(summary: Summary, kind: Literal["svg", "png"] = "svg") -> bytes:
    """Return the picture as a file's content, without a background: it reads on white and on black.

    Args:
        summary: Of ``summarize``.
        kind: SVG, or PNG at 150 dots per inch.

    Raises:
        ImportError: Matplotlib is not installed.
    """
    return as_file(draw_comparison(summary), kind)


def as_file(figure: Figure, kind: Literal["svg", "png"] = "svg") -> bytes:
    """Return a figure as a file's content, without a background."""
    from matplotlib import rc_context

    content = io.BytesIO()
    with rc_context(SETTINGS), warnings.catch_warnings():
        # The SVG holds names as text, for the reader's fonts.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        options: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {"dpi": 150}
        figure.savefig(content, format=kind, facecolor="none", **options)
    return content.getvalue()


def _panel(axes: Any, summary: Summary, looks: _Looks, cost: Cost, factor: float) -> None:
    rows = [row for row in summary.rows if math.isfinite(cost(row))]
    axes.patch.set_alpha(0)
    axes.grid(visible=True, color=INK, alpha=0.25, linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_color(INK)
    if not rows:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
        return
    costs = [factor * cost(row) for row in rows]
    if min(costs) > 0 and max(costs) > 8 * min(costs):
        _logarithmic(axes)
    front = pareto_front(rows, cost)
    xs, ys = [factor * cost(row) for row in front], [_scaled(row.mean, summary) for row in front]
    axes.step(xs, ys, where="post", color=INK, linewidth=1, linestyle="--", zorder=1)
    for row in rows:
        _point(axes, row, summary, factor * cost(row), looks.at(row), row in front)
    axes.margins(0.14)
    if not summary.units.percent:
        axes.ticklabel_format(axis="y", useOffset=False)


def _logarithmic(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _point(axes: Any, row: TableRow, summary: Summary, x: float, look: Mapping[str, Any], on_front: bool) -> None:
    from matplotlib.transforms import ScaledTranslation

    shift = _aside(row, summary)
    aside = axes.transData + ScaledTranslation(shift / 72, 0, axes.figure.dpi_scale_trans)
    y, spread = _scaled(row.mean, summary), _scaled(row.sd or 0.0, summary)
    error = spread if row.sd is not None else None
    axes.errorbar(x, y, error, **look, markersize=5, elinewidth=0.8, capsize=2, transform=aside, zorder=2)
    # Matplotlib takes the limits from points in data coordinates alone, and these are moved aside.
    axes.update_datalim([(x, y - spread), (x, y + spread)])
    axes.autoscale_view()
    if on_front:
        axes.plot(x, y, marker="o", markersize=11, markerfacecolor="none", color=INK, transform=aside, zorder=3)
    if on_front and not shift:
        place = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(row.student, (x, y + spread), color=INK, annotation_clip=False, zorder=4, **place)


def _aside(row: TableRow, summary: Summary) -> float:
    """Return how many points aside a row is drawn: the student's best in its place, the others to its left and right."""
    ranked = sorted(summary.of(row.student), key=lambda one: -one.mean)
    place = ranked.index(row)
    return _APART * min(1.0, 10 / len(ranked)) * ((place + 1) // 2) * (1 if place % 2 else -1)


def _seeds(summary: Summary) -> str:
    numbers = sorted({len(row.seeds) for row in summary.rows}) or [0]
    if numbers == [1]:
        return "1 seed"
    several = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    return f"mean of {several} seeds ± 1 sd"


def _scaled(value: float, summary: Summary) -> float:
    return 100 * value if summary.units.percent else value


@dataclass(frozen=True)
class _Looks:
    """Colors by teacher and markers by method; one marker for all where there are more methods than one can tell apart."""

    colors: Mapping[str, Any]
    markers: Mapping[str, str]

    @classmethod
    def of(cls, summary: Summary) -> _Looks:
        from matplotlib import colormaps

        rows = [row for row in summary.rows if not row.is_control]
        teachers = sorted({row.teacher for row in rows if row.teacher})
        methods = sorted({row.method for row in rows})
        many = colormaps["turbo"].resampled(len(teachers) + 2)
        colors = _COLORS if len(teachers) <= len(_COLORS) else [many(place + 1) for place in range(len(teachers))]
        markers = _MARKERS if len(methods) <= len(_MARKERS) else ()
        return cls(dict(zip(teachers, colors, strict=False)), dict(zip(methods, markers, strict=False)))

    def at(self, row: TableRow) -> dict[str, Any]:
        return {"color": self.colors.get(row.teacher, INK), "marker": self.markers.get(row.method, "o")}


def _legend(figure: Figure, looks: _Looks) -> None:
    from matplotlib.lines import Line2D

    def entry(text: str, **look: Any) -> Line2D:
        # Names that begin with an underscore would be left out.
        return Line2D([], [], linestyle="none", label=f" {text}", **look)

    entries = [
        entry("no teacher", color=INK, marker="o"),
        *(entry(f"teacher {name}", color=color, marker="o") for name, color in looks.colors.items()),
        *(entry(name, color=INK, marker=marker, markerfacecolor="none") for name, marker in looks.markers.items()),
        entry("on the Pareto front", color=INK, marker="o", markersize=11, markerfacecolor="none"),
    ]
    figure.legend(
        handles=entries, loc="outside lower center", ncols=min(5, len(entries)), frameon=False, labelcolor=INK
    )
