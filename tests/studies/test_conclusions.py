"""Conclusions from a finished study's file alone: the same again, and what other statistics change is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from interpretgan.cli.app import run_command
from interpretgan.errors import RunFolderError
from interpretgan.studies.conclusions import conclude
from interpretgan.studies.statistics import Estimate

RESULTS = Path(__file__).parents[2] / "results" / "studies"
Made = Callable[[str], tuple[Path, dict[str, Any]]]
SAID = ("runs", "effects", "verdicts", "flags")


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("*/study.json")), ids=lambda file: file.parent.name)
def test_what_a_committed_study_says_follows_from_its_runs(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder, tmp_path)
    again, committed = conclude(tmp_path), json.loads(folder.read_text())
    assert again["runs"] == committed["runs"]
    assert again["flags"] == committed["flags"]
    for one, other in zip(again["verdicts"], committed["verdicts"], strict=True):
        assert {**one, "measured": 0, "low": 0, "high": 0, "conditions": 0} == {
            **other, "measured": 0, "low": 0, "high": 0, "conditions": 0
        }  # fmt: skip
        for name in ("low", "measured", "high"):
            assert one[name] == pytest.approx(other[name], abs=1e-9)
    for one, other in zip(again["effects"], committed["effects"], strict=True):
        assert {key: one[key] for key in ("quantity", "case", "variant", "layer")} == {
            key: other[key] for key in ("quantity", "case", "variant", "layer")
        }
        assert one["value"] == pytest.approx(other["value"], abs=1e-9)


@pytest.mark.xdist_group("studies")
@pytest.mark.parametrize("kind", ["information", "pooling", "repair"])
def test_a_study_concluded_again_says_the_same(kind: str, made: Made, tmp_path: Path) -> None:
    out, study = made(kind)
    shutil.copy(out / "study.json", tmp_path)
    again = conclude(tmp_path)
    assert {key: again[key] for key in SAID} == {key: study[key] for key in SAID}
    assert again == json.loads((tmp_path / "study.json").read_text())
    assert again["provenance"].pop("concluded")["version"] == study["provenance"]["version"]
    assert again["provenance"] == study["provenance"]


@pytest.mark.xdist_group("studies")
def test_a_verdict_that_changes_says_what_it_was(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, study = made("pooling")
    shutil.copy(out / "study.json", tmp_path)
    first = study["verdicts"][0]
    assert first["verdict"] == "undecided"
    with monkeypatch.context() as patch:
        patch.setattr("interpretgan.studies.effects.paired", lambda *_: Estimate(value=0.2, p=0.01, runs=2, error=1e-3))
        for _ in range(2):  # the second time what was concluded at first is kept
            assert run_command(["study", "conclude", str(tmp_path)]) == 0
            changed = json.loads((tmp_path / "study.json").read_text())
            row = changed["verdicts"][0]
            assert (row["verdict"], row["before"]["verdict"]) == ("confirmed", "undecided")
            assert (row["before"]["low"], row["before"]["high"]) == (first["low"], first["high"])
            told = [flag for flag in changed["flags"] if flag.startswith("concluded again")]
            assert f"{first['claim']} was undecided at first" in told[0]
    assert "confirmed" in capsys.readouterr().out
    back = conclude(tmp_path)
    assert "before" not in back["verdicts"][0]
    assert back["flags"] == study["flags"]


def test_survival_that_comes_back_is_told() -> None:
    study = json.loads((RESULTS / "information-trades" / "study.json").read_text())
    for run in study["runs"]:
        rows = {row["name"]: row["vulnerability"] for row in run["result"]["layers"]}
        assert rows["relu1"]["high"] < -0.1 < 0.1 < rows["conv1"]["low"]
    said = "survival grows by more than 10 points at relu1 in 5 of the diagnoses"
    assert [flag for flag in study["flags"] if flag.startswith(said)]


def test_controls_that_fail_are_told_of_studies_made_before_they_were(tmp_path: Path) -> None:
    study = json.loads((RESULTS / "information-robust" / "study.json").read_text())
    before = study["flags"]
    assert not [flag for flag in before if "noise control" in flag or "weak judge" in flag]
    for run in study["runs"][:2]:
        rows, record = {row["name"]: row for row in run["result"]["layers"]}, run["result"]["diagnosis"]
        rows["fc1"]["flags"] = ["noise control: random noise alone moves it by +0.400"]
        record["controls"]["noise_max_abs_vulnerability"] = 0.4
        record["judge"]["adversarial"] = 0.2
    (tmp_path / "study.json").write_text(json.dumps(study))
    told = [flag for flag in conclude(tmp_path)["flags"] if flag not in before]
    assert len(told) == 2
    assert told[0].startswith(
        "noise control failed: random noise alone moves fc1 in 2 of 5 diagnoses, by up to 40 points"
    )
    assert told[1].startswith("weak judge: attacked itself it reads 0.200 right instead of 0.98")
    assert told[1].endswith("(2 of 5 diagnoses)")


def test_what_depth_alone_may_explain_is_told() -> None:
    told = {}
    for name in ("information", "information-photographs"):
        study = json.loads((RESULTS / name / "study.json").read_text())
        told[name] = [flag for flag in study["flags"] if flag.startswith("open with each layer's place")]
    assert not told["information-photographs"]  # nothing was decided there
    assert [flag.partition(": ")[2] for flag in told["information"]] == [
        "Layers that lose more of the image contribute more vulnerability (mnist-lenet5-natural avg)",
        "Over all networks together, layers that lose more of the image contribute more vulnerability (all)",
        "Layers that lose more of the class contribute more vulnerability (all)",
    ]


def test_repairs_are_compared_pair_by_pair(tmp_path: Path) -> None:
    """Layers that are blamed here and cleared there are of equal size only on average."""
    study = json.loads((RESULTS / "repair" / "study.json").read_text())
    said = [flag for flag in study["flags"] if "equal steps, and not equal sizes" in flag]
    assert len(said) == 1
    runs = {
        (run["variant"], run["seed"]): run["result"]["repaired"]
        for run in study["runs"]
        if run["variant"] != "untouched"
    }
    for seed in range(5):
        one, other = (runs[f"finetune-{variant}", seed] for variant in ("blamed", "cleared"))
        one["parameters"], other["parameters"] = (48120, 156) if seed % 2 else (156, 48120)
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert [flag for flag in conclude(tmp_path)["flags"] if "equal steps, and not equal sizes" in flag]
    for seed in range(5):
        runs["finetune-blamed", seed]["parameters"] = runs["finetune-cleared", seed]["parameters"]
    (tmp_path / "study.json").write_text(json.dumps(study))
    assert not [flag for flag in conclude(tmp_path)["flags"] if "equal steps, and not equal sizes" in flag]


def test_what_cannot_be_concluded_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["study", "conclude"]) == 2
    assert "folders of finished studies, got none" in capsys.readouterr().err
    (tmp_path / "study.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(RunFolderError, match="a study of schema 1"):
        conclude(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps({"schema": 1}))
    with pytest.raises(RunFolderError, match="got one of nobody knows which"):
        conclude(tmp_path)
    file = json.loads((RESULTS / "pooling-trades" / "study.json").read_text())
    file["provenance"]["config"]["surprise"] = 1
    (tmp_path / "study.json").write_text(json.dumps(file))
    with pytest.raises(RunFolderError, match=r"surprise.*conclude it with that version"):
        conclude(tmp_path)
    assert json.loads((tmp_path / "study.json").read_text()) == file
