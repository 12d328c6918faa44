"""Intervals of every figure: the bootstrap over images and generators, and Wilson's for a share."""

from __future__ import annotations

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
