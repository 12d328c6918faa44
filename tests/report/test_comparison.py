"""Runs side by side: which layers are compared, and with which intervals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interpretgan.cli import run_command
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import RunFolderError
from interpretgan.report import compare_runs
from tests.report.samples import changed


def finished(folder: Path, diagnosis: Diagnosis, wrong_from: int, *, images: int = 200) -> Path:
    """A run whose judge is wrong on half of the attacked images from one row on."""
    labels = np.arange(images) % 10
    natural = np.tile(labels, (len(diagnosis.layers), 1))
    adversarial = natural.copy()
    adversarial[wrong_from:, ::2] += 1
    diagnosis.save(folder)
    np.savez(folder / "predictions.npz", labels=labels, natural=natural, adversarial=adversarial)
    return folder


def test_differences_are_paired_on_the_same_images(lenet: Diagnosis, tmp_path: Path) -> None:
    first, other = finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", lenet, 5)
    found = compare_runs([first, other])
    assert found.head == ("layer", "a", "b", "b - a")
    assert found.notes == ()
    gaps: dict[str, Any] = {str(row["layer"]): row for row in found.frame.to_dict("records")}
    names = [row.name for row in lenet.layers]
    assert [gaps[name]["b - a"] for name in names[1:]] == [
        {names[3]: -0.5, names[5]: 0.5}.get(name, 0.0) for name in names[1:]
    ]
    assert gaps[names[1]]["b - a low"] == gaps[names[1]]["b - a high"] == 0
    assert -0.7 < gaps[names[3]]["b - a low"] < -0.5 < gaps[names[3]]["b - a high"] < -0.3
    # each run alone, on the other hand, says what its own diagnosis says
    assert gaps["fc1"]["a"] == pytest.approx(lenet.layers[5].vulnerability.value)


def test_other_images_and_other_layers_are_told(
    lenet: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(tmp_path / "a", lenet, 3)
    renamed = changed(replace(lenet, data={**lenet.data, "sha256": "0"}), "fc2", name="mine")
    finished(tmp_path / "b", renamed, 3)
    assert run_command(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c.csv")]) == 0
    out = capsys.readouterr().out
    assert "! b has other images than a" in out
    assert "! a and b explain other layers" in out
    assert "mine" in out
    table = (tmp_path / "c.csv").read_text().splitlines()
    assert len(table) == 1 + 8  # fc2 of one, mine of the other
    value = next(line for line in table if line.startswith("fc1")).split(",")
    low, high = lenet.layers[5].vulnerability.low, lenet.layers[5].vulnerability.high
    assert float(value[-1]) == pytest.approx((high - low) / 2**0.5)  # of two independent runs


def test_what_cannot_be_compared_is_refused(
    lenet: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished(tmp_path / "a", lenet, 3)
    with pytest.raises(RunFolderError, match=r"no diagnosis\.json"):
        compare_runs([folder, tmp_path / "none"])
    assert run_command(["compare", str(folder)]) == 2
    (folder / "predictions.npz").write_bytes(b"PK\3\4 cut")
    with pytest.raises(RunFolderError, match="damaged file"):
        compare_runs([folder, finished(tmp_path / "b", lenet, 3)])
    capsys.readouterr()


def test_a_run_is_not_compared_with_itself(lenet: Diagnosis, tmp_path: Path) -> None:
    first = finished(tmp_path / "a", lenet, 3)
    with pytest.raises(RunFolderError, match="a twice; name another"):
        compare_runs([first, tmp_path / "b" / ".." / "a"])


def test_nothing_is_printed_where_the_table_cannot_be_written(
    lenet: Diagnosis, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = finished(tmp_path / "a", lenet, 3), finished(tmp_path / "b", lenet, 5)
    assert run_command(["compare", str(first), str(other), "--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
