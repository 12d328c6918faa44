"""Effects with intervals: paired differences over seeds, rank correlations over layers, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
POOLED = "all"
"""The case of an effect that all cases are pooled for."""


@dataclass(frozen=True)
class Effect:
    """One number that a study measures.

    Attributes:
        quantity: What it is.
        case: The data, network and training that it was measured on; `POOLED` where all are.
        variant: The variant, if it is of one.
        against: The variant that it is compared with, if there is one.
        layer: The layer, if it is of one.
        runs: How many pairs of runs, or runs, it rests on.
        value: The estimate.
        low: Lower end of its interval, at the level of the study.
        high: Upper end.
        p: Two-sided p-value of no effect.
        size: Mean difference over the standard deviation of the differences (Cohen's d of pairs); `None` where there is
            no deviation or no difference.
        comparisons: How many effects are looked at together.
        corrected_low: Lower end of the interval at the level that holds for all of them together (Bonferroni).
        corrected_high: Upper end.
        p_holm: p-value, corrected for their number (Holm 1979).
    """

    quantity: str
    case: str
    variant: str | None
    against: str | None
    layer: str | None
    runs: int
    value: float
    low: float
    high: float
    p: float
    size: float | None = None
    comparisons: int = 1
    corrected_low: float = math.nan
    corrected_high: float = math.nan
    p_holm: float = math.nan


@dataclass(frozen=True)
class Estimate:
    """An estimate that can say its interval at any level.

    Attributes:
        value: The estimate.
        p: Two-sided p-value of a value of zero.
        size: See `Effect`.
        runs: See `Effect`.
        error: Standard error, where the interval is Student's.
        degrees: Its degrees of freedom. `None`: `runs` - 1.
        replicates: Of a bootstrap `[B]`, where the interval is of percentiles.
    """

    value: float
    p: float
    runs: int
    size: float | None = None
    error: float = 0.0
    degrees: float | None = None
    replicates: Floats | None = None

    def interval(self, confidence: float) -> tuple[float, float]:
        """Both ends."""
        if self.replicates is not None:
            tail = 100 * (1 - confidence) / 2
            low, high = np.percentile(self.replicates, [tail, 100 - tail])
            return min(float(low), self.value), max(float(high), self.value)
        from scipy.stats import t

        degrees = self.runs - 1 if self.degrees is None else self.degrees
        half = float(t.ppf(0.5 + confidence / 2, degrees)) * self.error
        return self.value - half, self.value + half


FEW = 5
"""Pairs of seeds below which only their own degrees of freedom count."""


def paired(differences: Sequence[float], examples: npt.NDArray[np.int8] | None = None) -> Estimate:
    """The mean of paired differences over seeds, with Student's interval: five pairs are too few for a bootstrap.

    Args:
        differences: One per seed, at least two.
        examples: `[seeds, examples]`, the difference of each example, where there are some. The variance of the mean
            over examples is then added to that over seeds, so the interval covers both the trainings and the choice of
            test images. (What the two have in common counts twice: the interval is rather too wide.) Few seeds and many
            examples know their variances unequally well: the degrees of freedom of the sum are Satterthwaite's (1946).
            Of fewer than `FEW` seeds they are those of the seeds: the variance of so few is often small by chance, and
            then hides behind that of the examples.

    Returns:
        Where nothing varies, nothing is known of how much it might: the interval is all of [-1, 1], and p is 1.
    """
    from scipy.stats import t

    values = np.asarray(differences, dtype=np.float64)
    count, mean, deviation = len(values), float(values.mean()), float(values.std(ddof=1))
    parts = [(deviation**2 / count, count - 1)]
    if examples is not None and examples.shape[1] > 1:
        parts.append((float(examples.mean(axis=0).var(ddof=1)) / examples.shape[1], examples.shape[1] - 1))
    variance = sum(part for part, _ in parts)
    if variance < NOTHING**2:
        return Estimate(mean, 1.0, count, replicates=np.repeat([-1.0, 1.0], count))
    error = math.sqrt(variance)
    degrees = float(count - 1)
    if count >= FEW:
        degrees = variance**2 / sum(part**2 / known for part, known in parts)
    p = float(2 * t.sf(abs(mean) / error, degrees))
    return Estimate(mean, p, count, mean / deviation if deviation > 0 else None, error, degrees)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in the order given (Holm 1979)."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    corrected, largest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        corrected[index] = largest
    return corrected


def correct(family: Sequence[tuple[Effect, Estimate]], confidence: float, comparisons: int = 0) -> list[Effect]:
    """Effects that are looked at together, with what holds for all of them at once.

    Args:
        family: The effects.
        confidence: Level of each interval; the corrected ones hold together at it.
        comparisons: How many there would be if no run had failed, where that is more.
    """
    count = max(1, comparisons, len(family))
    corrected = holm([estimate.p for _, estimate in family] + [1.0] * (count - len(family)))[: len(family)]
    level = 1 - (1 - confidence) / count
    done = []
    for (effect, estimate), p in zip(family, corrected, strict=True):
        low, high = estimate.interval(level)
        done.append(
            replace(effect, comparisons=count, corrected_low=low, corrected_high=high, p_holm=p)
        )  # fmt: skip
    return done


def effect_of(
    estimate: Estimate,
    confidence: float,
    *,
    quantity: str,
    case: str,
    variant: str | None = None,
    against: str | None = None,
    layer: str | None = None,
) -> tuple[Effect, Estimate]:
    """The effect that an estimate is of, not yet corrected."""
    low, high = estimate.interval(confidence)
    return Effect(
        quantity, case, variant, against, layer, estimate.runs, estimate.value, low, high, estimate.p, estimate.size
    ), estimate


@dataclass(frozen=True)
class Profile:
    """Two quantities of the same layers, in one run.

    Attributes:
        group: Runs whose layers correspond: those of one architecture.
        stratum: Runs that differ by their seed alone.
        first: `[layers]`, NaN where a row is left out.
        second: Likewise.
        given: What is held fixed, `[layers]`; `None`: nothing.
    """

    group: str
    stratum: str
    first: Floats
    second: Floats
    given: Floats | None = None

    def rho(self, layers: npt.NDArray[np.int64] | None = None) -> Floats:
        """Spearman's rho `[B]` of the drawn layers `[B, layers]`; `None`: `[1]`, of all."""
        tables = (self.first, self.second, *(() if self.given is None else (self.given,)))
        return spearman_rows(*(table[None] if layers is None else table[layers] for table in tables))


def spearman_rows(first: Floats, second: Floats, given: Floats | None = None) -> Floats:
    """Spearman's rho of each row of two tables `[B, layers]`, over the layers where both have a number.

    With `given` it is the partial correlation: of what is left of both ranks after a straight line in those of `given`.
    NaN where a row has fewer than three layers (four with `given`), or where nothing is left of one of the two.
    """
    known = np.isfinite(first) & np.isfinite(second)
    if given is not None:
        known &= np.isfinite(given)
    a, b = _ranks(first, known, given), _ranks(second, known, given)
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    rho = np.full(len(a), np.nan)
    enough = (known.sum(axis=1) >= (3 if given is None else 4)) & (spread > NOTHING)
    rho[enough] = (a * b).sum(axis=1)[enough] / spread[enough]
    return rho


NOTHING = 1e-9
"""What rounding leaves of ranks that follow another exactly."""


def _ranks(table: Floats, known: npt.NDArray[np.bool_], given: Floats | None = None) -> Floats:
    """Ranks of each row about their mean, less their regression on those of `given`; 0 where nothing is known."""
    from scipy.stats import rankdata

    rank = rankdata(np.where(known, table, np.inf), axis=1)  # those that are left out rank last
    counts = known.sum(axis=1, keepdims=True)
    centred: Floats = np.where(known, rank - np.where(known, rank, 0).sum(axis=1, keepdims=True) / counts.clip(1), 0.0)
    if given is not None:
        line = _ranks(given, known)
        square = (line**2).sum(axis=1, keepdims=True)
        slope = (centred * line).sum(axis=1, keepdims=True) / np.where(square > 0, square, 1.0)
        centred = centred - slope * line
    return centred


LEAST_LAYERS = 6
"""With as many, chance brings layers into one of the two perfect orders once in 360 times."""


def _permuted(profile: Profile, orders: npt.NDArray[np.int64]) -> Floats:
    """Spearman's rho `[B]` with the layers of `second` in other orders, among those where both have a number.

    Where something is held fixed, what is left of the ranks is what is reordered, and again cleared of it (Freedman and
    Lane 1983).
    """
    known = np.flatnonzero(np.isfinite(profile.first) & np.isfinite(profile.second))
    chosen = orders[np.isin(orders, known)].reshape(len(orders), len(known))
    if profile.given is None:
        return spearman_rows(np.tile(profile.first[known], (len(orders), 1)), profile.second[chosen])
    there = np.isin(np.arange(len(profile.first)), known)[None]
    a, b = (_ranks(table[None], there, profile.given[None])[0] for table in (profile.first, profile.second))
    line = _ranks(profile.given[None], there)[0][known]
    square = float((line**2).sum())
    moved = b[chosen] - (b[chosen] @ line / (square or 1.0))[:, None] * line
    spread = np.sqrt((a[known] ** 2).sum() * (moved**2).sum(axis=1))
    rho = np.full(len(orders), np.nan)
    np.divide(moved @ a[known], spread, out=rho, where=spread > NOTHING)
    return rho


def rank_correlation(profiles: Sequence[Profile], replicates: int, *, seed: int, promised: int = 0) -> Estimate | None:
    """Spearman's rho within each run, averaged over runs, with a bootstrap interval and a permutation p-value.

    Ranks are compared within a run, never between networks. The layers of an architecture are drawn, or permuted, for
    all of its runs at once: more seeds of one network are no further layers. Seeds are drawn within each stratum.

    Args:
        profiles: One per run, at least one.
        replicates: Of the bootstrap, and of the permutations.
        seed: Of both.
        promised: How many runs there were to be.

    Returns:
        `None` where no run has three layers that can be compared. The interval is all of [-1, 1] where one has fewer
        than `LEAST_LAYERS`: of few layers every draw of a perfect order is one again, though chance makes such orders.
        So it is where fewer runs can be compared than were promised: the seeds that are left vary less than all do.
    """
    random = np.random.default_rng(seed)
    found_in = [(one, one.rho()[0]) for one in profiles]
    profiles = [one for one, rho in found_in if np.isfinite(rho)]
    if not profiles:
        return None
    value = float(np.mean([rho for _, rho in found_in if np.isfinite(rho)]))
    sizes = {one.group: len(one.first) for one in profiles}
    # [B, layers] of each architecture: drawn with replacement, and permuted
    drawn = {group: random.integers(size, size=(replicates, size)) for group, size in sizes.items()}
    permuted = {
        group: np.argsort(random.random((replicates, size)), axis=1, kind="stable") for group, size in sizes.items()
    }
    boot = np.stack([one.rho(drawn[one.group]) for one in profiles])
    null = np.stack([_permuted(one, permuted[one.group]) for one in profiles])
    weights = np.zeros((len(profiles), replicates))
    for stratum in sorted({one.stratum for one in profiles}):
        members = [index for index, one in enumerate(profiles) if one.stratum == stratum]
        chosen = random.integers(len(members), size=(len(members), replicates))
        for row in chosen:
            np.add.at(weights, (np.asarray(members)[row], np.arange(replicates)), 1)
    weights = weights * np.isfinite(boot)
    total = weights.sum(axis=0)
    means = (weights * np.nan_to_num(boot)).sum(axis=0)[total > 0] / total[total > 0]
    found = np.isfinite(null)
    chance = np.nan_to_num(null).sum(axis=0) / found.sum(axis=0).clip(1)
    p = float((1 + (np.abs(chance) >= abs(value) - 1e-12).sum()) / (1 + replicates))
    # Layers drawn twice tie, which moves the replicates; their mean is brought back to the estimate.
    fewest = min(int((np.isfinite(one.first) & np.isfinite(one.second)).sum()) for one in profiles)
    told = len(means) and fewest >= LEAST_LAYERS and len(profiles) >= promised
    centred = np.clip(means - means.mean() + value, -1, 1) if told else np.repeat([-1.0, 1.0], replicates)
    return Estimate(value, p, len(profiles), replicates=centred)
