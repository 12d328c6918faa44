"""`interpretgan evaluate`: its record, its table, and one clear line for what cannot be."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from interpretgan import load_data
from interpretgan.attacks.autoattack import AutoAttacked, autoattack
from interpretgan.cli.app import run_command
from interpretgan.robustness import Evaluation
from interpretgan.store.progress import OnProgress, Progress

SMALL = shlex.split("--epochs 2 --examples 30 --curve-examples 20 --steps 3 --restarts 1 --device cpu")


def test_evaluate_writes_the_record_and_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "evaluate",
        *SMALL,
        "--attacks",
        "fgsm, pgd,autoattack",
        "--eps",
        "102/255",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run_command(command) == 0
    printed = capsys.readouterr()
    file = tmp_path / "run" / "evaluation.json"
    record = json.loads(file.read_text())
    assert list(record["accuracy"]) == ["natural", "fgsm", "pgd", "autoattack", "worst_case"]
    assert all(share.keys() == {"value", "low", "high", "spread"} for share in record["accuracy"].values())
    assert record["schema"] == 2
    assert record["curves"].keys() == {"eps", "steps"}
    assert record["threat_model"]["eps"] == pytest.approx(0.4)
    assert record["attacks"]["pgd"]["steps"] == 3
    assert record["classifier"]["checkpoint"] in ("best", "last")
    assert record["data"]["name"] == "digits"
    assert "few_examples" in [flag["code"] for flag in record["flags"]]
    for flag in record["flags"]:
        assert f"! {flag['message']}" in printed.out
    assert "30 images, linf, eps 0.4" in printed.out
    for name, share in record["accuracy"].items():
        (line,) = [
            line for line in printed.out.splitlines() if line.startswith(name.replace("worst_case", "worst case"))
        ]
        assert f"{100 * share['value']:.1f}" in line
        assert f"[{100 * share['low']:.1f}, {100 * share['high']:.1f}]" in line
    assert str(file) in printed.out
    with np.load(tmp_path / "run" / "evaluation.npz", allow_pickle=False) as saved:
        for name, share in record["accuracy"].items():
            assert saved[name].mean() == pytest.approx(share["value"])
        turned = saved["natural"] & ~saved["autoattack"]
    images = np.load(tmp_path / "run" / "autoattack.npy", allow_pickle=False)
    natural, _ = load_data("digits", "test").batch(range(30))
    moved = np.abs(images - natural.numpy()).max(axis=(1, 2, 3))
    assert moved.max() <= 0.4 + 1e-6
    assert turned.any()
    assert ((moved > 0) == turned).all()  # those that a diagnosis can take

    written = file.stat().st_mtime_ns
    assert run_command(command) == 0  # it is read, not made again
    assert capsys.readouterr().out == printed.out
    assert file.stat().st_mtime_ns == written
    assert run_command([*command, "--seed", "1"]) == 2
    assert "another one: seed" in capsys.readouterr().err
    assert Evaluation.load(file).to_dict() == Evaluation.load(tmp_path / "run").to_dict()
    assert file.stat().st_mtime_ns == written


def test_an_interrupted_evaluation_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    state = parts / "checkpoint-autoattack.pt"
    command = ["evaluate", *SMALL, "--attacks", "autoattack", "--eps", "0.16", "--out"]
    assert run_command([*command, str(whole)]) == 0
    made = json.loads((whole / "evaluation.json").read_text())
    stages: list[str] = []

    def often(*arguments: Any, on_progress: OnProgress, **options: Any) -> AutoAttacked:
        def stopped(progress: Progress) -> None:
            on_progress(progress)
            stages.append(progress.stage)
            if len(stages) == 4:  # the second stage is done
                raise KeyboardInterrupt

        return autoattack(*arguments, checkpoint_seconds=0, on_progress=stopped, **options)

    monkeypatch.setattr(import_module("interpretgan.robustness.evaluate"), "autoattack", often)
    assert run_command([*command, str(parts)]) == 130
    assert state.exists()
    assert not (parts / "evaluation.json").exists()
    saved = state.read_bytes()
    state.write_bytes(b"half a file")
    capsys.readouterr()
    assert run_command([*command, str(parts)]) == 2
    assert f"expected a complete checkpoint, got {state}" in capsys.readouterr().err
    state.write_bytes(saved)
    assert run_command([*command, str(parts)]) == 0
    assert stages[:5] == ["apgd-ce", "apgd-ce", "apgd-t", "apgd-t", "apgd-t"]  # told once more, and not made again
    assert stages[5] == "fab-t"
    assert json.loads((parts / "evaluation.json").read_text())["accuracy"] == made["accuracy"]
    assert not state.exists()


def image_folder(root: Path, classes: int, test: int) -> Path:
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", test)):
        for number in range(classes):
            folder = root / split / f"class{number}"
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--eps", "1.5"], "a linf eps <= 1"),
        (["--norm", "l2", "--eps", "29"], "a l2 eps <= 28"),
        (["--eps", "0"], "eps > 0"),
        (["--attacks", "pgd,apgd"], "of fgsm, pgd, cw, deepfool, autoattack, each once, got 'apgd'"),
        (["--attacks", ","], "each once, got ''"),
        (["--attacks", "pgd,pgd"], "each once, got 'pgd,pgd'"),
        (["--examples", "0"], "examples >= 1"),
        (["--curve-examples", "-1"], "curve_examples >= 1"),
        (["--confidence", "95"], "0 < confidence < 1"),
        (["--restarts", "0"], "restarts >= 1"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_wrong_settings_are_one_line_and_write_nothing(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["evaluate", *arguments, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("classes", "test", "message"),
    [(3, 2, "at least 4 classes"), (4, 0, "images in each class folder")],
    ids=["classes", "empty"],
)
def test_data_that_does_not_do_is_one_line_and_writes_nothing(
    classes: int, test: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_folder(tmp_path / "data", classes, test)
    assert run_command(["evaluate", "--data", str(data), "--eps", "0.1", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
