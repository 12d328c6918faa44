"""What the judge reads at every layer, in natural, adversarial and noisy images: the raw data of a diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, attack, equal_norm_noise
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource
from interpretgan.interpreter import InterpretGAN, Predictor, predict_all

Classes = npt.NDArray[np.int64]

BATCH = 250
"""Images that are read at a time, where they are small."""
PIXELS = 2**25
"""Pixels, of all explanations of a batch, that are in memory at a time."""

Perturb = Callable[[Tensor, Tensor, int], Tensor]
"""Called as `perturb(images, labels, index of the first image)`; returns perturbed images."""


@dataclass(frozen=True)
class Predictions:
    """Classes read in `N` images, row 0 in the image itself and row `l` in the explanation of layer `l`.

    Attributes:
        labels: True classes `[N]`.
        natural: What the judge reads of natural images, `[L + 1, N]`.
        adversarial: Of adversarial images.
        noise: Of images with random noise of the same size.
        model: What the classifier itself predicts of the three, `[3, N]`.
    """

    labels: Classes
    natural: Classes
    adversarial: Classes
    noise: Classes
    model: Classes


def attacker(classifier: Classifier, threat_model: ThreatModel, *, seed: int) -> Perturb:
    """Attack each batch with a seed of its own, so that it does not depend on the batches before."""
    return lambda images, labels, first: attack(classifier, images, labels, threat_model, seed=seed + first)


def noise_control(classifier: Classifier, threat_model: ThreatModel, *, seed: int) -> Perturb:
    """Random noise of the size that the threat model allows."""

    def perturb(images: Tensor, _labels: Tensor, first: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + first)
        return equal_norm_noise(images, threat_model, classifier.bounds, generator=generator)

    return perturb


def collect(
    interpreters: Sequence[InterpretGAN],
    judge: Predictor,
    images: ImageSource,
    count: int,
    *,
    adversarial: Perturb,
    noise: Perturb,
    seed: int,
    on_batch: Callable[[int], None] | None = None,
) -> list[Predictions]:
    """Read the first `count` images at every layer, a batch at a time.

    Each image is attacked once, for all interpreters. Its explanations, natural and perturbed, are drawn with the same
    noise `n`, each interpreter having noise of its own.

    Args:
        interpreters: Trained on one classifier.
        judge: Reads classes.
        images: Natural images with their true labels.
        count: How many to read.
        adversarial: Makes `x'`.
        noise: Makes `u`.
        seed: Of the generators' noise.
        on_batch: Told how many images are done.

    Returns:
        The predictions of each interpreter.
    """
    classifier = interpreters[0].classifier
    size = batch_size(images, len(interpreters[0].layers))
    random = [torch.Generator().manual_seed(seed + number) for number in range(len(interpreters))]
    labels: list[Tensor] = []
    model: list[Tensor] = []
    read: list[tuple[list[Tensor], list[Tensor], list[Tensor]]] = [([], [], []) for _ in interpreters]
    for first in range(0, count, size):
        x, y = images.batch(torch.arange(first, min(first + size, count)))
        x = classifier.check_images(x)
        y = classifier.check_labels(y, x)
        versions = (x, adversarial(x, y, first), noise(x, y, first))
        labels.append(y)
        with classifier.borrowed(), torch.no_grad():
            model.append(torch.stack([classifier.run(version).argmax(dim=1) for version in versions]))
        for interpreter, generator, batches in zip(interpreters, random, read, strict=True):
            n = interpreter.noise(len(x), generator=generator)
            for rows, version in zip(batches, versions, strict=True):
                rows.append(predict_all(judge, version, interpreter.draw(version, n)))
        if on_batch is not None:
            on_batch(first + len(x))
    true, predicted = _array(labels), _array(model)
    return [Predictions(true, _array(x), _array(x_adversarial), _array(u), predicted) for x, x_adversarial, u in read]


def batch_size(images: ImageSource, layers: int) -> int:
    """As many images as leave their explanations at all layers below `PIXELS`."""
    pixels = images.batch(torch.tensor([0]))[0].numel()
    return max(1, min(BATCH, PIXELS // (pixels * layers)))


def _array(batches: list[Tensor]) -> Classes:
    return torch.cat(batches, dim=-1).cpu().numpy().astype(np.int64)
