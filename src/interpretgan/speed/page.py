"""The chart of the benchmark of speed, and its table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interpretgan.report.chart_style import COLOURS, panels, svg
from interpretgan.store.files import atomic_write_bytes

AXES = {"layers": "layers", "pixels": "pixels a side", "width": "parameters of the classifier"}


def write_chart(result: Mapping[str, Any], file: Path) -> Path:
    """Seconds to explain the images at all layers, against layers, size of the images and size of the classifier."""
    figure, axes = panels([f"against {what}" for what in AXES.values()])
    for panel, (axis, what) in zip(axes, AXES.items(), strict=True):
        rows = [case for case in result["cases"] if case["axis"] == axis]
        values, ends = [row["parameters" if axis == "width" else axis] for row in rows], list[tuple[float, str, str]]()
        for colour, name in zip(COLOURS, result["contenders"], strict=False):
            seconds = [row["cost"].get(name, {}).get("seconds", math.nan) for row in rows]
            panel.plot(values, seconds, "o-", color=colour, linewidth=1.2, markersize=3)
            if not math.isnan(seconds[-1]):
                ends.append((seconds[-1], name.replace("_", " "), colour))
        panel.set(xscale="log", yscale="log", xlabel=what, ylabel=f"seconds for {result['explained']:,} images")
        panel.set_xticks(values, [f"{value:,}" for value in values])
        panel.minorticks_off()
    height, to_panel = -math.inf, panel.transData - panel.transAxes
    for end, label, colour in sorted(ends):  # beside the last panel, none over another
        height = max(height + 0.05, to_panel.transform((values[-1], end))[1])
        panel.text(1.03, height, label, transform=panel.transAxes, color=colour, fontsize=7, va="center")
    atomic_write_bytes(file, svg(figure))
    return file


def rows_of(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each case: what it is, seconds of each contender, and how many times as long the paper's way trains."""
    return [
        (
            f"{case['layers']} layers, {case['pixels']} pixels, {case['parameters']:,} parameters",
            *(f"{case['cost'][name]['seconds']:.1f}" if name in case["cost"] else "-" for name in result["contenders"]),
            f"{case['training_speedup']:.1f}×",
        )
        for case in result["cases"]
    ]
