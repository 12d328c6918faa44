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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpretgan.cli.app import run_command
from interpretgan.data import load_data
from interpretgan.errors import RunFolderError
from interpretgan.studies import plan, worker
from interpretgan.studies.board import Board
from interpretgan.studies.config import StudyConfig
from interpretgan.studies.config_file import load_config
from interpretgan.studies.executors import LocalProcesses, OnStart, Outcome, cores, threads_per_worker
from interpretgan.studies.rules import Rule
from interpretgan.studies.study import run_study
from tests.studies.tiny import STUDIES, inline

pytestmark = pytest.mark.xdist_group("studies")  # one process makes each tiny study, and all these tests read it

Study = dict[str, Any]
Made = Callable[[str], tuple[Path, Study]]


def compared(study: Study) -> Study:
    """All but where, when and by whom it was made."""
    return {name: value for name, value in study.items() if name != "provenance"}


def never(folders: Sequence[Path], on_start: OnStart) -> Iterator[tuple[Path, Outcome]]:
    """An executor that must have nothing to do."""
    assert not folders
    return iter(())


@pytest.mark.parametrize("kind", ["pooling", "information", "repair"])
def test_a_study_that_is_made_again_from_its_config_reproduces_every_verdict(
    kind: str, made: Made, tmp_path: Path
) -> None:
    _, first = made(kind)
    config = load_config(STUDIES / f"{kind}-tiny.toml", kind)
    second = run_study(config, tmp_path / "again", inline, stream=io.StringIO())
    assert len(first["verdicts"]) == len(config.rules)
    for one, two in zip(first["verdicts"], second["verdicts"], strict=True):
        assert one["verdict"] == two["verdict"]
        if one["measured"] is not None:
            assert one["measured"] * two["measured"] > 0 or one["measured"] == two["measured"]  # the same sign
            assert one["low"] <= two["high"]
            assert two["low"] <= one["high"]
    assert all(run["status"] == "done" for run in first["runs"])


OTHERS = sorted(file.stem.removesuffix("-tiny") for file in STUDIES.glob("*-*-tiny.toml"))


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_committed_studies_run_at_toy_size(name: str, made: Made) -> None:
    out, study = made(name)
    assert all(run["status"] == "done" for run in study["runs"])
    assert [verdict["verdict"] for verdict in study["verdicts"]] == [
        "undecided"
    ]  # two seeds, or three layers, say nothing
    assert study == json.loads((out / "study.json").read_text())


def test_what_a_pooling_study_holds(made: Made) -> None:
    out, study = made("pooling")
    assert study == json.loads((out / "study.json").read_text())
    assert list(study) == ["schema", "kind", "runs", "effects", "verdicts", "flags", "provenance"]
    assert [run["id"] for run in study["runs"]] == [
        f"digits-lenet5-natural-{variant}-s{seed}" for variant in ("avg", "max") for seed in (0, 1)
    ]
    runs = {run["id"]: run["result"] for run in study["runs"]}
    worst = [effect for effect in study["effects"] if effect["quantity"] == "worst_case"]
    (effect,) = worst
    expected = [
        runs[f"digits-lenet5-natural-avg-s{seed}"]["accuracy"]["worst_case"]["value"]
        - runs[f"digits-lenet5-natural-max-s{seed}"]["accuracy"]["worst_case"]["value"]
        for seed in (0, 1)
    ]
    assert effect["value"] == pytest.approx(sum(expected) / 2)
    assert (effect["variant"], effect["against"], effect["runs"]) == ("avg", "max", 2)
    assert effect["corrected_low"] <= effect["low"] <= effect["value"] <= effect["high"] <= effect["corrected_high"]
    assert {effect["quantity"] for effect in study["effects"]} >= {"natural", "pgd", "accuracy at eps 0.1"}
    assert [flag["details"]["count"] for flag in study["flags"] if flag["code"] == "few_examples"] == [4]
    verdict = study["verdicts"][0]
    assert {"claim", "paper", "measured", "low", "high", "rule", "verdict"} <= verdict.keys()
    assert verdict["measured"] == effect["value"]
    assert study["provenance"]["config"]["rules"][0]["claim"] == verdict["claim"]
    # the variants of a seed share one judge
    assert len(list((out / "judges").iterdir())) == 2
    assert not [*out.rglob("generator-*.safetensors"), *out.rglob("information.safetensors")]
    assert (out / "runs" / "digits-lenet5-natural-max-s0" / "explanations.npz").exists()


def test_what_an_information_study_holds(made: Made) -> None:
    _, study = made("information")
    rows = study["runs"][0]["result"]["layers"]
    assert [row["name"] for row in rows] == ["relu1", "pool1", "relu2"]
    assert all({"relative_error", "vulnerability_probe", "vulnerability_bits"} <= row.keys() for row in rows)
    agreement = [e for e in study["effects"] if e["quantity"] == "spearman(vulnerability, relative_error)"]
    assert [(e["case"], e["variant"]) for e in agreement] == [("digits-lenet5-natural", "max"), ("all", None)]
    assert all(-1 <= e["low"] <= e["value"] <= e["high"] <= 1 and 0 < e["p"] <= 1 for e in agreement)
    lost = [sum(row["vulnerability"]["value"] for row in run["result"]["layers"]) for run in study["runs"]]
    little = [flag["value"] for flag in study["flags"] if flag["code"] == "little_lost"]
    assert little == [count for count in [sum(one < 0.1 for one in lost)] if count]
    known = any("information_loss" in row for row in rows)
    assert ("no_information" in [flag["code"] for flag in study["flags"]]) is not known


def test_what_a_repair_study_holds(made: Made) -> None:
    _, study = made("repair")
    runs = {(run["variant"], run["seed"]): run["result"] for run in study["runs"]}
    for seed in (0, 1):
        vulnerability = {
            unit["name"]: unit["vulnerability"] for unit in runs["untouched", seed]["units"]
        }  # fmt: skip
        blamed, cleared = (runs[f"finetune-{name}", seed]["repaired"] for name in ("blamed", "cleared"))
        assert vulnerability[blamed["layers"][0]] >= vulnerability[cleared["layers"][0]]
        assert blamed["layers"] != cleared["layers"]
        assert blamed["recipe"] == cleared["recipe"]  # at equal cost
        swaps = [runs[f"swap-{name}", seed]["repaired"] for name in ("blamed", "cleared")]
        assert {swap["layers"][0] for swap in swaps} == {"pool1", "pool2"}
        assert swaps[0]["parameters"] == swaps[1]["parameters"]
    sizes = [
        np.median([runs[f"finetune-{name}", seed]["repaired"]["parameters"] for seed in (0, 1)])
        for name in ("blamed", "cleared")
    ]
    unequal = [[flag["value"], flag["threshold"]] for flag in study["flags"] if flag["code"] == "unequal_sizes"]
    assert unequal == [sizes] * (not 0.5 <= sizes[0] / sizes[1] <= 2)
    pairs = {(e["variant"], e["against"]) for e in study["effects"] if e["quantity"] == "worst_case"}
    assert {("finetune-blamed", "finetune-cleared"), ("finetune-blamed", "untouched")} <= pairs


def test_repairs_of_a_network_that_failed_have_failed_too(made: Made) -> None:
    _, study = made("repair")
    config = load_config(STUDIES / "repair-tiny.toml")
    found = {
        run["id"]: run["result"] for run in study["runs"] if run["variant"] == "untouched" and run["seed"] != 1
    }  # fmt: skip
    specs, refused = plan.second_runs(config, found)
    assert {spec["id"] for spec in [*plan.first_runs(config), *specs]} == {run["id"] for run in study["runs"]}
    assert refused == {
        spec["id"]: "digits-lenet5-natural-untouched-s1, which it would repair, failed"
        for spec in specs
        if spec["seed"] == 1
    }
    made_before = {spec["id"]: spec for spec in plan.second_runs(config, {**found, **untouched(study, 1)})[0]}
    assert all(made_before[spec["id"]] == spec for spec in specs if spec["id"] not in refused)


def untouched(study: Study, seed: int) -> Study:
    return {
        run["id"]: run["result"] for run in study["runs"] if (run["variant"], run["seed"]) == ("untouched", seed)
    }  # fmt: skip


def test_a_finished_study_is_made_again_from_its_runs(made: Made, tmp_path: Path) -> None:
    out, study = made("pooling")
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    stream = io.StringIO()
    again = run_study(load_config(STUDIES / "pooling-tiny.toml"), copy, never, stream=stream)
    assert compared(again) == compared(study)
    assert stream.getvalue().count("kept") == 8  # a line each, and in the table
    changed = {**study, "verdicts": [{**row, "verdict": "confirmed"} for row in study["verdicts"]]}
    (copy / "study.json").write_text(json.dumps(changed))  # as other statistics had it, of the same runs
    again = run_study(load_config(STUDIES / "pooling-tiny.toml"), copy, never, stream=io.StringIO())
    assert {row["before"]["verdict"] for row in again["verdicts"]} == {"confirmed"}
    assert sum(flag["code"] == "concluded_again" for flag in again["flags"]) == len(again["verdicts"])
    (copy / "runs" / "digits-lenet5-natural-avg-s1" / "result.json").unlink()
    missing: list[str] = []

    def note(folders: Sequence[Path], on_start: OnStart) -> Iterator[tuple[Path, Outcome]]:
        missing.extend(folder.name for folder in folders)
        return iter([(folder, Outcome("no time", 1)) for folder in folders])

    less = run_study(load_config(STUDIES / "pooling-tiny.toml"), copy, note, stream=io.StringIO())
    assert missing == ["digits-lenet5-natural-avg-s1"]
    assert "failed: digits-lenet5-natural-avg-s1: no time" in [flag["message"] for flag in less["flags"]]
    assert less["verdicts"][0]["verdict"] == "undecided"  # one pair is no effect
    assert less["effects"] == []


def test_the_same_runs_of_another_study_are_taken_over(made: Made, tmp_path: Path) -> None:
    out, pooling = made("pooling")
    config = load_config(STUDIES / "pooling-tiny.toml")
    rule = Rule("loss predicts vulnerability", "", "spearman(information_loss, vulnerability)", direction="above")
    other = replace(config, kind="information", rules=(rule,))
    study = run_study(other, tmp_path / "information", never, reuse=[out], stream=io.StringIO())
    assert [run["result"] for run in study["runs"]] == [run["result"] for run in pooling["runs"]]
    assert study["provenance"]["reused"] == {run["id"]: f"pooling/{run['id']}" for run in pooling["runs"]}
    assert pooling["provenance"]["reused"] == {}

    needed: list[str] = []

    def note(folders: Sequence[Path], on_start: OnStart) -> Iterator[tuple[Path, Outcome]]:
        needed.extend(folder.name for folder in folders)
        return iter([(folder, Outcome("not made", 1)) for folder in folders])

    case = config.cases[0]
    longer = replace(case.settings, generator=replace(case.settings.generator, generator_steps=16))
    other = replace(other, seeds=(0, 2), cases=(case, replace(case, name="longer", settings=longer)))
    run_study(other, tmp_path / "more", note, reuse=[out], stream=io.StringIO())
    assert sorted(needed) == ["digits-lenet5-natural-avg-s2", "digits-lenet5-natural-max-s2",
                              "longer-avg-s0", "longer-avg-s2", "longer-max-s0", "longer-max-s2"]  # fmt: skip
    with pytest.raises(RunFolderError, match=r"with finished runs.* got none; correct --reuse"):
        run_study(other, tmp_path / "none", never, reuse=[tmp_path], stream=io.StringIO())
    assert not (tmp_path / "none").exists()


def test_the_command_prints_the_verdicts(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, study = made("pooling")
    shutil.copytree(out, tmp_path / "copy")
    config = str(STUDIES / "pooling-tiny.toml")
    assert run_command(["study", "pooling", "--config", config, "--out", str(tmp_path / "copy")]) == 0
    printed = capsys.readouterr()
    for row in study["verdicts"]:
        (line,) = [line for line in printed.out.splitlines() if line.startswith(row["claim"])]
        assert line.endswith(row["verdict"])
        assert f"{row['measured']:+.3f}" in line
    for flag in study["flags"]:
        assert f"! {flag['message']}" in printed.out
    assert str(tmp_path / "copy" / "study.json") in printed.out
    assert "digits-lenet5-natural  avg  kept  kept" in printed.err


# --- workers


def test_the_file_is_the_same_whatever_the_workers(quick: StudyConfig, tmp_path: Path) -> None:
    one, two = (
        run_study(quick, tmp_path / str(workers), LocalProcesses(workers, quick.threads), stream=io.StringIO())
        for workers in (1, 2)
    )
    assert all(run["status"] == "done" for run in one["runs"])
    assert json.dumps(compared(one)) == json.dumps(compared(two))


def test_the_cores_are_shared_out() -> None:
    assert threads_per_worker(1) == cores()
    assert threads_per_worker(2 * cores()) == 1
    assert LocalProcesses(cores()).threads == 1
    assert LocalProcesses(1, 3).threads == 3


def killing(folder: Path, times: int) -> threading.Thread:
    """Kills the process of a run as often as wanted, a moment after it begins."""

    def hunt() -> None:
        killed: set[str] = set()
        while len(killed) < times:
            pid = (folder / "pid").read_text().strip() if (folder / "pid").exists() else ""
            if pid and pid not in killed:
                os.kill(int(pid), signal.SIGKILL)
                killed.add(pid)
            time.sleep(0.02)

    thread = threading.Thread(target=hunt, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("times", [1, 2])
def test_the_death_of_a_worker_costs_its_run_alone(times: int, quick: StudyConfig, tmp_path: Path) -> None:
    name = "digits-lenet5-natural-avg-s1"
    hunter = killing(tmp_path / "out" / "runs" / name, times)
    stream = io.StringIO()
    study = run_study(quick, tmp_path / "out", LocalProcesses(2, 1), stream=stream)
    hunter.join(timeout=10)
    status = {run["id"]: run["status"] for run in study["runs"]}
    if times == 1:
        assert set(status.values()) == {"done"}
        assert f"{name}: done  at attempt 2" in stream.getvalue()
        return
    assert [run for run, how in status.items() if how != "done"] == [name]
    failed = [flag["message"] for flag in study["flags"]]
    assert f"failed: {name}: its process died, killed by SIGKILL" in failed
    assert f"{name}: FAIL" in stream.getvalue()
    # the same command goes on: only what is missing is made
    again = run_study(quick, tmp_path / "out", inline, stream=io.StringIO())
    assert {run["status"] for run in again["runs"]} == {"done"}


def test_workers_end_with_the_study(quick: StudyConfig, tmp_path: Path) -> None:
    """Also where it is killed outright, and leaves nothing behind that would train on."""
    command = [sys.executable, "-m", "interpretgan", "study", "pooling", "--config",
               str(STUDIES / "pooling-tiny.toml"), "--out", str(tmp_path / "out"), "--workers", "1"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        pids: list[Path] = []
        while not pids and process.poll() is None:
            pids = [path for path in tmp_path.glob("out/runs/*/pid") if path.read_text().strip()]
            time.sleep(0.05)
        pid = int(pids[0].read_text())
        process.kill()
    for _ in range(600):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return  # ended; nobody is left to say so to
        time.sleep(0.1)
    pytest.fail("the worker lives on")


def test_a_ray_cluster_gives_the_same_file(quick: StudyConfig, tmp_path: Path) -> None:
    """Two workers of a Ray that the test starts; in a process of its own, for it leaves threads behind."""
    pytest.importorskip("ray")
    reference = run_study(quick, tmp_path / "local", inline, stream=io.StringIO())
    file = tmp_path / "quick.toml"
    text = (STUDIES / "pooling-tiny.toml").read_text()
    file.write_text(text.replace('model = "lenet5"', 'model = "lenet5"\ndiagnosed = []'))
    assert load_config(file) == quick
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
    found = json.loads((tmp_path / "cluster" / "study.json").read_text())
    assert all(run["status"] == "done" for run in found["runs"])
    assert json.dumps(compared(found)) == json.dumps(compared(reference))


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["study", "pooling", "--config", str(STUDIES / "pooling-tiny.toml"), "--out", str(tmp_path / "out")]
    assert run_command([*command, "--ray", "auto"]) == 2
    assert "pip install 'interpretgan[ray]', or use --workers" in capsys.readouterr().err


# --- what must not be mixed


@pytest.fixture
def copied(made: Made, tmp_path: Path) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(made("pooling")[0], copy)
    return copy


def refused(out: Path, config: StudyConfig | None = None) -> str:
    with pytest.raises(RunFolderError) as caught:
        run_study(config or load_config(STUDIES / "pooling-tiny.toml"), out, never, stream=io.StringIO())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_other_code_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**plan.code_version(), "sha256": "0" * 64}
    for module in ("plan", "study"):
        monkeypatch.setattr(f"interpretgan.studies.{module}.code_version", lambda: other)
    assert "code.sha256" in refused(copied)
    (copied / "config.json").unlink()  # as if runs were copied from one study's folder to another
    shutil.rmtree(copied / "judges")
    runs = copied.with_name("fresh")
    runs.mkdir()
    shutil.move(copied / "runs", runs / "runs")
    (runs / "config.json").write_text("{}")
    said = refused(runs)
    assert "of the same code, data and settings as this study" in said
    assert "code.sha256" in said


def test_other_data_are_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interpretgan.studies.plan.load_data", lambda name, split, **_: load_data(name, split).head(9))
    assert "data.digits-lenet5-natural.sha256" in refused(copied)


def test_other_rules_are_refused(copied: Path) -> None:
    config = load_config(STUDIES / "pooling-tiny.toml")
    looser = replace(config, rules=(replace(config.rules[0], threshold=-1.0), *config.rules[1:]))
    assert "study.rules" in refused(copied, looser)


def test_a_run_refuses_other_code_and_other_data(made: Made, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spec = json.loads((made("pooling")[0] / "runs" / "digits-lenet5-natural-max-s0" / "spec.json").read_text())
    for key, said in (("code", "the code of the study"), ("data", "the data of the study")):
        folder = tmp_path / "runs" / key
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps({**spec, key: {**spec[key], "sha256": "0" * 64}}))
        assert worker.main(folder) == worker.REFUSED
        assert said in capfd.readouterr().err
        assert not (folder / "result.json").exists()


def test_the_table_has_a_row_per_variant_and_a_column_per_seed() -> None:
    board = Board(io.StringIO())
    board.add(
        [
            {"id": f"{variant}{seed}", "case": "c", "variant": variant, "seed": seed}
            for variant in "ab"
            for seed in (3, 5)
        ]
    )
    board.set("a3", "done")
    board.set("b5", "FAIL", "why")
    assert board.lines() == ["case  variant  s3    s5", "c     a    done  .", "c     b    .     FAIL"]
