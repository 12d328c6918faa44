from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import RunFolderError
from interpretgan.studies.claims import setting_of
from interpretgan.studies.effects import profile
from interpretgan.studies.findings import ROUTINE, write_findings
from interpretgan.studies.sections import told, verdict

pytestmark = pytest.mark.xdist_group("studies")  # one process makes each tiny study, and all these tests read it

STUDIES = Path(__file__).parents[2] / "results" / "studies"
KINDS = ("information", "pooling", "repair")


def test_the_page_says_every_verdict_and_shows_every_figure(
    made: Callable[[str], tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    studies = {kind: made(kind) for kind in KINDS}
    page = write_findings([folder for folder, _ in studies.values()], tmp_path / "findings.md")
    text = page.read_text()
    pages = {kind: (tmp_path / "findings" / f"{folder.name}.md").read_text() for kind, (folder, _) in studies.items()}
    for kind, (folder, study) in studies.items():
        assert f"](findings/{folder.name}.md)" in text
        for rule, row in zip(study["provenance"]["config"]["rules"], study["verdicts"], strict=True):
            claim = f"| **{row['claim']}** (the paper: {row['paper']}) | claimed: {row['claimed']} | |\n"
            found = f"| {setting_of(study)} | {told(row, tested=rule['threshold'] == 0)} | {verdict(row)} |\n"
            assert claim + found in text
        for flag in study["flags"]:
            assert f"- {flag}" in pages[kind]
            assert (f"  - {flag}" in text) is (ROUTINE.match(flag) is None)
        natural = [row["natural"] for run in study["runs"] for row in run["result"].get("layers", ())]
        assert (
            f"right in {100 * min(natural):.1f} % of the images or more, at each of the {len(natural):,} layers"
        ) in pages[kind]
    shown = re.findall(r"!\[[^]]*\]\((findings/[^)]+)\)", text)
    shown += [f"findings/{name}" for one in pages.values() for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", one)]
    assert {name for name in shown if name.endswith(".svg")} == {
        f"findings/{name}.svg"
        for name in ("claims", "information-correlations", "information-layers", "pooling-gains", "pooling-curves",
                     "pooling-profiles", "repair-gains", "repair-curves")
    }  # fmt: skip
    assert len([name for name in shown if name.endswith(".png")]) == 3  # one case each
    repaired = {run["id"]: run["result"] for run in studies["repair"][1]["runs"]}
    for seed in (0, 1):
        start = f"| digits-lenet5-natural, seed {seed} |"
        (row,) = [line for line in pages["repair"].splitlines() if line.startswith(start)]
        for variant in ("finetune-blamed", "swap-cleared"):
            result = repaired[f"digits-lenet5-natural-{variant}-s{seed}"]
            worst = 100 * result["accuracy"]["worst_case"]["value"]
            assert f"| {', '.join(result['repaired']['layers'])}: {worst:.1f} % |" in row
    before = {name: (tmp_path / name).read_bytes() for name in shown}
    assert write_findings([folder for folder, _ in studies.values()], page).read_text() == text
    assert {name: (tmp_path / name).read_bytes() for name in shown} == before


def test_the_page_says_what_no_rule_was_written_for(tmp_path: Path) -> None:
    """Of the committed studies, whose layers can be read."""
    studies = {kind: json.loads((STUDIES / kind / "study.json").read_text()) for kind in KINDS}
    write_findings([STUDIES / kind for kind in KINDS], tmp_path / "findings.md")
    information, pooling, repair = ((tmp_path / "findings" / f"{kind}.md").read_text() for kind in KINDS)
    case = "mnist-lenet5-natural"
    assert f"- **{case}**: lenet5 on mnist, training: natural, epochs by the recipe. Attacked at ε = 0.1" in pooling
    assert "Diagnosed (max, avg) with pgd of 20 steps" in pooling
    assert "Diagnosed (untouched) with" in repair
    effects = {
        (kind, one["quantity"], one["variant"], one["against"], one["layer"]): one
        for kind, study in studies.items() for one in study["effects"]
    }  # fmt: skip
    partial = effects["information", "spearman(information_loss, vulnerability | depth)", "avg", None, None]
    assert f"| {partial['value']:+.2f} [{partial['corrected_low']:+.2f}," in information
    tables = [
        profile(run["result"])["vulnerability"] for run in studies["information"]["runs"] if run["variant"] == "avg"
    ]
    repeats = [spearmanr(*pair).statistic for pair in itertools.combinations(tables, 2)]
    assert len(repeats) == 10
    assert f"| {case} avg | {np.mean(repeats):+.2f} ({min(repeats):+.2f}) |" in information
    runs = {run["id"]: run["result"]["accuracy"] for run in studies["pooling"]["runs"]}
    pairs = [[runs[f"{case}-{variant}-s{seed}"]["fgsm"]["value"] for variant in ("avg", "max")] for seed in range(5)]
    assert f"| {20 * sum(avg - top for avg, top in pairs):+.1f} [" in pooling
    assert f"], {sum(avg > top for avg, top in pairs)} of 5 |" in pooling
    sure = effects["pooling", "information_loss", "avg", "max", "fc1"]
    assert sure["corrected_high"] < 0
    assert f"Which layer differs in its loss of the image, {case} avg − max (points, corrected for 11" in pooling
    assert f"fc1 {100 * sure['value']:+.1f} [{100 * sure['corrected_low']:+.1f}," in pooling
    assert "None surely; the largest difference is that of fc1" in pooling  # of vulnerability
    at = effects["pooling", "accuracy at eps 0.075", "stride", "max", None]
    assert at["corrected_high"] < 0
    assert f"{case} stride − max not 0 (points, for other trainings alone, corrected for 24 comparisons)?" in pooling
    assert f"ε = 0.075: {100 * at['value']:+.1f} [{100 * at['corrected_low']:+.1f}," in pooling
    assert "- **Repairs**: 1 layer fine-tuned (all in finetune-all), training: pgd with 5 steps, 1 epoch; one" in repair
    gains = [one for one in studies["repair"]["effects"]
             if (one["quantity"], one["against"]) == ("worst_case", "untouched")]  # fmt: skip
    assert len(gains) == 5
    for gain in gains:
        assert f"| {case} {gain['variant']} − untouched | {100 * gain['value']:+.1f} [" in repair


def test_a_repair_as_long_as_the_recipe_says_is_told(tmp_path: Path) -> None:
    study = json.loads((STUDIES / "repair" / "study.json").read_text())
    study["provenance"]["config"]["repair"]["epochs"] = None
    (tmp_path / "repair").mkdir()
    (tmp_path / "repair" / "study.json").write_text(json.dumps(study))
    write_findings([tmp_path / "repair"], tmp_path / "findings.md")
    assert "training: pgd with 5 steps, epochs by the recipe; one" in (tmp_path / "findings" / "repair.md").read_text()


def test_an_erratum_is_told_wherever_the_study_is(tmp_path: Path) -> None:
    for name in ("pooling-trades", "pooling-robust"):
        (tmp_path / name).mkdir()
        shutil.copy(STUDIES / name / "study.json", tmp_path / name)
    (tmp_path / "pooling-trades" / "erratum.md").write_text("Half of the images were upside down.\n")
    (tmp_path / "pooling-robust" / "history.md").write_text("It was run before.\n")
    page = write_findings([tmp_path / "pooling-trades", tmp_path / "pooling-robust"], tmp_path / "findings.md")
    text = page.read_text()
    erratum = "**Erratum.** Half of the images were upside down.\n"
    assert f"- [lenet5 on mnist, trades 0.2, ε 0.2 (erratum)](findings/pooling-trades.md)\n  - {erratum}" in text
    assert (
        "\n| lenet5 on mnist, trades 0.2, ε 0.2 (erratum) | +0.012 [-0.001, +0.024], p = 0.072 | **undecided** |\n"
        in text
    )
    assert text.count("**Erratum.**") == 1
    assert (
        "\n- [lenet5 on mnist, pgd 0.2, ε 0.2](findings/pooling-robust.md)\n  - **History.** It was run before.\n"
        in text
    )
    assert "\n\n**History.** It was run before.\n\n" in (tmp_path / "findings" / "pooling-robust.md").read_text()
    own = (tmp_path / "findings" / "pooling-trades.md").read_text()
    assert own.startswith("# Average against max pooling: lenet5 on mnist, trades 0.2, ε 0.2 (erratum)\n")
    assert erratum in own


def test_an_ablation_has_its_table_and_its_picture(tmp_path: Path) -> None:
    record = STUDIES.parent / "benchmarks" / "deep_layers.json"
    text = write_findings([record], tmp_path / "findings.md").read_text()
    assert "| the method, λ_z = 10 | 31.9 % [29.1, 34.9] |" in text
    assert (tmp_path / "findings" / "deep_layers.png").read_bytes() == record.with_suffix(".png").read_bytes()
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(RunFolderError, match="the record of an ablation"):
        write_findings([tmp_path / "other.json"], tmp_path / "findings.md")


def test_what_was_not_diagnosed_has_no_profiles(
    made: Callable[[str], tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    folder = made("pooling-robust")[0]
    write_findings([folder], tmp_path / "findings.md")
    text = (tmp_path / "findings" / f"{folder.name}.md").read_text()
    assert re.findall(r"\(([\w-]+)\.svg", text) == ["pooling-robust-gains", "pooling-robust-curves"]


def test_a_diagnosis_alone_is_judged_layer_by_layer(
    made: Callable[[str], tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    study, _ = made("information")
    folder = tmp_path / "one"
    run = study / "runs" / "digits-lenet5-natural-max-s0"
    shutil.copytree(run / "work", folder)
    shutil.copy(run / "explanations.npz", folder)
    text = write_findings([study, folder], tmp_path / "findings.md").read_text()
    assert f"findings {study.as_posix()} {folder.as_posix()} --out" in text
    _, _, section = text.partition("## Can the explanations be read? lenet5 on digits")
    diagnosis = Diagnosis.load(folder)
    floor = diagnosis.layers[0].natural - 0.05
    for layer in diagnosis.layers[1:]:
        assert layer.class_accuracy is not None
        (row,) = [line for line in section.splitlines() if line.startswith(f"| {layer.name} |")]
        assert f"| {100 * layer.class_accuracy.value:.1f} % | {100 * layer.natural:.1f} %" in row
        assert ("unreliable" in row) is (layer.natural < floor)
    assert (tmp_path / "findings" / "one.png").exists()


def test_what_is_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="folders of finished studies, got none"):
        write_findings([], tmp_path / "findings.md")
    (tmp_path / "study.json").write_text(json.dumps({"schema": 0}))
    with pytest.raises(RunFolderError, match="a study of schema 1"):
        write_findings([tmp_path], tmp_path / "findings.md")
