"""Figures of a study, from its result file alone."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from interpretgan.attacks.threat_model import SMALL
from interpretgan.studies.claims import Claim, Study, by_condition
from interpretgan.studies.effects import PROFILED, profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f5fb4", "#d9641a", "#2a8f5b", "#8a4fbf", "#777777", "#b8315a")
UNITS = {"vulnerability": "V (points)", "information_loss": "loss (% of variance)"}
"""Of what is shown of layers, in hundredths."""


def figures_of(study: Study) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure, in the order in which they are read."""
    kind = study["kind"]
    if kind == "information":
        yield "correlations", "Spearman's ρ of information loss and vulnerability, and of the definitions", _rho(study)
        yield (
            "layers",
            "Information loss and vulnerability of each layer, a colour per seed; unreliable rows are left out",
            _scatter(study),
        )
        return
    yield "gains", "Robust accuracy against the other variant, with corrected intervals", _gains(study)
    yield "curves", "Accuracy over ε under PGD, means over seeds and their range", _curves(study)
    if kind == "pooling" and any(run.get("result", {}).get("layers") for run in study["runs"]):
        yield (
            "profiles",
            "Vulnerability and loss of the image of each layer, means over seeds and their range",
            _profiles(study),
        )


def claims(chosen: Sequence[Claim]) -> Figure | None:
    """Claims, a panel each, with what every study measured in each condition; `None`: nothing was measured of any."""
    known = [(claim, rows) for claim in chosen if (rows := _measured(claim))]
    if not known:
        return None
    from matplotlib.figure import Figure

    counts = [len(rows) for _, rows in known]
    figure = Figure(figsize=(7.5, 0.9 * len(known) + 0.3 * sum(counts)), layout="constrained")
    panels = figure.subplots(len(known), 1, squeeze=False, height_ratios=[0.6 + count for count in counts])[:, 0]
    for panel, (claim, rows) in zip(panels, known, strict=True):
        panel.set_title(textwrap.fill(claim.text, 64), fontsize=9, loc="left")
        _intervals(panel, [(name, one["value"], one["low"], one["high"]) for name, one, _ in rows])
        for place, (_, _, words) in enumerate(rows):
            panel.annotate(
                words, (1.02, place), xycoords=("axes fraction", "data"), fontsize=7, va="center",
                annotation_clip=False,
            )  # fmt: skip
        panel.axvline(claim.threshold, color="#999999", linewidth=0.8)
        if claim.quantity.startswith("spearman"):
            panel.set_xlim(-1.05, 1.05)
            panel.set_xlabel("ρ", fontsize=8)
        else:
            panel.set_xlabel("difference of accuracy", fontsize=8)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _measured(claim: Claim) -> list[tuple[str, Mapping[str, Any], str]]:
    """What was measured of a claim, condition by condition: where, the condition, and what is concluded."""
    rows = []
    for setting, row in claim.verdicts.items():
        conditions = by_condition(row)
        was = f"\n(at first {row['before']['verdict']})" if "before" in row else ""
        for name, one in conditions.items():
            if one["value"] is not None:
                several = len(conditions) > 1
                words = one["answer"] if several else row["verdict"]
                rows.append((f"{setting}, {name}" if several else setting, one, words + was))
    return rows


def _panels(names: Sequence[str], height: float = 2.6, columns: int = 3) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    columns = min(columns, max(1, len(names)))
    rows = -(-max(1, len(names)) // columns)
    figure = Figure(figsize=(3.4 * columns, height * rows), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(len(names))]
    for panel, name in zip(axes, names, strict=True):
        panel.set_title(name, fontsize=9)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _groups(study: Study) -> dict[str, dict[str, list[Mapping[str, Any]]]]:
    """Results by case and variant."""
    groups: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for run in study["runs"]:
        if run["status"] == "done":
            groups.setdefault(run["case"], {}).setdefault(run["variant"], []).append(run["result"])
    return groups


def _colours(study: Study) -> dict[str, str]:
    """One colour per variant, the same in every panel."""
    variants = dict.fromkeys(run["variant"] for run in study["runs"])
    return dict(zip(variants, _cycle(), strict=False))


def _curves(study: Study) -> Figure:
    groups, colours = _groups(study), _colours(study)
    figure, axes = _panels(list(groups))
    for panel, variants in zip(axes, groups.values(), strict=True):
        for variant, results in variants.items():
            at = np.array([point["at"] for point in results[0]["curve"]])
            values = 100 * np.array([[point["value"] for point in one["curve"]] for one in results])
            # An evaluation ends at half the range of the pixels, to see that nothing withstands that: far off, often.
            end = len(at) - 1 if len(at) > 2 and at[-1] > 3 * at[-2] else len(at)
            small = at[end - 1] < SMALL
            _band(panel, at[:end] * (255 if small else 1), values[:, :end], colours[variant], variant)
        panel.set_xlabel("ε × 255" if small else "ε", fontsize=8)
        panel.set_ylabel("accuracy %", fontsize=8)
        panel.set_ylim(0, 100)
        panel.legend(fontsize=7, frameon=False)
    return figure


def _profiles(study: Study) -> Figure:
    colours = _colours(study)
    diagnosed = {
        case: {
            variant: known
            for variant, results in variants.items()
            if (known := [one for one in results if one.get("layers")])
        }
        for case, variants in _groups(study).items()
    }
    groups = {case: variants for case, variants in diagnosed.items() if variants}
    shown = [(case, name) for case in groups for name in PROFILED]
    figure, axes = _panels([case for case, _ in shown], height=3.2, columns=len(PROFILED))
    for panel, (case, quantity) in zip(axes, shown, strict=True):
        names = [row["name"] for row in next(iter(groups[case].values()))[0]["layers"]]
        for variant, results in groups[case].items():
            alike = [one for one in results if [row["name"] for row in one["layers"]] == names]
            values = 100 * np.array([profile(one)[quantity] for one in alike]).reshape(-1, len(names))
            _band(panel, np.arange(len(names)), values, colours[variant], variant)
        panel.axhline(0, color="#bbbbbb", linewidth=0.6)
        panel.set_xticks(range(len(names)), names, rotation=90)
        panel.set_ylabel(UNITS[quantity], fontsize=8)
        panel.legend(fontsize=7, frameon=False)
    return figure


def _gains(study: Study) -> Figure:
    chosen = [one for one in study["effects"] if one["quantity"] == "worst_case" and one["layer"] is None]
    return _forest(
        [(f"{one['case']}\n{one['variant']} − {one['against']}", one) for one in chosen],
        "worst-case accuracy, difference",
    )


def _rho(study: Study) -> Figure:
    chosen = [
        one
        for one in study["effects"]
        if one["case"] == "all" or one["quantity"] == "spearman(information_loss, vulnerability)"
    ]
    return _forest(
        [(f"{' '.join(filter(None, (one['case'], one['variant'])))}\n{one['quantity']}", one) for one in chosen], "ρ"
    )


def _forest(rows: Sequence[tuple[str, Mapping[str, Any]]], label: str) -> Figure:
    """Estimates with their corrected intervals, one below the other."""
    figure, (panel,) = _panels([""], height=max(1.2, 0.42 * len(rows) + 0.6))
    figure.set_figwidth(7.5)
    _intervals(panel, [(name, one["value"], one["corrected_low"], one["corrected_high"]) for name, one in rows])
    panel.axvline(0, color="#999999", linewidth=0.8)
    panel.set_xlabel(label, fontsize=8)
    return figure


def _intervals(panel: Axes, rows: Sequence[tuple[str, float, float, float]]) -> None:
    """Estimates by name, with the ends of their intervals, one below the other."""
    for place, (_, value, low, high) in enumerate(rows):
        panel.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.2)
        panel.plot([value], [place], "o", color=COLOURS[0], markersize=4)
    panel.set_yticks(range(len(rows)), [name for name, *_ in rows])
    panel.set_ylim(len(rows) - 0.5, -0.5)


def _scatter(study: Study) -> Figure:
    groups = {
        f"{case} {variant}": [profile(one) for one in results]
        for case, variants in _groups(study).items()
        for variant, results in variants.items()
    }
    figure, axes = _panels(list(groups))
    for panel, tables in zip(axes, groups.values(), strict=True):
        for colour, table in zip(_cycle(), tables, strict=False):
            panel.plot(table["information_loss"], 100 * table["vulnerability"], "o", color=colour, markersize=3)
        panel.set_xlabel("information loss", fontsize=8)
        panel.set_ylabel("V (points)", fontsize=8)
    return figure


def _band(panel: Axes, at: Any, values: Any, colour: str, label: str) -> None:
    """The mean of the rows, and their range, where there are numbers."""
    known = np.isfinite(values)
    counts = known.sum(axis=0)
    mean = np.where(counts > 0, np.where(known, values, 0).sum(axis=0) / counts.clip(1), np.nan)
    low = np.where(counts > 0, np.where(known, values, np.inf).min(axis=0), np.nan)
    high = np.where(counts > 0, np.where(known, values, -np.inf).max(axis=0), np.nan)
    panel.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    panel.plot(at, mean, color=colour, linewidth=1.2, marker="o", markersize=2.5, label=label)


def _cycle() -> Iterator[str]:
    while True:
        yield from COLOURS


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same numbers."""
    import matplotlib as mpl

    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "interpretgan"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
