"""How often the intervals of a diagnosis hold what they say: networks of chance, whose truth is known.

Each image has a difficulty of its own, which all rows and generators share; each generator has one at every layer, and
draws some images better than others. So rows are paired, and images and generators are random. The figures and their
intervals are the product's own. What an interval claims is its truth here: of these generators below five of them, of
all that could be trained from five on. `before` is the rule of 0.1, which drew images and generators with replacement
and claimed both.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from interpretgan.diagnosis.predictions import Predictions
from interpretgan.diagnosis.vulnerability import accuracy, layer_figures, survival, vulnerability
from interpretgan.statistics import FEW, Floats, Interval, Weights, bootstrap_weights, intervals
from interpretgan.store.files import write_json
from interpretgan.store.provenance import provenance

CLASSES, LAYERS, CONFIDENCE, REPLICATES = 10, 3, 0.95, 300
NATURAL, LEFT = 0.96, 0.9  #: Accuracy on natural images, and on the attacked image itself.
IMAGE, DRAWING = 0.6, 0.25  #: Shares of the variance of what decides: the image, and how a generator draws it.
LAST = "vulnerability"
FIGURES = ("natural", "adversarial", "survival", LAST, "share", "bits", "vulnerability_bits", "vulnerability_noise")
WHOLE = 200_000  #: Generators that stand for all.
RESULT = Path("results/benchmarks/coverage.json")
SETTINGS = (*itertools.product((0.0, 0.1, 0.4), (300, 1000), (0.2,)), (0.1, 1000, 0.05))
"""What is lost at one layer, examples, and standard deviation of generators (in those of what decides an image)."""
Truth = dict[str, Floats]


def rates(random: np.random.Generator, generators: int, effect: float, spread: float) -> Floats:
    """True accuracies `[natural, adversarial and noise, generators, image and layers]`; the second layer loses most."""
    kept = np.array([1.0, 0.95, 0.95 - effect, 0.95 - effect])
    centre = norm.ppf(np.stack([np.full(LAYERS + 1, NATURAL), LEFT * kept, np.full(LAYERS + 1, 0.95)]))
    moved = spread * random.standard_normal((3, generators, LAYERS + 1))
    moved[..., 0] = 0  # no generator draws the image
    moved[0] /= 3  # natural explanations differ less
    found: Floats = norm.cdf(centre[:, None] + moved)
    return found


def truth(of: Floats) -> Truth:
    """The true figures of generators, `[layers]`, on endless images."""
    natural, adversarial, noise = of
    kept = survival(natural, adversarial)
    lost, wrong = vulnerability(kept), 1 - adversarial
    entropy = -(wrong * np.log2(wrong) + adversarial * np.log2(adversarial)) + wrong * math.log2(CLASSES - 1)
    bits = math.log2(CLASSES) - entropy
    figures = {
        "natural": natural, "adversarial": adversarial, "survival": kept, LAST: lost, "bits": bits,
        "vulnerability_bits": vulnerability(bits), "vulnerability_noise": vulnerability(survival(natural, noise)),
    }  # fmt: skip
    means = {name: values.mean(axis=0)[1:] for name, values in figures.items()}
    return means | {"share": means[LAST] / lost.sum(axis=1).mean()}


def predictions(random: np.random.Generator, of: Floats, examples: int) -> list[Predictions]:
    """What a judge would predict of the explanations of these generators, for images that are drawn."""
    _, generators, rows = of.shape
    labels = random.integers(0, CLASSES, examples)
    image = math.sqrt(IMAGE) * random.standard_normal(examples)
    alone = math.sqrt(1 - IMAGE) * random.standard_normal((3, 1, examples))  # of the image's own row
    misread, found = (labels + random.integers(1, CLASSES, (3, examples))) % CLASSES, []
    for number in range(generators):
        drawing = math.sqrt(DRAWING) * random.standard_normal((1, 1, examples))
        rest = drawing + math.sqrt(1 - IMAGE - DRAWING) * random.standard_normal((3, rows - 1, examples))
        right = image + np.concatenate([alone, rest], axis=1) < norm.ppf(of[:, number])[..., None]
        others = (labels + random.integers(1, CLASSES, right.shape)) % CLASSES
        shown = np.where(right, labels, others)
        shown[:, 0] = np.where(right[:, 0], labels, misread)  # the same for all generators
        natural, adversarial, noise = shown
        model = dict(zip(("natural", "adversarial", "noise"), shown[:, 0], strict=True))
        found.append(Predictions(labels, natural, adversarial, {"noise": noise}, model))
    return found


@cache
def weights_now(examples: int) -> Weights:
    """The same resamples for every trial, which differ in their images: most of the time goes into these."""
    return bootstrap_weights(examples, REPLICATES, seed=0)


@cache
def weights_before(count: int, examples: int) -> Weights:
    """Resamples of generators and images, as 0.1 drew them: `[1 + B, S·N]`."""
    random = np.random.default_rng(0)
    weights = np.ones((1 + REPLICATES, count, examples), dtype=np.float32)
    for row in weights[1:]:
        drawn = random.multinomial(examples, np.full(examples, 1 / examples))
        row[:] = random.multinomial(count, np.full(count, 1 / count))[:, None] * drawn
    return weights.reshape(1 + REPLICATES, -1)


def now(found: Sequence[Predictions]) -> dict[str, list[Interval]]:
    """The intervals of the product, of each layer."""
    rows = layer_figures(found, weights_now(len(found[0].labels)), CONFIDENCE)[1:]
    return {name: [row["intervals"].get(name, row.get(name)) for row in rows] for name in FIGURES}


def before(found: Sequence[Predictions]) -> dict[str, list[Interval]]:
    """The intervals of 0.1, of the figures that follow from accuracies."""
    pooled, flat = Predictions.pooled(found), weights_before(len(found), len(found[0].labels))
    natural, adversarial, noise = (
        accuracy(shown == pooled.labels, flat)
        for shown in (pooled.natural, pooled.adversarial, pooled.controls["noise"])
    )
    kept = survival(natural, adversarial)
    tables = {"natural": natural, "adversarial": adversarial, "survival": kept, LAST: vulnerability(kept),
              "vulnerability_noise": vulnerability(survival(natural, noise))}  # fmt: skip
    return {name: intervals(table, CONFIDENCE)[1:] for name, table in tables.items()}


def coverage(
    rule: Callable[[Sequence[Predictions]], dict[str, list[Interval]]],
    *, generators: int, examples: int, effect: float, spread: float, trials: int, of_all: bool,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """How often the interval of each figure holds the truth, of all generators or of these, with its standard error."""
    random = np.random.default_rng([generators, examples, round(100 * effect), round(100 * spread)])
    whole = truth(rates(np.random.default_rng(0), WHOLE, effect, spread))
    held: dict[str, list[float]] = {}
    for _ in range(trials):
        of = rates(random, generators, effect, spread)
        true = whole if of_all else truth(of)
        for name, found in rule(predictions(random, of, examples)).items():
            # Of nothing there are no shares, and none is claimed.
            if name != "share" or any(one.value for one in found):
                inside = [one.low <= value <= one.high for one, value in zip(found, true[name], strict=True)]
                held.setdefault(name, []).append(float(np.mean(inside)))
    return {
        name: {"covered": float(np.mean(shares)), "error": float(np.std(shares) / math.sqrt(len(shares) - 1)),
               "trials": len(shares)}
        for name, shares in held.items() if len(shares) > trials / 2
    }  # fmt: skip


def main() -> None:
    """Measure every setting, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--out", type=Path, default=RESULT)
    options, began = parser.parse_args(), time.monotonic()
    rows: list[dict[str, Any]] = []
    for generators, (effect, examples, spread) in itertools.product(range(1, 6), SETTINGS):
        where: dict[str, Any] = {"generators": generators, "effect": effect, "examples": examples, "spread": spread}
        asked: dict[str, Any] = {**where, "trials": options.trials}
        held = {
            "now": coverage(now, **asked, of_all=generators >= FEW),
            "before": coverage(before, **asked, of_all=generators > 1),
        }
        rows.append(where | {"claims": "all" if generators >= FEW else "these"} | held)
        print(where, *(f"V covered {name} {found[LAST]['covered']:.3f}" for name, found in held.items()))
    record = {"benchmark": "coverage", "confidence": CONFIDENCE, "replicates": REPLICATES, "trials": options.trials,
              "layers": LAYERS, "rows": rows, "seconds": time.monotonic() - began, **provenance(0)}  # fmt: skip
    write_json(options.out, record)


if __name__ == "__main__":
    main()
