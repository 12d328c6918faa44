"""How faithful the maps of other explainers are, what random weights leave of them, and what they cost.

On the pretrained LeNet, MNIST, natural images for their true class and attacked ones for the class that is shown.
`python -m benchmarks.explainers` needs MNIST and the extra `captum`.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interpretgan as ig
from interpretgan.baselines.explainer_checks import Fidelity, fidelity, randomisation
from interpretgan.baselines.explainers import EXPLAINERS, ExplainerError
from interpretgan.baselines.patterns import pattern_explainers
from interpretgan.statistics import Floats, mean_interval
from interpretgan.store.files import write_json
from interpretgan.store.machine import fastest
from interpretgan.store.provenance import package_version, provenance

RESULT = Path("results/benchmarks/explainers.json")
IMAGES, BROKEN = 100, 20  #: Images, and those of them that are explained with random weights.
LAYER = "pool2"  #: The last with maps, for Grad-CAM.


def mean(values: Floats) -> dict[str, float]:
    """The mean over images with its bootstrap interval."""
    found = mean_interval(values, 0.95, replicates=2000, seed=0)
    return {name: getattr(found, name) for name in ("value", "low", "high")}


def defined(values: Floats) -> dict[str, float]:
    """The mean over images with a defined value, and how many have none."""
    known = values[np.isfinite(values)]
    return (mean(known) if len(known) else {}) | {"undefined": len(values) - len(known)}


def gains(found: Fidelity) -> dict[str, dict[str, float]]:
    """By how much a map beats a random order of pixels; above zero is better."""
    return {
        "deletion": mean(found.deletion_random - found.deletion),
        "insertion": mean(found.insertion - found.insertion_random),
    }


def main(count: int = IMAGES, result: Path = RESULT) -> None:
    """Measure, print, and write the record."""
    classifier = ig.load_classifier("lenet5-max")
    images, labels = ig.load_data("mnist", "test").batch(range(count))
    adversarial = ig.attack(classifier, images, labels, ig.ThreatModel("linf", 0.2), seed=0)
    shown = classifier.logits(adversarial).argmax(dim=1)
    layer = next(layer for layer in ig.find_layers(classifier, images) if layer.name == LAYER)
    methods: dict[str, Any] = {}
    for explainer in (*EXPLAINERS, *pattern_explainers(ig.load_data("mnist", "train"))):
        if explainer.kind != "map":
            continue
        try:
            natural = explainer.explain(classifier, layer, images, labels)
            attacked = explainer.explain(classifier, layer, adversarial, shown)
        except ExplainerError as error:
            methods[explainer.name] = {"refused": str(error)}
            print(explainer.name, error)
            continue
        work = partial(explainer.explain, classifier, layer, images, labels)
        few = slice(0, min(BROKEN, count))
        broken = randomisation(explainer, classifier, layer, images[few], labels[few], seed=0)
        methods[explainer.name] = {
            "seconds_per_image": fastest(work, repeats=3) / count,
            "natural": gains(fidelity(classifier, natural, images, labels, seed=0)),
            "attacked": gains(fidelity(classifier, attacked, adversarial, shown, seed=0)),
            "random_weights": {step.module: defined(np.array(step.similarity)) for step in broken},
        }
        print(explainer.name, methods[explainer.name], flush=True)
    where = provenance(0) | {"captum": package_version("captum")}
    record = {"command": "python -m benchmarks.explainers", "images": count, "methods": methods, "provenance": where}
    write_json(result, record)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    main(given.images, given.result)
