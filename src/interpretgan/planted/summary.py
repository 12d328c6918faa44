"""What the records of a benchmark say: how often each score blames the planted layer. Pure arithmetic on records.

Every figure has `value`, `low` and `high`, `right` and `networks`: shares with Wilson's interval, paired differences
with a bootstrap over networks.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from interpretgan.diagnosis.reliability import READABLE
from interpretgan.planted.columns import LET_IN, OURS
from interpretgan.planted.one_network import COLLAPSED, DIAGNOSED, REFUSED, UNMADE, UNVERIFIED
from interpretgan.planted.verify import ROBUST_FALL
from interpretgan.statistics import wilson

Record = Mapping[str, Any]
CONFIDENCE = 0.95
REPLICATES = 10_000
CLEAR_OF = 0.05  #: A layer of a network without a plant is blamed where its interval is above this.
LEAST = (
    6  #: Networks from which on a paired difference has an interval: of five, chance lets one score win all 1 in 16.
)
GROUPS = ("kind", "network", "data", "half")
VERIFIED = (COLLAPSED, REFUSED, DIAGNOSED)


def summarise(records: Sequence[Record], *, planned: int, seed: int = 0) -> dict[str, Any]:
    """All figures of a benchmark.

    Args:
        records: Of `record_of`, each with its `half`.
        planned: How many there should be.
        seed: Of the bootstrap.

    Returns:
        `counts`; `questions` (by question `scores`, `against` each rival, the name of our `column`); `readable`;
        `blamed` of the networks without a plant; `controls`; `seconds`.
    """
    verified = [record for record in records if record["status"] in VERIFIED]
    return {
        "counts": _counts(records, planned),
        "questions": {name: _question(verified, name, column, seed) for name, column in OURS.items()},
        "readable": _readable(verified),
        "blamed": _blamed(verified),
        "controls": _controls(verified),
        "seconds": _seconds(records),
        "seeds": sorted({record["seed"] for record in records}),
    }


def _counts(records: Sequence[Record], planned: int) -> dict[str, Any]:
    states = Counter(record["status"] for record in records)
    failed = Counter(record["verification"]["failed"] for record in records if record["status"] == UNVERIFIED)
    verified = sum(states[state] for state in VERIFIED)
    diagnosed = [record for record in records if record["status"] == DIAGNOSED]
    return {
        "planned": planned, "missing": planned - len(records), "unmade": states[UNMADE],
        "unverified": dict(sorted(failed.items())), "verified": verified, "collapsed": states[COLLAPSED],
        "refused": states[REFUSED], "diagnosed": len(diagnosed),
        "unnamed": sum(not record["named"] for record in diagnosed),
        "noise_alone": sum(_noise_alone(record["verification"]) for record in records if record["status"] in VERIFIED),
        "reasons": {r["key"]: r["reason"] for r in records if r["status"] != DIAGNOSED and "key" in r},
    }  # fmt: skip


def _noise_alone(found: Mapping[str, Any]) -> bool:
    """Whether random noise of the same size does what an attack was to do."""
    noise = found.get("noise")
    return noise is not None and bool(found["natural"] - noise >= ROBUST_FALL)


# --- one network -------------------------------------------------------------------------------------------------


def signed(column: Record) -> list[float]:
    """Values of which the highest blames most; what is not a number blames least."""
    sign = 1.0 if column["direction"] == "high" else -1.0
    return [-np.inf if value is None else sign * value for value in column["values"]]


def most_blamed(column: Record, count: int) -> set[int] | None:
    """Places of the layers that a score blames most; `None` where ties leave open which they are."""
    values = signed(column)
    order = sorted(range(len(values)), key=lambda place: -values[place])
    if len(order) < count or values[order[count - 1]] == -np.inf:
        return None
    if len(order) > count and values[order[count]] == values[order[count - 1]]:
        return None
    return set(order[:count])


def hit(record: Record, question: str, name: str) -> bool:
    """Whether a score blames all planted layers before any other; ours misses where there is no diagnosis.

    Where two layers let the perturbation in, ours is right where these are the two that bring back most together.
    """
    places = planted_at(record, question)
    if name == OURS[LET_IN] and len(places) == 2 and (pair := record.get("mended_together")):
        return {record["layers"].index(layer) for layer in pair["layers"]} == places
    return most_blamed(record["columns"][name], len(places)) == places if name in record["columns"] else False


def near(record: Record, question: str, name: str) -> bool:
    """Whether the layer that a score blames most is the planted one, or the one before or after it."""
    top = most_blamed(record["columns"][name], 1) if name in record["columns"] else None
    return top is not None and min(abs(place - min(top)) for place in planted_at(record, question)) <= 1


def planted_at(record: Record, question: str) -> set[int]:
    """Places of the planted layers among the layers."""
    return {record["layers"].index(layer) for layer in record["truth"][question]}


# --- questions ---------------------------------------------------------------------------------------------------


def _question(verified: Sequence[Record], question: str, ours: str, seed: int) -> dict[str, Any]:
    """Every score on one question; ours is in it where at least one record has it."""
    known = [record for record in verified if record["truth"][question]]
    single, two = ([r for r in known if (len(r["truth"][question]) == 1) == one] for one in (True, False))
    names = list(dict.fromkeys(name for record in known for name in record["columns"]))
    names = ([ours] if ours in names else []) + [name for name in names if name not in OURS.values()]
    scores, against = {}, {}
    for name in names:
        ran = [record for record in single if _ran(record, name, ours)]
        scores[name] = {
            "top": share([hit(record, question, name) for record in ran]),
            "near": share([near(record, question, name) for record in ran]),
            "two": share([hit(record, question, name) for record in two if _ran(record, name, ours)]),
            "failed": len(single) - len(ran),
            "by": {group: _by(ran, group, lambda r, name=name: hit(r, question, name)) for group in GROUPS},  # type: ignore[misc]  # the default binds the name
        }
        if name != ours and ours in names:
            pairs = [int(hit(r, question, ours)) - int(hit(r, question, name)) for r in ran]
            against[name] = difference(pairs, seed=seed)
    return {"column": ours, "networks": len(single), "two": len(two), "scores": scores, "against": against}


def _ran(record: Record, name: str, ours: str) -> bool:
    """Whether a score counts on a network: a rival that could not run does not, our own always does."""
    return name == ours or bool(record["columns"].get(name, {}).get("values"))


def _by(records: Iterable[Record], group: str, right: Callable[[Record], bool]) -> dict[str, Any]:
    found: dict[str, list[bool]] = {}
    for record in records:
        found.setdefault(str(record[group]), []).append(right(record))
    return {name: share(values) for name, values in found.items()}


def share(right: Sequence[bool]) -> dict[str, Any] | None:
    """The share that is right, with its interval; `None` of none."""
    if not right:
        return None
    return {**vars(wilson(sum(right), len(right), CONFIDENCE)), "right": sum(right), "networks": len(right)}


def difference(pairs: Sequence[int], *, seed: int) -> dict[str, Any] | None:
    """The mean of paired differences with a percentile interval over networks; `None` of none.

    With fewer than `LEAST` networks nothing is claimed: the interval is all of [-1, 1].
    """
    if not pairs:
        return None
    values, random = np.asarray(pairs, dtype=np.float64), np.random.default_rng(seed)
    means = values[random.integers(len(values), size=(REPLICATES, len(values)))].mean(axis=1)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(means, [tail, 100 - tail]) if len(values) >= LEAST else (-1.0, 1.0)
    better, worse = int((values > 0).sum()), int((values < 0).sum())
    return {
        "value": float(values.mean()), "low": float(low), "high": float(high), "networks": len(values),
        "better": better, "worse": worse,
    }  # fmt: skip


# --- the rest ----------------------------------------------------------------------------------------------------


def _readable(verified: Sequence[Record]) -> dict[str, Any]:
    """The share of layers whose natural explanations are predicted right nearly as often as the images."""
    found: dict[str, list[bool]] = {"all": []}
    for record in verified:
        if record["status"] == DIAGNOSED:
            right = [value >= record["image"] - READABLE for value in record["natural"]]
            for name in ("all", record["data"]):
                found.setdefault(name, []).extend(right)
    shares = {}
    for name, right in found.items():
        if (figure := share(right)) is not None:
            shares[name] = {"layers" if key == "networks" else key: value for key, value in figure.items()}
    return shares


def _blamed(verified: Sequence[Record]) -> dict[str, Any] | None:
    """Networks without a plant in which a layer is blamed: the lower end of its V is above `CLEAR_OF`."""
    column = OURS["turns"]
    none = [record for record in verified if record["truth"]["let in"] == [] and column in record["columns"]]
    blamed = [any(low is not None and low > CLEAR_OF for low in r["columns"][column]["low"]) for r in none]
    return share(blamed)


def _controls(verified: Sequence[Record]) -> dict[str, Any]:
    """Each control over all diagnoses: least, middle and greatest."""
    values: dict[str, list[float]] = {}
    for record in verified:
        for name, value in record.get("controls", {}).items():
            if isinstance(value, int | float):
                values.setdefault(name, []).append(float(value))
    return {name: _spread(found) | {"networks": len(found)} for name, found in values.items()}


def _seconds(records: Sequence[Record]) -> dict[str, Any]:
    """What each step and each score took on a network: least, middle and greatest, and all together."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.get("seconds", {}).items():
            values.setdefault(name, []).append(value)
        if record["status"] == DIAGNOSED:
            spent = record["seconds"]
            ours = {OURS["turns"]: spent["fit"] + spent["diagnose"], OURS["let in"]: spent.get("let in")}
            for name, value in ours.items():
                if value is not None:
                    values.setdefault(f"score: {name}", []).append(value)
        for name, column in record.get("columns", {}).items():
            if column["seconds"] is not None:
                values.setdefault(f"score: {name}", []).append(column["seconds"])
    return {name: _spread(found) | {"total": sum(found), "networks": len(found)} for name, found in values.items()}


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"least": min(values), "middle": statistics.median(values), "greatest": max(values)}
