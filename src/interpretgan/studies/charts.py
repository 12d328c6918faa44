"""The figures of a study, from its result file alone."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from interpretgan.attacks.threat_model import SMALL
from interpretgan.report.chart_style import COLOURS, band, intervals, legend, panels
from interpretgan.studies.claims import Claim, Record, by_condition
from interpretgan.studies.config import GIVEN_DEPTH
from interpretgan.studies.effects import AT_EPS, CURVE, PROFILED, numbers, tables_by_variant
from interpretgan.studies.rules import POOLED, condition_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def figures_of(study: Record) -> Iterator[tuple[str, str, Figure]]:
    """Name, caption and figure, in the order in which they are read."""
    if study["kind"] == "information":
        first = GIVEN_DEPTH["spearman(information_loss, vulnerability)"]
        chosen = [item for item in study["effects"] if item["case"] == POOLED or item["quantity"] == first]
        names = [f"{condition_name(effect)}\n{effect['quantity']}" for effect in chosen]
        caption = "Spearman's ρ of information loss and vulnerability, and of the definitions"
        yield "correlations", caption, _forest(names, chosen, "ρ")
        caption = "Information loss and vulnerability of each layer, a colour per seed; unreliable rows are left out"
        yield "layers", caption, _scatter(study)
        return
    chosen = [effect for effect in study["effects"] if effect["quantity"] == "worst_case"]
    names = [f"{effect['case']}\n{effect['variant']} − {effect['against']}" for effect in chosen]
    caption = "Robust accuracy against the other variant, with corrected intervals"
    yield "gains", caption, _forest(names, chosen, "worst-case accuracy, difference")
    table = numbers(study["runs"])
    yield "curves", "Accuracy over ε under PGD, means over seeds and their range", _curves(table)
    if study["kind"] == "pooling" and (table["layer"] != "").any():
        caption = "Vulnerability and information loss of each layer, means over seeds and their range"
        yield "profiles", caption, _profiles(table)


def claims(chosen: Sequence[Claim]) -> Figure | None:
    """Claims, a panel each, with what every study measured in each condition; `None`: nothing was measured of any."""
    known = [(claim, rows) for claim in chosen if (rows := _measured(claim))]
    if not known:
        return None
    titles = [textwrap.fill(claim.text, 64) for claim, _ in known]
    heights = [0.9 + 0.3 * len(rows) for _, rows in known]
    figure, axes = panels(titles, width=7.5, heights=heights, columns=1)
    for panel, (claim, rows) in zip(axes, known, strict=True):
        intervals(panel, [row for row, _ in rows], line=claim.rule["threshold"])
        for place, (_, words) in enumerate(rows):
            at: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
            panel.annotate(words, (1.02, place), fontsize=7, **at)
        if claim.rule["quantity"].startswith("spearman"):
            panel.set(xlim=(-1.05, 1.05), xlabel="ρ")
        else:
            panel.set_xlabel("difference of accuracy")
    return figure


def _measured(claim: Claim) -> list[tuple[tuple[str, float, float, float], str]]:
    """What was measured of a claim, condition by condition: where, the interval, and what is concluded."""
    rows = []
    for setting, row in claim.verdicts.items():
        was = f"\n(at first {row['before']['verdict']})" if "before" in row else ""
        several = len(row["conditions"]) > 1
        for name, found in by_condition(row).items():
            if found["value"] is not None:
                where, answer = (f"{setting}, {name}", found["answer"]) if several else (setting, row["verdict"])
                rows.append(((where, found["value"], found["low"], found["high"]), answer + was))
    return rows


def _forest(names: Sequence[str], effects: Sequence[Mapping[str, Any]], label: str) -> Figure:
    """Estimates with their corrected intervals, one below the other."""
    figure, (panel,) = panels([""], width=7.5, heights=[max(1.2, 0.42 * len(names) + 0.6)])
    ends = [(effect["value"], effect["corrected_low"], effect["corrected_high"]) for effect in effects]
    intervals(panel, [(name, *end) for name, end in zip(names, ends, strict=True)])
    panel.set_xlabel(label)
    return figure


def _curves(table: pd.DataFrame) -> Figure:
    """Accuracy over eps, a panel for each case."""
    rows = table[table["family"] == CURVE].assign(at=table["quantity"].str.removeprefix(AT_EPS))
    cases = list(rows.groupby("case"))
    figure, axes = panels([str(case) for case, _ in cases])
    for panel, (_, points) in zip(axes, cases, strict=True):
        at = [float(eps) for eps in points["at"].unique()]
        # An evaluation ends at half the range of the pixels, to see that nothing withstands that: far off, often.
        end = len(at) - (len(at) > 2 and at[-1] > 3 * at[-2])
        scale = 255 if at[end - 1] < SMALL else 1
        chosen = points[points["at"].astype(float) <= at[end - 1]]
        _variants(panel, table, chosen, "at", [scale * eps for eps in at[:end]])
        panel.set(xlabel="ε" if scale == 1 else "ε × 255", ylabel="accuracy %", ylim=(0, 100))
    return figure


def _profiles(table: pd.DataFrame) -> Figure:
    """Vulnerability and information loss of each layer, a row of panels for each case."""
    shown = list(table[table["layer"] != ""].groupby(["case", "family"], sort=False))
    figure, axes = panels([str(case) for (case, _), _ in shown], heights=[3.2], columns=len(PROFILED))
    for panel, ((_, quantity), chosen) in zip(axes, shown, strict=True):
        names = list(chosen["layer"].unique())
        _variants(panel, table, chosen, "layer", range(len(names)))
        panel.axhline(0, color="#bbbbbb", linewidth=0.6)
        panel.set_xticks(range(len(names)), names, rotation=90)
        panel.set_ylabel("V (points)" if quantity == PROFILED[0] else "loss (% of variance)")
    return figure


def _variants(panel: Axes, table: pd.DataFrame, chosen: pd.DataFrame, column: str, at: Sequence[float]) -> None:
    """For each variant the mean over its seeds and their range, in hundredths; its colour is the same in all panels."""
    colours = dict(zip(sorted(table["variant"].unique()), itertools.cycle(COLOURS), strict=False))
    for variant, rows in chosen.groupby("variant"):
        values = rows.pivot(index="seed", columns=column, values="value").reindex(columns=chosen[column].unique())
        band(panel, at, 100 * values.to_numpy(), colour=colours[variant], label=str(variant))
    legend(panel)


def _scatter(study: Record) -> Figure:
    """Information loss against vulnerability, a panel for each variant of each case, a colour for each seed."""
    groups = tables_by_variant(study["runs"])
    figure, axes = panels(list(groups))
    for panel, tables in zip(axes, groups.values(), strict=True):
        for colour, table in zip(itertools.cycle(COLOURS), tables, strict=False):
            panel.plot(table["information_loss"], 100 * table["vulnerability"], "o", color=colour, markersize=3)
        panel.set(xlabel="information loss", ylabel="V (points)")
    return figure
