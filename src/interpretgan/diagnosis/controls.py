"""The controls of a diagnosis: perturbations that aim at nothing, latents of another class, and no perturbation."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks.noise import scrambled
from interpretgan.classifier import Classifier
from interpretgan.diagnosis.predictions import Control, Predictions
from interpretgan.diagnosis.vulnerability import accuracy, survival, vulnerability
from interpretgan.statistics import Floats, Integers

CONTROLS = ("noise", "smooth", "foreign")  #: Names of the perturbations that a diagnosis must not mistake for attacks.


def perturbing_controls(classifier: Classifier, *, seed: int) -> dict[str, Control]:
    """What perturbs each image as much as the attack does, and aims at nothing, by the names in `CONTROLS`.

    `noise` deals the sizes of the adversarial perturbation to other pixels by chance, `smooth` so that neighbours move
    alike (`scrambled`); `foreign` adds the adversarial perturbation of another image, the attack's own spectrum.
    """

    def noise(smooth: bool) -> Control:
        return lambda images, adversarial, first: scrambled(
            images, adversarial - images, classifier.bounds, seed=seed, first_index=first, smooth=smooth
        )

    def foreign(images: Tensor, adversarial: Tensor, _first: int) -> Tensor:
        if len(images) == 1:  # there is no other image
            return images
        partners = torch.arange(len(images), device=images.device) ^ 1
        # The last of an odd number of images takes that of the one before it.
        partners = torch.where(partners < len(images), partners, (partners - 2).clamp_min(0))
        return (images + (adversarial - images)[partners]).clamp(*classifier.bounds)

    return {"noise": noise(False), "smooth": noise(True), "foreign": foreign}


def positive_control(predictions: Sequence[Predictions]) -> Floats:
    """The share of the loss that lands on layer `k`, where from `k` on the latent is that of an image of another class.

    All of it must: 1 at every layer, `[L]`. Row `l >= k` then shows `J(x̂_l)` of the other image, so what survives is
    `P(J(x̂_l) = y) / P(J(x̂_l natural) = y)`, and 1 before. What is lost is measured at the last layer, so that its own
    share is always 1; where that layer does not follow its latents, others have more. It is 0 where nothing is lost at
    all, as where all explanations are one picture, and NaN where all images are of one class.
    """
    shares = []
    for of_generator in predictions:
        labels, natural = of_generator.labels, of_generator.natural[1:]
        partners = _of_another_class(labels)
        if partners is None:
            return np.full(len(natural), np.nan)
        kept = survival((natural == labels).mean(axis=1)[None], (natural[:, partners] == labels).mean(axis=1)[None])[0]
        lost = 1 - kept[-1]
        shares.append((1 - kept) / lost if lost > 0 else np.zeros_like(kept))
    share: Floats = np.mean(shares, axis=0)
    return share


def _of_another_class(labels: Integers) -> Integers | None:
    """For each image the next one, in a circle, that has another class; `None` where there is none."""
    if len(np.unique(labels)) < 2:
        return None
    places = np.arange(len(labels))
    partners = (places + 1) % len(labels)
    while (same := labels[partners] == labels).any():
        partners = np.where(same, (partners + 1) % len(labels), partners)
    return partners


def zero_eps_control(predictions: Predictions) -> float:
    """The largest `|V_l|` when nothing is perturbed, which is exactly 0 where the measurement repeats itself.

    It is a check of the measurement alone, on the images that were predicted twice: a judge, generator or model whose
    answers change from pass to pass fails it.
    """
    count = predictions.again.shape[1]
    labels, once = predictions.labels[:count], predictions.natural[:, :count]
    return float(np.abs(profile(Predictions(labels, once, predictions.again, {}, {}))).max())


def agreement(predictions: Sequence[Predictions]) -> dict[str, float]:
    """How well generators of different seeds agree; empty for a single one.

    `seeds_spearman` is the lowest rank correlation of two profiles, `seeds_same_top` 1 if all blame one layer most. The
    correlation is missing where no two profiles vary: those of one layer, or of an attack that takes nothing.
    """
    if len(predictions) < 2:
        return {}
    from scipy.stats import spearmanr

    profiles = [profile(of_generator) for of_generator in predictions]
    varied = [profile for profile in profiles if np.ptp(profile) > 0]  # else there are no ranks to compare
    correlations = [float(spearmanr(a, b).statistic) for a, b in itertools.combinations(varied, 2)]
    lowest = {"seeds_spearman": min(correlations)} if correlations else {}
    return {**lowest, "seeds_same_top": float(len({int(p.argmax()) for p in profiles}) == 1)}


def profile(predictions: Predictions) -> Floats:
    """The vulnerabilities of the layers, `[L]`, without intervals."""
    ones = np.ones((1, len(predictions.labels)), dtype=np.float32)
    natural = accuracy(predictions.natural == predictions.labels, ones)
    adversarial = accuracy(predictions.adversarial == predictions.labels, ones)
    found: Floats = vulnerability(survival(natural, adversarial))[0, 1:]
    return found
