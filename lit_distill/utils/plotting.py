"""Matplotlib, which is an extra, imported when a plot is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
else:
    Axes = Any  # so that type hints can be evaluated without Matplotlib


__all__ = ["Axes", "axes_or_new"]


def axes_or_new(axes: Axes | None) -> Axes:
    """Return the axes, or new ones of a new figure if None; the error without Matplotlib says what to install."""
    if axes is not None:
        return axes
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("plots need Matplotlib: pip install 'lit-distill[plot]'.") from error
    return pyplot.subplots()[1]
