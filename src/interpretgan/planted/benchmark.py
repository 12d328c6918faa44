"""The benchmark of planted networks: what is there is used, what is missing is made, the summary follows from it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from interpretgan.errors import InterpretGANError, LayerError, RunFolderError
from interpretgan.judge import train_judge
from interpretgan.layers import examine
from interpretgan.pipeline.networks import Say
from interpretgan.planted.one_network import UNMADE, Shared, identity_of, record_of
from interpretgan.planted.page import write_page
from interpretgan.planted.plants import NETWORKS, Setting, setting
from interpretgan.planted.settings import JUDGE_FACTS, BenchmarkSettings, fingerprint, judged_against
from interpretgan.planted.summary import summarise
from interpretgan.planted.workers import Event, in_processes, one_thread
from interpretgan.store.files import read_json, write_json, writing
from interpretgan.store.machine import describe
from interpretgan.store.progress import ProgressLine, reporting, stage_seconds

SETTINGS_FILE, SUMMARY_FILE = "benchmark.json", "planted.json"
SCHEMA = 2
JUDGE_SEED = 1  #: The classifiers have 0.


def run_benchmark(
    settings: BenchmarkSettings,
    out: str | Path,
    *,
    workers: int = 1,
    device: torch.device | str = "cpu",
    judges: Mapping[str, Path] | None = None,
    say: Say,
) -> dict[str, Any]:
    """Make every network of the settings that has no record yet, and the summary of all.

    Args:
        settings: What is done.
        out: Folder of the records, the networks that had to be trained, and the summary: `planted.json`, `planted.md`
            and `planted.svg`.
        workers: Processes at a time, with one thread each; 1: this process.
        device: Where networks are trained and run, by all processes.
        judges: Weights of judges by data set. Others are trained, once.
        say: Told in a line what happens.

    Returns:
        The summary, see `summarise`.

    Raises:
        InterpretGANError: None of the networks is there, or the folder cannot be written.
    """
    out, judges = Path(out), dict(judges or {})
    with writing(out / SETTINGS_FILE):
        out.mkdir(parents=True, exist_ok=True)
    files = {data: judges.get(data, out / "judges" / f"{data}.safetensors") for data in _data(settings)}
    broken, trained_in = _prepare(settings, out, files, device, say)
    prints = {plan.key: fingerprint(plan, settings, judges.get(NETWORKS[plan.network].data)) for plan in settings.plans}
    chosen = [plan for plan in settings.plans if plan.network not in broken]
    todo = [plan.key for plan in chosen if _record(out, plan.key, prints[plan.key]) is None]
    say(f"{len(settings.plans)} networks, {len(chosen) - len(todo)} of them from before")
    places = {name: str(file.resolve()) for name, file in files.items()}
    held = {"settings": asdict(settings), "judges": places, "fingerprints": prints, "device": str(device)}
    write_json(out / SETTINGS_FILE, {"schema": SCHEMA, **held})
    try:
        _make(todo, workers, out, say)
    finally:  # also where it is interrupted: what is there has its summary
        summary = _summarised(
            settings, _found(settings, prints, broken, out), out, {"judges": _judges(files, trained_in)}, device
        )
    return summary


def _make(todo: Sequence[str], workers: int, out: Path, say: Say) -> None:
    if todo:
        with ProgressLine(len(todo), "planted networks", unit="network") as progress:
            for number, (key, lines, _) in enumerate(_done(todo, workers, out), start=1):
                for line in lines:
                    say(line)
                progress.update(number, key)


def _found(
    settings: BenchmarkSettings, prints: Mapping[str, str], broken: Mapping[str, str], out: Path
) -> dict[str, dict[str, Any]]:
    """The records that are there, by key, and one for each plant of a network that could not be had."""
    found: dict[str, dict[str, Any]] = {}
    for plan in settings.plans:
        if plan.network in broken:
            found[plan.key] = {**identity_of(plan), "status": UNMADE, "reason": broken[plan.network]}
        elif (record := _record(out, plan.key, prints[plan.key])) is not None:
            found[plan.key] = record
    return found


def kept_draw_seed(out: Path) -> int:
    """The seed that the held-out plants of a folder were drawn from, else a new one."""
    try:
        return int(read_json(out / SETTINGS_FILE)["settings"]["draw_seed"])
    except (RunFolderError, KeyError, TypeError, ValueError):
        return secrets.randbits(32)


def _summarised(
    settings: BenchmarkSettings,
    found: Mapping[str, dict[str, Any]],
    out: Path,
    more: Mapping[str, Any],
    device: torch.device | str,
) -> dict[str, Any]:
    drawn = {plan.key for plan in settings.drawn}
    records = [{**record, "half": "held out" if key in drawn else "table"} for key, record in found.items()]
    machine = describe(repeats=1, device=str(device), fp32="float32")
    # Seconds are of the machines that made the records, which may be others.
    used = dict.fromkeys(record["provenance"]["processor"] for record in records if "provenance" in record)
    summary = {
        "schema": SCHEMA, "settings": asdict(settings), **summarise(records, planned=len(settings.plans)), **more,
        "machine": machine | ({"processor": " and ".join(used)} if used else {}),
    }  # fmt: skip
    write_json(out / SUMMARY_FILE, summary)
    write_page(read_json(out / SUMMARY_FILE), out)
    return summary


def _data(settings: BenchmarkSettings) -> list[str]:
    return list(dict.fromkeys(NETWORKS[name].data for name in settings.networks))


# --- records -----------------------------------------------------------------------------------------------------


def record_file(out: Path, key: str) -> Path:
    """Where the record of a plant is kept."""
    return out / "records" / f"{key}.json"


def _record(out: Path, key: str, wanted: str) -> dict[str, Any] | None:
    """The record of a plant where it is there, whole, and of the same settings."""
    try:
        found = read_json(record_file(out, key))
    except RunFolderError:
        return None
    same = isinstance(found, dict) and found.get("fingerprint") == wanted and found.get("schema") == SCHEMA
    return found if same else None


def _done(keys: Sequence[str], workers: int, out: Path) -> Iterator[Event]:
    if workers != 1:
        yield from in_processes(keys, workers, out)
        return
    task = worker_task(out)
    with one_thread():
        for key in keys:
            yield key, task(key), True


def worker_task(out: Path) -> Callable[[str], list[str]]:
    """What makes and writes the record of a plant, by its key, as the settings in the folder say."""
    held = read_json(out / SETTINGS_FILE)
    settings, device = settings_of(held["settings"]), torch.device(held["device"])
    plans = {plan.key: plan for plan in settings.plans}
    shared: dict[str, Shared] = {}

    def task(key: str) -> list[str]:
        plan, lines = plans[key], list[str]()
        if plan.network not in shared:
            shared.clear()  # the memory of one network at a time
            judge = Path(held["judges"][NETWORKS[plan.network].data])
            shared[plan.network] = Shared(plan.network, settings, out / "networks", judge, device)
        try:
            record = record_of(plan, shared[plan.network], lines.append)
        except InterpretGANError as error:  # of the judge, or of the disk: it may go on the next time
            return [*lines, f"{key}: {error}"]
        known = {"schema": SCHEMA, "fingerprint": held["fingerprints"][key]}
        write_json(record_file(out, key), {**known, **record})
        return lines

    return task


def settings_of(values: Mapping[str, Any]) -> BenchmarkSettings:
    """Settings as they were written."""
    read: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return BenchmarkSettings(**read)


# --- what all plants share ---------------------------------------------------------------------------------------


def _prepare(
    settings: BenchmarkSettings, out: Path, files: Mapping[str, Path], device: torch.device | str, say: Say
) -> tuple[dict[str, str], dict[str, float]]:
    """Train networks and judges that are missing: why a network is not there, and seconds of each judge."""
    broken, seconds = dict[str, str](), dict[str, float]()
    for data, judge in files.items():
        for name in (name for name in settings.networks if NETWORKS[name].data == data):
            try:
                with reporting(True, name) as report:
                    given = setting(name, out / "networks", device=device, on_progress=report)
                _require_layers(settings, given)
                if not judge.is_file():
                    say(f"training the judge of {data}, once for all its networks")
                    with stage_seconds(seconds, data):
                        _train_judge(judge, given, data)
                    write_json(judge.with_name(f"{data}-seconds.json"), {"seconds": seconds[data]})
            except InterpretGANError as error:
                if isinstance(error, RunFolderError) or set(settings.networks) == {*broken, name}:
                    raise
                broken[name] = str(error)
                say(f"{name}: left out: {error}")
    return broken, seconds


def _require_layers(settings: BenchmarkSettings, given: Setting) -> None:
    """Refuse a network that has none of the layers that are asked for, before more is trained."""
    known = [layer.name for layer in examine(given.classifier, given.test).layers]
    if settings.layers is not None and not set(settings.layers) & set(known):
        expected, got = f"layers among {', '.join(known)}", ", ".join(settings.layers)
        raise LayerError(expected=expected, got=got, do="choose others with --layers")


def _train_judge(file: Path, given: Setting, data: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = file.with_suffix(".checkpoint")
    judge = train_judge(
        given.train, given.test, threat_model=judged_against(data), seed=JUDGE_SEED, bounds=given.classifier.bounds,
        device=given.classifier.device, checkpoint=checkpoint,
    )  # fmt: skip
    judge.save(file)
    checkpoint.unlink(missing_ok=True)


def _judges(files: Mapping[str, Path], trained: Mapping[str, float]) -> dict[str, Any]:
    """Accuracy of each judge, and what its training took where that is known."""
    found = {}
    for data, file in files.items():
        if not file.is_file():
            continue
        known, timed = read_json(file.with_suffix(".json")), file.with_name(f"{data}-seconds.json")
        seconds = trained.get(data, read_json(timed)["seconds"] if timed.is_file() else None)
        found[data] = {name: known[name] for name in JUDGE_FACTS} | {"seconds": seconds}
    return found
