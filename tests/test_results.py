"""The committed results: what the README and the docs claim of them is what the files say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from interpretgan.cli.app import run_command
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.models import card_names, read_card
from interpretgan.report import answer_sentence, summary_table
from interpretgan.robustness import Evaluation
from interpretgan.studies.findings import write_findings

ROOT = Path(__file__).parents[1]
MNIST = ROOT / "results" / "mnist-lenet5-max"


@pytest.fixture(scope="module")
def mnist() -> Diagnosis:
    return Diagnosis.load(MNIST)


def test_the_readme_quotes_the_result_file(mnist: Diagnosis) -> None:
    """`interpretgan report results/mnist-lenet5-max` prints both."""
    readme = (ROOT / "README.md").read_text()
    assert answer_sentence(mnist) in " ".join(readme.split())
    for line in summary_table(mnist).splitlines():
        assert line.rstrip() in readme


def test_the_mnist_diagnosis_reaches_what_the_readme_says(mnist: Diagnosis) -> None:
    assert abs(sum(layer.vulnerability.value for layer in mnist.layers) - mnist.loss) < 1e-9
    assert mnist.controls["eps0_max_abs_vulnerability"] == 0.0
    assert mnist.controls["noise_max_abs_vulnerability"] <= 0.03
    assert mnist.controls["seeds_spearman"] >= 0.9
    assert mnist.controls["seeds_same_top"] == 1.0
    assert min(layer.natural for layer in mnist.layers) >= 0.95


def test_the_mnist_diagnosis_follows_from_its_predictions(mnist: Diagnosis) -> None:
    with np.load(MNIST / "predictions.npz", allow_pickle=False) as saved:
        right = {
            name: (saved[f"{name}_all"] == saved["labels"]).mean(axis=(0, 2)) for name in ("natural", "adversarial")
        }
        assert saved["layers"].tolist() == [layer.name for layer in mnist.layers]
    np.testing.assert_allclose([layer.natural for layer in mnist.layers], right["natural"])
    np.testing.assert_allclose([layer.survival for layer in mnist.layers], right["adversarial"] / right["natural"])


def test_the_shared_trunk_is_as_fast_as_the_readme_says() -> None:
    result = json.loads((ROOT / "results" / "benchmarks" / "shared_trunk.json").read_text())
    readme = (ROOT / "README.md").read_text()
    shared = result["shared"]["steps"] * result["shared"]["fp32_step_seconds"]
    for variant in result["one_by_one"].values():
        assert f"{variant['seconds'] / shared:.1f}× of that is the trunk" in readme
        assert f"rank correlation of {variant['spearman']:.2f}" in " ".join(readme.split())
        assert f"{variant['speedup']:.1f}×" in readme
        assert variant["same_top"]
    assert f"{100 * result['shared']['share_of_bf16_peak']:.0f} %" in readme


def test_the_page_of_findings_follows_from_the_committed_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    committed = Path("docs/findings.md").read_text()
    command = committed.rpartition("python -m interpretgan.studies.findings")[2]
    folders = [Path(name) for name in re.findall(r"results/[\w/.-]+", command.split("--out")[0])]
    assert {file.parent for file in Path("results/studies").glob("*/study.json")} <= set(folders)
    made = write_findings(folders, tmp_path / "findings.md").read_text()
    assert made.replace(str(tmp_path), "docs") == committed
    there, here = ({path.name: path for path in (at / "findings").iterdir()} for at in (tmp_path, Path("docs")))
    assert there.keys() == here.keys()
    for name in there:
        if name.endswith(".md"):
            assert there[name].read_text() == here[name].read_text()


def test_the_readme_quotes_the_findings() -> None:
    pages = [ROOT / "docs" / "findings.md", *(ROOT / "docs" / "findings").glob("*.md")]
    findings = "".join(page.read_text() for page in pages)
    section = (ROOT / "README.md").read_text().partition("## Does it hold?")[2].partition("\n## ")[0]
    told = re.findall(r"[+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\]", " ".join(section.split()))
    assert len(told) > 10
    assert [number for number in told if number not in findings] == []
    runs = json.loads((ROOT / "results" / "studies" / "information-trades" / "study.json").read_text())["runs"]
    lost = [{row["name"]: row["vulnerability"]["value"] for row in run["result"]["layers"]} for run in runs]
    whole, first = [100 * sum(one.values()) for one in lost], [100 * one["conv1"] for one in lost]
    assert f"{min(whole):.0f} to {max(whole):.0f} points are lost" in " ".join(section.split())
    assert f"conv1 lose {min(first):.0f} to {max(first):.0f} points" in " ".join(section.split())


def test_the_first_run_on_photographs_said_what_its_history_says() -> None:
    folder = ROOT / "results" / "studies" / "pooling-photographs"
    first, history = json.loads((folder / "first_run.json").read_text()), (folder / "history.md").read_text()
    row = first["verdicts"][0]
    assert f"{row['measured']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" in history
    assert f"{row['before']['verdict']}, [{row['before']['low']:+.3f}, {row['before']['high']:+.3f}]" in history


def test_a_better_judge_does_not_mend_the_controls_after_trades() -> None:
    runs = json.loads((ROOT / "results" / "studies" / "information-trades" / "other_judge.json").read_text())["runs"]
    method = " ".join((ROOT / "docs" / "method.md").read_text().split())
    judges, noise = ([100 * run[a][b] for run in runs.values()] for a, b in (("judge", "adversarial"),
                     ("controls", "noise_max_abs_vulnerability")))  # fmt: skip
    back = [
        -100 * row["vulnerability"]["value"] for run in runs.values() for row in run["layers"] if row["name"] == "relu1"
    ]
    assert f"right on {judges[0] / 100:.2f} and {judges[1] / 100:.2f} of 1,000 images" in method
    assert f"on {judges[0]:.0f} and {judges[1]:.0f} % of 1,000 images" in method
    assert f"{back[0]:.0f} and {back[1]:.0f} points come back at `relu1`" in method
    assert f"by up to {noise[0]:.0f} and {noise[1]:.0f}" in method


def test_a_robust_recognition_network_makes_deep_explanations_readable() -> None:
    result = json.loads((ROOT / "results" / "benchmarks" / "deep_layers.json").read_text())
    method = (ROOT / "docs" / "method.md").read_text()
    for variant in result["variants"]:
        values = " | ".join(f"{found['judge']['value']:.2f}" for found in variant["layers"].values())
        assert f"| {variant['name']} | {values} |" in method
    floor = result["image"]["judge"]["value"] - 0.05
    last = {variant["name"]: variant["layers"]["fc"]["judge"]["value"] for variant in result["variants"]}
    assert last["the method, λ_z = 10"] < floor <= last["robust recognition network, λ_z = 2"]


def test_all_layers_of_the_photographs_can_be_read() -> None:
    diagnosis = Diagnosis.load(ROOT / "results" / "cifar10-vgg-small-max")
    image, *layers = diagnosis.layers
    assert [layer.name for layer in layers if layer.natural < image.natural - 0.05] == []
    assert len(layers) == 12
    assert diagnosis.controls["noise_max_abs_vulnerability"] < 0.01
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert answer_sentence(diagnosis).split(" Read this with care")[0] in readme
    assert f"the {100 * image.natural:.1f} % that it reads of the images" in readme


def test_the_readme_lists_the_pretrained_classifiers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models"]) == 0
    table = capsys.readouterr().out.split("\n\n")[-1]
    assert table.strip() in (ROOT / "README.md").read_text()


def test_layers_of_the_photographs_in_other_networks_are_read_as_the_readme_says() -> None:
    study = json.loads((ROOT / "results" / "studies" / "information-photographs" / "study.json").read_text())
    floors = [run["result"]["diagnosis"]["accuracy"]["judge_natural"] - 0.05 for run in study["runs"]]
    tables = [run["result"]["layers"] for run in study["runs"]]
    short = [floor - row["natural"] for floor, rows in zip(floors, tables, strict=True) for row in rows]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"at {sum(one <= 0 for one in short)} of {len(short)} layers" in readme
    assert max(short) < 0.0205  # "two points at most"
    for rows in tables:
        for name in ("information_loss", "vulnerability"):
            assert max((row[name]["value"], row["name"]) for row in rows)[1] == "relu4_1"
    left_out = [row["unreliable"] for rows in tables for row in rows if row["name"] == "relu4_1"]
    assert sum(left_out) == 3


@pytest.mark.parametrize("name", card_names())
def test_a_shipped_classifier_has_its_record(name: str) -> None:
    card, folder = read_card(name), ROOT / "results" / "zoo" / name
    record = json.loads((folder / "classifier.json").read_text())
    assert card.recipe == record["recipe"]
    assert card.objective == record["objective"]
    assert card.training == record["training"]
    evaluation = Evaluation.load(folder / "evaluation")
    assert evaluation.classifier["state_sha256"] == card.state_sha256
    for attack, measured in evaluation.accuracy.items():
        shown = card.figure(attack)
        assert shown is not None
        assert (shown["value"], shown["low"], shown["high"]) == (measured.value, measured.low, measured.high)
