"""Whole studies at toy size: reproduced, resumed, spread over processes and a cluster, and never mixed."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interpretgan.cli.app import run_command
from interpretgan.errors import RunFolderError
from interpretgan.store.files import read_json, write_json
from interpretgan.studies import job, plan
from interpretgan.studies.config import StudyConfig
from interpretgan.studies.config_file import load_config
from interpretgan.studies.effects import finished
from interpretgan.studies.executors import executor_for
from interpretgan.studies.plan import first_runs, second_runs
from interpretgan.studies.study import run_study
from tests.studies.conftest import Made
from tests.studies.tiny import STUDIES, failing

pytestmark = pytest.mark.xdist_group("studies")  # one process makes each toy study, and all these tests read it

Study = dict[str, Any]
Make = Callable[[str], Made]
CASE = "digits-lenet5-natural"
TINY = str(STUDIES / "pooling-tiny.toml")


def compared(study: Study) -> str:
    """All but where, when and by whom it was made."""
    return json.dumps({name: value for name, value in study.items() if name != "provenance"})


def states(study: Study) -> dict[str, str]:
    return {run["id"].removeprefix(f"{CASE}-"): run["status"] for run in study["runs"]}


def test_what_a_pooling_study_holds(made: Make) -> None:
    _, out, study = made("pooling")
    assert study == read_json(out / "study.json")
    assert list(study) == ["schema", "kind", "runs", "effects", "verdicts", "flags", "provenance"]
    assert list(states(study)) == ["avg-s0", "avg-s1", "max-s0", "max-s1"]
    assert set(states(study).values()) == {"done"}
    worst = {run["id"]: run["result"]["accuracy"]["worst_case"]["value"] for run in study["runs"]}
    expected = sum(worst[f"{CASE}-avg-s{seed}"] - worst[f"{CASE}-max-s{seed}"] for seed in (0, 1)) / 2
    (effect,) = [effect for effect in study["effects"] if effect["quantity"] == "worst_case"]
    assert effect["value"] == pytest.approx(expected)
    assert (effect["variant"], effect["against"], effect["runs"]) == ("avg", "max", 2)
    assert effect["corrected_low"] <= effect["low"] <= effect["value"] <= effect["high"] <= effect["corrected_high"]
    assert {effect["quantity"] for effect in study["effects"]} >= {"natural", "pgd", "accuracy at eps 0.1"}
    verdict = study["verdicts"][0]
    assert verdict["measured"] == effect["value"]
    assert study["provenance"]["config"]["rules"][0]["claim"] == verdict["claim"]
    assert len(list((out / "judges").iterdir())) == 2  # the variants of a seed share one judge
    assert not [*out.rglob("generator-*.safetensors"), *out.rglob("information.safetensors")]
    assert (out / "runs" / f"{CASE}-max-s0" / "explanations.npz").exists()


def test_an_information_study_takes_over_what_it_can(made: Make, tmp_path: Path) -> None:
    _, out, pooling = made("pooling")
    config, _, study = made("information")
    of_pooling = {run["id"]: run["result"] for run in pooling["runs"]}
    assert states(study) == {"max-s0": "done", "max-s1": "done"}
    assert all(run["result"] == of_pooling[run["id"]] for run in study["runs"])
    assert study["provenance"]["reused"] == {run["id"]: f"pooling/{run['id']}" for run in study["runs"]}
    assert pooling["provenance"]["reused"] == {}
    rows = study["runs"][0]["result"]["layers"]
    assert [row["name"] for row in rows] == ["pool1", "pool2"]
    assert all(
        {"relative_error", "vulnerability_probe", "vulnerability_bits", "information_loss"} <= row.keys()
        for row in rows
    )
    agreement = [e for e in study["effects"] if e["quantity"] == "spearman(vulnerability, relative_error)"]
    assert [(e["case"], e["variant"]) for e in agreement] in ([], [(CASE, "max"), ("all", None)])

    (case,) = config.cases
    longer = replace(case.settings, generator=replace(case.settings.generator, generator_steps=16))
    other = replace(config, seeds=(0, 2), cases=(case, replace(case, name="longer", settings=longer)))
    again = run_study(other, tmp_path / "more", failing, reuse=[out], stream=io.StringIO())
    assert [name for name, state in states(again).items() if state == "done"] == ["max-s0"]
    with pytest.raises(RunFolderError, match=r"with finished runs.* got none; correct --reuse"):
        run_study(other, tmp_path / "none", failing, reuse=[tmp_path], stream=io.StringIO())
    assert not (tmp_path / "none").exists()


def test_what_a_repair_study_holds(made: Make) -> None:
    config, out, study = made("repair")
    assert set(states(study).values()) == {"done"}
    runs = {(run["variant"], run["seed"]): run["result"] for run in study["runs"]}
    for seed in (0, 1):
        repaired = {variant: runs[variant, seed]["repaired"] for variant in config.variants}
        assert repaired["finetune-random"]["layers"] in (["conv1"], ["conv2"])
        assert {variant: record["layers"] for variant, record in repaired.items() if variant != "finetune-random"} == {
            "finetune-blamed": ["conv2"], "finetune-cleared": ["conv1"], "finetune-equal": ["conv1"],
            "finetune-best": ["conv2"],  # the last of those that were tried
            "swap-blamed": ["pool2"], "swap-cleared": ["pool1"],
        }  # fmt: skip
        assert repaired["finetune-blamed"]["recipe"] == repaired["finetune-cleared"]["recipe"]  # at equal cost
        assert repaired["finetune-blamed"]["recipe"]["objective"]["name"] == "pgd"
        assert repaired["swap-blamed"]["parameters"] == runs["untouched", seed]["classifier"]["parameters"]
        states_of = {runs[variant, seed]["classifier"]["state_sha256"] for variant in ("untouched", *config.variants)}
        assert len(states_of) == 5
    assert len(study["provenance"]["seconds"]) == 2 * 4  # untouched ones are of another study; one run serves variants
    pairs = {(e["variant"], e["against"]) for e in study["effects"] if e["quantity"] == "worst_case"}
    assert {("finetune-blamed", "untouched")} <= pairs
    assert {("finetune-blamed", f"finetune-{control}") for control in ("cleared", "random", "equal", "best")} <= pairs
    best = [run for run in finished(study["runs"]) if run["variant"] == "finetune-best"]
    gains = {(run["seed"], run["variant"]): run["result"]["accuracy"]["worst_case"]["value"] for run in best}
    for seed in (0, 1):
        assert gains[seed, "finetune-best"] >= runs["finetune-blamed", seed]["accuracy"]["worst_case"]["value"]

    first = first_runs(config)
    specs, refused = second_runs(config, first, {f"{CASE}-untouched-s0": runs["untouched", 0]})
    ids = {spec["id"] for spec in [*first, *specs] if spec["seed"] == 0}
    assert ids == {run["id"] for run in study["runs"] if run["seed"] == 0}
    assert {f"{CASE}-finetune-best-{layer}-s0" for layer in ("conv1", "conv2")} < ids
    assert refused == {
        spec["id"]: f"{CASE}-untouched-s1, which it would repair, failed" for spec in specs if spec["seed"] == 1
    }
    assert all(read_json(out / "runs" / spec["id"] / "spec.json") == spec for spec in specs if spec["seed"] == 0)
    (out / "runs" / f"{CASE}-untouched-s0" / "work" / "classifier.safetensors").write_bytes(
        (out / "runs" / f"{CASE}-untouched-s1" / "work" / "classifier.safetensors").read_bytes()
    )
    folder = out / "runs" / "again"
    write_json(folder / "spec.json", specs[0])
    assert job.main(folder) == job.REFUSED  # not the weights that were diagnosed


def test_where_no_layer_can_be_read_none_is_repaired(made: Make, tmp_path: Path) -> None:
    config, unread = made("repair")[0], shutil.copytree(made("pooling")[1], tmp_path / "unread")
    for file in unread.glob("runs/*-max-*/result.json"):
        record = read_json(file)
        for row in record["result"]["layers"]:
            row["unreliable"] = True
        for unit in record["result"]["units"]:
            unit["vulnerability"] = unit["let_in"] = None
        write_json(file, record)
    study = run_study(config, tmp_path / "out", failing, reuse=[unread], stream=io.StringIO())
    assert {name for name, state in states(study).items() if state == "done"} == {"untouched-s0", "untouched-s1"}
    errors = [run["error"] for run in study["runs"] if run["status"] == "failed"]
    assert len(errors) == len(study["runs"]) - 2
    assert all("that can be read reliably" in error for error in errors)


def test_a_finished_study_is_made_again_from_its_runs(made: Make, tmp_path: Path) -> None:
    config, out, study = made("pooling")
    copy, stream = shutil.copytree(out, tmp_path / "copy"), io.StringIO()
    assert compared(run_study(config, copy, failing, stream=stream)) == compared(study)
    assert stream.getvalue().count("kept") == 8  # a line each, and in the table
    changed = {**study, "verdicts": [{**row, "verdict": "confirmed"} for row in study["verdicts"]]}
    write_json(copy / "study.json", changed)  # as other statistics had it, of the same runs
    again = run_study(config, copy, failing, stream=io.StringIO())
    assert {row["before"]["verdict"] for row in again["verdicts"]} == {"confirmed"}
    (copy / "runs" / f"{CASE}-avg-s1" / "result.json").unlink()
    less = run_study(config, copy, failing, stream=io.StringIO())
    assert [run["error"] for run in less["runs"] if run["status"] == "failed"] == ["no time"]
    assert less["verdicts"][0]["verdict"] == "undecided"  # one pair is no effect
    assert less["effects"] == []


def test_the_command_prints_the_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str], quick: Made) -> None:
    _, out, study = quick
    file = tmp_path / "quick.toml"
    file.write_text(Path(TINY).read_text().replace('model = "lenet5"', 'model = "lenet5"\ndiagnosed = []'))
    copy = shutil.copytree(out, tmp_path / "copy")
    assert run_command(["study", "pooling", "--config", str(file), "--out", str(copy)]) == 0
    printed = capsys.readouterr()
    for row in study["verdicts"]:
        (line,) = [line for line in printed.out.splitlines() if line.startswith(row["claim"])]
        assert line.endswith(row["verdict"])
        assert f"{row['measured']:+.3f}" in line
    assert all(f"! {flag['message']}" in printed.out for flag in study["flags"])
    assert str(copy / "study.json") in printed.out
    rows = [line.split() for line in printed.err.splitlines()]
    assert ["case", "variant", "s0", "s1"] in rows
    assert [CASE, "avg", "kept", "kept"] in rows


# --- workers


def processes(out: Path) -> dict[str, list[int]]:
    """The processes of each run, as its log says."""
    logs = {file.parent.name.removeprefix(f"{CASE}-"): file.read_text() for file in out.glob("runs/*/log.txt")}
    lines = {run: [line.split() for line in text.splitlines()] for run, text in logs.items()}
    return {run: [int(words[1]) for words in found if words[:1] == ["process"]] for run, found in lines.items()}


def test_two_workers_make_the_same_file_and_the_death_of_one_costs_its_run_alone(quick: Made, tmp_path: Path) -> None:
    config, _, study = quick
    out, stream, fatal = tmp_path / "out", io.StringIO(), {"avg-s1": 1, "max-s1": 2}  # how often each is killed
    over = threading.Event()

    def kill() -> None:
        killed: set[int] = set()
        while not over.wait(0.02):
            for run, times in fatal.items():
                for pid in set(processes(out).get(run, [])[:times]) - killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)

    killer = threading.Thread(target=kill)
    killer.start()
    with executor_for(config, workers=2) as executor:
        found = run_study(config, out, executor, stream=stream)
        over.set()
        killer.join()
        assert states(found) == {**states(study), "max-s1": "failed"}
        assert "avg-s1: run  again, for its process died, killed by SIGKILL" in stream.getvalue()
        (error,) = [run["error"] for run in found["runs"] if run["status"] == "failed"]
        assert error == "its process died, killed by SIGKILL"
        again = run_study(config, out, executor, stream=io.StringIO())  # goes on: only what is missing is made
    assert compared(again) == compared(study)
    assert {run: len(pids) for run, pids in processes(out).items()} == {
        "avg-s0": 1,
        "avg-s1": 2,
        "max-s0": 1,
        "max-s1": 3,
    }


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_study(how: signal.Signals, tmp_path: Path) -> None:
    """Also where it is killed outright, and leaves nothing behind that would train on."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "interpretgan", "study", "pooling", "--config", TINY, "--out", str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not any(processes(out).values()) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(how)
    ((pid,),) = processes(out).values()
    for _ in range(600):
        status = Path(f"/proc/{pid}/stat")
        try:
            os.kill(pid, 0)
            if status.exists() and status.read_text().split()[2] == "Z":
                return  # ended; nobody is left to say so to
        except (ProcessLookupError, FileNotFoundError):
            return
        time.sleep(0.1)
    pytest.fail("the worker lives on")


def test_a_ray_cluster_gives_the_same_file(quick: Made, tmp_path: Path) -> None:
    """Two workers of a Ray that the test starts; in a process of its own, for it leaves threads behind."""
    pytest.importorskip("ray")
    file = tmp_path / "quick.toml"
    file.write_text(Path(TINY).read_text().replace('model = "lenet5"', 'model = "lenet5"\ndiagnosed = []'))
    script = f"""
from ray.cluster_utils import Cluster
from interpretgan.cli import run_command
nodes = Cluster(initialize_head=True, head_node_args={{"num_cpus": 2, "include_dashboard": False}})
where = ["--config", {str(file)!r}, "--out", {str(tmp_path / "cluster")!r}]
command = ["study", "pooling", *where, "--ray", nodes.address]
assert run_command(command) == 0
nodes.shutdown()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    assert compared(read_json(tmp_path / "cluster" / "study.json")) == compared(quick[2])


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run_command(["study", "pooling", "--config", TINY, "--out", str(tmp_path / "out"), "--ray", "auto"]) == 2
    assert "pip install '.[ray]' in a clone, or use --workers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_threads_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def start(command: list[str], **options: Any) -> None:
        started.append(options["env"])
        raise OSError("a full disk")

    monkeypatch.setattr("interpretgan.studies.executors.subprocess.Popen", start)
    monkeypatch.setattr("interpretgan.studies.executors.cpu_count", lambda: 8)
    config = load_config(TINY)
    for threads in (None, 1):
        with executor_for(replace(config, threads=threads), workers=4) as executor:
            (_, (_, state, said)) = executor([tmp_path])
        assert (state, said) == ("FAIL", "its process could not be started: a full disk")
    assert [environment["OMP_NUM_THREADS"] for environment in started] == ["2", "1"]


# --- what must not be mixed


def refused(out: Path, config: StudyConfig) -> str:
    with pytest.raises(RunFolderError) as caught:
        run_study(config, out, failing, stream=io.StringIO())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_code_data_and_rules_are_refused(quick: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, out, _ = quick
    looser = replace(config, rules=(replace(config.rules[0], threshold=-1.0), *config.rules[1:]))
    assert "study.rules" in refused(out, looser)
    other = {**plan.code_version(), "sha256": "0" * 64}
    with monkeypatch.context() as patch:
        for module in ("plan", "study"):
            patch.setattr(f"interpretgan.studies.{module}.code_version", lambda: other)
        assert "code.sha256" in refused(out, config)
        fresh = tmp_path / "fresh"  # runs are copied from one study's folder to another
        shutil.copytree(out / "runs", fresh / "runs")
        (fresh / "config.json").write_text("{}")
        said = refused(fresh, config)
        assert "of the same code, data and settings as this study" in said
        assert "code.sha256" in said


@pytest.mark.parametrize("key", ["code", "config"])
def test_a_run_refuses_other_code_and_other_data(
    key: str, quick: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = read_json(quick[1] / "runs" / f"{CASE}-max-s0" / "spec.json")
    part = spec["code"] if key == "code" else spec["config"]["data"]
    part["sha256"] = "0" * 64
    folder = tmp_path / "runs" / "one"
    write_json(folder / "spec.json", spec)
    assert job.main(folder) == job.REFUSED
    assert f"{key}.{'data.' * (key == 'config')}sha256" in capfd.readouterr().err
    assert not (folder / "result.json").exists()
