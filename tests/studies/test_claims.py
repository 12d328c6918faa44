"""Claims across studies: the same question of other networks is one row, and no verdict is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from interpretgan.studies import charts
from interpretgan.studies.claims import by_condition, claims_of, setting_of
from interpretgan.studies.verdicts import load_study

RESULTS = Path(__file__).parents[2] / "results" / "studies"
SETTING = "lenet5 on mnist, trades 0.2, ε 0.2"


def made(claim: str = "It is", value: float | None = 0.1, **rule: Any) -> dict[str, Any]:
    """A study of LeNets with one rule and one verdict."""
    study = load_study(RESULTS / "pooling-trades")
    config, row = study["provenance"]["config"], study["verdicts"][0]
    config["rules"], study["verdicts"] = [config["rules"][0] | rule], [row | {"claim": claim, "measured": value}]
    row["conditions"][0] |= dict.fromkeys(("value", "low", "high"), value)
    return study


def test_the_same_question_is_one_claim_that_keeps_all_verdicts() -> None:
    (claim,) = claims_of({"a": made("After TRADES, it is", 0.2), "again": made("It is", -0.1)})
    assert claim.text == "It is"  # in its shortest words
    assert {setting: row["measured"] for setting, row in claim.verdicts.items()} == {
        f"{SETTING} (a)": 0.2,
        f"{SETTING} (again)": -0.1,
    }


@pytest.mark.parametrize(
    "other", [{"variant": "blur"}, {"threshold": -0.01}, {"cases": ["all"]}, {"direction": "below"}]
)
def test_another_question_is_another_claim(other: dict[str, Any]) -> None:
    assert [claim.text for claim in claims_of({"a": made("One"), "b": made("Two", **other)})] == ["One", "Two"]


def test_controls_that_failed_stand_beside_what_is_said_of_layers_alone() -> None:
    study = {**made(), "flags": [{"code": "noise_control_failed"}]}
    assert setting_of(study) == SETTING
    assert setting_of({**study, "kind": "information"}) == f"{SETTING} (controls failed)"


def test_the_figure_has_what_was_measured_condition_by_condition() -> None:
    failed, study = made("Failed", None, variant="blur"), made()
    assert charts.claims([]) is charts.claims(claims_of({"a": failed})) is None
    conditions = study["verdicts"][0]["conditions"]
    conditions.append({**conditions[0], "variant": "blur", "value": 0.3, "answer": "supported"})
    figure = charts.claims(claims_of({"a": failed, "b": study}))
    assert figure is not None
    (panel,) = figure.axes
    labels = [f"{SETTING} (b), {variant}" for variant in ("avg", "blur")]
    assert [label.get_text() for label in panel.get_yticklabels()] == labels
    assert [text.get_text() for text in panel.texts] == ["open", "supported"]
    assert [line.get_xydata().tolist() for line in panel.lines[:2]] == [[[0.1, 0], [0.1, 0]], [[0.1, 0]]]  # type: ignore[union-attr]  # of lines
    conditions[1] |= {"case": "digits", "variant": "avg"}
    assert list(by_condition(study["verdicts"][0])) == ["mnist-lenet5-trades avg − max", "digits avg − max"]
