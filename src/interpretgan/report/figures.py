"""The geometry of the report's charts, in per cent of each plot's width: page and picture draw the same."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from interpretgan.diagnosis.result import Diagnosis
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
    """One quantity down the rows: its axis, and the marks of each row and of its control, `None` where there is none."""

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
    layers, image = rows[1:], [None]  # the image loses nothing
    drawn = {
        "vulnerability": _panel(
            "points",
            [*image, *(layer.vulnerability for layer in layers)],
            [*image, *(layer.vulnerability_noise for layer in layers)],
        )
    }
    if any(layer.information_loss for layer in layers):
        drawn["information"] = _panel(
            "% of variance",
            [*image, *(layer.information_loss for layer in layers)],
            [*image, *(layer.information_control for layer in layers)],
        )
        bits, none = [row.class_information for row in rows], [None] * len(rows)
        drawn["bits"] = _panel("bits", bits, none, scale=1, digits=2, sign=False)
    return drawn


def _panel(
    unit: str, values: Sequence[Interval | None], controls: Sequence[Interval | None], *, scale: int = 100, digits: int = 1,
    sign: bool = True,
) -> Panel:  # fmt: skip
    """An axis that holds all values and controls with their intervals, and their places on it."""
    ends = [end for interval in (*values, *controls) if interval for end in (interval.low, interval.high)]
    least, most = min(0.0, *ends), max(5 / scale if sign else 0.1, *ends)
    low, high = least - 0.03 * (most - least) * sign, most + 0.03 * (most - least)

    def x(value: float) -> float:
        return round(100 * (value - low) / (high - low), 3)

    def mark(interval: Interval | None) -> Mark | None:
        if interval is None:
            return None
        words = number(interval.value, scale, digits, sign=sign), span(interval, scale, digits)
        return Mark(x(interval.value), x(interval.low), x(interval.high), *words)

    places = [(x(place), f"{scale * place:.3g}".replace("-", "−")) for place in ticks(low, high)]
    return Panel(unit, places, x(0.0), [mark(value) for value in values], [mark(control) for control in controls])


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers between `low` and `high`."""
    rough = max(high - low, 1e-9) / 5
    base = 10.0 ** math.floor(math.log10(rough))
    step = next(base * factor for factor in (1, 2, 5, 10) if base * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def curves(diagnosis: Diagnosis) -> dict[str, Curve]:
    """The judge's accuracy on `natural` and `adversarial` explanations."""
    return {
        kind: _curve([layer.intervals[kind] for layer in diagnosis.layers]) for kind in ("natural", "adversarial")
    }  # fmt: skip


def _curve(intervals: Sequence[Interval]) -> Curve:
    def points(shares: Sequence[float]) -> list[str]:
        return [f"{100 * share:.2f},{10 * row + 5}" for row, share in enumerate(shares)]

    band = [*points([i.low for i in intervals]), *reversed(points([i.high for i in intervals]))]
    values = [i.value for i in intervals]
    return Curve([round(100 * value, 2) for value in values], " ".join(points(values)), " ".join(band))
