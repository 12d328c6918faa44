"""The profiles of several runs side by side, and by how much each differs from the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interpretgan.diagnosis.result import Diagnosis, LayerResult
from interpretgan.diagnosis.vulnerability import accuracy, survival, vulnerability
from interpretgan.errors import RunFolderError
from interpretgan.report.explanation_grid import load_predictions
from interpretgan.report.page import finished_diagnosis
from interpretgan.report.wording import number, span
from interpretgan.statistics import Floats, Interval, Weights, bootstrap_weights, intervals

if TYPE_CHECKING:
    import pandas as pd

REPLICATES = 2000


@dataclass(frozen=True)
class Run:
    """A finished run: its diagnosis, and the predictions behind it where the folder has them."""

    name: str
    diagnosis: Diagnosis
    predictions: dict[str, Any] | None

    def row(self, layer: str) -> LayerResult | None:
        """The row of a layer, if the run has it."""
        return next((row for row in self.diagnosis.layers if row.name == layer), None)


@dataclass(frozen=True)
class Comparison:
    """Vulnerability in points by layer and run, with the differences from the first run.

    Attributes:
        head: Names of the columns as text.
        rows: Their cells, a row a layer.
        notes: What sets the runs apart but the network, and which intervals are not paired.
        frame: The same as numbers, shares from 0 to 1.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    frame: pd.DataFrame


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Compare finished runs with the first of them, layer by layer of the same name.

    Differences have paired bootstrap intervals where both runs have their predictions, of the same images; else those
    of independent runs. `RunFolderError` for a folder without a diagnosis, or one that is named twice.
    """
    import pandas as pd

    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        got, do = f"{twice} twice", "name another: a run does not differ from itself"
        raise RunFolderError(expected="different runs", got=got, do=do)
    runs = [Run(_name(folder, folders), finished_diagnosis(folder), load_predictions(folder)) for folder in folders]
    first, others = runs[0], runs[1:]
    layers = list(dict.fromkeys(row.name for run in runs for row in run.diagnosis.layers[1:]))
    head = ["layer", *(run.name for run in runs), *(f"{run.name} - {first.name}" for run in others)]
    paired = [_paired(first, other) for other in others]
    rows, records = [], []
    for layer in layers:
        cells, record = [layer], dict[str, Any](layer=layer)
        found = [run.row(layer) for run in runs]
        values = [None if row is None else row.vulnerability for row in found]
        values += [
            None if values[0] is None or value is None else gaps[layer] if gaps else _apart(value, values[0])
            for value, gaps in zip(values[1:], paired, strict=True)
        ]
        for name, value in zip(head[1:], values, strict=True):
            cells.append("-" if value is None else f"{number(value.value, 100, sign=True)} {span(value)}")
            if value is not None:
                record |= {name: value.value, f"{name} low": value.low, f"{name} high": value.high}
        rows.append(tuple(cell.replace("−", "-") for cell in cells))
        records.append(record)
    gaps_of = zip(others, paired, strict=True)
    notes = [note for other, gaps in gaps_of for note in _notes(first, other, gaps is not None)]
    return Comparison(tuple(head), tuple(rows), tuple(notes), pd.DataFrame(records))


def _name(folder: Path, folders: Sequence[Path]) -> str:
    """The last part of a folder's path, or the whole where another one ends alike."""
    same = [other for other in folders if other.absolute().name == folder.absolute().name]
    return folder.absolute().name if len(same) == 1 else str(folder)


def _paired(first: Run, other: Run) -> dict[str, Interval] | None:
    """Differences of the vulnerability of shared layers, on the same images drawn again and again. `None`: others."""
    a, b = first.predictions, other.predictions
    same = first.diagnosis.data.get("sha256") == other.diagnosis.data.get("sha256")
    if a is None or b is None or not same or not np.array_equal(a["labels"], b["labels"]):
        return None
    weights = bootstrap_weights(len(a["labels"]), REPLICATES, seed=0)
    lost = [
        dict(zip((row.name for row in run.diagnosis.layers), _vulnerability(run, weights), strict=True))
        for run in (first, other)
    ]
    confidence = float(first.diagnosis.provenance.get("confidence", 0.95))
    shared = [name for name in lost[0] if name in lost[1]]
    gaps = np.stack([lost[1][name] - lost[0][name] for name in shared], axis=-1)
    return dict(zip(shared, intervals(gaps[None], confidence), strict=True))


def _vulnerability(run: Run, weights: Weights) -> Floats:
    """Of every row in every replicate, `[L + 1, 1 + B]`, a mean over the generators."""
    assert run.predictions is not None
    arrays = run.predictions
    kinds = [arrays.get(f"{kind}_all", arrays[kind][None]) for kind in ("natural", "adversarial")]
    each = [
        vulnerability(survival(*(accuracy(shown == arrays["labels"], weights) for shown in pair)))
        for pair in zip(*kinds, strict=True)
    ]
    mean: Floats = np.mean(each, axis=0).T
    return mean


def _apart(value: Interval, base: Interval) -> Interval:
    """The difference of two figures of independent runs."""
    low = math.hypot(value.value - value.low, base.high - base.value)
    high = math.hypot(value.high - value.value, base.value - base.low)
    gap = value.value - base.value
    return Interval(gap, gap - low, gap + high)


def _notes(first: Run, other: Run, paired: bool) -> list[str]:
    """In what two runs differ beside their networks."""
    notes = [] if paired else [f"{other.name} has other images than {first.name}, or no predictions: not paired"]
    if [row.name for row in first.diagnosis.layers] != [row.name for row in other.diagnosis.layers]:
        notes.append(
            f"{first.name} and {other.name} explain other layers: figures are what is lost since the layer before"
        )
    for what in ("threat_model", "judge"):
        here, there = getattr(other.diagnosis, what), getattr(first.diagnosis, what)
        if different := [key for key in here if here[key] != there.get(key)]:
            changes = ", ".join(f"{key} {there.get(key)} and {here[key]}" for key in different)
            notes.append(f"{first.name} and {other.name} have another {what.replace('_', ' ')}: {changes}")
    return notes
