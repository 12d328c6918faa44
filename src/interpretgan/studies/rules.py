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
        arm: Only effects of this arm. Empty: of every arm.
        against: Only effects against this arm. Empty: against any.
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
    arm: str = ""
    against: str = ""
    cases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check the threshold."""
        if not math.isfinite(self.threshold):
            raise ConfigError(expected="a finite threshold", got=str(self.threshold), do="state a number")

    def selects(self, effect: Effect) -> bool:
        """Whether the effect is one of those that decide."""
        return (
            effect.quantity == self.quantity
            and effect.layer is None
            and self.arm in ("", effect.arm)
            and self.against in ("", effect.against)
            and (effect.case in self.cases if self.cases else effect.case != POOLED)
        )

    def answer(self, effect: Effect) -> str:
        """`supported`, `opposed` or `open`."""
        above, below = effect.corrected_low > self.threshold, effect.corrected_high < self.threshold
        if self.direction == "below":
            above, below = below, above
        return "supported" if above else "opposed" if below else "open"

    @property
    def text(self) -> str:
        """The rule in words."""
        arms = f" of {self.arm}" if self.arm else ""
        arms += f" against {self.against}" if self.against else ""
        return (
            f"{self.quantity}{arms} {self.direction} {self.threshold:g} with its whole corrected interval: "
            f"{CONFIRMED} in every condition, {CONDITIONAL} in some, {CONTRADICTED} where none supports it and the "
            f"whole interval of at least one is on the other side, else {UNDECIDED}"
        )


def judge(rule: Rule, effects: Sequence[Effect]) -> dict[str, Any]:
    """The verdict of a rule.

    `measured` is the mean over the conditions, and `low` and `high` its interval: their half-widths are added as those
    of independent measurements, since every condition has trainings of its own.
    """
    chosen = [effect for effect in effects if rule.selects(effect)]
    conditions = [
        {
            "case": effect.case, "arm": effect.arm, "against": effect.against, "value": effect.value,
            "low": effect.corrected_low, "high": effect.corrected_high, "answer": rule.answer(effect),
        }
        for effect in chosen
    ]  # fmt: skip
    answers = {str(condition["answer"]) for condition in conditions}
    if answers == {"supported"}:
        verdict = CONFIRMED
    elif "supported" in answers:
        verdict = CONDITIONAL
    elif "opposed" in answers:
        verdict = CONTRADICTED
    else:
        verdict = UNDECIDED
    count = len(chosen)
    measured = sum(effect.value for effect in chosen) / count if count else None
    down = math.sqrt(sum((effect.value - effect.corrected_low) ** 2 for effect in chosen)) / max(count, 1)
    up = math.sqrt(sum((effect.corrected_high - effect.value) ** 2 for effect in chosen)) / max(count, 1)
    return {
        "claim": rule.claim,
        "paper": rule.paper,
        "measured": measured,
        "low": None if measured is None else measured - down,
        "high": None if measured is None else measured + up,
        "rule": rule.text,
        "verdict": verdict,
        "conditions": conditions,
    }
