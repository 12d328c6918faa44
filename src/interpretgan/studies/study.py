"""A whole study: its runs, in any order and anywhere, then its effects and verdicts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.pipeline.run_folder import RunFolder, differences
from interpretgan.store.files import plain, read_json, write_json
from interpretgan.store.provenance import provenance
from interpretgan.studies.board import DONE, FAILED, KEPT, RUNNING, Board
from interpretgan.studies.config import StudyConfig
from interpretgan.studies.config_file import load_config
from interpretgan.studies.executors import Executor, LocalProcesses, RayCluster
from interpretgan.studies.job import check
from interpretgan.studies.plan import (
    MACHINE,
    Spec,
    code_version,
    data_version,
    first_runs,
    second_runs,
    spec_hash,
    work_hash,
)
from interpretgan.studies.verdicts import STUDY_FILE, load_study, remember, summary


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
    on_gpus = run.device.startswith("cuda")
    if on_gpus and checked.gpus < run.devices > 1:
        raise ConfigError(
            expected=f"gpus >= {run.devices} on a Ray cluster, as devices = {run.devices} says",
            got=f"gpus = {checked.gpus:g}",
            do=f"set gpus = {run.devices}",
        )
    if on_gpus != (checked.gpus > 0):  # auto is what this machine has, and each run is given that
        raise ConfigError(
            expected="gpus > 0 on a Ray cluster where the device is a GPU, and gpus = 0 where it is not",
            got=f"gpus = {checked.gpus:g} and device = {run.device}",
            do=f"set device, and gpus = {run.devices if on_gpus else 0}",
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
    finished = _finished([Path(other) for other in reuse])
    with RunFolder(out).open(identity):
        table = _Table(out, finished)
        for spec in specs:
            table.check(spec)
        board = Board(stream)
        try:
            table.make(specs, executor, board)
            if config.kind == "repair":
                more, refused = second_runs(config, table.results)
                table.make(more, executor, board, refused)
                specs = specs + more
        finally:
            board.close()
        record = summary(config, specs, table.results, table.errors)
        if (before := _concluded_before(out)) is not None and before["runs"] == record["runs"]:
            remember(record, before)
        record["provenance"] = {
            **provenance(config.seeds[0]),
            **table.machines(),
            "seeds": list(config.seeds),
            "code": identity["code"],
            "data": identity["data"],
            "config": identity["study"],
            "seconds": table.seconds,
            "reused": table.reused,
        }
        write_json(out / STUDY_FILE, record)
        return record


def _concluded_before(out: Path) -> dict[str, Any] | None:
    """What is in the folder's `study.json`; `None`: there is none, or none that can be read, and it is written anew."""
    try:
        return load_study(out)
    except RunFolderError:
        return None


class _Table:
    """The runs of a study's folder: what is finished is kept."""

    def __init__(self, out: Path, finished: Mapping[str, Path]) -> None:
        self.folder = out / "runs"
        self.reused: dict[str, str] = {}
        self._known = finished
        self.results: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}
        self.seconds: dict[str, float] = {}
        self._made_on: list[Mapping[str, Any]] = []

    def machines(self) -> dict[str, Any]:
        """`device`, `processor` and `threads` of the runs; where they differ, all that there are, in a text."""
        return {
            name: values[0] if len(values) == 1 else ", ".join(map(str, values))
            for name in MACHINE
            if (values := sorted({one[name] for one in self._made_on if name in one}))
        }

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
            self.check(spec)
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
        self._made_on.append(record.get("machine", {}))
        if "reused_from" in record:
            self.reused[name] = record["reused_from"]
        else:
            self.seconds[name] = record["seconds"]

    def check(self, spec: Spec) -> None:
        """Refuse what another study, other code or other data left in a run's folder.

        Raises:
            RunFolderError: There is such a thing.
        """
        folder = self.folder / spec["id"]
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
        RunFolderError: One of the studies' folders has none, so that all would be made again without a word.
    """
    found = {}
    for folder in folders:
        results = sorted((folder / "runs").glob("*/result.json"))
        if not results:
            raise RunFolderError(
                expected=f"the folder of a study with finished runs, runs/*/result.json, in {folder}",
                got="none",
                do="correct --reuse (a committed study has its study.json alone), or leave it out",
            )
        for result in results:
            found[work_hash(read_json(result.parent / "spec.json"))] = result.parent
    return found
