"""Rules that turn effects into verdicts, written down before the runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from interpretgan.errors import ConfigError

if TYPE_CHECKING:
    from interpretgan.studies.effects import Effect

Condition = tuple[str, str | None, str | None]  #: A case, a variant, and the variant that it is compared with.
POOLED = "all"  #: The case of an effect that all cases are pooled for.
SUPPORTED, OPPOSED, OPEN = "supported", "opposed", "open"  #: What one condition says of a claim.
CONFIRMED, CONDITIONAL, MIXED = "confirmed", "confirmed under conditions", "mixed"  #: What all together say of it.
CONTRADICTED, UNDECIDED = "contradicted", "undecided"  #: Likewise.


@dataclass(frozen=True)
class Rule:
    """When a claim counts as confirmed, as data; with a threshold that is not finite it is a `ConfigError`.

    The claim is `quantity > threshold` (or `<`). In each condition the interval of the effect decides, corrected for
    the number of comparisons: all of it on the claimed side of the threshold supports the claim, all of it on the other
    side opposes it, and else the condition is open.
    """

    claim: str  # in a sentence
    paper: str  # what the paper says of it
    quantity: str  # the effect that is measured, see `quantities`
    direction: Literal["above", "below"]  # side of the threshold that the claim is on
    threshold: float = 0.0  # in units of the quantity
    variant: str = ""  # only effects of this variant; empty: of every variant
    against: str = ""  # only effects against this variant; empty: against any
    cases: tuple[str, ...] = ()  # only in these cases; empty: in each of them, but not in `POOLED`

    def __post_init__(self) -> None:
        if not math.isfinite(self.threshold):
            raise ConfigError(expected="a finite threshold", got=str(self.threshold), do="state a number")

    def covers(self, condition: Condition) -> bool:
        """Whether the claim is about that case, variant, and variant that it is compared with."""
        case, variant, against = condition
        named = case in self.cases if self.cases else case != POOLED
        return named and self.variant in ("", variant) and self.against in ("", against)

    def answer(self, effect: Effect) -> str:
        """`supported`, `opposed` or `open`."""
        above, below = effect.corrected_low > self.threshold, effect.corrected_high < self.threshold
        if self.direction == "below":
            above, below = below, above
        return SUPPORTED if above else OPPOSED if below else OPEN

    @property
    def claimed(self) -> str:
        """Where the quantity lies by the claim: `> 0.7`."""
        return f"{'>' if self.direction == 'above' else '<'} {self.threshold:g}"

    @property
    def text(self) -> str:
        """The rule in words."""
        variants = f" of {self.variant}" * bool(self.variant) + f" against {self.against}" * bool(self.against)
        return (
            f"{self.quantity}{variants} {self.direction} {self.threshold:g} with its whole corrected interval: "
            f"{CONFIRMED} where every condition supports it, {CONDITIONAL} where some do and none opposes it, {MIXED} "
            f"where some support and some oppose it, {CONTRADICTED} where none supports and at least one opposes it, "
            f"else {UNDECIDED}"
        )


def judge(rule: Rule, effects: Sequence[Effect], promised: Sequence[Condition] = ()) -> dict[str, Any]:
    """The verdict of a rule over the effects of a study.

    `measured` is the mean over the conditions that were measured. `low` and `high` are the outermost ends of their
    intervals: one condition that is open leaves the whole open. Of the conditions that were `promised`, those that the
    rule covers are open if they were not measured.
    """
    about = [effect for effect in effects if effect.quantity == rule.quantity and effect.layer is None]
    by_condition = {(effect.case, effect.variant, effect.against): effect for effect in about}
    measured = {where: effect for where, effect in by_condition.items() if rule.covers(where)}
    conditions = []
    for where in dict.fromkeys([*measured, *filter(rule.covers, promised)]):
        found, names = measured.get(where), ("case", "variant", "against", "value", "low", "high", "p", "answer")
        figures: tuple[Any, ...] = (None, None, None, None, OPEN)
        if found is not None:
            ends = found.corrected_low, found.corrected_high
            figures = (found.value, *ends, found.p_holm, rule.answer(found))
        conditions.append(dict(zip(names, (*where, *figures), strict=True)))
    answers = {condition["answer"] for condition in conditions}
    if SUPPORTED in answers:
        verdict = CONFIRMED if answers == {SUPPORTED} else MIXED if OPPOSED in answers else CONDITIONAL
    else:
        verdict = CONTRADICTED if OPPOSED in answers else UNDECIDED
    known = measured.values()
    return {
        "claim": rule.claim,
        "paper": rule.paper,
        "measured": sum(effect.value for effect in known) / len(known) if known else None,
        "low": min((effect.corrected_low for effect in known), default=None),
        "high": max((effect.corrected_high for effect in known), default=None),
        "claimed": rule.claimed,
        "rule": rule.text,
        "verdict": verdict,
        "conditions": conditions,
    }


def condition_name(record: Mapping[str, Any]) -> str:
    """Case, variant, and the variant that it is compared with, of an effect or a condition."""
    return " ".join(filter(None, (record["case"], record["variant"], record["against"] and f"− {record['against']}")))
