from __future__ import annotations

import pytest

from interpretgan.errors import ConfigError
from interpretgan.studies.rules import Rule, judge
from interpretgan.studies.statistics import Effect

ABOVE, BELOW, ACROSS = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.2)


def effect(interval: tuple[float, float], case: str = "a", variant: str = "avg", layer: str | None = None) -> Effect:
    low, high = interval
    return Effect(
        "worst_case", case, variant, "max", layer, 5, (low + high) / 2, low, high, 0.5, None, 1, low, high, 0.5
    )


def rule(**changes: object) -> Rule:
    values = {"claim": "c", "paper": "p", "quantity": "worst_case", "direction": "above", "variant": "avg"} | changes
    return Rule(**values)  # type: ignore[arg-type]  # the test says which


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([ABOVE, ABOVE], "confirmed"),
        ([ABOVE, ACROSS], "confirmed under conditions"),
        ([ABOVE, BELOW], "confirmed under conditions"),
        ([BELOW, ACROSS], "contradicted"),
        ([BELOW, BELOW], "contradicted"),
        ([ACROSS, ACROSS], "undecided"),
        ([], "undecided"),
    ],
)
def test_verdicts(intervals: list[tuple[float, float]], verdict: str) -> None:
    effects = [effect(interval, case) for interval, case in zip(intervals, "ab", strict=False)]
    assert judge(rule(), effects)["verdict"] == verdict
    turned = [effect((-high, -low), case) for (low, high), case in zip(intervals, "ab", strict=False)]
    assert judge(rule(direction="below"), turned)["verdict"] == verdict


def test_the_threshold_decides() -> None:
    assert judge(rule(threshold=0.05), [effect(ABOVE)])["verdict"] == "confirmed"
    assert judge(rule(threshold=0.2), [effect(ABOVE)])["verdict"] == "undecided"
    assert judge(rule(threshold=0.4), [effect(ABOVE)])["verdict"] == "contradicted"


def test_what_is_claimed_is_said_in_short() -> None:
    assert judge(rule(threshold=0.7), [])["claimed"] == "> 0.7"
    assert judge(rule(direction="below", threshold=-0.01), [])["claimed"] == "< -0.01"


def test_a_rule_looks_at_its_own_effects() -> None:
    others = [
        effect(BELOW, variant="blur"),
        effect(BELOW, layer="conv1"),
        effect(BELOW, case="all"),
        effect(BELOW, "b"),
    ]
    found = judge(rule(cases=("a",)), [effect(ABOVE), *others])
    assert found["verdict"] == "confirmed"
    assert [condition["case"] for condition in found["conditions"]] == ["a"]
    assert judge(rule(cases=("all",)), others)["verdict"] == "contradicted"


def test_what_is_measured_over_several_conditions() -> None:
    found = judge(rule(), [effect((0.0, 0.2)), effect((0.2, 0.6), "b")])
    assert found["measured"] == pytest.approx(0.25)
    assert (found["low"], found["high"]) == (0.0, 0.6)
    nothing = judge(rule(), [])
    assert nothing["measured"] is nothing["low"] is nothing["high"] is None


def test_a_condition_that_was_not_measured_is_open() -> None:
    promised = [("a", "avg", "max"), ("b", "avg", "max"), ("b", "blur", "max"), ("all", None, None)]
    found = judge(rule(), [effect(ABOVE)], promised)
    assert found["verdict"] == "confirmed under conditions"
    assert found["conditions"][1] == {
        "case": "b", "variant": "avg", "against": "max", "value": None, "low": None, "high": None, "p": None,
        "answer": "open",
    }  # fmt: skip
    assert found["measured"] == pytest.approx(0.2)
    assert judge(rule(cases=("a",)), [effect(ABOVE)], promised)["verdict"] == "confirmed"
    assert judge(rule(), [], promised)["verdict"] == "undecided"


def test_a_threshold_is_a_number() -> None:
    with pytest.raises(ConfigError, match="expected a finite threshold, got nan"):
        rule(threshold=float("nan"))
