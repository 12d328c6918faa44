"""What a study says, from its runs alone: effects, verdicts and warnings."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from interpretgan.errors import ConfigError, Flag, FlagKind, RunFolderError
from interpretgan.statistics import FEW
from interpretgan.store.files import plain, read_json, write_json
from interpretgan.studies.config import GIVEN_DEPTH, StudyConfig, conditions, read_record
from interpretgan.studies.effects import Run, finished, layer_table, measure
from interpretgan.studies.plan import Spec, spec_hash
from interpretgan.studies.rules import OPEN, POOLED, condition_name, judge

SCHEMA = 2
STUDY_FILE = "study.json"
LITTLE = 0.1
"""Where a network loses less survival than this in all, there is little to tell its layers apart by."""
NOISE_CONTROL, NOISE_CONTROL_FAILED = "noise_control", "noise_control_failed"
"""Codes of a layer that a control moves, and of a diagnosis or a study that has one."""
WARNINGS = {
    "run_failed": "failed: {run}: {error}",
    "runs_failed": "{value} of {runs} runs failed: effects rest on the seeds that are left",
    "unreliable_rows": "{value} of {rows} layers of all diagnoses are unreliable and left out",
    "no_information": "the diagnoses have no information loss: what is said of it is undecided",
    "class_information_rises": "class information rises at {value} of {layers} layers: ranks of its loss say which "
    "layer gains least",
    "same_layers": "all networks have the same layers: what holds over all of them together rests on these alone",
    "little_lost": "less than {points:.0f} points are lost between the image and the last layer in {value} of "
    "{diagnoses} diagnoses: there is little to rank layers by",
    "survival_grows": "survival grows by more than {points:.0f} points at {layers} of {diagnoses} diagnoses, which no "
    "layer can do: what the layer before seems to lose is lost in drawing it",
    NOISE_CONTROL_FAILED: "what aims at nothing moves {layers} of {diagnoses} diagnoses, by up to {points:.0f} points: "
    "what these layers seem to contribute is not all the attack's",
    "same_targets": "{variant} changed {layers} in each of {value} networks of {case}: the result holds for that "
    "layer, and says little of diagnoses in general",
    "unequal_sizes": "the blamed layers that were fine-tuned have {value:,.0f} parameters (median), those of {against} "
    "{threshold:,.0f}: they were trained for as many steps, and are not of the same size",
    "few_seeds": "only {value} seeds: fewer than {threshold}",
    "threads_not_fixed": "threads are not fixed: another number of workers may change the last digits",
    "interval_and_test": "the interval {interval} 0, and p = {value:.3f} does not agree: {claim} ({condition})",
    "concluded_again": "concluded again after its result was known: {claim} was {before} at first{interval}",
}
"""The warnings of a study, by code."""
KINDS = {code: FlagKind(code, "warning", text) for code, text in WARNINGS.items()}
KINDS[NOISE_CONTROL_FAILED] = replace(KINDS[NOISE_CONTROL_FAILED], severity="failure")


def summary(
    config: StudyConfig, specs: Sequence[Spec], results: Mapping[str, Mapping[str, Any]], errors: Mapping[str, str]
) -> dict[str, Any]:
    """All that a study says, from its runs alone: the same whatever made them, and in which order.

    It has `schema`, `kind`, `runs` sorted by id, `effects`, `verdicts` and `flags`.
    """
    runs = []
    for spec in sorted(specs, key=lambda spec: str(spec["id"])):
        name, head = spec["id"], {key: spec[key] for key in ("id", "case", "variant", "seed")}
        outcome = {"result": results[name]} if name in results else {"error": errors[name]}
        status = "done" if name in results else "failed"
        runs.append({**head, "status": status, "spec_sha256": spec_hash(spec), **outcome})
    return {"schema": SCHEMA, "kind": config.kind, "runs": runs, **_conclusions(config, runs)}


def conclude(folder: str | Path) -> dict[str, Any]:
    """Draw the conclusions of a finished study again, from the runs in its `study.json` and by its own rules.

    Nothing is trained; what is then in `study.json` replaces it, and is returned. Other statistics than those of the
    version that made the study may change a verdict after its result was known: it then has `before`, what was
    concluded at first, and a flag says so.

    Raises:
        RunFolderError: There is no study, or one of another schema.
    """
    record = load_study(folder)
    try:
        config = read_record(StudyConfig, record["provenance"]["config"])
    except (ConfigError, TypeError, KeyError) as error:
        expected = f"a study with the settings of interpretgan {version('interpretgan')} in {folder}"
        got = f"one of {record.get('provenance', {}).get('version', 'an unknown version')}: {error}"
        do = "conclude it with that version, or run it again"
        raise RunFolderError(expected=expected, got=got, do=do) from error
    found = _conclusions(config, record["runs"])
    remember(found, record)
    concluded = {"version": version("interpretgan"), "created": datetime.now(UTC).isoformat(timespec="seconds")}
    made = {**record, **found, "provenance": {**record["provenance"], "concluded": concluded}}
    write_json(Path(folder) / STUDY_FILE, made)
    return made


def remember(found: dict[str, Any], record: Mapping[str, Any]) -> None:
    """Write beside each verdict that is not what it was at first what that was, and flag it.

    `verdicts` and `flags` of `found` are changed in place; `record` is what was concluded by the same rules before.
    """
    for row, old in zip(found["verdicts"], record["verdicts"], strict=True):
        first = old.get("before", {name: old[name] for name in ("verdict", "measured", "low", "high")})
        if first["verdict"] != row["verdict"]:
            row["before"] = first
            span = "" if first["low"] is None else f", [{first['low']:+.3f}, {first['high']:+.3f}]"
            flag = KINDS["concluded_again"](claim=row["claim"], before=first["verdict"], interval=span)
            found["flags"].append(asdict(flag))


def load_study(folder: str | Path) -> dict[str, Any]:
    """A finished study; a `RunFolderError` where there is none in the folder, or one of another schema."""
    path = Path(folder) / STUDY_FILE
    study = read_json(path)
    if not isinstance(study, dict) or study.get("schema") != SCHEMA:
        expected, do = f"a study of schema {SCHEMA} in {path}", "run the study again"
        raise RunFolderError(expected=expected, got="another file", do=do)
    return study


def _conclusions(config: StudyConfig, runs: Sequence[Run]) -> dict[str, Any]:
    """`effects`, `verdicts` and `flags` of runs that are sorted by their ids, as they are read again from the file."""
    effects = measure(config, runs)
    # What a layer loses, and what it contributes, may both follow its place alone.
    asked = [replace(rule, quantity=GIVEN_DEPTH.get(rule.quantity, rule.quantity)) for rule in config.rules]
    verdicts = [judge(rule, effects, conditions(config)) for rule in asked]
    flags = [*_of_runs(config, runs), *_of_verdicts(config, verdicts)]
    found = {"effects": list(map(asdict, effects)), "verdicts": verdicts, "flags": list(map(asdict, flags))}
    return {name: plain(value) for name, value in found.items()}


# --- warnings ----------------------------------------------------------------------------------------------------


def _of_runs(config: StudyConfig, runs: Sequence[Run]) -> Iterator[Flag]:
    """Warnings about the whole study, each with the number of runs that have it."""
    failed = [run for run in runs if run["status"] == "failed"]
    yield from (KINDS["run_failed"](run=run["id"], error=run["error"]) for run in failed)
    if failed:
        yield KINDS["runs_failed"](value=len(failed), runs=len(runs))
    results = [run["result"] for run in finished(runs)]
    diagnosed = [result for result in results if result.get("layers")]
    rows = [row for result in diagnosed for row in result["layers"]]
    if unreliable := sum(bool(row["unreliable"]) for row in rows):
        yield KINDS["unreliable_rows"](value=unreliable, rows=len(rows))
    if config.kind == "information":
        if diagnosed and not any("information_loss" in row for row in rows):
            yield KINDS["no_information"]()
        losses = [value for result in diagnosed for value in layer_table(result)["class_loss"].dropna()]
        if 2 * (rising := sum(value < 0 for value in losses)) > len(losses):
            yield KINDS["class_information_rises"](value=rising, layers=len(losses))
        alike = len({tuple(row["name"] for row in result["layers"]) for result in diagnosed}) == 1
        if alike and any(POOLED in rule.cases for rule in config.rules):
            yield KINDS["same_layers"]()
    lost = [sum(row["vulnerability"]["value"] for row in result["layers"]) for result in diagnosed]
    count: dict[str, Any] = {"diagnoses": len(diagnosed), "threshold": LITTLE, "points": 100 * LITTLE}
    if little := sum(points < LITTLE for points in lost):
        yield KINDS["little_lost"](value=little, **count)
    if grown := Counter(row["name"] for row in rows if row["vulnerability"].get("high", 0.0) < -LITTLE):
        yield KINDS["survival_grows"](layers=_counted(grown), **count)
    raised = [(row, flag["value"]) for row in rows for flag in row["flags"] if flag["code"] == NOISE_CONTROL]
    if raised:
        moved, most = Counter(row["name"] for row, _ in raised), max(abs(value) for _, value in raised)
        count = {"layers": _counted(moved), "diagnoses": len(diagnosed), "points": 100 * most}
        yield KINDS[NOISE_CONTROL_FAILED](value=most, **count)
    yield from _of_repairs(runs)
    if len(config.seeds) < FEW:
        yield KINDS["few_seeds"](value=len(config.seeds), threshold=FEW)
    if config.threads is None:
        yield KINDS["threads_not_fixed"]()
    yield from _shared("evaluations", [result["flags"] for result in results])
    yield from _shared("diagnoses", [result["diagnosis"]["flags"] for result in diagnosed])


def _counted(names: Counter[str]) -> str:
    return ", ".join(f"{name} in {count}" for name, count in names.most_common())


def _shared(what: str, flags_of: Sequence[Sequence[Mapping[str, Any]]]) -> Iterator[Flag]:
    """Flags of evaluations or diagnoses: one for all that differ in their numbers alone, with how many there are."""
    alike: dict[tuple[str, ...], dict[int, Flag]] = {}
    for place, flags in enumerate(flags_of):
        for flag in flags:
            if flag["code"] != NOISE_CONTROL_FAILED:  # is flagged for all of them at once
                words = (value for value in flag["details"].values() if isinstance(value, str))
                alike.setdefault((flag["code"], *words), {})[place] = Flag(**flag)
    for _, found in sorted(alike.items()):
        first, count = next(iter(found.values())), {"count": len(found), "of": len(flags_of), "among": what}
        message = f"{first.message} ({len(found)} of {len(flags_of)} {what})"
        yield replace(first, message=message, details={**first.details, **count})


def _of_repairs(runs: Sequence[Run]) -> Iterator[Flag]:
    """Repairs that changed the same layers in every network, or blamed layers and their controls of unequal sizes."""
    changed: dict[tuple[str, str], list[str]] = {}
    sizes: dict[str, dict[tuple[str, int], int]] = {}
    for run in finished(runs):
        if "repaired" in run["result"] and not run["variant"].endswith("-all"):
            repaired, variant = run["result"]["repaired"], run["variant"]
            changed.setdefault((run["case"], variant), []).append(", ".join(repaired["layers"]))
            sizes.setdefault(variant, {})[run["case"], run["seed"]] = repaired["parameters"]
    for (case, variant), layers in changed.items():
        if len(layers) > 1 and len(set(layers)) == 1:
            yield KINDS["same_targets"](value=len(layers), case=case, variant=variant, layers=layers[0])
    blamed = sizes.get("finetune-blamed", {})
    for against in ("finetune-cleared", "finetune-equal"):
        pairs = [(size, sizes[against][key]) for key, size in blamed.items() if key in sizes.get(against, {})]
        if pairs and median(max(pair) / min(pair) for pair in pairs) > 2:
            value, threshold = map(median, zip(*pairs, strict=True))
            yield KINDS["unequal_sizes"](value=value, threshold=threshold, against=against)


def _of_verdicts(config: StudyConfig, verdicts: Sequence[Mapping[str, Any]]) -> Iterator[Flag]:
    """Answers on which interval and test do not agree."""
    for rule, verdict in zip(config.rules, verdicts, strict=True):
        for row in verdict["conditions"]:
            p, decided = row["p"], row["answer"] != OPEN
            # The test is of a value of zero.
            if rule.threshold == 0 and p is not None and decided != (p < 1 - config.confidence):
                where = {"claim": verdict["claim"], "condition": condition_name(row)}
                yield KINDS["interval_and_test"](value=p, interval="excludes" if decided else "includes", **where)
