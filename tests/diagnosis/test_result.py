from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from interpretgan.diagnosis.let_in import Pair
from interpretgan.diagnosis.reliability import JUDGE_FOOLED, UNRELIABLE
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import RunFolderError
from tests.diagnosis.conftest import Diagnosed
from tests.report.samples import (
    INFORMATION,
    around,
    changed,
    lenet_diagnosis,
    with_baselines,
    with_branches,
    with_let_in,
    without_information,
)


def flagged() -> Diagnosis:
    layer = UNRELIABLE(layer="fc1", value=0.5, threshold=0.9)
    return replace(
        changed(lenet_diagnosis(), "fc1", flags=(layer,)),
        flags=(JUDGE_FOOLED(value=0.4, threshold=0.76, natural=0.95),),
    )


def test_saving_and_loading_is_an_identity(diagnosed: Diagnosed, tmp_path: Path) -> None:
    for diagnosis in (diagnosed.diagnosis, flagged(), with_baselines(flagged()), with_branches(flagged(), "fc1")):
        file = diagnosis.save(tmp_path)
        assert file == tmp_path / "diagnosis.json"
        assert Diagnosis.load(tmp_path) == Diagnosis.load(file) == diagnosis


def test_the_file_has_numbers_as_numbers_and_flags_as_objects(tmp_path: Path) -> None:
    record = json.loads(flagged().save(tmp_path).read_text())
    assert record["schema"] == 2
    assert record["layers"][1]["vulnerability"].keys() == {"value", "low", "high", "spread"}
    assert isinstance(record["layers"][1]["survival"], float)
    assert record["layers"][5]["flags"] == [
        {
            "code": "unreliable", "severity": "failure", "layer": "fc1", "value": 0.5, "threshold": 0.9, "details": {},
            "message": flagged().layers[5].flags[0].message,
        }
    ]  # fmt: skip
    assert record["flags"][0]["details"] == {"natural": 0.95}


def test_a_diagnosis_without_information_can_be_read(tmp_path: Path) -> None:
    diagnosis = flagged()
    file = diagnosis.save(tmp_path)
    record = json.loads(file.read_text())
    for layer in record["layers"]:
        for name in INFORMATION:
            del layer[name]
    file.write_text(json.dumps(record))
    assert Diagnosis.load(file) == without_information(diagnosis)


def test_a_diagnosis_without_baselines_can_be_read(tmp_path: Path) -> None:
    file = with_baselines(flagged()).save(tmp_path)
    record = json.loads(file.read_text())
    assert [score["name"] for score in record["baselines"]][-3:] == ["random", "last", "depth"]
    del record["baselines"]
    file.write_text(json.dumps(record))
    assert Diagnosis.load(file) == flagged()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "readable JSON"),
        ("{", "truncated"),
        ('{"schema": 1}', "schema 1"),
        ('{"schema": 2}', "classifier: Field"),
    ],
)
def test_a_damaged_diagnosis_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "diagnosis.json").write_text(content)
    with pytest.raises(RunFolderError, match=message):
        Diagnosis.load(tmp_path)


def test_a_figure_that_is_no_number_is_refused_by_its_place(tmp_path: Path) -> None:
    file = flagged().save(tmp_path)
    record = json.loads(file.read_text())
    record["layers"][3]["vulnerability"]["low"] = None
    file.write_text(json.dumps(record))
    with pytest.raises(RunFolderError, match=r"layers\.3\.vulnerability\.low"):
        Diagnosis.load(file)


def test_mendings_of_fewer_layers_than_there_are_names_are_refused(tmp_path: Path) -> None:
    whole = with_let_in(lenet_diagnosis(), "fc1")
    assert whole.let_in is not None
    replace(whole, let_in=replace(whole.let_in, weights=whole.let_in.weights[1:])).save(tmp_path)
    with pytest.raises(RunFolderError, match="let_in"):
        Diagnosis.load(tmp_path)


def test_a_pair_is_kept_and_one_of_other_layers_is_refused(tmp_path: Path) -> None:
    whole = with_let_in(lenet_diagnosis(), "fc1", sure=False)
    assert whole.let_in is not None
    pair = Pair(("pool1", "fc1"), around(0.9, 0.02), around(0.2, 0.05))
    replace(whole, let_in=replace(whole.let_in, pair=pair)).save(tmp_path)
    known = Diagnosis.load(tmp_path).let_in
    assert known is not None
    assert (known.pair, known.named) == (pair, ("pool1", "fc1"))
    for layers in (("pool1", "conv9"), ("fc1", "pool1"), ("fc1", "fc1")):
        replace(whole, let_in=replace(whole.let_in, pair=replace(pair, layers=layers))).save(tmp_path)
        with pytest.raises(RunFolderError, match="let_in"):
            Diagnosis.load(tmp_path)


def test_the_frame_has_a_row_per_layer_with_all_figures_and_the_ends_of_their_intervals() -> None:
    diagnosis = flagged()
    frame = diagnosis.to_frame()
    assert frame["name"].tolist() == [layer.name for layer in diagnosis.layers]
    assert frame["shape"].tolist() == [layer.shape for layer in diagnosis.layers]
    assert frame["bits"].tolist() == [layer.bits for layer in diagnosis.layers]
    assert frame["survival"].tolist() == [layer.survival for layer in diagnosis.layers]
    assert frame["survival_low"].tolist() == [layer.intervals["survival"].low for layer in diagnosis.layers]
    for name in ("vulnerability", "share", "vulnerability_bits", "vulnerability_noise"):
        for end in ("value", "low", "high"):
            column = name if end == "value" else f"{name}_{end}"
            assert frame[column].tolist() == [getattr(getattr(layer, name), end) for layer in diagnosis.layers]
    assert {*INFORMATION, "unexplained_low", "class_information_high"} <= set(frame)
    assert frame["flags"].tolist() == ["; ".join(flag.message for flag in layer.flags) for layer in diagnosis.layers]
    assert set(without_information(diagnosis).to_frame()).isdisjoint(INFORMATION)


def test_the_frame_says_how_far_generators_are_apart() -> None:
    lost = replace(lenet_diagnosis().layers[4].vulnerability, spread=0.031)
    frame = changed(lenet_diagnosis(), lenet_diagnosis().layers[4].name, vulnerability=lost).to_frame()
    assert frame["vulnerability_spread"].dropna().tolist() == [0.031]


def test_branches_follow_their_block_in_the_frame() -> None:
    diagnosis = with_branches(flagged(), "fc1")
    frame, (block,) = diagnosis.to_frame(), [layer for layer in diagnosis.layers if layer.branches]
    layers, branches = frame[frame["block"] == ""], frame[frame["block"] == "fc1"]
    assert layers["name"].tolist() == [layer.name for layer in diagnosis.layers]
    assert branches.index.tolist() == [layers.index[layers["name"] == "fc1"][0] + 1 + place for place in range(3)]
    assert branches["name"].tolist() == [branch.name for branch in block.branches]
    assert branches["vulnerability"].tolist() == [branch.vulnerability.value for branch in block.branches]
    assert branches["vulnerability"].sum() == pytest.approx(block.vulnerability.value)
    assert branches["survival"].tolist() == [branch.alone.value for branch in block.branches]
    assert branches["survival_others_high"].tolist() == [branch.others.high for branch in block.branches]
    assert branches["carried_low"].tolist() == [branch.carried.low for branch in block.branches]
    assert frame["shape"].notna().sum() == len(diagnosis.layers)


def test_a_notebook_shows_a_table_without_markup_from_names() -> None:
    found = with_branches(changed(flagged(), "logits", name="<script>x</script>"), "fc1")
    shown = found._repr_html_()
    assert shown.count("<tr>") == len(found.layers) + 3 + 1  # three branches
    assert "\u2003skip" in shown
    assert "<b>" not in shown
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
