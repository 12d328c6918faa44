"""From the results of the runs to the effects of a study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from interpretgan.studies.config import (
    DEFINITIONS,
    DEPTH,
    TEST_ACCURACY,
    UNTOUCHED,
    StudyConfig,
    conditions,
    correlation_name,
    correlations,
)
from interpretgan.studies.statistics import (
    POOLED,
    Effect,
    Estimate,
    Floats,
    Profile,
    correct,
    effect_of,
    paired,
    rank_correlation,
)

Results = Mapping[str, Mapping[str, Any]]
"""Results of finished runs, by id."""
PROFILED = ("vulnerability", "information_loss")
"""What is compared layer by layer."""
AT_EPS = "accuracy at eps "
"""How the quantities of the curve over eps begin."""


def measure(config: StudyConfig, specs: Sequence[Mapping[str, Any]], results: Results) -> list[Effect]:
    """All effects of a study, in a fixed order.

    Args:
        config: The study.
        specs: All of its runs.
        results: Of those that are finished.
    """
    if config.kind == "information":
        return _information(config, specs, results)
    return _differences(config, specs, results)


def number(value: object) -> float:
    """A number that a row has, alone or as the value of an interval; NaN where it has none."""
    if isinstance(value, Mapping):
        value = value.get("value")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")


# --- variants against each other -------------------------------------------------------------------------------------


def _differences(config: StudyConfig, specs: Sequence[Mapping[str, Any]], results: Results) -> list[Effect]:
    # What each repair gains, and whether the blamed gain more than the cleared, are two questions.
    families: dict[tuple[str, bool], list[tuple[Effect, Estimate]]] = {}
    for case, variant, against in conditions(config):
        assert variant is not None
        assert against is not None
        matched = _matched(specs, results, case, variant, against)
        if len(matched) >= 2:
            where = {"case": case, "variant": variant, "against": against}
            for name in matched[0][0]["accuracy"]:
                differences = [one["accuracy"][name]["value"] - two["accuracy"][name]["value"] for one, two in matched]
                estimate = paired(differences, _per_example(matched, name))
                families.setdefault((name, against == UNTOUCHED), []).append(
                    effect_of(estimate, config.confidence, quantity=name, **where)
                )
            whole = [[run["classifier"].get(TEST_ACCURACY) for run in pair] for pair in matched]
            if all(value is not None for pair in whole for value in pair):
                estimate = paired([one - two for one, two in whole])
                families.setdefault((TEST_ACCURACY, against == UNTOUCHED), []).append(
                    effect_of(estimate, config.confidence, quantity=TEST_ACCURACY, **where)
                )
            for index, point in enumerate(matched[0][0]["curve"]):
                differences = [one["curve"][index]["value"] - two["curve"][index]["value"] for one, two in matched]
                families.setdefault(("curve", against == UNTOUCHED), []).append(
                    effect_of(paired(differences), config.confidence, quantity=f"{AT_EPS}{point['at']:g}", **where)
                )
            for name in PROFILED:
                for layer in _common_layers(matched):
                    values = [[_of_layer(run, layer, name) for run in pair] for pair in matched]
                    known = [one - two for one, two in values if np.isfinite(one - two)]
                    if len(known) >= 2:
                        families.setdefault((name, against == UNTOUCHED), []).append(
                            effect_of(paired(known), config.confidence, quantity=name, layer=layer, **where)
                        )
    return [
        effect
        for (_, untouched), family in families.items()
        for effect in correct(family, config.confidence, _promised(config, [one for one, _ in family], untouched))
    ]


def _promised(config: StudyConfig, family: Sequence[Effect], untouched: bool) -> int:
    """How many effects the family would have if no run had failed: a condition that lacks some has as many as others.

    As many as another condition of its case has; if there is none, as one of another case. Layers are compared only
    between variants that are diagnosed.
    """
    found = Counter((one.case, one.variant, one.against) for one in family)
    diagnosed = {(case.name, variant) for case in config.cases for variant in case.diagnosed}
    expected = 0
    for condition in conditions(config):
        case, variant, against = condition
        compared = family[0].layer is None or {(case, variant), (case, against)} <= diagnosed
        if compared and (against == UNTOUCHED) == untouched:
            alike = [count for (name, _, _), count in found.items() if name == case]
            expected += max(alike or found.values())
    return expected


def _matched(
    specs: Sequence[Mapping[str, Any]], results: Results, case: str, variant: str, against: str
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The results of both variants, seed by seed, where both are there."""
    found = {
        (spec["variant"], spec["seed"]): results[spec["id"]]
        for spec in specs
        if spec["case"] == case and spec["id"] in results
    }
    seeds = sorted({seed for _, seed in found})
    return [
        (found[variant, seed], found[against, seed])
        for seed in seeds
        if (variant, seed) in found and (against, seed) in found
    ]


def _per_example(
    matched: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], name: str
) -> npt.NDArray[np.int8] | None:
    """`[seeds, examples]`: 1 where the first variant alone is right, -1 where the second is."""
    count = matched[0][0]["examples"]
    if any(run["examples"] != count for pair in matched for run in pair):
        return None
    rows = [[_bits(run["right"][name], count) for run in pair] for pair in matched]
    return np.stack([one - two for one, two in rows])


def _bits(text: str, count: int) -> npt.NDArray[np.int8]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))[:count].astype(np.int8)


def _common_layers(matched: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> list[str]:
    """Layers that all of these runs have, as the first one orders them."""
    tables = [{row["name"] for row in run.get("layers", ())} for pair in matched for run in pair]
    return [row["name"] for row in matched[0][0].get("layers", ()) if all(row["name"] in table for table in tables)]


def _of_layer(run: Mapping[str, Any], layer: str, name: str) -> float:
    (row,) = [row for row in run["layers"] if row["name"] == layer]
    return float("nan") if row["unreliable"] else number(row.get(name))


# --- layers against each other -----------------------------------------------------------------------------------


def _information(config: StudyConfig, specs: Sequence[Mapping[str, Any]], results: Results) -> list[Effect]:
    done = []
    for names in correlations():
        family = []
        for case in config.cases:
            for variant in case.variants:
                chosen = [spec for spec in specs if (spec["case"], spec["variant"]) == (case.name, variant)]
                family += _correlation(config, chosen, results, names, case=case.name, variant=variant)
        done += correct(family, config.confidence, sum(len(case.variants) for case in config.cases))
        # All together is one question of its own, not one more condition.
        done += correct(_correlation(config, specs, results, names, case=POOLED), config.confidence)
    return done


def _correlation(
    config: StudyConfig,
    specs: Sequence[Mapping[str, Any]],
    results: Results,
    names: tuple[str, str, str | None],
    *,
    case: str,
    variant: str | None = None,
) -> list[tuple[Effect, Estimate]]:
    first, second, given = names
    profiles = []
    for spec in specs:
        if spec["id"] in results:
            table = profile(results[spec["id"]])
            layers = "\n".join(row["name"] for row in results[spec["id"]]["layers"])
            held = None if given is None else table[given]
            profiles.append(Profile(layers, f"{spec['case']} {spec['variant']}", table[first], table[second], held))
    estimate = rank_correlation(profiles, config.replicates, seed=0, promised=len(specs))
    if estimate is None:
        return []
    return [effect_of(estimate, config.confidence, quantity=correlation_name(*names), case=case, variant=variant)]


def profile(result: Mapping[str, Any]) -> dict[str, Floats]:
    """What a run says of its layers: a number per layer for each loss and each definition of vulnerability.

    NaN where the run does not have it, and in rows that are marked unreliable. `class_loss` is the class information of
    the layer before, less that of the layer; `depth` the layer's place in the network.
    """
    rows = result["layers"]
    unreliable = np.array([bool(row["unreliable"]) for row in rows])
    table = {
        name: np.array([number(row.get(name)) for row in rows], dtype=np.float64)
        for name in ("information_loss", *DEFINITIONS)
    }
    of_image = number(result["diagnosis"].get("class_information"))
    bits = np.array([of_image, *(number(row.get("class_information")) for row in rows)])
    table["class_loss"] = bits[:-1] - bits[1:]
    table[DEPTH] = np.arange(len(rows), dtype=np.float64)
    return {name: np.where(unreliable, np.nan, values) for name, values in table.items()}
