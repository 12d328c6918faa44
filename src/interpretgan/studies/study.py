"""A whole study: its runs, in any order and anywhere, then its effects and verdicts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.files import plain, read_json, write_json
from interpretgan.runs import RunFolder, differences, provenance
from interpretgan.studies.board import DONE, FAILED, KEPT, RUNNING, Board
from interpretgan.studies.config import StudyConfig, conditions, load_config
from interpretgan.studies.effects import measure, number
from interpretgan.studies.executors import Executor, LocalProcesses, RayCluster
from interpretgan.studies.job import check
from interpretgan.studies.plan import (
    Spec,
    code_version,
    data_version,
    first_runs,
    second_runs,
    spec_hash,
    work_hash,
)
from interpretgan.studies.rules import judge

SCHEMA = 1
STUDY_FILE = "study.json"
LITTLE = 0.1
"""Where a network loses less survival than this in all, there is little to tell its layers apart by."""
NO_INFORMATION = "no information loss in the diagnoses: what is said of it is undecided"


def study(
    kind: str,
    config: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    ray: str | None = None,
    reuse: Sequence[str | Path] = (),
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """Make a study, or what is missing of it, and write `study.json`.

    Args:
        kind: `information`, `pooling` or `repair`.
        config: Its TOML file.
        out: Its folder.
        workers: Processes at a time on this machine. `None`: one.
        ray: Address of a Ray cluster, in their place.
        reuse: Folders of other studies, whose finished runs are taken over where they did exactly what a run of this
            study would do: same code, data, seed and settings.
        stream: Where the table of the runs goes. `None`: stderr.

    Returns:
        What is in `study.json`.

    Raises:
        ConfigError: Something in the file is not as it should be, or both workers and a cluster are given.
        RunFolderError: The folder holds another study, or runs of other code or data.
    """
    checked = load_config(config, kind)
    if ray is None:
        processes = LocalProcesses(1 if workers is None else workers, checked.threads)
        return run_study(checked, Path(out), processes, reuse=reuse, stream=stream)
    if workers is not None:
        raise ConfigError(expected="either --workers or --ray", got="both", do="leave one of them out")
    run = checked.cases[0].settings.run  # of all cases but for the seed
    if run.device.startswith("cuda") and checked.gpus < run.devices > 1:
        raise ConfigError(
            expected=f"gpus >= {run.devices} on a Ray cluster, as devices = {run.devices} says",
            got=f"gpus = {checked.gpus:g}",
            do=f"set gpus = {run.devices}",
        )
    with closing(RayCluster(ray, checked.threads, checked.gpus)) as cluster:
        return run_study(checked, Path(out), cluster, reuse=reuse, stream=stream)


def run_study(
    config: StudyConfig,
    out: Path,
    executor: Executor,
    *,
    reuse: Sequence[str | Path] = (),
    stream: TextIO | None = None,
) -> dict[str, Any]:
    """`study` of a checked configuration, its runs made by the executor."""
    identity = {
        "study": plain(config.to_dict()),
        "code": code_version(),
        "data": {case.name: data_version(case.settings) for case in config.cases},
    }
    specs = first_runs(config)
    for spec in specs:
        if spec["seed"] == config.seeds[0]:
            check(spec)  # before anything is written or trained
    with RunFolder(out).open(identity):
        board, table = Board(stream), _Table(out, [Path(other) for other in reuse])
        try:
            table.make(specs, executor, board)
            if config.kind == "repair":
                more, refused = second_runs(config, table.results)
                table.make(more, executor, board, refused)
                specs = specs + more
        finally:
            board.close()
        record = summary(config, specs, table.results, table.errors)
        record["provenance"] = {
            **provenance(config.seeds[0]),
            "seeds": list(config.seeds),
            "code": identity["code"],
            "data": identity["data"],
            "config": identity["study"],
            "seconds": table.seconds,
            "reused": table.reused,
        }
        write_json(out / STUDY_FILE, record)
        return record


def summary(
    config: StudyConfig, specs: Sequence[Spec], results: Mapping[str, Mapping[str, Any]], errors: Mapping[str, str]
) -> dict[str, Any]:
    """All that a study says, from its runs alone: the same whatever made them, and in which order.

    Returns:
        `schema`, `kind`, `runs` sorted by id, `effects`, `verdicts` and `flags`.
    """
    effects = measure(config, specs, results)
    runs = []
    for spec in sorted(specs, key=lambda one: one["id"]):
        name = spec["id"]
        head = {key: spec[key] for key in ("id", "case", "arm", "seed")}
        if name in results:
            runs.append({**head, "status": "done", "spec_sha256": spec_hash(spec), "result": results[name]})
        else:
            runs.append({**head, "status": "failed", "spec_sha256": spec_hash(spec), "error": errors[name]})
    verdicts = [judge(rule, effects, conditions(config)) for rule in config.rules]
    return _as_read(
        {
            "schema": SCHEMA,
            "kind": config.kind,
            "runs": runs,
            "effects": [asdict(effect) for effect in effects],
            "verdicts": verdicts,
            "flags": [*_flags(config, runs), *_disagreements(config, verdicts)],
        }
    )


def _as_read(value: dict[str, Any]) -> dict[str, Any]:
    found = plain(value)
    assert isinstance(found, dict)
    return found


def _flags(config: StudyConfig, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Reasons to doubt the whole, each with the number of runs that have it."""
    flags = [f"failed: {run['id']}: {run['error']}" for run in runs if run["status"] == "failed"]
    if flags:
        flags.append(f"{len(flags)} of {len(runs)} runs failed: effects rest on the seeds that are left")
    results = [run["result"] for run in runs if run["status"] == "done"]
    rows = [row for result in results for row in result.get("layers", ())]
    bad = sum(bool(row["unreliable"]) for row in rows)
    if bad:
        flags.append(f"{bad} of {len(rows)} rows of diagnoses are unreliable and left out")
    if config.kind == "information" and rows and not any("information_loss" in row for row in rows):
        flags.append(NO_INFORMATION)
    lost = [sum(number(row["vulnerability"]) for row in result["layers"]) for result in results if result.get("layers")]
    if little := sum(one < LITTLE for one in lost):
        flags.append(
            f"less than {100 * LITTLE:.0f} points lost between image and last layer: little to rank layers by "
            f"({little} of {len(lost)} diagnoses)"
        )
    flags += _unequal_sizes(runs)
    if config.threads is None:
        flags.append("threads are not fixed: another number of workers may change the last digits")
    alike: dict[str, list[str]] = {}  # flags that differ in their numbers alone are told once
    for result in results:
        told = {
            re.sub(r"\d[\d.,]*", "#", flag): flag
            for flag in (*result["flags"], *result.get("diagnosis", {}).get("flags", ()))
        }
        for kind, flag in told.items():
            alike.setdefault(kind, []).append(flag)
    return flags + [f"{told[0]} ({len(told)} of {len(results)} runs)" for _, told in sorted(alike.items())]


def _disagreements(config: StudyConfig, verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Answers that the interval gives and the test of the same effect does not."""
    return [
        f"the interval excludes 0 and p = {one['p']:.3f} does not: {verdict['claim']} "
        f"({' '.join(filter(None, (one['case'], one['arm'])))})"
        for rule, verdict in zip(config.rules, verdicts, strict=True)
        for one in verdict["conditions"]
        if rule.threshold == 0 and one["answer"] != "open" and one["p"] >= 1 - config.confidence
    ]


def _unequal_sizes(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Layers that were fine-tuned for being blamed, and for being cleared, at the same steps but of other sizes."""
    blamed, cleared = (
        [run["result"]["repaired"]["parameters"] for run in runs if run["arm"] == arm and run["status"] == "done"]
        for arm in ("finetune-blamed", "finetune-cleared")
    )
    if not blamed or not cleared or 0.5 <= median(blamed) / median(cleared) <= 2:
        return []
    sizes = f"{median(blamed):,.0f} parameters (median), the cleared {median(cleared):,.0f}"
    return [f"the blamed layers that were fine-tuned have {sizes}: equal steps, and not equal sizes"]


class _Table:
    """The runs of a study's folder: what is finished is kept."""

    def __init__(self, out: Path, reuse: Sequence[Path] = ()) -> None:
        self.folder = out / "runs"
        self.reused: dict[str, str] = {}
        self._known = _finished(reuse)
        self.results: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    def make(
        self, specs: Sequence[Spec], executor: Executor, board: Board, refused: Mapping[str, str] | None = None
    ) -> None:
        """Make those that are missing, but for those that are refused, for the reason given."""
        board.add(specs)
        missing = []
        for spec in specs:
            if refused and spec["id"] in refused:
                self.errors[spec["id"]] = refused[spec["id"]]
                board.set(spec["id"], FAILED, refused[spec["id"]])
                continue
            folder = self.folder / spec["id"]
            self._check(spec, folder)
            self._reuse(spec, folder)
            if (folder / "result.json").exists():
                self._take(spec)
                board.set(spec["id"], KEPT)
            else:
                write_json(folder / "spec.json", spec)
                missing.append(folder)
        by_name = {spec["id"]: spec for spec in specs}
        for folder, outcome in executor(missing, lambda name: board.set(name, RUNNING)):
            if outcome.error is None:
                self._take(by_name[folder.name])
                again = f"at attempt {outcome.attempts}" if outcome.attempts > 1 else ""
                board.set(folder.name, DONE, again)
            else:
                self.errors[folder.name] = outcome.error
                board.set(folder.name, FAILED, outcome.error)

    def _reuse(self, spec: Spec, folder: Path) -> None:
        """Copy what another study made of the same work, its result last."""
        found = self._known.get(work_hash(spec))
        if found is None or (folder / "result.json").exists():
            return
        record = read_json(found / "result.json")
        if record["spec_sha256"] != spec_hash(read_json(found / "spec.json")):
            return
        write_json(folder / "spec.json", spec)
        shutil.copytree(found, folder, ignore=shutil.ignore_patterns("spec.json", "result.json"), dirs_exist_ok=True)
        origin = record.get("reused_from", f"{found.parents[1].name}/{found.name}")
        write_json(folder / "result.json", {**record, "spec_sha256": spec_hash(spec), "reused_from": origin})

    def _take(self, spec: Spec) -> None:
        name = spec["id"]
        record = read_json(self.folder / name / "result.json")
        if record["spec_sha256"] != spec_hash(spec):
            raise RunFolderError(
                expected=f"a result in {self.folder / name} of the run that this study asks for",
                got="that of another one",
                do="delete that run, or choose a new folder for the study",
            )
        self.results[name] = record["result"]
        if "reused_from" in record:
            self.reused[name] = record["reused_from"]
        else:
            self.seconds[name] = record["seconds"]

    def _check(self, spec: Spec, folder: Path) -> None:
        """Refuse what another study, other code or other data left in a run's folder."""
        if not (folder / "spec.json").exists():
            return
        found = read_json(folder / "spec.json")
        different = list(differences(found, plain(spec)))
        result = folder / "result.json"
        if not different and result.exists() and read_json(result)["spec_sha256"] != spec_hash(spec):
            different = ["the specification that its result was made with"]
        if different:
            raise RunFolderError(
                expected=f"a run in {folder} of the same code, data and settings as this study",
                got=f"one that differs in {', '.join(different[:3])}",
                do="choose a new folder for the study, or delete that run",
            )


def _finished(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders of the finished runs of other studies, by what they did.

    Raises:
        RunFolderError: One of the studies' folders has no runs.
    """
    found = {}
    for folder in folders:
        if not (folder / "runs").is_dir():
            raise RunFolderError(
                expected=f"the folder of a study, with its runs, in {folder}", got="none", do="correct --reuse"
            )
        for result in sorted((folder / "runs").glob("*/result.json")):
            found[work_hash(read_json(result.parent / "spec.json"))] = result.parent
    return found
