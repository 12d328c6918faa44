"""What of a diagnosis fits into a time budget, by its price; and the flag that says what was given up."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from pathlib import Path

from interpretgan.errors import ConfigError, Flag, FlagKind
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.price import StagePrice, options_of, price
from interpretgan.pipeline.run_folder import CONFIG_FILE
from interpretgan.pipeline.settings import KEYWORD_GROUPS
from interpretgan.store.files import read_json
from interpretgan.store.progress import duration

TIME_BUDGET = FlagKind("time_budget", "note", "to fit into {budget} this was lowered: {given_up}")

SAFE = 0.85  # share of a budget that is planned: a price is an estimate
RUNGS = (
    ("examples", 1000), ("information_steps", 200), ("let_in_steps", 30), ("generator_steps", 200), ("examples", 500),
    ("information_steps", 100), ("generator_steps", 120), ("generator_seeds", 1), ("examples", 250),
    ("let_in_steps", 0), ("information_steps", 0),
)  # fmt: skip
"""What is given up for a budget, one after the other: first what widens intervals, last a whole answer."""


def fitted(
    prices: Collection[StagePrice], values: Mapping[str, int], budget: float, *, spent: float = 0.0
) -> dict[str, int]:
    """The options that fit into so many seconds, some of which are spent: lowered along `RUNGS` as far as is needed.

    What a last step down leaves free goes back to the generator, then to the examples. A `ConfigError` where even the
    lowest options do not fit.
    """

    def total(chosen: Mapping[str, int]) -> float:
        return sum(each.seconds(chosen) for each in prices)

    def raised(chosen: dict[str, int], name: str, most: int) -> dict[str, int]:
        each = total(chosen | {name: chosen[name] + 1}) - total(chosen)
        more = most - chosen[name] if each <= 0 else min(most - chosen[name], int((limit - total(chosen)) / each))
        return chosen | {name: chosen[name] + max(0, more)}

    chosen, limit = dict(values), SAFE * budget - spent
    for name, least in RUNGS:
        if total(chosen) <= limit:
            break
        before, lower = chosen[name], chosen | {name: min(chosen[name], least)}
        chosen = raised(lower, name, before) if least > 1 else lower
    if (least_seconds := total(chosen)) > limit:
        expected = f"a time budget of at least {duration((least_seconds + spent) / SAFE)}"
        do = "allow more, or explain fewer layers (--layers)"
        raise ConfigError(expected=expected, got=duration(budget), do=do)
    for name in ("generator_steps", "examples"):
        chosen = raised(chosen, name, values[name])
    return chosen


def within_budget(inputs: Inputs, folder: Path | None) -> tuple[Inputs, list[StagePrice]]:
    """Inputs whose options fit into the time budget of their settings, and the prices if they were measured.

    A run that goes on in its folder takes what was chosen there for the same budget.
    """
    budget, values = inputs.settings.diagnosis.time_budget, options_of(inputs)
    assert budget is not None
    file = None if folder is None else folder / CONFIG_FILE
    config = read_json(file) if file is not None and file.exists() else None
    prices = list[StagePrice]()
    known = _kept(config.get("time_budget") if isinstance(config, dict) else None, budget, values)
    if known is not None:
        chosen = {**values, **known}
    else:
        began = time.perf_counter()
        prices = price(inputs, folder)
        chosen = fitted(prices, values, budget, spent=time.perf_counter() - began)
    given_up = {name: [values[name], chosen[name]] for name in values if values[name] != chosen[name]}
    settings = inputs.settings
    for section, group in KEYWORD_GROUPS.items():
        own = {item.name: chosen[item.name] for item in fields(group) if item.name in given_up}
        if own:
            settings = replace(settings, **{section: replace(getattr(settings, section), **own)})
    changed = copy.copy(inputs)
    changed.settings, changed.time_budget = settings, {"seconds": budget, "given_up": given_up}
    return changed, prices


def _kept(record: object, budget: float, values: Mapping[str, int]) -> dict[str, int] | None:
    """The options that a run folder took for this budget; `None` where its record says nothing of it."""
    if not isinstance(record, dict) or record.get("seconds") != budget or not isinstance(record.get("given_up"), dict):
        return None
    chosen = {}
    for name, pair in record["given_up"].items():
        if name not in values or not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], int):
            return None
        chosen[name] = pair[1]
    return chosen


def budget_flags(inputs: Inputs) -> list[Flag]:
    """What was given up for a time budget, if anything was."""
    if inputs.time_budget is None or not inputs.time_budget["given_up"]:
        return []
    given_up = inputs.time_budget["given_up"]
    words = ", ".join(f"{name.replace('_', ' ')} {before} → {now}" for name, (before, now) in given_up.items())
    return [TIME_BUDGET(budget=duration(inputs.time_budget["seconds"]), given_up=words)]
