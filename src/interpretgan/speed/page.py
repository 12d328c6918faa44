"""The chart of the benchmark of speed, and its table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interpretgan.report.chart_style import COLOURS, legend, panels, svg
from interpretgan.store.files import atomic_write_bytes

AXES = {"layers": "layers", "pixels": "pixels a side", "width": "parameters of the classifier"}


def write_chart(result: Mapping[str, Any], file: Path) -> Path:
    """Seconds to explain the images at all layers, against layers, size of the images and size of the classifier."""
    figure, axes = panels([f"against {what}" for what in AXES.values()])
    for panel, (axis, what) in zip(axes, AXES.items(), strict=True):
        rows = [case for case in result["cases"] if case["axis"] == axis]
        for colour, name in zip(COLOURS, result["contenders"], strict=False):
            known = [row for row in rows if name in row["cost"]]
            at = [row["parameters" if axis == "width" else axis] for row in known]
            panel.plot(at, [row["cost"][name]["seconds"] for row in known], "o-", color=colour, linewidth=1.2,
                       markersize=3, label=name.replace("_", " "))  # fmt: skip
        panel.set(xscale="log", yscale="log", xlabel=what, ylabel=f"seconds for {result['explained']} images")
    legend(axes[0])
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
