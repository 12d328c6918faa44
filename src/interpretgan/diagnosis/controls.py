"""The controls of a diagnosis: no perturbation at all, random noise of the same size, and generators of other seeds."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, equal_norm_noise
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource
from interpretgan.diagnosis.predictions import Perturb, Predictions, collect
from interpretgan.diagnosis.vulnerability import accuracy, survival, vulnerability
from interpretgan.interpreter import InterpretGAN, Predictor
from interpretgan.statistics import Floats


def noise_control(classifier: Classifier, threat_model: ThreatModel, *, seed: int) -> Perturb:
    """Random noise of the size that the threat model allows, each batch with a seed of its own."""
    return lambda images, _labels, first: equal_norm_noise(
        images, threat_model, classifier.bounds, generator=torch.Generator().manual_seed(seed + first)
    )


def zero_eps_control(
    interpreter: InterpretGAN, judge: Predictor, images: ImageSource, count: int, *, seed: int
) -> float:
    """The largest `|V_l|` when nothing is perturbed, which is exactly 0 where the measurement repeats itself.

    It is a check of the measurement alone: a judge, generator or model whose answers change from pass to pass fails it.
    """

    def unchanged(images: Tensor, _labels: Tensor, _first: int) -> Tensor:
        return images

    (predictions,) = collect([interpreter], judge, images, count, adversarial=unchanged, noise=unchanged, seed=seed)
    return float(np.abs(profile(predictions)).max())


def agreement(predictions: Sequence[Predictions]) -> dict[str, float]:
    """How well generators of different seeds agree; empty for a single one.

    `seeds_spearman` is the lowest rank correlation of two profiles, `seeds_same_top` 1 if all blame one layer most.
    """
    if len(predictions) < 2:
        return {}
    from scipy.stats import spearmanr

    profiles = [profile(of_generator) for of_generator in predictions]
    correlations = [float(spearmanr(a, b).statistic) for a, b in itertools.combinations(profiles, 2)]
    # A profile without any variation has no ranks to compare.
    lowest = min((value for value in correlations if np.isfinite(value)), default=0.0)
    return {"seeds_spearman": lowest, "seeds_same_top": float(len({int(p.argmax()) for p in profiles}) == 1)}


def profile(predictions: Predictions) -> Floats:
    """The vulnerabilities of the layers, `[L]`, without intervals."""
    ones = np.ones((1, len(predictions.labels)), dtype=np.float32)
    natural = accuracy(predictions.natural == predictions.labels, ones)
    adversarial = accuracy(predictions.adversarial == predictions.labels, ones)
    found: Floats = vulnerability(survival(natural, adversarial))[0, 1:]
    return found
