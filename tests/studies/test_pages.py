"""The pages follow from result files: their figures are looked up there, their words are not tested."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import RunFolderError
from interpretgan.studies.effects import layer_table
from interpretgan.studies.pages import app, write_pages
from interpretgan.studies.verdicts import load_study

RESULTS = Path(__file__).parents[2] / "results"
KINDS = {
    "information": ["information-correlations.svg", "information-layers.svg"],
    "pooling": ["pooling-gains.svg", "pooling-curves.svg", "pooling-profiles.svg"],
    "repair": ["repair-gains.svg", "repair-curves.svg"],
}
FOLDERS = [RESULTS / "studies" / kind for kind in KINDS]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of findings of one study of each kind; the others lie in `findings` beside it."""
    return write_pages(*FOLDERS, out=tmp_path_factory.mktemp("pages") / "findings.md")


def cells(page: Path, row: str) -> list[str]:
    """The cells of the first row of this name."""
    (line, *_) = (line for line in page.read_text().splitlines() if line.startswith(f"| {row} |"))
    return [cell.strip(" *") for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize("kind", KINDS)
def test_the_pages_have_every_verdict_every_warning_and_every_figure(kind: str, pages: Path) -> None:
    study, text = load_study(RESULTS / "studies" / kind), pages.read_text()
    own = (pages.parent / "findings" / f"{kind}.md").read_text()
    for row in study["verdicts"]:
        assert f"**{row['claim']}**: {row['verdict']}" in own
        assert f"**{row['claim']}** (the paper: {row['paper']}) | claimed: {row['claimed']}" in text
        for one in row["conditions"]:
            shown = f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]"
            assert shown in text
            assert shown in own
    for flag in study["flags"]:
        assert f"- {flag['message']}" in own
        assert (f"  - {flag['message']}" in text) is (flag["severity"] != "note")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", own)
    assert [name for name in pictures if name.endswith(".svg")] == KINDS[kind]
    assert all((pages.parent / "findings" / name).stat().st_size > 1000 for name in [*pictures, "claims.svg"])


def test_pages_are_the_same_bytes_again(pages: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="0"):
        app([*map(str, FOLDERS), "--out", str(tmp_path / "findings.md")])
    for file in (pages.parent / "findings").iterdir():
        assert (tmp_path / "findings" / file.name).read_bytes() == file.read_bytes()


def test_the_pages_have_what_no_rule_was_written_for(pages: Path) -> None:
    case, found = "mnist-lenet5-natural", {kind: load_study(RESULTS / "studies" / kind) for kind in KINDS}
    text = {kind: (pages.parent / "findings" / f"{kind}.md").read_text() for kind in KINDS}
    networks = [run["result"] for run in found["information"]["runs"] if run["variant"] == "avg"]
    pairs = itertools.combinations([layer_table(result)["vulnerability"] for result in networks], 2)
    repeats = [spearmanr(*pair).statistic for pair in pairs]
    assert f"| {case} avg | {np.mean(repeats):+.2f} ({min(repeats):+.2f}) |" in text["information"]
    runs = {run["id"]: run["result"] for study in found.values() for run in study["runs"]}
    ids = [[f"{case}-{name}-s{seed}" for name in ("avg", "max")] for seed in range(5)]
    fgsm = np.array([[runs[name]["accuracy"]["fgsm"]["value"] for name in pair] for pair in ids])
    lost = np.array([[layer_table(runs[name]).loc["fc1", "vulnerability"] for name in pair] for pair in ids])
    cell = rf"\*\*{100 * (fgsm[:, 0] - fgsm[:, 1]).mean():+.1f} \[.*?\]\*\*, {(fgsm[:, 0] > fgsm[:, 1]).sum()} of 5 "
    assert re.search(cell, text["pooling"])
    page = pages.parent / "findings" / "pooling.md"
    assert cells(page, "fc1")[0].startswith(f"{100 * (lost[:, 0] - lost[:, 1]).mean():+.1f} [")
    for seed in range(5):
        result = runs[f"{case}-finetune-blamed-s{seed}"]
        worst, layers = 100 * result["accuracy"]["worst_case"]["value"], ", ".join(result["repaired"]["layers"])
        assert f"{layers}: {worst:.1f} %" in cells(pages.parent / "findings" / "repair.md", f"{case}, seed {seed}")


def test_a_study_with_failures_has_pages(tmp_path: Path) -> None:
    study = load_study(RESULTS / "studies" / "repair")
    for run in study["runs"][::7]:
        run |= {"status": "failed", "error": "no"}
        del run["result"]
    study["verdicts"][0]["conditions"][0] |= dict.fromkeys(("value", "low", "high", "p"))
    (tmp_path / "repair").mkdir()
    (tmp_path / "repair" / "study.json").write_text(json.dumps(study))
    write_pages(tmp_path / "repair", out=tmp_path / "findings.md")
    assert "–" in cells(tmp_path / "findings" / "repair.md", "mnist-lenet5-natural, seed 0")


def test_an_erratum_and_a_history_stand_wherever_the_study_does(tmp_path: Path) -> None:
    notes = {"pooling-trades": ("erratum", "It was upside down."), "pooling-robust": ("history", "It was run before.")}
    for name, (file, words) in notes.items():
        (tmp_path / name).mkdir()
        shutil.copy(RESULTS / "studies" / name / "study.json", tmp_path / name)
        (tmp_path / name / f"{file}.md").write_text(f"{words}\n")
    text = write_pages(*(tmp_path / name for name in notes), out=tmp_path / "findings.md").read_text()
    own = {name: (tmp_path / "findings" / f"{name}.md").read_text() for name in notes}
    for name, (_, words) in notes.items():
        assert own[name].count(words) == text.count(words) == 1
    assert text.count("(erratum)") == 3  # two claims, and the link to its page
    assert "(erratum)" in own["pooling-trades"].splitlines()[0]
    names = re.findall(r"\(([\w-]+)\.svg", own["pooling-robust"])
    assert names == ["pooling-robust-gains", "pooling-robust-curves"]  # it was not diagnosed


def test_an_ablation_and_a_diagnosis_have_tables_and_pictures(tmp_path: Path) -> None:
    record, folder = RESULTS / "benchmarks" / "deep_layers.json", RESULTS / "cifar10-vgg-small-max"
    page = write_pages(folder, record, out=tmp_path / "findings.md")
    for variant in json.loads(record.read_text())["variants"]:
        shares = [found["judge"] for found in variant["layers"].values()]
        shown = [f"{100 * one['value']:.1f} % [{100 * one['low']:.1f}, {100 * one['high']:.1f}]" for one in shares]
        assert cells(page, variant["name"]) == shown
    image, *layers = Diagnosis.load(folder).layers
    for layer in layers:
        assert layer.class_accuracy is not None
        probe, natural, adversarial = (
            f"{100 * share:.1f} %" for share in (layer.class_accuracy.value, layer.natural, layer.adversarial)
        )
        natural += ", unreliable" if layer.natural < image.natural - 0.05 else ""
        assert cells(page, layer.name)[:3] == [probe, natural, adversarial]
    assert {file.name for file in (tmp_path / "findings").iterdir()} == {"deep_layers.png", f"{folder.name}.png"}


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([], "folders of finished studies, got none"),
        (["a/one", "b/one"], "folders of different names"),
        (["old"], "a study of schema 2"),
        (["other.json"], "the record of an ablation"),
    ],
)
def test_what_has_no_page_is_refused(names: list[str], error: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "study.json").write_text(json.dumps({"schema": 1}))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(RunFolderError, match=error):
        write_pages(*(tmp_path / name for name in names), out=tmp_path / "findings.md")
