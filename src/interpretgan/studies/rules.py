"""Rules that turn effects into verdicts, written down before the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from interpretgan.errors import ConfigError
from interpretgan.studies.statistics import POOLED, Effect

CONFIRMED, CONDITIONAL, CONTRADICTED, UNDECIDED = (
    "confirmed",
    "confirmed under conditions",
    "contradicted",
    "undecided",
)
SUPPORTED, OPPOSED, OPEN = "supported", "opposed", "open"
"""What one condition says of a claim."""


@dataclass(frozen=True)
class Rule:
    """When a claim counts as confirmed, as data.

    The claim is `quantity > threshold` (or `<`). In each condition it is decided by the effect's interval, at the level
    that is corrected for the number of comparisons: supported where all of the interval is on the claimed side of the
    threshold, opposed where all of it is on the other, else open.

    Attributes:
        claim: The claim, in a sentence.
        paper: What the paper says.
        quantity: The effect that is measured, see `quantities`.
        variant: Only effects of this variant. Empty: of every variant.
        against: Only effects against this variant. Empty: against any.
        cases: Only in these cases. Empty: in each of them; `all` where they are pooled must be named.
        direction: Side of the threshold that the claim is on.
        threshold: In units of the quantity.

    Raises:
        ConfigError: A threshold that is no number.
    """

    claim: str
    paper: str
    quantity: str
    direction: Literal["above", "below"]
    threshold: float = 0.0
    variant: str = ""
    against: str = ""
    cases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not math.isfinite(self.threshold):
            raise ConfigError(expected="a finite threshold", got=str(self.threshold), do="state a number")

    def covers(self, condition: tuple[str, str | None, str | None]) -> bool:
        """Whether the claim is about that case, variant, and variant that it is compared with."""
        case, variant, against = condition
        return (
            self.variant in ("", variant)
            and self.against in ("", against)
            and (case in self.cases if self.cases else case != POOLED)
        )

    def selects(self, effect: Effect) -> bool:
        """Whether the effect is one of those that decide."""
        where = (effect.case, effect.variant, effect.against)
        return effect.quantity == self.quantity and effect.layer is None and self.covers(where)

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
        variants = f" of {self.variant}" if self.variant else ""
        variants += f" against {self.against}" if self.against else ""
        return (
            f"{self.quantity}{variants} {self.direction} {self.threshold:g} with its whole corrected interval: "
            f"{CONFIRMED} in every condition, {CONDITIONAL} in some, {CONTRADICTED} where none supports it and the "
            f"whole interval of at least one is on the other side, else {UNDECIDED}"
        )


def judge(
    rule: Rule, effects: Sequence[Effect], promised: Sequence[tuple[str, str | None, str | None]] = ()
) -> dict[str, Any]:
    """The verdict of a rule.

    `measured` is the mean over the conditions that were measured. `low` and `high` are the outermost ends of their
    intervals: one condition that is open leaves the whole open.

    Args:
        rule: The rule.
        effects: Of the study.
        promised: Conditions that the study is about. One that the rule covers and that was not measured, because runs
            failed, is open.
    """
    chosen = [effect for effect in effects if rule.selects(effect)]
    known = {(effect.case, effect.variant, effect.against) for effect in chosen}
    conditions = [
        {
            "case": effect.case, "variant": effect.variant, "against": effect.against, "value": effect.value,
            "low": effect.corrected_low, "high": effect.corrected_high, "p": effect.p_holm,
            "answer": rule.answer(effect),
        }
        for effect in chosen
    ]  # fmt: skip
    conditions += [
        {
            "case": case, "variant": variant, "against": against, "value": None, "low": None, "high": None, "p": None,
            "answer": OPEN,
        }
        for case, variant, against in promised
        if rule.covers((case, variant, against)) and (case, variant, against) not in known
    ]  # fmt: skip
    answers = {str(condition["answer"]) for condition in conditions}
    if answers == {SUPPORTED}:
        verdict = CONFIRMED
    elif SUPPORTED in answers:
        verdict = CONDITIONAL
    elif OPPOSED in answers:
        verdict = CONTRADICTED
    else:
        verdict = UNDECIDED
    count = len(chosen)
    measured = sum(effect.value for effect in chosen) / count if count else None
    return {
        "claim": rule.claim,
        "paper": rule.paper,
        "measured": measured,
        "low": min((effect.corrected_low for effect in chosen), default=None),
        "high": max((effect.corrected_high for effect in chosen), default=None),
        "claimed": rule.claimed,
        "rule": rule.text,
        "verdict": verdict,
        "conditions": conditions,
    }
