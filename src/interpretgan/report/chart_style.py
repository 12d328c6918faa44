"""The look of the charts that matplotlib draws: panels, lines with bands, estimates with intervals, SVG bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fb4", "#d9641a", "#2a8f5b", "#8a4fbf", "#777777", "#b8315a")
GREY = "#999999"
STYLE: Any = {
    "axes.titlesize": 9, "axes.labelsize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "interpretgan",
}  # fmt: skip


def panels(
    titles: Sequence[str], *, width: float = 3.4, heights: Sequence[float] = (2.6,), columns: int = 3
) -> tuple[Figure, list[Axes]]:
    """One panel for each title, in rows of at most so many columns.

    The width is that of a panel, in inches, and the heights those of the rows; a single one is that of all.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    columns = max(1, min(columns, len(titles)))
    rows = -(-max(1, len(titles)) // columns)
    heights = list(heights) * (rows if len(heights) == 1 else 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width * columns, sum(heights)), layout="constrained")
        grid = figure.add_gridspec(rows, columns, height_ratios=heights)
        axes = [figure.add_subplot(grid[divmod(place, columns)]) for place in range(len(titles))]
        for panel, title in zip(axes, titles, strict=True):
            panel.set_title(title, loc="left" if columns == 1 else "center")
    return figure, axes


def band(panel: Axes, at: npt.ArrayLike, values: npt.NDArray[np.float64], *, colour: str, label: str) -> None:
    """The mean of the rows of `values` `[rows, points]` and their range, where there are numbers."""
    known = np.ma.masked_invalid(values)
    low, mean, high = (row.filled(np.nan) for row in (known.min(axis=0), known.mean(axis=0), known.max(axis=0)))
    panel.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    panel.plot(at, mean, color=colour, linewidth=1.2, marker="o", markersize=2.5, label=label)


def intervals(panel: Axes, rows: Sequence[tuple[str, float, float, float]], *, line: float = 0.0) -> None:
    """Estimates by name, each with the ends of its interval, one below the other, and a line at what is tested."""
    for place, (_, value, low, high) in enumerate(rows):
        panel.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.2)
        panel.plot([value], [place], "o", color=COLOURS[0], markersize=4)
    panel.set_yticks(range(len(rows)), [name for name, *_ in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)
    panel.axvline(line, color=GREY, linewidth=0.8)


def legend(panel: Axes) -> None:
    """The names of the lines, small and without a frame."""
    panel.legend(fontsize=7, frameon=False)


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same numbers."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
