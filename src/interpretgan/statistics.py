"""Intervals of every figure: of shares, of diagnoses, of paired differences and of rank correlations over layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap_weights(generators: int, examples: int, replicates: int, *, seed: int) -> Weights:
    """Weights `[1 + replicates, S·N]`: ones first, then resamples with replacement.

    Small whole numbers in single precision, whose sums are exact.

    An example is drawn with all its predictions, so comparisons between layers stay paired; generators are drawn too
    where there are several, so the interval covers their training.
    """
    random = np.random.default_rng(seed)
    weights = np.ones((1 + replicates, generators, examples), dtype=np.float32)
    for row in weights[1:]:
        drawn = random.multinomial(examples, np.full(examples, 1 / examples))
        seeds = random.multinomial(generators, np.full(generators, 1 / generators))
        np.multiply(seeds[:, None], drawn, out=row, casting="unsafe")
    return weights.reshape(1 + replicates, -1)


def intervals(replicates: Floats, confidence: float) -> list[Interval]:
    """Percentile intervals per column of `[1 + B, L + 1]`, row 0 being the estimate.

    The replicates are moved so that their mean is the estimate: resampling repeats examples, which shifts estimates of
    information (hardly those of accuracy).
    """
    estimate, resampled = replicates[0], replicates[1:]
    if not len(resampled):
        return [Interval(float(v), float(v), float(v)) for v in estimate]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(resampled - resampled.mean(axis=0) + estimate, [tail, 100 - tail], axis=0)
    return [Interval(float(v), float(min(a, v)), float(max(b, v))) for v, a, b in zip(estimate, low, high, strict=True)]


def falls(figures: Floats) -> Floats:
    """By how much each figure is below the one before it along the last axis; 0 for the first."""
    return np.concatenate([figures[..., :1], figures[..., :-1]], axis=-1) - figures


def wilson(right: int, examples: int, confidence: float) -> Interval:
    """A share of examples with its Wilson interval.

    Args:
        right: How many.
        examples: Of how many, at least 1.
        confidence: Of the interval, between 0 and 1.

    Source: Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    from scipy.stats import binomtest

    found = binomtest(right, examples).proportion_ci(confidence, method="wilson")
    share = right / examples
    return Interval(share, min(share, float(found.low)), max(share, float(found.high)))  # rounding at 0 and 1


# --- what studies compare ----------------------------------------------------------------------------------------

FEW = 5
"""Pairs of seeds below which only their own degrees of freedom count."""
LEAST_LAYERS = 6
"""Of this many layers, chance makes one of the two perfect orders once in 360 times."""
NOTHING = 1e-9
"""A standard deviation or a spread of ranks below this is rounding alone."""
ANYTHING = np.repeat([-1.0, 1.0], 2)
"""Replicates whose interval is all of [-1, 1] at every level that is used."""


@dataclass(frozen=True)
class Estimate:
    """An estimate that knows its interval at any level.

    Attributes:
        value: The estimate.
        p: Two-sided p-value of a value of zero.
        runs: How many runs, or pairs of runs, it rests on.
        size: Mean difference over the standard deviation of the differences (Cohen's d of pairs). `None`: no deviation.
        error: Standard error of Student's interval.
        degrees: Degrees of freedom of Student's interval.
        replicates: Of a bootstrap `[B]`, whose percentiles are the interval in place of Student's.
    """

    value: float
    p: float
    runs: int
    size: float | None = None
    error: float = 0.0
    degrees: float = 1.0
    replicates: Floats | None = None

    def interval(self, confidence: float) -> Interval:
        """The estimate with its interval at this level."""
        if self.replicates is not None:
            tail = 100 * (1 - confidence) / 2
            low, high = np.percentile(self.replicates, [tail, 100 - tail])
            return Interval(self.value, min(float(low), self.value), max(float(high), self.value))
        from scipy.stats import t

        half = float(t.ppf(0.5 + confidence / 2, self.degrees)) * self.error
        return Interval(self.value, self.value - half, self.value + half)


def paired(differences: npt.ArrayLike, examples: npt.NDArray[np.int8] | None = None) -> Estimate:
    """The mean of paired differences over seeds, with Student's interval: five pairs are too few for a bootstrap.

    Args:
        differences: One per seed, at least two.
        examples: `[seeds, examples]`, the difference of each example. The variance of the mean over examples is then
            added to that over seeds, so that the interval covers both the trainings and the choice of test images.
            What the two have in common counts twice: the interval is rather too wide. The degrees of freedom of the
            sum are Satterthwaite's (1946); with fewer than `FEW` seeds they are those of the seeds, whose variance is
            often small by chance and would hide behind that of the examples.

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
        return Estimate(mean, 1.0, count, replicates=ANYTHING)
    error, degrees = math.sqrt(variance), float(count - 1)
    if count >= FEW:
        degrees = variance**2 / sum(part**2 / known for part, known in parts)
    p = float(2 * t.sf(abs(mean) / error, degrees))
    return Estimate(mean, p, count, mean / deviation if deviation > 0 else None, error, degrees)


def holm(values: npt.ArrayLike) -> Floats:
    """p-values corrected for their number, in the order given (Holm 1979)."""
    p = np.asarray(values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(np.minimum(1.0, np.arange(len(p), 0, -1) * p[order]))
    return corrected


def spearman_rows(first: Floats, second: Floats, given: Floats | None = None) -> Floats:
    """Spearman's rho of each row of two tables `[B, layers]`, over the layers where both have a number.

    With `given` it is the partial correlation: of what is left of both ranks after a straight line in those of `given`.
    NaN where a row has fewer than three layers (four with `given`), or where nothing is left of one of the two.
    """
    known = np.isfinite(first) & np.isfinite(second) & (True if given is None else np.isfinite(given))
    a, b = _ranks(first, known, given), _ranks(second, known, given)
    return np.where(known.sum(axis=1) >= (3 if given is None else 4), _correlation(a, b), np.nan)


def _ranks(table: Floats, known: npt.NDArray[np.bool_], given: Floats | None = None) -> Floats:
    """Ranks of each row about their mean, less their regression on those of `given`; 0 where nothing is known."""
    from scipy.stats import rankdata

    rank = rankdata(np.where(known, table, np.inf), axis=1)  # those that are left out rank last
    mean = np.where(known, rank, 0).sum(axis=1, keepdims=True) / known.sum(axis=1, keepdims=True).clip(1)
    centred: Floats = np.where(known, rank - mean, 0.0)
    return centred if given is None else _cleared(centred, _ranks(given, known))


def _cleared(ranks: Floats, line: Floats) -> Floats:
    """What is left of each row after its regression on the row of `line`."""
    square = (line**2).sum(axis=-1, keepdims=True)
    slope = (ranks * line).sum(axis=-1, keepdims=True) / np.where(square > 0, square, 1.0)
    return np.asarray(ranks - slope * line)


def _correlation(a: Floats, b: Floats) -> Floats:
    """Correlation of each row of two tables of centred ranks; NaN where one of them does not vary."""
    spread = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    rho = np.full(spread.shape, np.nan)
    np.divide((a * b).sum(axis=-1), spread, out=rho, where=spread > NOTHING)
    return rho


@dataclass(frozen=True)
class Profile:
    """Two quantities of the layers of one run, whose ranks are compared.

    Attributes:
        group: Runs whose layers correspond: those of one architecture.
        stratum: Runs that differ by their seed alone.
        first: `[layers]`, NaN where a layer is left out.
        second: Likewise.
        given: What is held fixed, `[layers]`. `None`: nothing.
    """

    group: str
    stratum: str
    first: Floats
    second: Floats
    given: Floats | None = None

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where both have a number."""
        return np.isfinite(self.first) & np.isfinite(self.second)

    def rho(self, layers: Integers | None = None) -> Floats:
        """Spearman's rho `[B]` of the drawn layers `[B, layers]`. `None`: of all, `[1]`."""
        tables = (self.first, self.second, *(() if self.given is None else (self.given,)))
        return spearman_rows(*(table[None] if layers is None else table[layers] for table in tables))

    def permuted(self, orders: Integers) -> Floats:
        """Spearman's rho `[B]` with the layers of `second` in other orders, among those where both have a number.

        Where something is held fixed, what is left of the ranks is reordered, and cleared of it again (Freedman and
        Lane 1983).
        """
        known = np.flatnonzero(self.known)
        chosen = orders[np.isin(orders, known)].reshape(len(orders), len(known))
        first, second = (_ranks(x[None], self.known[None], None if self.given is None else self.given[None])[0]
                         for x in (self.first, self.second))  # fmt: skip
        moved = second[chosen]
        if self.given is not None:
            moved = _cleared(moved, _ranks(self.given[None], self.known[None])[:, known])
        return _correlation(first[known][None], moved)


def rank_correlation(profiles: Sequence[Profile], replicates: int, *, seed: int, promised: int = 0) -> Estimate | None:
    """Spearman's rho within each run, averaged over runs, with a bootstrap interval and a permutation p-value.

    Ranks are compared within a run, never between networks. The layers of an architecture are drawn, or permuted, for
    all of its runs at once: more seeds of one network are no further layers. Seeds are drawn within each stratum.

    Args:
        profiles: One per run.
        replicates: Of the bootstrap, and of the permutations.
        seed: Of both.
        promised: How many runs there were to be.

    Returns:
        `None` where no run has three layers that can be compared. The interval is all of [-1, 1] where a run has fewer
        than `LEAST_LAYERS`, as chance makes perfect orders of few layers; and where fewer runs can be compared than
        were promised, as the seeds that are left vary less than all do.
    """
    random = np.random.default_rng(seed)
    rhos = [float(one.rho()[0]) for one in profiles]
    profiles = [one for one, rho in zip(profiles, rhos, strict=True) if np.isfinite(rho)]
    if not profiles:
        return None
    value = float(np.mean([rho for rho in rhos if np.isfinite(rho)]))
    sizes = {one.group: len(one.first) for one in profiles}
    drawn = {group: random.integers(size, size=(replicates, size)) for group, size in sizes.items()}
    orders = {
        group: np.argsort(random.random((replicates, size)), axis=1, kind="stable") for group, size in sizes.items()
    }
    weights = np.zeros((len(profiles), replicates))
    for stratum in sorted({one.stratum for one in profiles}):
        members = np.flatnonzero([one.stratum == stratum for one in profiles])
        chosen = random.integers(len(members), size=(len(members), replicates))
        weights[members] = [(chosen == member).sum(axis=0) for member in range(len(members))]
    boot = np.stack([one.rho(drawn[one.group]) for one in profiles])
    null = np.stack([one.permuted(orders[one.group]) for one in profiles])
    chance = np.nan_to_num(null).sum(axis=0) / np.isfinite(null).sum(axis=0).clip(1)
    p = float((1 + (np.abs(chance) >= abs(value) - 1e-12).sum()) / (1 + replicates))
    weights *= np.isfinite(boot)
    total = weights.sum(axis=0)
    means = (weights * np.nan_to_num(boot)).sum(axis=0)[total > 0] / total[total > 0]
    enough = min(one.known.sum() for one in profiles) >= LEAST_LAYERS and len(profiles) >= promised and len(means)
    # Layers drawn twice tie, which moves the replicates; their mean is brought back to the estimate.
    spread = np.clip(means - means.mean() + value, -1, 1) if enough else ANYTHING
    return Estimate(value, p, len(profiles), replicates=spread)
