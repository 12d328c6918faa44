"""Claims that several studies put to the test, each in settings of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interpretgan.attacks import fraction
from interpretgan.studies.rules import condition_name
from interpretgan.studies.verdicts import NOISE_CONTROL_FAILED

Record = Mapping[str, Any]
"""What is in `study.json`; under `erratum` and `history` what the files of these names beside it say."""
SAME = ("quantity", "variant", "against", "cases", "direction", "threshold")
"""What two rules of studies of one kind share that ask the same question."""


@dataclass(frozen=True)
class Claim:
    """One claim, wherever it was tested."""

    kind: str  # of the studies
    text: str  # the claim in its shortest words, which are those without a setting
    paper: str  # what the paper says of it; begins with "not stated" where it says nothing
    rule: Mapping[str, Any]  # that decides, as data
    verdicts: Mapping[str, Mapping[str, Any]]  # of each study that asked, by its setting


def setting_of(study: Record) -> str:
    """Network, data, training and attack of a study, and whether something is wrong with it."""
    cases = []
    for settings in (case["settings"] for case in study["provenance"]["config"]["cases"]):
        training, eps = settings["training"], fraction(settings["evaluation"]["eps"])
        trained = "" if training["eps"] is None else f" {fraction(training['eps'])}"
        network = f"{settings['model']['model']} on {settings['data']['data']}"
        cases.append(f"{network}, {training['objective']}{trained}, ε {eps}")
    # What is said of layers rests on diagnoses; of variants it does not.
    failed = study["kind"] == "information" and NOISE_CONTROL_FAILED in [flag["code"] for flag in study["flags"]]
    return "; ".join(dict.fromkeys(cases)) + " (erratum)" * ("erratum" in study) + " (controls failed)" * failed


def by_condition(row: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions of a verdict by what tells them apart: the variant alone, where that does."""
    conditions = row["conditions"]
    by_variant = {str(condition["variant"]): condition for condition in conditions}
    return by_variant if len(by_variant) == len(conditions) else {condition_name(item): item for item in conditions}


def claims_of(studies: Mapping[str, Record]) -> list[Claim]:
    """The claims of all studies, in the order in which they are first made.

    Two studies make the same claim when they are of one kind and their rules ask the same of their own networks. The
    names of the studies tell two of the same networks apart.
    """
    made: dict[tuple[str, ...], Claim] = {}
    settings = [(study["kind"], setting_of(study)) for study in studies.values()]
    for (name, study), (kind, setting) in zip(studies.items(), settings, strict=True):
        where = setting if settings.count((kind, setting)) == 1 else f"{setting} ({name})"
        for rule, row in zip(study["provenance"]["config"]["rules"], study["verdicts"], strict=True):
            key = (kind, *(str(rule[part]) for part in SAME))
            old = made.get(key, Claim(kind, row["claim"], row["paper"], rule, {}))
            text = min(old.text, row["claim"], key=len)
            made[key] = Claim(kind, text, old.paper, old.rule, {**old.verdicts, where: row})
    return list(made.values())
