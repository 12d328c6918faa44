"""Conclusions from a finished study's file alone: the same again, and what other statistics change is flagged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interpretgan.cli.app import run_command
from interpretgan.errors import RunFolderError
from interpretgan.statistics import Estimate
from interpretgan.studies.effects import Effect
from interpretgan.studies.verdicts import conclude, load_study

RESULTS = Path(__file__).parents[2] / "results" / "studies"
COMMITTED = sorted(file.parent.name for file in RESULTS.glob("*/study.json"))
CONCLUSIONS = ("runs", "effects", "verdicts", "flags")


@pytest.fixture
def conclude_with(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Conclude a copy of a committed study, once its record is changed."""

    def again(name: str, change: Callable[[dict[str, Any]], object] = id) -> dict[str, Any]:
        study = load_study(RESULTS / name)
        change(study)
        (tmp_path / "study.json").write_text(json.dumps(study))
        return conclude(tmp_path)

    return again


def flags(study: dict[str, Any], code: str) -> list[dict[str, Any]]:
    return [flag for flag in study["flags"] if flag["code"] == code]


def near(value: Any) -> Any:
    """The same value, whose numbers may differ in their last digits."""
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    return pytest.approx(value, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.parametrize("name", COMMITTED)
def test_what_a_committed_study_says_follows_from_its_runs(
    name: str, conclude_with: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    committed, again = load_study(RESULTS / name), conclude_with(name)
    assert again == load_study(tmp_path)
    for part in CONCLUSIONS:
        assert again[part] == near(committed[part])
    for study in (again, committed):
        study["provenance"].pop("concluded", None)  # the committed one may be as it was concluded at first
    assert again["provenance"] == committed["provenance"]


def test_a_verdict_that_changes_says_what_it_was(
    conclude_with: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    first = conclude_with("pooling-trades")
    before = first["verdicts"][0]
    assert before["verdict"] == "undecided"
    with monkeypatch.context() as patch:
        sure = Estimate(value=0.2, p=0.01, runs=2, error=1e-3)
        patch.setattr("interpretgan.studies.effects.paired", lambda *_: sure)
        for _ in range(2):  # the second time what was concluded at first is kept
            assert run_command(["study", "conclude", str(tmp_path)]) == 0
            changed = load_study(tmp_path)
            row = changed["verdicts"][0]
            assert row["verdict"] == "confirmed"
            assert row["before"] == {name: before[name] for name in ("verdict", "measured", "low", "high")}
            (flag,) = flags(changed, "concluded_again")
            assert flag["details"]["claim"] == before["claim"]
            assert flag["details"]["before"] == "undecided"
    assert "confirmed" in capsys.readouterr().out
    back = conclude(tmp_path)
    assert "before" not in back["verdicts"][0]
    assert back["flags"] == first["flags"]


@pytest.mark.parametrize(
    ("name", "code", "detail", "expected"),
    [
        ("information-trades", "survival_grows", "layers", ["relu1 in 1"]),
        ("information-trades", "noise_control_failed", "diagnoses", []),
        ("information-robust", "noise_control_failed", "diagnoses", []),
        ("pooling-robust", "concluded_again", "before", ["undecided"]),
        ("repair", "same_targets", "layers", ["fc1", "pool2", "pool1"]),
        ("pooling", "not_converged", "what", ["restarts", "restarts", "steps"]),
    ],
)
def test_what_committed_studies_warn_of(name: str, code: str, detail: str, expected: list[object]) -> None:
    assert [flag["details"][detail] for flag in flags(load_study(RESULTS / name), code)] == expected


def test_controls_that_fail_are_flagged_once_for_all_runs(conclude_with: Callable[..., dict[str, Any]]) -> None:
    def fail(study: dict[str, Any]) -> None:
        assert not [flag for flag in study["flags"] if flag["severity"] == "failure"]
        for run, most in zip(study["runs"][:2], (0.4, 0.3), strict=True):
            record = run["result"]["diagnosis"]
            (row,) = (row for row in run["result"]["layers"] if row["name"] == "fc1")
            kind = {"severity": "failure", "message": f"it fails: {most}", "layer": None, "value": most}
            row["flags"].append({**kind, "code": "noise_control", "threshold": 0.03, "details": {}})
            record["flags"].append({**kind, "code": "noise_control_failed", "threshold": 0.03, "details": {}})
            record["flags"].append({**kind, "code": "weak_judge", "threshold": 0.9, "details": {"low": most}})
            record["controls"]["noise_max_abs_vulnerability"] = most

    study = conclude_with("information-robust", fail)
    (failed,) = flags(study, "noise_control_failed")
    assert (failed["value"], failed["details"]["layers"], failed["details"]["diagnoses"]) == (0.4, "fc1 in 2", 5)
    (weak,) = flags(study, "weak_judge")  # their numbers differ, and nothing else
    assert (weak["value"], weak["details"]["count"], weak["details"]["of"]) == (0.4, 2, 5)
    assert weak["message"] == "it fails: 0.4 (2 of 5 diagnoses)"


@pytest.mark.parametrize(
    ("low", "p", "disagree"), [(0.1, 0.053, 1), (0.1, 0.049, 0), (-0.1, 0.049, 1), (-0.1, 0.053, 0)]
)
def test_an_interval_and_a_test_that_disagree_are_flagged(
    low: float, p: float, disagree: int, conclude_with: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    case, interval = "mnist-lenet5-trades", (low, 0.8)
    effect = Effect("worst_case", case, "avg", "max", None, 2, 0.5, *interval, p, None, 1, *interval, p)
    monkeypatch.setattr("interpretgan.studies.verdicts.measure", lambda *_: [effect])
    found = conclude_with("pooling-trades")
    assert found["verdicts"][0]["verdict"] == ("confirmed" if low > 0 else "undecided")
    assert [flag["value"] for flag in flags(found, "interval_and_test")] == [p] * disagree


@pytest.mark.parametrize(("sizes", "unequal"), [((48120, 156), True), ((156, 156), False)])
def test_repairs_are_compared_pair_by_pair(
    sizes: tuple[int, int], unequal: bool, conclude_with: Callable[..., dict[str, Any]]
) -> None:
    """Layers that are blamed here and cleared there are of equal size only on average."""

    def change(study: dict[str, Any]) -> None:
        for run in study["runs"]:
            names = ("finetune-blamed", "finetune-cleared")
            if run["variant"] in names:
                size = sizes[(names.index(run["variant"]) + run["seed"]) % 2]
                run["result"]["repaired"]["parameters"] = size

    assert bool(flags(conclude_with("repair", change), "unequal_sizes")) is unequal


def test_what_is_missing_or_scarce_is_flagged(conclude_with: Callable[..., dict[str, Any]]) -> None:
    def change(study: dict[str, Any]) -> None:
        config = study["provenance"]["config"]
        config["seeds"], config["threads"] = [0, 1], None
        study["runs"] = [run for run in study["runs"] if run["seed"] < 2]
        failed = study["runs"][-1]
        failed |= {"status": "failed", "error": "the disk was full"}
        del failed["result"]
        for run in study["runs"][:-1]:
            for row in run["result"]["layers"]:
                del row["information_loss"]

    study = conclude_with("information", change)
    codes = {flag["code"] for flag in study["flags"]}
    assert {"run_failed", "runs_failed", "no_information", "few_seeds", "threads_not_fixed"} <= codes
    assert flags(study, "run_failed")[0]["details"]["error"] == "the disk was full"
    assert {row["verdict"] for row in study["verdicts"]} == {"undecided"}


def test_what_cannot_be_concluded_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["study", "conclude"]) == 2
    assert "folders of finished studies, got none" in capsys.readouterr().err
    file = tmp_path / "study.json"
    study = load_study(RESULTS / "pooling-trades")
    study["provenance"]["config"]["surprise"] = 1
    for record, error in (
        ({"schema": 1}, "a study of schema 2"),
        ({"schema": 2}, "got one of an unknown version"),
        (study, r"surprise.*conclude it with that version"),
    ):
        file.write_text(json.dumps(record))
        with pytest.raises(RunFolderError, match=error):
            conclude(tmp_path)
        assert json.loads(file.read_text()) == record
