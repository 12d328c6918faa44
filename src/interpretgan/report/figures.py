"""The geometry of the report's charts, in per cent of each plot's width: page and picture draw the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from interpretgan.diagnosis.result import Diagnosis, LayerResult
from interpretgan.report.wording import number, span
from interpretgan.statistics import Interval


@dataclass(frozen=True)
class Mark:
    """Where a value and the ends of its interval lie on an axis, and both in words."""

    x: float
    low: float
    high: float
    value: str
    span: str


@dataclass(frozen=True)
class Panel:
    """One quantity down the rows: its axis, and the marks of each row and of its control, where it has them."""

    unit: str
    ticks: Sequence[tuple[float, str]]
    zero: float
    marks: Sequence[Mark | None]
    controls: Sequence[Mark | None]


@dataclass(frozen=True)
class Curve:
    """An accuracy down the rows in per cent; line and band are points of a box 100 wide and 10 high per row."""

    values: Sequence[float]
    line: str
    band: str


def panels(diagnosis: Diagnosis) -> dict[str, Panel]:
    """The bars of `vulnerability`, and where information was measured of `information` loss and class `bits`."""
    rows = diagnosis.layers
    drawn = {"vulnerability": _panel(rows, "points", "vulnerability", "vulnerability_noise")}
    if any(row.information_loss for row in rows):
        drawn["information"] = _panel(rows, "% of variance", "information_loss", "information_control")
        drawn["bits"] = _panel(rows, "bits", "class_information")
    return drawn


def _panel(rows: Sequence[LayerResult], unit: str, name: str, control: str | None = None) -> Panel:
    """An axis that holds all values and controls with their intervals, and their places on it.

    The image has a mark of its bits alone, as it loses nothing.
    """
    from matplotlib.ticker import MaxNLocator

    in_bits = unit == "bits"
    scale, digits = (1, 2) if in_bits else (100, 1)
    marked = rows if in_bits else rows[1:]
    unmarked: list[Interval | None] = [None] * (len(rows) - len(marked))
    values = unmarked + [getattr(row, name) for row in marked]
    controls = unmarked + [getattr(row, control) if control else None for row in marked]
    ends = [end for interval in (*values, *controls) if interval for end in (interval.low, interval.high)]
    least, most = min(0.0, *ends), max(0.1 if in_bits else 0.05, *ends)
    edge = 0.03 * (most - least)
    low, high = least if in_bits else least - edge, most + edge

    def x(value: float) -> float:
        return round(float(100 * (value - low) / (high - low)), 3)

    def mark(interval: Interval | None) -> Mark | None:
        if interval is None:
            return None
        words = number(interval.value, scale, digits, sign=not in_bits), span(interval, scale, digits)
        return Mark(x(interval.value), x(interval.low), x(interval.high), *words)

    round_values = [float(value) for value in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high)]
    ticks = [(x(v), f"{scale * v:.3g}".replace("-", "−")) for v in round_values if low <= v <= high]
    return Panel(unit, ticks, x(0.0), [mark(value) for value in values], [mark(value) for value in controls])


def curves(diagnosis: Diagnosis) -> dict[str, Curve]:
    """The judge's accuracy on `natural` and `adversarial` explanations."""

    def points(shares: Sequence[float]) -> list[str]:
        return [f"{100 * share:.2f},{10 * row + 5}" for row, share in enumerate(shares)]

    drawn = {}
    for kind in ("natural", "adversarial"):
        values, lows, highs = zip(*(astuple(layer.intervals[kind]) for layer in diagnosis.layers), strict=True)
        band = [*points(lows), *reversed(points(highs))]
        drawn[kind] = Curve([round(100 * value, 2) for value in values], " ".join(points(values)), " ".join(band))
    return drawn
