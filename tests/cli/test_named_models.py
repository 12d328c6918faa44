"""A public model from start to end, as a user would diagnose it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from interpretgan.cli.app import run_command
from tests.models.test_named import saved

TINY = shlex.split(
    "--layers vit.layers.0 --steps 2 --judge-epochs 1 --generator-steps 3 --images-per-layer 4 --bootstrap 50 "
    "--examples 20 --information-steps 0 --let-in-steps 0 --device cpu"
)


def test_a_model_of_transformers_is_diagnosed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "vit", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 12})
    capsys.readouterr()  # what saving prints
    monkeypatch.chdir(tmp_path)
    assert run_command(["layers", "--model", "hf:./vit"]) == 0
    out, err = capsys.readouterr()
    assert "branches: skip, attention, mlp" in out
    assert err.strip() == (
        "model: hf:vit; from its preset: images of 12x12 pixels, RGB, mean 0.5,0.5,0.5, std 0.5,0.5,0.5, "
        "10 classes (0, 1, 2, ...)"
    )
    groups = ["--groups", "*.attention=heads"]
    assert run_command(["diagnose", "--model", "hf:./vit", *TINY, *groups, "--out", "run"]) == 0
    result = json.loads((tmp_path / "run/diagnosis.json").read_text())
    assert result["classifier"]["name"] == "hf:vit"
    assert [branch["name"] for branch in result["layers"][1]["branches"]][1:] == ["attention", "mlp"]
    attention = result["layers"][1]["branches"][1]
    assert [head["name"] for head in attention["parts"]] == ["head 0", "head 1"]
    total = sum(head["vulnerability"]["value"] for head in attention["parts"])
    assert total == pytest.approx(attention["vulnerability"]["value"], abs=1e-12)
    options = json.loads((tmp_path / "run/options.json").read_text())
    assert options["model"]["model"] == f"hf:{tmp_path}/vit"  # `explain RUN` may be said from anywhere
