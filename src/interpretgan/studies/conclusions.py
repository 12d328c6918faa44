"""What a study says: effects, verdicts and reasons to doubt, from its runs alone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from interpretgan.diagnosis.reliability import NOISE_CONTROL, NOISE_CONTROL_FAILED
from interpretgan.errors import RunFolderError
from interpretgan.pipeline.options import TrainingOptions
from interpretgan.store.files import plain, read_json, write_json
from interpretgan.studies.claims import condition_name
from interpretgan.studies.config import (
    DEFINITIONS,
    DEPTH,
    LOSSES,
    Case,
    Repair,
    StudyConfig,
    conditions,
    correlation_name,
)
from interpretgan.studies.effects import measure, number, profile
from interpretgan.studies.plan import Spec, read_settings, spec_hash
from interpretgan.studies.rules import OPEN, Rule, judge
from interpretgan.studies.statistics import FEW, POOLED, Effect

SCHEMA = 1
STUDY_FILE = "study.json"
LITTLE = 0.1
"""Where a network loses less survival than this in all, there is little to tell its layers apart by."""
NO_INFORMATION = "no information loss in the diagnoses: what is said of it is undecided"


def summary(
    config: StudyConfig, specs: Sequence[Spec], results: Mapping[str, Mapping[str, Any]], errors: Mapping[str, str]
) -> dict[str, Any]:
    """All that a study says, from its runs alone: the same whatever made them, and in which order.

    Returns:
        `schema`, `kind`, `runs` sorted by id, `effects`, `verdicts` and `flags`.
    """
    runs = []
    for spec in sorted(specs, key=lambda one: one["id"]):
        name = spec["id"]
        head = {key: spec[key] for key in ("id", "case", "variant", "seed")}
        if name in results:
            runs.append({**head, "status": "done", "spec_sha256": spec_hash(spec), "result": results[name]})
        else:
            runs.append({**head, "status": "failed", "spec_sha256": spec_hash(spec), "error": errors[name]})
    return _as_read({"schema": SCHEMA, "kind": config.kind, "runs": runs, **_conclusions(config, runs)})


def conclude(folder: str | Path) -> dict[str, Any]:
    """Draw the conclusions of a finished study again, from the runs in its `study.json` and by its own rules.

    Nothing is trained. Other statistics than those of the version that made the study may change a verdict after its
    result was known: it then has `before`, what was concluded at first, and a flag says so.

    Args:
        folder: Of the study. Its `study.json` is replaced.

    Returns:
        What is in `study.json`.

    Raises:
        RunFolderError: There is no study, or one of another schema.
    """
    record = load_study(folder)
    try:
        config = _recorded(record["provenance"]["config"])
    except (TypeError, KeyError, AttributeError) as error:
        known = record.get("provenance")
        raise RunFolderError(
            expected=f"a study with the settings of interpretgan {version('interpretgan')} in {folder}",
            got=f"one of {known.get('version') if isinstance(known, dict) else 'nobody knows which'}: {error}",
            do="conclude it with that version, or run it again",
        ) from error
    found = _conclusions(config, record["runs"])
    remember(found, record)
    concluded = {"version": version("interpretgan"), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    made = _as_read({**record, **found, "provenance": {**record["provenance"], "concluded": concluded}})
    write_json(Path(folder) / STUDY_FILE, made)
    return made


def remember(found: dict[str, Any], record: Mapping[str, Any]) -> None:
    """Write beside each verdict that is not what it was at first what that was, and flag it.

    Args:
        found: `verdicts` and `flags`, changed in place.
        record: What was concluded by the same rules before.
    """
    for row, old in zip(found["verdicts"], record["verdicts"], strict=True):
        first = old.get("before", {name: old[name] for name in ("verdict", "measured", "low", "high")})
        if first["verdict"] != row["verdict"]:
            row["before"] = first
            span = "" if first["low"] is None else f", [{first['low']:+.3f}, {first['high']:+.3f}]"
            found["flags"].append(
                f"concluded again after its result was known: {row['claim']} was {first['verdict']} at first{span}"
            )


def load_study(folder: str | Path) -> dict[str, Any]:
    """A finished study.

    Raises:
        RunFolderError: There is none in the folder, or one of another schema.
    """
    path = Path(folder) / STUDY_FILE
    value = read_json(path)
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise RunFolderError(
            expected=f"a study of schema {SCHEMA} in {path}", got="another file", do="run the study again"
        )
    return value


def _recorded(values: Mapping[str, Any]) -> StudyConfig:
    """The configuration in the provenance of a study."""
    repair = values["repair"]
    return StudyConfig(
        **{
            **values,
            "seeds": tuple(values["seeds"]),
            "variants": tuple(values["variants"]),
            "rules": tuple(Rule(**{**rule, "cases": tuple(rule["cases"])}) for rule in values["rules"]),
            "cases": tuple(
                Case(case["name"], read_settings(case["settings"]), tuple(case["variants"]), tuple(case["diagnosed"]))
                for case in values["cases"]
            ),
            "repair": None
            if repair is None
            else Repair(**{**repair, "training": TrainingOptions(**repair["training"])}),
        }
    )


def _conclusions(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`effects`, `verdicts` and `flags` of runs that are sorted by their ids."""
    effects = measure(config, runs, {run["id"]: run["result"] for run in runs if run["status"] == "done"})
    verdicts = [judge(rule, effects, conditions(config)) for rule in config.rules]
    return {
        "effects": [asdict(effect) for effect in effects],
        "verdicts": verdicts,
        "flags": [*_flags(config, runs), *_disagreements(config, verdicts), *_depth_alone(config, effects, verdicts)],
    }


def _as_read(value: dict[str, Any]) -> dict[str, Any]:
    found = plain(value)
    assert isinstance(found, dict)
    return found


# --- reasons to doubt --------------------------------------------------------------------------------------------


def _flags(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reasons to doubt the whole, each with the number of runs that have it."""
    flags = [f"failed: {run['id']}: {run['error']}" for run in runs if run["status"] == "failed"]
    if flags:
        flags.append(f"{len(flags)} of {len(runs)} runs failed: effects rest on the seeds that are left")
    results = [run["result"] for run in runs if run["status"] == "done"]
    diagnosed = [result for result in results if result.get("layers")]
    rows = [row for result in diagnosed for row in result["layers"]]
    bad = sum(bool(row["unreliable"]) for row in rows)
    if bad:
        flags.append(f"{bad} of {len(rows)} rows of diagnoses are unreliable and left out")
    if config.kind == "information":
        flags += _doubtful_ranks(config, diagnosed)
    lost = [sum(number(row["vulnerability"]) for row in result["layers"]) for result in diagnosed]
    if little := sum(one < LITTLE for one in lost):
        flags.append(
            f"less than {100 * LITTLE:.0f} points lost between image and last layer: little to rank layers by "
            f"({little} of {len(lost)} diagnoses)"
        )
    flags += _won_back(rows)
    flags += _moved_by_noise(diagnosed)
    flags += _same_targets(runs)
    flags += _unequal_sizes(runs)
    if len(config.seeds) < FEW:
        flags.append(f"only {len(config.seeds)} seeds: fewer than {FEW}")
    if config.threads is None:
        flags.append("threads are not fixed: another number of workers may change the last digits")
    flags += _alike("evaluations", [result["flags"] for result in results])
    return flags + _alike("diagnoses", [_of_diagnosis(result) for result in diagnosed])


def _won_back(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Layers after which more is right than before: no layer can do that, so the layer before was drawn too badly."""
    found = Counter(row["name"] for row in rows if row["vulnerability"].get("high", 0.0) < -LITTLE)
    if not found:
        return []
    where = ", ".join(f"{name} in {count}" for name, count in found.most_common())
    grows = f"survival grows by more than {100 * LITTLE:.0f} points at {where} of the diagnoses"
    return [f"{grows}: what the layer before seems to lose is lost in drawing it"]


def _moved_by_noise(diagnosed: Sequence[Mapping[str, Any]]) -> list[str]:
    """Layers that random noise moves: what they contribute under attack is not all the attack's."""
    moved = Counter(
        row["name"]
        for result in diagnosed
        for row in result["layers"]
        if any(flag["code"] == NOISE_CONTROL.code for flag in row["flags"])
    )
    if not moved:
        return []
    most = max(result["diagnosis"]["controls"]["noise_max_abs_vulnerability"] for result in diagnosed)
    where = ", ".join(f"{name} in {count}" for name, count in moved.most_common())
    moves = f"random noise alone moves {where} of {len(diagnosed)} diagnoses, by up to {100 * most:.0f} points"
    return [f"noise control failed: {moves}: what these layers seem to contribute is not all the attack's"]


def _of_diagnosis(result: Mapping[str, Any]) -> list[str]:
    """What a diagnosis flags, but for the control with noise, which is told for all at once."""
    flags = result["diagnosis"]["flags"]
    return [flag["message"] for flag in flags if flag["code"] != NOISE_CONTROL_FAILED.code]


def _alike(what: str, told: Sequence[Sequence[str]]) -> list[str]:
    """Flags of evaluations or diagnoses; those that differ in their numbers alone are told once."""
    alike: dict[str, list[str]] = {}
    for flags in told:
        for kind, flag in {re.sub(r"\d[\d.,]*", "#", flag): flag for flag in flags}.items():
            alike.setdefault(kind, []).append(flag)
    return [f"{flags[0]} ({len(flags)} of {len(told)} {what})" for _, flags in sorted(alike.items())]


def _doubtful_ranks(config: StudyConfig, diagnosed: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the ranks of layers cannot tell."""
    flags = []
    if diagnosed and not any("information_loss" in row for result in diagnosed for row in result["layers"]):
        flags.append(NO_INFORMATION)
    lost = [value for result in diagnosed for value in profile(result)["class_loss"] if np.isfinite(value)]
    gained = sum(value < 0 for value in lost)
    if 2 * gained > len(lost):
        flags.append(
            f"class information rises at {gained} of {len(lost)} layers: ranks of its loss say which gain least"
        )
    same = len({tuple(row["name"] for row in result["layers"]) for result in diagnosed}) == 1
    if same and any(POOLED in rule.cases for rule in config.rules):
        flags.append("all networks have the same layers: what holds over all of them together rests on these alone")
    return flags


def _disagreements(config: StudyConfig, verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Answers on which the interval and the test of the same effect do not agree."""
    flags = []
    for rule, verdict in zip(config.rules, verdicts, strict=True):
        for one in verdict["conditions"]:
            if rule.threshold != 0 or one["p"] is None:  # what is tested is a value of zero
                continue
            decided, significant = one["answer"] != OPEN, one["p"] < 1 - config.confidence
            if decided != significant:
                says, not_so = ("excludes 0", "does not") if decided else ("includes 0", "excludes it")
                flags.append(
                    f"the interval {says} and p = {one['p']:.3f} {not_so}: {verdict['claim']} ({condition_name(one)})"
                )
    return flags


def _depth_alone(config: StudyConfig, effects: Sequence[Effect], verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Correlations of a loss and vulnerability that were decided, and are open with the place of layers held fixed."""
    given = {correlation_name(loss, DEFINITIONS[0]): correlation_name(loss, DEFINITIONS[0], DEPTH) for loss in LOSSES}
    partial = {(one.quantity, one.case, one.variant): one for one in effects if one.quantity in given.values()}
    flags = []
    for rule, verdict in zip(config.rules, verdicts, strict=True):
        for one in verdict["conditions"]:
            left = partial.get((given.get(rule.quantity, ""), one["case"], one["variant"]))
            if one["answer"] != OPEN and left is not None and rule.answer(left) == OPEN:
                interval = f"{left.value:+.3f} [{left.corrected_low:+.3f}, {left.corrected_high:+.3f}]"
                flags.append(
                    f"open with each layer's place in the network held fixed, {interval}: {verdict['claim']} "
                    f"({condition_name(one)})"
                )
    return flags


def _same_targets(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Repairs that changed the same layers in every network: one contrast, however many seeds."""
    changed: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    for run in runs:
        if run["status"] == "done" and "repaired" in run["result"] and not run["variant"].endswith("-all"):
            changed.setdefault((run["case"], run["variant"]), []).append(tuple(run["result"]["repaired"]["layers"]))
    several = len({case for case, _ in changed}) > 1
    return [
        f"{variant} changed {', '.join(layers[0])} in each of {len(layers)} networks{f' of {case}' * several}: it says "
        "something of that layer, and little of diagnoses in general"
        for (case, variant), layers in changed.items()
        if len(layers) > 1 and len(set(layers)) == 1
    ]


def _unequal_sizes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Layers that were fine-tuned for being blamed, and for being cleared, at the same steps but of other sizes."""
    sizes_of = {
        variant: {(run["case"], run["seed"]): run["result"]["repaired"]["parameters"]
              for run in runs if run["variant"] == variant and run["status"] == "done"}
        for variant in ("finetune-blamed", "finetune-cleared")
    }  # fmt: skip
    one, other = sizes_of.values()
    blamed, cleared = ([sizes[pair] for pair in one if pair in other] for sizes in (one, other))
    if not blamed or median(max(a / b, b / a) for a, b in zip(blamed, cleared, strict=True)) <= 2:
        return []
    sizes = f"{median(blamed):,.0f} parameters (median), the cleared {median(cleared):,.0f}"
    return [f"the blamed layers that were fine-tuned have {sizes}: equal steps, and not equal sizes"]
