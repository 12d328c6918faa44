"""The words of the report: numbers as text, the answer, the flags, the table for the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

NO_LOSS = 0.02  # survival lost between the image and the last layer below which no layer is named
NAMED_AT_MOST = 3  # layers that cannot be told apart are named one by one up to this many

# What a flag means, by the first of these entries with a word that occurs in it.
FLAG_MEANINGS: dict[tuple[str, ...], str] = {
    ("below zero",): (
        "No layer can know more of the image than the one before it, and no probe should do worse than one that has "
        "seen nothing. The decoders and probes are trained, and never quite to the end: differences of this size "
        "between layers say nothing. More --information-steps make them smaller."
    ),
    ("differ between two passes", "dynamic model"): (
        "The same image does not always get the same answer, and an attack aims at an answer that is gone when it "
        "counts. What looks like robustness may be that alone."
    ),
    ("look like probabilities",): (
        "Probabilities are flat where the model is sure, so gradients vanish there and attacks stop. Diagnose the "
        "logits before them."
    ),
    ("made grey", "grow with eps"): (
        "A larger perturbation can do all that a smaller one does, and one that may turn every image grey leaves "
        "nothing to recognise. Where accuracy stays, the attack fails for another reason than a robust model, and "
        "vulnerability is underestimated."
    ),
    ("twice the", "than one step"): (
        "The attack has not found all that there is: try more steps, more restarts or a shorter step. Vulnerability "
        "is then underestimated."
    ),
    ("as good as the attack",): (
        "The attack found no more than chance would. It may have failed, and vulnerability is then underestimated."
    ),
    ("layer before",): (
        "The vulnerability of a layer compares its layer with the one before. That one cannot be read, so the "
        "difference cannot be trusted either."
    ),
    ("weak model",): (
        "The model misreads natural images that the judge reads. A wrong normalisation or order of classes looks like "
        "this; so does a poor model, and there is then less to lose under attack."
    ),
    ("natural explanation",): (
        "The judge misreads too many of this layer's explanations even without an attack. A misreading under "
        "attack then says little about the layer, so neither this row nor the vulnerability of the layer "
        "after it can be trusted."
    ),
    ("noise",): (
        "Random noise of the same size changes the explanations as well. That part of the figure is not the "
        "work of the attack."
    ),
    ("judge",): "The judge reads every explanation, so its own mistakes limit every figure here.",
    ("ε", "eps"): (
        "Without a perturbation every vulnerability must be exactly zero. Where it is not, the two branches "
        "of the measurement were not run alike."
    ),
    ("attack", "gradient"): (
        "The attack may be too weak, or may have failed for another reason than a robust model. "
        "Vulnerability is then underestimated."
    ),
    ("example",): "Too few examples leave wide intervals: a larger evaluation set narrows them.",
}


def number(value: Any) -> float | None:
    """A finite number, or None for anything else (missing, null, NaN, infinite)."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def interval(record: Any) -> tuple[float, float] | None:
    """The `low` and `high` of a record, or None where either is missing."""
    if not isinstance(record, dict):
        return None
    low, high = number(record.get("low")), number(record.get("high"))
    return None if low is None or high is None else (low, high)


def percent(value: Any, *, digits: int = 1) -> str:
    """A proportion in [0, 1] as per cent: 0.975 is `97.5 %`; `–` where it is missing."""
    found = number(value)
    return "–" if found is None else f"{100 * found:.{digits}f} %"


def plain(value: float, digits: int) -> str:
    """A number without a negative zero."""
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: Any, *, scale: float = 100.0, digits: int = 1) -> str:
    """A number with its sign, a true minus and no negative zero: 0.551 is `+55.1` at scale 100."""
    found = number(value)
    if found is None:
        return "–"
    text = plain(scale * found, digits)
    return text.replace("-", "−") if text.startswith("-") or float(text) == 0 else f"+{text}"


def span(record: Any, *, scale: float = 100.0, digits: int = 1) -> str:
    """The interval of a record as `[51.0, 59.2]`, or an empty string where there is none."""
    bounds = interval(record)
    if bounds is None:
        return ""
    return "[" + ", ".join(plain(scale * bound, digits).replace("-", "−") for bound in bounds) + "]"


def level(diagnosis: dict[str, Any]) -> str:
    """What an interval of the diagnosis is, `95 % interval`, or `interval` where its level is not recorded."""
    confidence = number((diagnosis.get("provenance") or {}).get("confidence"))
    return "interval" if confidence is None else f"{100 * confidence:g} % interval"


def join(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def is_unreliable(record: dict[str, Any]) -> bool:
    """Whether a layer, or the whole diagnosis, carries a flag that begins with `unreliable`."""
    return any(str(flag).lower().startswith("unreliable") for flag in record.get("flags") or ())


def flag_meaning(flag: str) -> str:
    """What a flag means for the reader, in plain words (empty for a flag of an unknown kind)."""
    lowered = flag.lower()
    return next(
        (
            meaning
            for words, meaning in FLAG_MEANINGS.items()
            if any(re.search(rf"\b{word}", lowered) for word in words)
        ),
        "",
    )


@dataclass(frozen=True)
class Answer:
    """The answer of a diagnosis in one sentence, in parts that the page can set apart.

    Attributes:
        claim: What contributes most; each part of the text with whether it is the name of a layer.
        detail: The numbers behind the claim.
        caveat: Why to read it with care; empty if nothing speaks against it.
        layers: The names of the layers that the claim blames, the largest contribution first.
    """

    claim: tuple[tuple[str, bool], ...]
    detail: str
    caveat: str = ""
    layers: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """Claim, detail and caveat as running text."""
        claim = "".join(text for text, _ in self.claim)
        return f"{claim}: {self.detail}." + (f" Read this with care: {self.caveat}" if self.caveat else "")


def _points(vulnerability: dict[str, Any]) -> str:
    """`55 points [51, 59]`, with one decimal below ten points."""
    value = float(vulnerability["value"])
    digits = 0 if abs(100 * value) >= 10 else 1
    return f"{plain(100 * value, digits)} points {span(vulnerability, digits=digits)}".rstrip()


def _caveat(diagnosis: dict[str, Any], layers: list[dict[str, Any]], blamed: Sequence[str]) -> str:
    """The flags that bear on the blamed layers (their own layer and the one before) and on everything."""
    reasons = [str(flag) for flag in diagnosis.get("flags") or ()]
    for before, layer in pairwise(layers):
        if str(layer["name"]) not in blamed:
            continue
        for place in (layer, before):
            for flag in place.get("flags") or ():
                if str(flag).lower().startswith("unreliable"):
                    reason = str(flag).partition(":")[2].strip() or str(flag)
                    where = "" if place is layer else f" (the layer before {layer['name']})"
                    reasons.append(f"at {place['name']}{where}, {reason}")
    reasons = list(dict.fromkeys(reasons))
    if not reasons:
        return ""
    more = f"; {len(reasons) - 2} more among the flags" if len(reasons) > 2 else ""
    return f"{'; '.join(reasons[:2])}{more}."


def answer(diagnosis: dict[str, Any]) -> Answer:
    """What a diagnosis says, with no more certainty than its intervals allow.

    The layer with the largest vulnerability is named alone only if its interval lies above every other
    layer's; layers whose intervals reach into the first one's are named together. The share is
    V_l / (survival_0 − survival_L).
    """
    layers = list(diagnosis.get("layers") or ())
    model = str((diagnosis.get("classifier") or {}).get("name") or "the model")
    ranked = [layer for layer in layers[1:] if number((layer.get("vulnerability") or {}).get("value")) is not None]
    ranked.sort(key=lambda layer: -float(layer["vulnerability"]["value"]))
    start = number(layers[0].get("survival")) if layers else None
    end = number(layers[-1].get("survival")) if layers else None
    if not ranked or start is None or end is None:
        return Answer(
            ((f"The layers of {model} cannot be ranked", False),),
            "survival was not measured at the first and the last layer",
            _caveat(diagnosis, layers, ()),
        )

    loss = start - end
    between = f"between {layers[0]['name']} and {layers[-1]['name']}"
    ends = (
        interval((layers[0].get("intervals") or {}).get("survival")),
        interval((layers[-1].get("intervals") or {}).get("survival")),
    )
    unclear = ends[0] is not None and ends[1] is not None and ends[0][0] <= ends[1][1]
    if loss < NO_LOSS or unclear:
        size = "" if loss < NO_LOSS else ", a difference within its intervals"
        return Answer(
            ((f"No layer of {model} contributes a loss that can be measured", False),),
            f"survival under attack goes from {percent(start)} at {layers[0]['name']} to {percent(end)} at "
            f"{layers[-1]['name']}{size}",
            _caveat(diagnosis, layers, ()),
        )

    top = ranked[0]
    bounds = interval(top["vulnerability"])
    total = f"the {plain(100 * loss, 0 if loss >= 0.1 else 1)} points lost {between}"
    if bounds is not None and bounds[0] <= 0:
        name = str(top["name"])
        return Answer(
            ((f"No single layer of {model} stands out", False),),
            f"of {total}, the largest part is {_points(top['vulnerability'])} at {name}, which may be zero",
            _caveat(diagnosis, layers, (name,)),
        )

    def reaches(layer: dict[str, Any]) -> bool:
        other = interval(layer["vulnerability"])
        return bounds is not None and other is not None and other[1] >= bounds[0]

    blamed = [top, *(layer for layer in ranked[1:] if reaches(layer))]
    names = [str(layer["name"]) for layer in blamed]
    share = sum(float(layer["vulnerability"]["value"]) for layer in blamed) / loss
    part = (
        f"{100 * share:.0f} % of {total}"
        if share <= 1
        else f"more than the whole of {total}, because other layers win some back"
    )
    caveat = _caveat(diagnosis, layers, names)
    if len(blamed) == 1:
        claim = ((names[0], True), (f" contributes most to the vulnerability of {model}", False))
        known = "" if bounds is not None else " (no interval was computed)"
        own = top.get("share")
        if interval(own) is not None and share <= 1:
            part = f"{100 * share:.0f} % {span(own, digits=0)} of {total}"
        detail = f"{_points(top['vulnerability'])} of survival{known}, {part}"
        return Answer(claim, detail, caveat, tuple(names))
    shown = names if len(names) <= NAMED_AT_MOST else names[:NAMED_AT_MOST]
    words: list[tuple[str, bool]] = []
    for index, name in enumerate(shown):
        last = index == len(shown) - 1 and len(shown) == len(names)
        words += [(" and " if last else ", ", False)] if index else []
        words.append((name, True))
    if len(shown) < len(names):
        others = len(names) - len(shown)
        words.append((f" and {others} other{'s' if others > 1 else ''}", False))
    words.append((f" contribute most to the vulnerability of {model} and cannot be told apart", False))
    parts = join([_points(layer["vulnerability"]) for layer in blamed[: len(shown)]])
    detail = f"{parts} of survival, together {part}"
    if len(shown) < len(names):
        detail = f"{parts} of survival for the first {len(shown)}, all {len(names)} together {part}"
    return Answer(tuple(words), detail, caveat, tuple(names))


def answer_sentence(diagnosis: dict[str, Any]) -> str:
    """The answer of a diagnosis in one sentence, as honest as its intervals and flags.

    Args:
        diagnosis: The content of diagnosis.json.

    Returns:
        Plain text, for instance "fc1 contributes most to the vulnerability of lenet5: 55 points [51, 59] of
        survival, 59 % of the 93 points lost between image and logits." One point is 1 % of survival; the
        share is V_l / (survival_0 − survival_L). Flags that bear on the answer follow as a second sentence.
    """
    return answer(diagnosis).sentence


def _information_cells(layer: dict[str, Any], *, first: bool) -> list[str]:
    """Information loss with its interval, and class information, in ASCII."""
    loss, bits = layer.get("information_loss") or {}, number((layer.get("class_information") or {}).get("value"))
    cells = ["", ""] if first else [signed(loss.get("value")), span(loss)]
    return [cell.replace("–", "-").replace("−", "-") for cell in (*cells, "-" if bits is None else plain(bits, 2))]


def summary_table(diagnosis: dict[str, Any]) -> str:
    """The layers of a diagnosis as a plain-text table for the terminal.

    Args:
        diagnosis: The content of diagnosis.json.

    Returns:
        One line per layer in execution order: the judge's accuracy on natural and adversarial explanations
        and survival in per cent, vulnerability with its interval and the noise control's in points; where
        they were measured, information loss in per cent of the image's variance and class information in bits; `!`
        marks a flagged row, and the flags follow. ASCII but for the names and flags themselves.
    """

    def cell(value: Any, *, sign: bool = False) -> str:
        text = signed(value) if sign else percent(value).removesuffix(" %")
        return text.replace("–", "-").replace("−", "-")

    rows = [["", "layer", "natural %", "adversarial %", "survival %", "V (points)", "interval", "V of noise"]]
    forgets = any(layer.get("information_loss") for layer in diagnosis.get("layers") or ())
    rows[0] += ["forgets %", "interval", "class bits"] if forgets else []
    notes = []
    for position, layer in enumerate(diagnosis.get("layers") or ()):
        name, flags = str(layer["name"]), [str(flag) for flag in layer.get("flags") or ()]
        vulnerability = layer.get("vulnerability") or {}
        figures = [
            cell(vulnerability.get("value"), sign=True),
            span(vulnerability).replace("−", "-"),
            cell((layer.get("vulnerability_noise") or {}).get("value"), sign=True),
        ]
        rows.append(
            ["!" if flags else "", name, *(cell(layer.get(key)) for key in ("natural", "adversarial", "survival"))]
            + (figures if position else ["", "", ""])
            + (_information_cells(layer, first=not position) if forgets else [])
        )
        notes += [f"! {name}: {flag}" for flag in flags]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) if column < 2 else text.rjust(width) for column, (text, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    notes += [f"! {flag}" for flag in diagnosis.get("flags") or ()]
    return "\n".join(line.rstrip() for line in [*lines, *notes])
