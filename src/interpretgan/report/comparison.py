"""The profiles of several runs side by side, and by how much each differs from the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interpretgan.attacks import fraction
from interpretgan.diagnosis.reliability import is_unreliable
from interpretgan.diagnosis.result import Diagnosis, LayerResult
from interpretgan.diagnosis.vulnerability import accuracy, survival, vulnerability
from interpretgan.errors import RunFolderError
from interpretgan.report.explanation_grid import load_predictions
from interpretgan.report.page import finished_diagnosis
from interpretgan.report.wording import number, span
from interpretgan.statistics import FEW, Floats, Interval, Weights, bootstrap_weights, difference_intervals

if TYPE_CHECKING:
    import pandas as pd

REPLICATES = 2000
SIZES = ("eps", "step_size")  #: Ends of the names of settings that are sizes of perturbations.


@dataclass(frozen=True)
class Run:
    """A finished run: its diagnosis, and the predictions behind it where the folder has them."""

    name: str
    folder: Path
    diagnosis: Diagnosis
    predictions: dict[str, Any] | None

    @property
    def few(self) -> bool:
        """Whether it has too few generators to tell how far others would be from them."""
        return len(self.diagnosis.provenance.get("generator_seeds", ())) < FEW

    def row(self, layer: str) -> LayerResult | None:
        """The row of a layer, if the run has it."""
        return next((row for row in self.diagnosis.layers if row.name == layer), None)

    def vulnerability(self, layer: str) -> Interval | None:
        """The vulnerability of a layer, if the run has it."""
        row = self.row(layer)
        return None if row is None else row.vulnerability


@dataclass(frozen=True)
class Comparison:
    """Vulnerability by layer and run, with the differences from the first run.

    Attributes:
        runs: The runs, the first of which the others are compared with.
        layers: Names of all layers that any run explains.
        gaps: By how much the vulnerability of each layer is larger in each other run than in the first; `None` where
            one of the two does not explain it, or explains it after another layer.
        paired: For each other run, whether its differences are of the same images.
        notes: What sets the runs apart but the network, and which intervals are not paired, or of few generators.
    """

    runs: tuple[Run, ...]
    layers: tuple[str, ...]
    gaps: Mapping[str, tuple[Interval | None, ...]]
    paired: tuple[bool, ...]
    notes: tuple[str, ...]

    @property
    def head(self) -> tuple[str, ...]:
        """Names of the columns as text."""
        first, *others = (run.name for run in self.runs)
        return ("layer", first, *others, *(f"{other} - {first}" for other in others))

    def values(self, layer: str) -> tuple[Interval | None, ...]:
        """The vulnerability of a layer in every run, then its differences."""
        return (*(run.vulnerability(layer) for run in self.runs), *self.gaps[layer])

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """Their cells in points, a row a layer."""

        def cell(value: Interval | None) -> str:
            return "-" if value is None else f"{number(value.value, 100, sign=True)} {span(value)}".replace("−", "-")

        return tuple((layer, *map(cell, self.values(layer))) for layer in self.layers)

    @property
    def frame(self) -> pd.DataFrame:
        """The same as numbers, shares from 0 to 1."""
        import pandas as pd

        records = []
        for layer in self.layers:
            record = dict[str, Any](layer=layer)
            for name, value in zip(self.head[1:], self.values(layer), strict=True):
                if value is not None:
                    record |= {name: value.value, f"{name} low": value.low, f"{name} high": value.high}
            records.append(record)
        return pd.DataFrame(records)

    def unreliable(self, layer: str, place: int) -> bool:
        """Whether a layer is unreliable in the first run, or in another one, by its place among the others."""
        rows = (run.row(layer) for run in (self.runs[0], self.runs[1 + place]))
        return any(row is not None and is_unreliable(row) for row in rows)

    def sure_gaps(self, place: int) -> dict[str, Interval]:
        """Where another run, by its place among them, differs from the first: intervals without 0, the largest first.

        Layers that are unreliable in either run are passed over.
        """
        found = {layer: gap for layer in self.layers if (gap := self.gaps[layer][place]) is not None}
        sure = [
            name for name, gap in found.items() if (gap.low > 0 or gap.high < 0) and not self.unreliable(name, place)
        ]
        return {name: found[name] for name in sorted(sure, key=lambda name: -abs(found[name].value))}


def compare_runs(folders: Sequence[str | Path]) -> Comparison:
    """Compare finished runs with the first of them, layer by layer of the same name.

    Differences have paired bootstrap intervals where both runs have their predictions, of the same images; else those
    of independent runs. `RunFolderError` for a folder without a diagnosis, or one that is named twice, and for none.
    """
    if isinstance(folders, str | Path) or not folders:
        got, do = "one alone" if folders else "none", "pass them in a list"
        raise RunFolderError(expected="several run folders", got=got, do=do)
    paths = [Path(folder) for folder in folders]
    places = [path.resolve() for path in paths]
    if twice := next((path for path, place in zip(paths, places, strict=True) if places.count(place) > 1), None):
        got, do = f"{twice} twice", "name another: a run does not differ from itself"
        raise RunFolderError(expected="different runs", got=got, do=do)
    first, *others = runs = [_run(path, _name(path, paths)) for path in paths]
    found = [_paired(first, other) for other in others]
    paired = tuple(gaps is not None for gaps in found)
    each = [_apart(first, other) if gaps is None else gaps for other, gaps in zip(others, found, strict=True)]
    layers = _in_order(runs)
    gaps = {layer: tuple(of_run.get(layer) for of_run in each) for layer in layers}
    notes = [note for other, same in zip(others, paired, strict=True) for note in _notes(first, other, same)]
    return Comparison(tuple(runs), tuple(layers), gaps, paired, tuple(notes))


def _run(folder: Path, name: str) -> Run:
    diagnosis = finished_diagnosis(folder)
    return Run(name, folder, diagnosis, load_predictions(folder, len(diagnosis.layers)))


def _in_order(runs: Sequence[Run]) -> list[str]:
    """Names of all layers, those that a run has alone after what is before them there."""
    names: list[str] = []
    for run in runs:
        place = 0
        for row in run.diagnosis.layers[1:]:
            if row.name not in names:
                names.insert(place, row.name)
            place = names.index(row.name) + 1
    return names


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
    shared = ["image", *_shared(first, other)]
    base, losses = (np.stack([of_run[name] for name in shared], axis=-1) for of_run in lost)
    return dict(zip(shared, difference_intervals(base, losses, confidence), strict=True))


def _vulnerability(run: Run, weights: Weights) -> Floats:
    """Of every row, by every generator in every replicate, `[L + 1, S, 1 + B]`."""
    assert run.predictions is not None
    arrays = run.predictions
    kinds = [arrays.get(f"{kind}_all", arrays[kind][None]) for kind in ("natural", "adversarial")]
    each = [
        vulnerability(survival(*(accuracy(shown == arrays["labels"], weights) for shown in pair)))
        for pair in zip(*kinds, strict=True)
    ]
    return np.moveaxis(np.stack(each), -1, 0)


def _apart(first: Run, other: Run) -> dict[str, Interval]:
    """Differences of the vulnerability of shared layers of independent runs."""
    gaps = {}
    for name in _shared(first, other):
        value, base = other.vulnerability(name), first.vulnerability(name)
        assert value is not None
        assert base is not None
        low = math.hypot(value.value - value.low, base.high - base.value)
        high = math.hypot(value.high - value.value, base.value - base.low)
        gap = value.value - base.value
        gaps[name] = Interval(gap, gap - low, gap + high)
    return gaps


def _shared(first: Run, other: Run) -> list[str]:
    """Layers that both explain after the same layer: vulnerability is what is lost since the layer before."""
    before, there = (
        {row.name: earlier.name for earlier, row in pairwise(run.diagnosis.layers)} for run in (first, other)
    )
    return [name for name, earlier in before.items() if there.get(name) == earlier]


def _notes(first: Run, other: Run, paired: bool) -> list[str]:
    """In what two runs differ beside their networks."""
    notes = [] if paired else [f"{other.name} has other images than {first.name}, or no predictions: not paired"]
    if few := [run.name for run in (first, other) if run.few]:
        words = f"{' and '.join(few)} {'has' if len(few) == 1 else 'have'} fewer than {FEW} generators"
        notes.append(f"{words}: intervals cover the choice of images alone, and other generators would differ as well")
    if [row.name for row in first.diagnosis.layers] != [row.name for row in other.diagnosis.layers]:
        notes.append(
            f"{first.name} and {other.name} explain other layers: figures are what is lost since the layer before, and "
            "only layers after the same one are compared"
        )
    elsewhere = [run.name for run in (first, other) if "adversarial" in run.diagnosis.provenance]
    if len(elsewhere) == 1:
        notes.append(f"{elsewhere[0]} alone has adversarial images that were made elsewhere")
    for what in ("threat_model", "judge"):
        here, there = getattr(other.diagnosis, what), getattr(first.diagnosis, what)
        if different := [key for key in here if here[key] != there.get(key)]:
            changes = ", ".join(f"{key} {said(key, there.get(key))} and {said(key, here[key])}" for key in different)
            notes.append(f"{first.name} and {other.name} have another {what.replace('_', ' ')}: {changes}")
    return notes


def said(name: str, value: object) -> object:
    """The value of a setting in words, where it is a size of perturbations as people write it: 8/255."""
    return fraction(value) if name.endswith(SIZES) and isinstance(value, float) and value else value
