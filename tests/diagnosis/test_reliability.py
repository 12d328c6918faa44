from __future__ import annotations

from dataclasses import replace

import pytest

from interpretgan.diagnosis.controls import CONTROLS
from interpretgan.diagnosis.reliability import diagnosis_flags, failed_kinds, is_unreliable, layer_flags
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.statistics import Interval
from tests.report.samples import changed, lenet_diagnosis

SOUND = lenet_diagnosis()


def codes_at(diagnosis: Diagnosis) -> dict[str, list[str]]:
    flags = layer_flags(diagnosis.layers, diagnosis.accuracy)
    return {
        row.name: [flag.code for flag in found] for row, found in zip(diagnosis.layers, flags, strict=True) if found
    }


def flags_of(diagnosis: Diagnosis) -> list[str]:
    return [flag.code for flag in diagnosis_flags(diagnosis)]


def test_a_sound_diagnosis_has_no_flags() -> None:
    assert codes_at(SOUND) == {}
    assert flags_of(SOUND) == []


def test_a_layer_that_is_misread_and_the_one_after_it_are_unreliable() -> None:
    misread = changed(SOUND, "relu2", natural=0.9)
    assert codes_at(misread) == {"relu2": ["unreliable"], "pool2": ["unreliable_before"]}
    found = layer_flags(misread.layers, misread.accuracy)
    assert (found[3][0].value, found[3][0].layer) == (0.9, "relu2")
    assert found[3][0].threshold == pytest.approx(0.925)
    rows = tuple(replace(row, flags=flags) for row, flags in zip(misread.layers, found, strict=True))
    assert [row.name for row in rows if is_unreliable(row)] == ["relu2", "pool2"]
    for sha256, advised in ((None, True), ("0" * 64, False)):  # a robust recognition network that it has already
        provenance = {**misread.provenance, "recognition_network_sha256": sha256}
        (flag,) = diagnosis_flags(replace(misread, layers=rows, provenance=provenance))
        assert flag.code == "unreadable_layers"
        assert ("--recognition-network robust" in flag.message) == advised
    assert codes_at(changed(SOUND, "relu2", natural=0.926)) == {}


@pytest.mark.parametrize(
    ("moves", "raised"),
    [
        (Interval(0.05, 0.01, 0.09), True),
        (Interval(-0.05, -0.09, -0.01), True),
        (Interval(0.05, -0.01, 0.11), False),
        (Interval(0.02, 0.01, 0.03), False),
    ],
)
@pytest.mark.parametrize("control", CONTROLS)
def test_a_control_fails_where_it_surely_moves_a_layer(control: str, moves: Interval, raised: bool) -> None:
    moved = changed(SOUND, "fc1", **{f"vulnerability_{control}": moves})
    assert codes_at(moved) == ({"fc1": ["noise_control"]} if raised else {})
    found = layer_flags(moved.layers, moved.accuracy)
    rows = tuple(replace(row, flags=flags) for row, flags in zip(moved.layers, found, strict=True))
    assert flags_of(replace(moved, layers=rows)) == (["noise_control_failed"] if raised else [])
    assert not any(is_unreliable(row) for row in rows)


def test_what_the_model_itself_loses_to_a_control_is_no_fault_of_the_diagnosis() -> None:
    broken = replace(SOUND, accuracy={**SOUND.accuracy, "smooth": 0.5 * SOUND.accuracy["natural"]})
    for value, raised in ((0.45, []), (0.6, ["noise_control"]), (-0.05, ["noise_control"])):
        moved = Interval(value, value - 0.01, value + 0.01)
        assert codes_at(changed(broken, "fc1", vulnerability_smooth=moved)).get("fc1", []) == raised
        assert codes_at(changed(broken, "fc1", vulnerability_noise=moved)) == {"fc1": ["noise_control"]}


def test_the_positive_control_fails_where_the_loss_lands_elsewhere() -> None:
    assert codes_at(changed(SOUND, "fc1", positive=0.9)) == {"fc1": ["positive_control"]}
    for sound in (0.96, 1.04):
        assert codes_at(changed(SOUND, "fc1", positive=sound)) == {}
    won_back = changed(SOUND, "fc1", positive=1.5)  # from there on another class, and later the true one again
    assert codes_at(won_back) == {"fc1": ["positive_control"]}
    assert failed_kinds(won_back.layers, won_back.accuracy) == {"positive"}


@pytest.mark.parametrize(
    ("part", "figures", "raised"),
    [
        ("controls", {"eps0_max_abs_vulnerability": 1e-3}, ["zero_eps_control"]),
        ("accuracy", {"natural": 0.8}, ["weak_model"]),
        ("accuracy", {"adversarial": 0.95}, ["weak_judge"]),
        ("accuracy", {"judge_natural": 0.8, "judge_adversarial": 0.7}, ["weak_judge"]),
        ("accuracy", {"judge_adversarial": 0.7}, ["judge_fooled"]),
        ("judge", {"adversarial": 0.3}, ["judge_not_robust"]),
    ],
)
def test_figures_of_the_whole_raise_their_flags(part: str, figures: dict[str, float], raised: list[str]) -> None:
    values = {**getattr(SOUND, part), **figures}
    changes: dict[str, object] = {part: values}
    assert flags_of(replace(SOUND, **changes)) == raised  # type: ignore[arg-type]  # the part that is changed
