"""Intervals of every figure: of shares, of diagnoses, of paired differences and of rank correlations over layers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


FEW = 5
"""Generators or pairs of seeds below which their own variance says too little."""
NOTHING = 1e-9
"""A standard deviation or a spread of ranks below this is rounding alone."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    value: float
    low: float
    high: float
    spread: float | None = None  #: Standard deviation between generators, of which there are several.


def bootstrap_weights(examples: int, replicates: int, *, seed: int) -> Weights:
    """Weights `[1 + replicates, N]`: ones first, then resamples with replacement, whole numbers with exact sums.

    An example is drawn with all its predictions, so comparisons between layers and between generators stay paired.
    """
    random = np.random.default_rng(seed)
    weights = np.ones((1 + replicates, examples), dtype=np.float32)
    for row in weights[1:]:
        row[:] = random.multinomial(examples, np.full(examples, 1 / examples))
    return weights


def claim(generators: int) -> str:
    """What an interval of a diagnosis covers, by the number of its generators."""
    if generators >= FEW:
        return "the choice of images and the training of the generators"
    return f"the choice of images, for {'this generator' if generators == 1 else 'these generators'}"


def intervals(replicates: Floats, confidence: float) -> list[Interval]:
    """Intervals per column of `[1 + B, L + 1]`, or of the generators' `[S, 1 + B, L + 1]`, row 0 being the estimate.

    The estimate is the mean over generators. Below `FEW` of them the interval covers the choice of images alone, for
    these generators: percentiles of the bootstrap, moved so that their mean is the estimate, as resampling repeats
    examples, which shifts estimates of information (hardly those of accuracy). From `FEW` on it covers the training of
    the generators as well: Student's interval with Satterthwaite's degrees of freedom. Its variance is that of the mean
    over generators, and what all generators have in common as images are drawn: the mean covariance of two of them.
    """
    tables = replicates if replicates.ndim == 3 else replicates[None]
    count, estimate, resampled = len(tables), tables[:, 0], tables[:, 1:] if tables.shape[1] > 1 else tables
    means, value = resampled.mean(axis=0), estimate.mean(axis=0)
    spread = estimate.std(axis=0, ddof=1) if count > 1 else None
    if spread is None or count < FEW:
        moved = means - means.mean(axis=0) + value
        found = [_percentiles(float(v), column, confidence) for v, column in zip(value, moved.T, strict=True)]
    else:
        common = (count * means.var(axis=0) - resampled.var(axis=1).mean(axis=0)) / (count - 1)
        known = max(1, len(means) - 1)
        parts = zip(value, spread**2 / count, common.clip(0), strict=True)
        found = [_student(float(v), [(s, count - 1), (c, known)], count).interval(confidence) for v, s, c in parts]
    if spread is None:
        return found
    return [replace(interval, spread=float(of)) for interval, of in zip(found, spread, strict=True)]


def difference_intervals(first: Floats, other: Floats, confidence: float) -> list[Interval]:
    """By how much the columns of `[S, 1 + B, L + 1]` are higher than those of another, with other generators.

    The replicates are of the same images. From `FEW` generators of each on the interval covers their training: of the
    difference the variances of both means over generators are added to that over images, which counts twice what both
    have a part in. With fewer it covers the choice of images alone, for these generators; see `intervals`.
    """
    gap = other.mean(axis=0) - first.mean(axis=0)
    if min(len(first), len(other)) < FEW or len(gap) < 3:
        return intervals(gap, confidence)
    trained = [(table[:, 0].var(axis=0, ddof=1) / len(table), len(table) - 1) for table in (first, other)]
    trained.append((gap[1:].var(axis=0), len(gap) - 2))
    return [
        _student(float(value), [(float(part[place]), known) for part, known in trained], FEW).interval(confidence)
        for place, value in enumerate(gap[0])
    ]


def mean_interval(values: Floats, confidence: float, *, replicates: int, seed: int) -> Interval:
    """The mean of values `[N]`, with an interval that covers their choice: percentiles of a bootstrap."""
    weights = bootstrap_weights(len(values), replicates, seed=seed)
    return intervals((weights @ values / len(values))[:, None], confidence)[0]


def _percentiles(value: float, replicates: Floats, confidence: float) -> Interval:
    """An estimate between percentiles of its replicates; it is never outside."""
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(replicates, [tail, 100 - tail])
    return Interval(value, min(float(low), value), max(float(high), value))


def falls(figures: Floats) -> Floats:
    """By how much each figure is below the one before it along the last axis; 0 for the first."""
    return np.concatenate([figures[..., :1], figures[..., :-1]], axis=-1) - figures


def wilson(right: int, examples: int, confidence: float) -> Interval:
    """The share that is right of at least one example, with its interval at a level between 0 and 1 (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(right, examples).proportion_ci(confidence, method="wilson")
    share = right / examples
    return Interval(share, min(share, float(found.low)), max(share, float(found.high)))  # rounding at 0 and 1


# --- what studies compare ----------------------------------------------------------------------------------------

LEAST_LAYERS = 6
"""Of this many layers, chance makes one of the two perfect orders once in 360 times."""
ANYTHING = np.repeat([-1.0, 1.0], 2)
"""Replicates whose interval is all of [-1, 1] at every level that is used."""


@dataclass(frozen=True)
class Estimate:
    """An estimate that knows its interval at any level."""

    value: float
    p: float  #: Two-sided, of a value of zero.
    runs: int  #: How many runs, or pairs of runs, it rests on.
    size: float | None = None  #: Mean of differences over their standard deviation (Cohen's d). `None`: no deviation.
    error: float = 0.0  #: Standard error of Student's interval.
    degrees: float = 1.0  #: Degrees of freedom of Student's interval.
    replicates: Floats | None = None  #: Of a bootstrap `[B]`: their percentiles are the interval, not Student's.

    def interval(self, confidence: float) -> Interval:
        """The estimate with its interval at this level."""
        if self.replicates is not None:
            return _percentiles(self.value, self.replicates, confidence)
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
    values = np.asarray(differences, dtype=np.float64)
    count, mean, deviation = len(values), float(values.mean()), float(values.std(ddof=1))
    parts = [(deviation**2 / count, count - 1)]
    if examples is not None and examples.shape[1] > 1:
        parts.append((float(examples.mean(axis=0).var(ddof=1)) / examples.shape[1], examples.shape[1] - 1))
    if sum(part for part, _ in parts) < NOTHING**2:
        return Estimate(mean, 1.0, count, replicates=ANYTHING)
    return replace(_student(mean, parts, count), size=mean / deviation if deviation > 0 else None)


def _student(value: float, parts: Sequence[tuple[float, int]], runs: int) -> Estimate:
    """A mean over runs with the parts of its variance and their degrees of freedom, the part of the runs first.

    The degrees of the sum are Satterthwaite's (1946), of few runs their own. Where nothing varies, the interval is
    the value itself.
    """
    from scipy.stats import t

    variance, degrees = float(sum(part for part, _ in parts)), float(runs - 1)
    if variance < NOTHING**2:
        return Estimate(value, 1.0, runs)
    error = math.sqrt(variance)
    if runs >= FEW:
        degrees = variance**2 / float(sum(part**2 / known for part, known in parts))
    return Estimate(value, float(2 * t.sf(abs(value) / error, degrees)), runs, error=error, degrees=degrees)


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
    """Two quantities of the layers of one run, whose ranks are compared."""

    group: str  #: The same for runs whose layers correspond: those of one architecture.
    stratum: str  #: The same for runs that differ by their seed alone.
    first: Floats  #: `[layers]`, NaN where a layer is left out.
    second: Floats  #: Likewise.
    given: Floats | None = None  #: What is held fixed, `[layers]`. `None`: nothing.

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Where both have a number."""
        return np.isfinite(self.first) & np.isfinite(self.second)

    def rho(self) -> float:
        """Spearman's rho of all layers."""
        tables = [table[None] for table in (self.first, self.second, self.given) if table is not None]
        return float(spearman_rows(*tables)[0])

    def flipped(self, signs: Floats) -> Floats:
        """Spearman's rho `[B]` where the cosine waves that make up the ranks of `second` have signs `[B, layers]`.

        Waves run over the layers where both have a number, and what is left of their ranks where something is held
        fixed, of which the result is cleared again (Freedman and Lane 1983).
        """
        from scipy.fft import dct, idct

        known = self.known if self.given is None else self.known & np.isfinite(self.given)
        given = None if self.given is None else self.given[None, known]
        every = np.ones((1, int(known.sum())), dtype=np.bool_)
        first, second = (_ranks(table[None, known], every, given) for table in (self.first, self.second))
        waves = dct(second, norm="ortho", axis=1) * signs[:, : every.size]
        moved: Floats = idct(waves, norm="ortho", axis=1)
        return _correlation(first, moved if given is None else _cleared(moved, _ranks(given, every)))


def rank_correlation(profiles: Sequence[Profile], replicates: int, *, seed: int, promised: int = 0) -> Estimate | None:
    """Spearman's rho within each run, averaged over runs, with the interval and p-value of a null that stays smooth.

    What a layer loses resembles what its neighbours lose, and two smooth profiles that have nothing to do with each
    other often look alike: permutations of layers, which break neighbours apart, take that for evidence. So chance is
    here a profile of the same cosine waves along the network, each with a sign of its own (randomisation of signs, as
    of wavelets in Breakspear et al. 2003). A smooth profile has few waves, and little can be said of it. Of `n` layers
    no p-value is below `2^(2 - n)`.

    Ranks are compared within a run, never between networks. The signs are drawn for all runs of an architecture at
    once: more seeds of one network are no further layers. Seeds are drawn with replacement within each stratum.

    There is a profile for each run, of as many runs as were `promised`; the `replicates` are those of signs and seeds.

    Returns:
        `None` where no run has three layers that can be compared (four where something is held fixed). The interval has
        the width of chance, with that of the seeds, in Fisher's `z = artanh(rho)`. It is all of [-1, 1] where a run has
        fewer than `LEAST_LAYERS`, as chance makes perfect orders of few layers; and where fewer runs can be compared
        than were promised, as the seeds that are left vary less than all do.
    """
    random = np.random.default_rng(seed)
    rhos = [profile.rho() for profile in profiles]
    profiles = [profile for profile, rho in zip(profiles, rhos, strict=True) if np.isfinite(rho)]
    rho = np.array([rho for rho in rhos if np.isfinite(rho)])
    if not profiles:
        return None
    value = float(rho.mean())
    sizes = {profile.group: (replicates, len(profile.first)) for profile in profiles}
    signs = {group: random.choice([-1.0, 1.0], size=size) for group, size in sizes.items()}
    weights = np.zeros((len(profiles), replicates))
    for stratum in sorted({profile.stratum for profile in profiles}):
        members = np.flatnonzero([profile.stratum == stratum for profile in profiles])
        chosen = random.integers(len(members), size=(len(members), replicates))
        weights[members] = [(chosen == member).sum(axis=0) for member in range(len(members))]
    flipped = np.ma.masked_invalid([profile.flipped(signs[profile.group]) for profile in profiles])
    chance = flipped.mean(axis=0).filled(0)
    p = float((1 + (np.abs(chance) >= abs(value) - 1e-12).sum()) / (1 + replicates))
    fewest = min(profile.known.sum() for profile in profiles)
    if fewest < LEAST_LAYERS or len(profiles) < promised:
        return Estimate(value, p, len(profiles), replicates=ANYTHING)
    seeds = _fisher((rho[:, None] * weights).sum(axis=0) / weights.sum(axis=0)) - _fisher(value)
    # Chance that is perfect reaches any correlation.
    width = np.where(np.abs(chance) < 1 - NOTHING, _fisher(chance), np.inf)
    both = np.concatenate([width, -width]) + np.tile(seeds, 2)
    return Estimate(value, p, len(profiles), replicates=np.tanh(_fisher(value) + both))


def _fisher(rho: float | Floats) -> Floats:
    """Fisher's z of a correlation, finite at a perfect one."""
    return np.asarray(np.arctanh(np.clip(rho, NOTHING - 1, 1 - NOTHING)))
