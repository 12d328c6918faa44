"""The scores of layers that are compared: our two columns, and every rival. All that knows their interfaces is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from interpretgan.baselines.layer_scores import LAYER_SCORES, ScoreInputs, measure_scores
from interpretgan.diagnosis.let_in import LetIn
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.statistics import Interval

TURNS, LET_IN = "turns", "let in"  #: The two questions: where does the class turn, where is the perturbation let in.
OURS = {TURNS: "vulnerability", LET_IN: "let_in"}  #: The column that answers each.


@dataclass(frozen=True)
class Column:
    """One score of every layer of a network, or why there is none."""

    values: tuple[float | None, ...] = ()  #: In the order of the layers; empty where there is an error.
    low: tuple[float | None, ...] = ()  #: Lower ends of the intervals, where there are intervals.
    direction: str = "high"  #: Which end blames a layer, `high` or `low`.
    seconds: float | None = None  #: What it alone took. `None`: it comes with the diagnosis.
    error: str | None = None  #: In a line.


def our_columns(diagnosis: Diagnosis) -> dict[str, Column]:
    """The two columns of a diagnosis, by name; one that it does not have is left out."""
    found = {}
    for name in OURS.values():
        intervals = [getattr(layer, name, None) for layer in diagnosis.layers[1:]]
        if any(isinstance(value, Interval) for value in intervals):
            values, low = (
                tuple(None if interval is None else getattr(interval, end) for interval in intervals)
                for end in ("value", "low")
            )
            found[name] = Column(values, low)
    return found


def let_in_column(found: LetIn) -> Column:
    """The second column alone, where there is no diagnosis."""
    return Column(tuple(score.value for score in found.scores), tuple(score.low for score in found.scores))


def rival_columns(inputs: ScoreInputs) -> dict[str, Column]:
    """Every rival by name; the information loss only where it was measured."""
    names = [name for name in LAYER_SCORES if name != "information_loss" or inputs.information is not None]
    return {
        found.name: Column(found.values, (), found.direction, found.seconds, found.error)
        for found in measure_scores(names, inputs)
    }


def about_rivals() -> dict[str, dict[str, Any]]:
    """What each rival is: for the page."""
    return {
        name: {"what": score.what, "source": score.source, "cost": score.cost} for name, score in LAYER_SCORES.items()
    }
