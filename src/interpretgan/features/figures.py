"""The figure of one layer's units: the proof by patching, and which units are modified in which classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interpretgan.data import class_name
from interpretgan.features.activation_patching import ORDERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interpretgan.features.modified import ModifiedFeatures

COLOURS = dict(zip(ORDERS, ("#b4470c", "#1f5fa8", "#6e7781"), strict=True))
SHOWN_UNITS, SHOWN_PAIRS = 16, 24  #: Of the heat map, those that are modified most often, and the commonest.


def plot_units(features: ModifiedFeatures, layer: str, classes: Sequence[str] = ()) -> Figure:
    """Left: images whose class is back as units are put back. Right: how often each unit is modified, by classes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    _curves(left, features, layer)
    _heat(right, features, layer, classes)
    figure.suptitle(layer, x=0.01, ha="left", size=11)
    return figure


def _curves(panel: Axes, features: ModifiedFeatures, layer: str) -> None:
    found = features[layer].patching
    panel.set(xlabel="units put back, %", ylabel="images whose class is back, %", xlim=(0, 100), ylim=(-2, 102))
    if found is None or not found.images:
        panel.text(50, 50, "no image is turned" if found is not None else "not patched", ha="center")
        return
    at = 100 * np.asarray(found.sizes) / found.units
    for order in ORDERS:
        shares = [found.share(order, size) for size in found.sizes]
        low, value, high = (
            [100 * getattr(share, name) for share in shares if share is not None] for name in ("low", "value", "high")
        )
        panel.fill_between(at, low, high, color=COLOURS[order], alpha=0.18, linewidth=0)
        panel.plot(at, value, color=COLOURS[order], marker="o", markersize=3, linewidth=1.4, label=order)
    panel.axvline(100 * found.tenth / found.units, color="#999999", linewidth=0.8, linestyle=":")
    panel.legend(frameon=False, fontsize=8, loc="lower right", title=f"{found.images} images, {found.units} units")


def _heat(panel: Axes, features: ModifiedFeatures, layer: str, classes: Sequence[str]) -> None:
    table = features.often(layer)
    if not table.size:
        panel.set_axis_off()
        return
    true, shown = features.labels[features.turned], features.shown[features.turned]
    common = Counter(zip(true.tolist(), shown.tolist(), strict=True)).most_common(SHOWN_PAIRS)
    pairs = [pair for pair, _ in common]
    units = table[pairs].mean(axis=1).sort_values(ascending=False, kind="stable").index[:SHOWN_UNITS]
    drawn = panel.imshow(100 * table.loc[units, pairs].to_numpy(), cmap="Oranges", vmin=0, vmax=100, aspect="auto")
    named = [[class_name(c, classes) for c in pair] for pair in pairs]
    panel.set_xticks(range(len(pairs)), [f"{a} → {b}" for a, b in named], rotation=90, fontsize=7)
    panel.set_yticks(range(len(units)), [f"unit {unit}" for unit in units], fontsize=7)
    panel.figure.colorbar(drawn, ax=panel, label="% of images with the unit in the first tenth")
