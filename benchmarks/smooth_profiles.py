"""How often chance passes for a rank correlation of two profiles that are smooth along a network.

The profiles have nothing to do with each other (`errs`: how often p is below 0.05), or one is partly the other
(`finds`, and `holds`: how often the interval has the mean estimate). `before` is the rule of 0.1, which permutes the
layers.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from interpretgan.statistics import Estimate, Floats, Profile, rank_correlation
from interpretgan.store.files import write_json
from interpretgan.store.provenance import provenance

LEVEL, REPLICATES, ALIKE = 0.05, 499, 0.8
LAYERS = (6, 8, 11, 16, 24)
RESULT = Path("results/benchmarks/smooth_profiles.json")


def profiles(random: np.random.Generator, kind: str, layers: int, count: int) -> Floats:
    """Profiles `[count, layers]`, the smoother the later in `KINDS`."""
    noise = random.standard_normal((count, layers + 4))
    if kind == "independent":
        return noise[:, :layers]
    if kind == "autoregressive":
        found = noise[:, :layers].copy()
        for layer in range(1, layers):
            found[:, layer] = 0.8 * found[:, layer - 1] + 0.6 * noise[:, layer]
        return found
    if kind == "mean of five":
        return np.stack([noise[:, layer : layer + 5].sum(axis=1) for layer in range(layers)], axis=1)
    peak, width = random.uniform(0, layers, (count, 1)), layers / 6
    bumps = np.exp(-((np.arange(layers) - peak) ** 2) / (2 * width**2)) + 0.05 * noise[:, :layers]
    centred = bumps - bumps.mean(axis=1, keepdims=True)
    scaled: Floats = centred / centred.std(axis=1, keepdims=True)
    return scaled


KINDS = ("independent", "autoregressive", "mean of five", "one peak")


def permutation_p(first: Floats, second: Floats, random: np.random.Generator) -> float:
    """The p-value of 0.1: what is left of ranks after a line in depth, with the layers of one permuted."""
    line = np.arange(len(first)) - (len(first) - 1) / 2

    def left(ranks: Floats) -> Floats:
        centred = ranks - ranks.mean(axis=-1, keepdims=True)
        cleared: Floats = centred - (centred @ line)[..., None] * line / (line @ line)
        return cleared

    one, other = left(rankdata(first)), left(rankdata(second))
    moved = left(random.permuted(np.tile(other, (REPLICATES, 1)), axis=1))
    if np.linalg.norm(other) < 1e-9:  # the ranks are those of depth
        return 1.0
    rho = abs(one @ other) / np.linalg.norm(other)
    chance = np.abs(moved @ one) / np.linalg.norm(moved, axis=1).clip(1e-9)
    return float((1 + (chance >= rho - 1e-12).sum()) / (1 + REPLICATES))


def measure(kind: str, layers: int, trials: int) -> dict[str, Any]:
    """The rates of one setting."""
    random = np.random.default_rng([KINDS.index(kind), layers])
    depth = np.arange(float(layers))

    def found(first: Floats, second: Floats) -> list[Estimate]:
        pairs = zip(first, second, strict=True)
        estimates = [rank_correlation([Profile("", "", *pair, depth)], REPLICATES, seed=0) for pair in pairs]
        return [estimate for estimate in estimates if estimate is not None]

    first, second = (profiles(random, kind, layers, trials) for _ in range(2))
    alone, alike = found(first, second), found(first, ALIKE * first + (1 - ALIKE**2) ** 0.5 * second)
    mean, spans = np.mean([one.value for one in alike]), [one.interval(1 - LEVEL) for one in alike]
    rates: dict[str, list[bool]] = {
        "errs": [one.p < LEVEL for one in alone],
        "finds": [one.p < LEVEL for one in alike],
        "holds": [bool(span.low <= mean <= span.high) for span in spans],
        "before_errs": [permutation_p(*pair, random) < LEVEL for pair in zip(first, second, strict=True)],
    }
    return {"kind": kind, "layers": layers, **{name: float(np.mean(each)) for name, each in rates.items()}}


def main() -> None:
    """Measure every setting, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULT)
    options, began = parser.parse_args(), time.monotonic()
    rows = [measure(kind, layers, options.trials) for kind, layers in itertools.product(KINDS, LAYERS)]
    record = {"benchmark": "smooth_profiles", "level": LEVEL, "alike": ALIKE, "trials": options.trials, "rows": rows,
              "seconds": time.monotonic() - began, **provenance(0)}  # fmt: skip
    write_json(options.out, record)


if __name__ == "__main__":
    main()
