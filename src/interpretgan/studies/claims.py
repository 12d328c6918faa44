"""Claims that several studies put to the test, each in settings of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interpretgan.attacks import fraction

Study = Mapping[str, Any]
"""What is in `study.json`."""
ERRATUM = "erratum"
"""Key of what was found to be wrong with a study after it was made, where something was."""
HISTORY = "history"
"""Key of what came before it that a reader must know, where something did: an earlier run of the same."""
NOT_STATED = "not stated"
"""How the paper's words begin where it has none."""
ASKED = ("quantity", "variant", "against", "cases", "direction", "threshold")
"""What makes two rules of studies of one kind the same question."""


@dataclass(frozen=True)
class Claim:
    """One claim, wherever it was tested.

    Attributes:
        kind: Of the studies.
        text: The claim in its shortest words, which are those without a setting.
        paper: What the paper says of it.
        claimed: Where the quantity lies by the claim: `> 0`.
        quantity: The effect that decides.
        threshold: Where the claimed side of it begins.
        verdicts: Of each study that asked, by its setting.
    """

    kind: str
    text: str
    paper: str
    claimed: str
    quantity: str
    threshold: float
    verdicts: Mapping[str, Mapping[str, Any]]

    @property
    def of_the_paper(self) -> bool:
        """Whether the paper makes it."""
        return not self.paper.startswith(NOT_STATED)


def setting_of(study: Study) -> str:
    """Network, data, training and attack of a study, and whether something is wrong with it."""
    cases = dict.fromkeys(_case(case["settings"]) for case in study["provenance"]["config"]["cases"])
    # What is said of layers rests on diagnoses; of variants it does not.
    failed = study["kind"] == "information" and any(flag.startswith("noise control") for flag in study["flags"])
    return "; ".join(cases) + " (erratum)" * (ERRATUM in study) + " (controls failed)" * failed


def _case(settings: Mapping[str, Any]) -> str:
    training = settings["training"]
    trained = "" if training["eps"] is None else f" {fraction(training['eps'])}"
    return (
        f"{settings['model']['model']} on {settings['data']['data']}, {training['objective']}{trained}, "
        f"ε {fraction(settings['evaluation']['eps'])}"
    )


def by_condition(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions of a verdict by what tells them apart: the variant alone, where that does."""
    conditions = row["conditions"]
    variants = [str(one["variant"]) for one in conditions]
    if len(set(variants)) < len(variants):
        variants = [condition_name(one) for one in conditions]
    return dict(zip(variants, conditions, strict=True))


def condition_name(one: Mapping[str, Any]) -> str:
    """Case, variant, and the variant that it is compared with, of an effect or a condition."""
    return " ".join(filter(None, (one["case"], one["variant"], one["against"] and f"− {one['against']}")))


def claims_of(studies: Mapping[str, Study]) -> list[Claim]:
    """The claims of all studies, in the order in which they are first made.

    Two studies make the same claim when they are of one kind and their rules ask the same of their own networks.

    Args:
        studies: By name, which tells two studies of the same networks apart.
    """
    made: dict[tuple[object, ...], list[tuple[str, Mapping[str, Any]]]] = {}
    settings = [(study["kind"], setting_of(study)) for study in studies.values()]
    for (name, study), setting in zip(studies.items(), settings, strict=True):
        told = setting[1] if settings.count(setting) == 1 else f"{setting[1]} ({name})"
        rules = study["provenance"]["config"]["rules"]
        for rule, row in zip(rules, study["verdicts"], strict=True):
            key = (study["kind"], *(rule[one] if one != "cases" else tuple(rule[one]) for one in ASKED))
            made.setdefault(key, []).append((told, row))
    return [
        Claim(
            kind=str(key[0]),
            text=min((row["claim"] for _, row in rows), key=len),
            paper=rows[0][1]["paper"],
            claimed=rows[0][1]["claimed"],
            quantity=str(key[1 + ASKED.index("quantity")]),
            threshold=float(str(key[1 + ASKED.index("threshold")])),
            verdicts=dict(rows),
        )
        for key, rows in made.items()
    ]
