"""A whole study: its runs, in any order and anywhere, then its effects and verdicts."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from interpretgan.errors import RunFolderError
from interpretgan.pipeline.run_folder import RunFolder, differences
from interpretgan.store.files import plain, read_json, write_json
from interpretgan.store.provenance import provenance
from interpretgan.studies.config import StudyConfig
from interpretgan.studies.executors import Executor
from interpretgan.studies.plan import MACHINE, Spec, code_version, first_runs, second_runs, spec_hash, work_hash
from interpretgan.studies.progress_table import DONE, FAILED, KEPT, Board
from interpretgan.studies.verdicts import STUDY_FILE, load_study, remember, summary


def run_study(
    config: StudyConfig, out: Path, executor: Executor, *, reuse: Sequence[Path] = (), stream: TextIO | None = None
) -> dict[str, Any]:
    """Make a study, or what is missing of it, and write and return what is in `study.json`.

    Args:
        config: The study, see `load_config`.
        out: Its folder.
        executor: Makes its runs, see `executor_for`.
        reuse: Folders of other studies, whose finished runs are taken over where they did exactly what a run of this
            study would do: same code, data, seed and settings.
        stream: Where the table of the runs goes. `None`: stderr.

    Raises:
        InputError: Something that a run would be refused for, see `first_runs`; nothing is written then.
        RunFolderError: The folder holds another study, or runs of other code or data.
    """
    specs = first_runs(config)
    data = {spec["case"]: {name: spec["config"]["data"][name] for name in ("sha256", "test_sha256")} for spec in specs}
    identity = {"study": plain(asdict(config)), "code": code_version(), "data": data}
    finished = _finished(reuse)
    with RunFolder(out).open(identity), closing(Board(stream)) as board:
        runs = _Runs(out / "runs", finished, board)
        for spec in specs:
            runs.check(spec)
        runs.make(specs, {}, executor)
        if config.kind == "repair":
            more, refused = second_runs(config, specs, runs.results)
            runs.make(more, refused, executor)
            specs += more
        record = summary(config, specs, runs.results, runs.errors)
        try:
            before = load_study(out)
        except RunFolderError:  # none, or none that can be read: it is written anew
            before = {"runs": None}
        if before["runs"] == record["runs"]:
            remember(record, before)
        made = {**provenance(config.seeds[0]), **runs.provenance(), "seeds": list(config.seeds)}
        record["provenance"] = {**made, "code": identity["code"], "data": data, "config": identity["study"]}
        write_json(out / STUDY_FILE, record)
        return record


class _Runs:
    """The runs in a study's folder. Those that are finished are kept, here or, by what they did, in another study.

    Runs that do the same are made once: the best of all layers is often the blamed one.
    """

    def __init__(self, folder: Path, finished: Mapping[str, Path], board: Board) -> None:
        self.folder, self._finished, self._board = folder, finished, board
        self._records: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """What the runs measured, by id."""
        return {name: record["result"] for name, record in self._records.items()}

    def provenance(self) -> dict[str, Any]:
        """`seconds` of the runs that were made here, where the `reused` are from, and all machines in a text."""
        records = self._records
        machines = {name: sorted({record["machine"][name] for record in records.values()}) for name in MACHINE}
        texts = {name: known[0] if len(known) == 1 else ", ".join(map(str, known)) for name, known in machines.items()}
        reused = {name: record["reused_from"] for name, record in records.items() if "reused_from" in record}
        own = {name: record for name, record in records.items() if name not in reused and "same_as" not in record}
        seconds = {name: record["seconds"] for name, record in own.items()}
        return {**(texts if records else {}), "seconds": seconds, "reused": reused}

    def make(self, specs: Sequence[Spec], refused: Mapping[str, str], executor: Executor) -> None:
        """Make those that are missing, but for those that are refused, for the reason given."""
        self._board.add(specs)
        missing, work, alike = list[Path](), dict[str, Path](), list[Spec]()
        for spec in specs:
            folder = self.folder / spec["id"]
            if spec["id"] in refused:
                self._note(folder, FAILED, refused[spec["id"]])
                continue
            self.check(spec)
            self._take_over(spec, folder)
            first = work.setdefault(work_hash(spec), folder)
            if (folder / "result.json").exists():
                self._note(folder, KEPT, "")
            elif first != folder:
                alike.append(spec)
            else:
                write_json(folder / "spec.json", spec)
                missing.append(folder)
        for event in executor(missing):
            self._note(*event)
        for spec in alike:
            folder, made = self.folder / spec["id"], work[work_hash(spec)]
            if made.name in self._records:
                copy_run(made, spec, folder, same_as=made.name)
                self._note(folder, DONE, "")
            elif made.name in self.errors:
                self._note(folder, FAILED, self.errors[made.name])

    def _note(self, folder: Path, state: str, text: str) -> None:
        if state in (DONE, KEPT):
            self._records[folder.name] = read_json(folder / "result.json")
        elif state == FAILED:
            self.errors[folder.name] = text
        self._board.set(folder.name, state, text)

    def check(self, spec: Spec) -> None:
        """Refuse, by a `RunFolderError`, what another study, other code or other data left in a run's folder."""
        folder = self.folder / spec["id"]
        if (folder / "result.json").exists() and read_json(folder / "result.json")["spec_sha256"] != spec_hash(spec):
            different = [*differences(read_json(folder / "spec.json"), spec).values()]
            expected = f"a run in {folder} of the same code, data and settings as this study"
            got = f"one that differs in {', '.join(different[:3]) or 'the specification of its result'}"
            do = "choose a new folder for the study, or delete that run"
            raise RunFolderError(expected=expected, got=got, do=do)

    def _take_over(self, spec: Spec, folder: Path) -> None:
        """Copy what another study made of the same work."""
        found = self._finished.get(work_hash(spec))
        if found is not None and not (folder / "result.json").exists():
            copy_run(found, spec, folder, reused_from=f"{found.parents[1].name}/{found.name}")


def copy_run(made: Path, spec: Spec, folder: Path, **more: str) -> None:
    """Copy a finished run that did what another was to do, its result last."""
    shutil.copytree(made, folder, ignore=shutil.ignore_patterns("spec.json", "result.json"), dirs_exist_ok=True)
    write_json(folder / "spec.json", spec)
    write_json(folder / "result.json", {**more, **read_json(made / "result.json"), "spec_sha256": spec_hash(spec)})


def _finished(studies: Sequence[Path]) -> dict[str, Path]:
    """Folders of the finished runs of other studies, by the hash of what they did. Each study must have some."""
    found = {}
    for study in studies:
        results = sorted(study.glob("runs/*/result.json"))
        if not results:
            expected = f"the folder of a study with finished runs, runs/*/result.json, in {study}"
            do = "correct --reuse (a committed study has its study.json alone), or leave it out"
            raise RunFolderError(expected=expected, got="none", do=do)
        for result in results:
            spec = read_json(result.with_name("spec.json"))
            if read_json(result)["spec_sha256"] == spec_hash(spec):
                found[work_hash(spec)] = result.parent
    return found
