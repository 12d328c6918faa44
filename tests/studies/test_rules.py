from __future__ import annotations

import pytest

from interpretgan.errors import ConfigError
from interpretgan.studies.effects import Effect
from interpretgan.studies.rules import Rule, judge

ABOVE, BELOW, ACROSS = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.2)


def effect(interval: tuple[float, float], case: str = "a", variant: str = "avg", layer: str | None = None) -> Effect:
    low, high = interval
    value = (low + high) / 2
    return Effect("worst_case", case, variant, "max", layer, 5, value, low, high, 0.5, None, 1, low, high, 0.5)


def rule(**changes: object) -> Rule:
    values = {"claim": "c", "paper": "p", "quantity": "worst_case", "direction": "above", "variant": "avg"} | changes
    return Rule(**values)  # type: ignore[arg-type]  # the test says which


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([ABOVE, ABOVE], "confirmed"),
        ([ABOVE, ACROSS], "confirmed under conditions"),
        ([ABOVE, BELOW], "mixed"),
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


@pytest.mark.parametrize(
    ("threshold", "verdict", "claimed"),
    [(0.05, "confirmed", "> 0.05"), (0.2, "undecided", "> 0.2"), (0.4, "contradicted", "> 0.4")],
)
def test_the_threshold_decides(threshold: float, verdict: str, claimed: str) -> None:
    found = judge(rule(threshold=threshold), [effect(ABOVE)])
    assert (found["verdict"], found["claimed"]) == (verdict, claimed)


def test_a_rule_looks_at_its_own_effects() -> None:
    others = [effect(BELOW, variant="blur"), effect(BELOW, layer="conv1"), effect(BELOW, "all"), effect(BELOW, "b")]
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
    names, figures = ("case", "variant", "against"), ("value", "low", "high", "p")
    second = {**dict(zip(names, promised[1], strict=True)), **dict.fromkeys(figures), "answer": "open"}
    assert found["conditions"][1:] == [second]
    assert found["measured"] == pytest.approx(0.2)
    assert judge(rule(cases=("a",)), [effect(ABOVE)], promised)["verdict"] == "confirmed"
    assert judge(rule(), [], promised)["verdict"] == "undecided"


def test_a_threshold_is_a_number() -> None:
    with pytest.raises(ConfigError, match="expected a finite threshold, got nan"):
        rule(threshold=float("nan"))
