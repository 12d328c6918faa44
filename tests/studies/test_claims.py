"""Claims across studies: the same question of other networks is one row, and no verdict is lost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from interpretgan.studies import plots
from interpretgan.studies.claims import by_condition, claims_of, setting_of


def made(claim: str, data: str, value: float | None, **rule: object) -> dict[str, Any]:
    """A study of LeNets with one rule and one verdict."""
    asked = {"quantity": "worst_case", "variant": "avg", "against": "max", "cases": [], "direction": "above",
             "threshold": 0.0, **rule}  # fmt: skip
    condition = {"case": data, "variant": "avg", "against": "max", "value": value, "low": value, "high": value,
                 "answer": "open"}  # fmt: skip
    verdict = {"claim": claim, "paper": "it is", "claimed": "> 0", "verdict": "undecided", "measured": value,
               "low": value, "high": value, "conditions": [condition]}  # fmt: skip
    settings = {
        "model": {"model": "lenet5"}, "data": {"data": data}, "training": {"objective": "pgd", "eps": 0.2},
        "evaluation": {"eps": 2 / 255},
    }  # fmt: skip
    return {
        "kind": "pooling",
        "verdicts": [verdict],
        "flags": [],
        "provenance": {"config": {"rules": [asked], "cases": [{"settings": settings}]}},
    }


def lenet_on(data: str) -> str:
    return f"lenet5 on {data}, pgd 0.2, ε 2/255"


def test_the_same_question_of_other_networks_is_one_claim_in_its_shortest_words() -> None:
    first, second = made("On photographs, average is better", "cifar10", 0.1), made("Average is better", "mnist", -0.1)
    (claim,) = claims_of({"a": first, "b": second})
    assert (claim.text, claim.threshold, claim.of_the_paper) == ("Average is better", 0.0, True)
    assert {setting: row["measured"] for setting, row in claim.verdicts.items()} == {
        lenet_on("cifar10"): 0.1,
        lenet_on("mnist"): -0.1,
    }


@pytest.mark.parametrize(
    "other", [{"variant": "blur"}, {"threshold": -0.01}, {"cases": ["all"]}, {"direction": "below"}]
)
def test_another_question_is_another_claim(other: dict[str, object]) -> None:
    found = claims_of({"a": made("One", "mnist", 0.1), "b": made("Two", "mnist", 0.1, **other)})
    assert [claim.text for claim in found] == ["One", "Two"]


def test_two_studies_of_the_same_networks_keep_both_their_verdicts() -> None:
    (claim,) = claims_of({"a": made("It is", "mnist", 0.1), "again": made("It is", "mnist", 0.2)})
    assert {setting: row["measured"] for setting, row in claim.verdicts.items()} == {
        f"{lenet_on('mnist')} (a)": 0.1,
        f"{lenet_on('mnist')} (again)": 0.2,
    }


def test_controls_that_failed_stand_beside_what_is_said_of_layers_alone() -> None:
    study = made("It is", "mnist", 0.1)
    study["flags"] = ["noise control failed: random noise alone moves fc1 in 5 of 5 diagnoses"]
    assert setting_of(study) == lenet_on("mnist")
    assert setting_of({**study, "kind": "information"}) == f"{lenet_on('mnist')} (controls failed)"


def test_several_conditions_are_shown_one_by_one() -> None:
    study = made("It is", "mnist", 0.1)
    (row,) = study["verdicts"]
    row["conditions"].append({**row["conditions"][0], "variant": "blur", "value": 0.3, "answer": "supported"})
    assert {name: one["value"] for name, one in by_condition(row).items()} == {"avg": 0.1, "blur": 0.3}
    figure = plots.claims(claims_of({"a": study}))
    assert figure is not None
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == [
        f"{lenet_on('mnist')}, {variant}" for variant in ("avg", "blur")
    ]
    assert [text.get_text() for text in panel.texts] == ["open", "supported"]
    row["conditions"][1] |= {"case": "digits", "variant": "avg"}
    assert list(by_condition(row)) == ["mnist avg − max", "digits avg − max"]


def test_the_figure_has_what_was_measured_and_there_is_none_without() -> None:
    assert plots.claims([]) is None
    failed, done = made("Failed", "mnist", None, variant="blur"), made("Done", "mnist", 0.25)
    assert plots.claims(claims_of({"a": failed})) is None
    figure = plots.claims(claims_of({"a": failed, "b": done}))
    assert figure is not None
    (panel,) = figure.axes
    interval, estimate, _ = panel.lines
    assert [list(np.asarray(line.get_xdata())) for line in (interval, estimate)] == [[0.25, 0.25], [0.25]]
    assert [text.get_text() for text in panel.texts] == ["undecided"]
