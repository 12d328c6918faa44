"""From the results of the runs to the effects of a study: variants against each other, or layers against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interpretgan.statistics import Estimate, Profile, holm, paired, rank_correlation
from interpretgan.studies.config import (
    BEST,
    DEFINITIONS,
    DEPTH,
    TEST_ACCURACY,
    UNTOUCHED,
    StudyConfig,
    conditions,
    correlation_name,
    correlations,
)
from interpretgan.studies.rules import POOLED

if TYPE_CHECKING:
    import pandas as pd

Run = Mapping[str, Any]
"""One of the `runs` of a study: `id`, `case`, `variant`, `seed`, `status`, and its `result` where that is `done`."""
PROFILED = ("vulnerability", "information_loss")  #: What is compared layer by layer.
CURVE, AT_EPS = "curve", "accuracy at eps "  #: Family of the points of the curve over eps, and how their names begin.


@dataclass(frozen=True)
class Effect:
    """One number that a study measures, with its interval and with what holds for all that are looked at together."""

    quantity: str
    case: str  # data, network and training; `POOLED`: all of them
    variant: str | None  # `None`: not of one
    against: str | None  # the variant that it is compared with
    layer: str | None
    runs: int  # or pairs of runs, that it rests on
    value: float
    low: float  # at the level of the study, as `high`
    high: float
    p: float  # two-sided, of a value of zero
    size: float | None  # mean difference over the standard deviation of the differences: Cohen's d of pairs
    comparisons: int  # how many effects are looked at together
    corrected_low: float  # at the level that holds for all of these together (Bonferroni), as `corrected_high`
    corrected_high: float
    p_holm: float  # corrected for their number (Holm 1979)


Found = tuple[tuple[str, str, str | None, str | None, str | None], Estimate]
"""The names of an effect, from `quantity` to `layer`, and its estimate."""


def measure(config: StudyConfig, runs: Sequence[Run]) -> list[Effect]:
    """All effects of a study, in a fixed order, from its runs."""
    return _correlations(config, runs) if config.kind == "information" else _differences(config, runs)


def correct(family: Sequence[Found], confidence: float, comparisons: int = 0) -> list[Effect]:
    """Effects that are looked at together, with what holds for all of them at once.

    `confidence` is the level of each interval, and that at which the corrected ones hold together; `comparisons` is how
    many effects there would be if no run had failed, where that is more.
    """
    count = max(1, comparisons, len(family))
    corrected = holm([found.p for _, found in family] + [1.0] * (count - len(family)))
    effects = []
    for (names, found), p in zip(family, corrected, strict=False):
        alone, together = found.interval(confidence), found.interval(1 - (1 - confidence) / count)
        effects.append(
            Effect(
                *names, found.runs, found.value, alone.low, alone.high, found.p, found.size, count,
                together.low, together.high, float(p),
            )
        )  # fmt: skip
    return effects


# --- what the runs say, as tables --------------------------------------------------------------------------------


def numbers(runs: Sequence[Run]) -> pd.DataFrame:
    """Every number that variants are compared in, a row for each finished run and quantity.

    Columns: `case`, `variant`, `seed`, `family` (what is corrected together), `quantity`, `layer` (empty: none),
    `value` (NaN: not measured, or unreliable) and `right` (a 1 for each example that is right; `None`: not known).
    """
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    for run in sorted(finished(runs), key=lambda run: int(run["seed"])):
        result, where = run["result"], (run["case"], run["variant"], run["seed"])
        for name, share in result["accuracy"].items():
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(result["right"][name]), dtype=np.uint8))
            rows.append((*where, name, name, "", share["value"], bits[: result["examples"]].astype(np.int8)))
        if (accuracy := result["classifier"].get(TEST_ACCURACY)) is not None:
            rows.append((*where, TEST_ACCURACY, TEST_ACCURACY, "", accuracy, None))
        rows += [(*where, CURVE, f"{AT_EPS}{point['at']:g}", "", point["value"], None) for point in result["curve"]]
        if result.get("layers"):
            for name, values in layer_table(result)[list(PROFILED)].items():
                rows += [(*where, name, name, layer, value, None) for layer, value in values.items()]
    return pd.DataFrame(rows, columns=["case", "variant", "seed", "family", "quantity", "layer", "value", "right"])


def layer_table(result: Mapping[str, Any]) -> pd.DataFrame:
    """The layers of a run, a column for each loss and each definition of vulnerability, and one for `depth`.

    NaN where the run does not have it, and in all of a row that is marked unreliable. `class_loss` is the class
    information of the layer before, less that of the layer.
    """
    import pandas as pd

    rows, names = result["layers"], ("information_loss", *DEFINITIONS, "class_information")
    columns = {name: [_number(row.get(name)) for row in rows] for name in names}
    table = pd.DataFrame(columns, index=[row["name"] for row in rows])
    bits = table.pop("class_information")
    table["class_loss"] = bits.shift(fill_value=_number(result["diagnosis"].get("class_information"))) - bits
    table[DEPTH] = np.arange(float(len(rows)))
    table.loc[[bool(row["unreliable"]) for row in rows]] = np.nan
    return table


def finished(runs: Sequence[Run]) -> list[Run]:
    """Those that have a result; of the layers that `BEST` tries in a network the one that gains most, if all have one.

    It is known to be the best by the very images on which it is compared: no diagnosis could choose better.
    """
    tried: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run["variant"] == BEST:
            tried.setdefault((run["case"], run["seed"]), []).append(run)
    whole = [group for group in tried.values() if all(run["status"] == "done" for run in group)]
    best = [max(group, key=lambda run: float(run["result"]["accuracy"]["worst_case"]["value"])) for group in whole]
    return [*(run for run in runs if run["status"] == "done" and run["variant"] != BEST), *best]


def tables_by_variant(runs: Sequence[Run]) -> dict[str, list[pd.DataFrame]]:
    """The layers of the runs that have a result, by case and variant."""
    tables: dict[str, list[pd.DataFrame]] = {}
    for run in finished(runs):
        tables.setdefault(f"{run['case']} {run['variant']}", []).append(layer_table(run["result"]))
    return tables


def _number(value: object) -> float:
    """A number, alone or as the value of an interval; NaN where there is none."""
    value = value.get("value") if isinstance(value, Mapping) else value
    return float(value) if isinstance(value, int | float) else float("nan")


# --- variants against each other ---------------------------------------------------------------------------------


def _differences(config: StudyConfig, runs: Sequence[Run]) -> list[Effect]:
    """Differences of two variants, seed by seed, where both runs are there."""
    table, key = numbers(runs), ["family", "quantity", "layer"]
    # What each repair gains, and whether the blamed gain more than the cleared, are two questions.
    families: dict[tuple[str, bool], list[Found]] = {}
    for case, variant, against in conditions(config):
        first, second = (table[(table["case"] == case) & (table["variant"] == name)] for name in (variant, against))
        pairs = first.merge(second, on=[*key, "seed"], suffixes=("", "_against"))
        pairs["difference"] = pairs["value"] - pairs["value_against"]
        for group_of, group in pairs.dropna(subset="difference").groupby(key, sort=False):
            if len(group) >= 2:
                family, quantity, layer = map(str, group_of)
                right = [*group["right"], *group["right_against"]]
                sizes = {None if bits is None else len(bits) for bits in right}
                # [seeds, examples]: 1 where the first variant alone is right, -1 where the second is
                examples = np.subtract(*np.split(np.stack(right), 2)) if len(sizes) == 1 and None not in sizes else None
                names = (quantity, case, variant, against, layer or None)
                found = families.setdefault((family, against == UNTOUCHED), [])
                found.append((names, paired(group["difference"].to_numpy(), examples)))
    return [
        effect
        for (_, untouched), family in families.items()
        for effect in correct(family, config.confidence, _promised(config, family, untouched=untouched))
    ]


def _promised(config: StudyConfig, family: Sequence[Found], *, untouched: bool) -> int:
    """How many effects the family would have if no run had failed: a condition that lacks some has as many as others.

    As many as another condition of its case has; if there is none, as one of another case. Layers are compared only
    between variants that are diagnosed.
    """
    found = Counter(names[1:4] for names, _ in family)  # by case, variant and against
    diagnosed = {(case.name, variant) for case in config.cases for variant in case.diagnosed}
    expected = 0
    for case, variant, against in conditions(config):
        compared = family[0][0][-1] is None or {(case, variant), (case, against)} <= diagnosed
        if compared and (against == UNTOUCHED) == untouched:
            alike = [count for (name, _, _), count in found.items() if name == case]
            expected += max(alike or found.values())
    return expected


# --- layers against each other -----------------------------------------------------------------------------------


def _correlations(config: StudyConfig, runs: Sequence[Run]) -> list[Effect]:
    """Rank correlations over layers: of each variant in each case, and of all runs together."""
    tables = {run["id"]: layer_table(run["result"]) for run in finished(runs)}

    def profile(run: Run, names: Sequence[str | None]) -> Profile:
        table = tables[run["id"]]
        columns = [table[name].to_numpy() for name in names if name is not None]
        return Profile("\n".join(table.index), f"{run['case']} {run['variant']}", *columns)

    effects = []
    for names in correlations():
        families: dict[bool, list[Found]] = {False: [], True: []}  # all together is one question of its own
        for case, variant, _ in conditions(config):
            chosen = [run for run in runs if case == POOLED or (run["case"], run["variant"]) == (case, variant)]
            profiles = [profile(run, names) for run in finished(chosen)]
            estimate = rank_correlation(profiles, config.replicates, seed=0, promised=len(chosen))
            if estimate is not None:
                families[case == POOLED].append(((correlation_name(*names), case, variant, None, None), estimate))
        effects += correct(families[False], config.confidence, len(conditions(config)) - 1)
        effects += correct(families[True], config.confidence)
    return effects
