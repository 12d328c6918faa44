"""Other ways to say how vulnerable each layer is: class probes, and the relative error of activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.cuts import Cut, capture
from interpretgan.data import ImageSet
from interpretgan.readings import BATCH, Perturb

FEATURES = 512
"""Dimensions that a latent is projected to before it is probed: the same capacity at every cut."""
PROBED = 4000
"""Training images of a probe."""
RIDGE = 1e-2
"""Weight of the probe's penalty, relative to the mean variance of its features."""


class Probe:
    """A linear class probe of fixed capacity: random projection, standardisation, ridge regression on the classes.

    Args:
        latents: `[N, D]` of training images.
        labels: True classes `[N]`.
        classes: How many there are.
        seed: Of the projection.
    """

    def __init__(self, latents: Tensor, labels: Tensor, classes: int, *, seed: int) -> None:
        width = latents.shape[1]
        self._projection: Tensor | None = None
        if width > FEATURES:
            generator = torch.Generator().manual_seed(seed)
            self._projection = torch.randn(width, FEATURES, generator=generator) / width**0.5
        features = self._project(latents)
        self._mean, self._std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
        z = (features - self._mean) / self._std
        wanted = torch.nn.functional.one_hot(labels, classes).double()
        gram = z.T @ z + RIDGE * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
        self._offset = wanted.mean(dim=0)
        self._weights = torch.linalg.solve(gram, z.T @ (wanted - self._offset))

    def read(self, latents: Tensor) -> Tensor:
        """Classes `[N]` of latents `[N, D]`."""
        z = (self._project(latents) - self._mean) / self._std
        scores: Tensor = z @ self._weights + self._offset
        return scores.argmax(dim=1)

    def _project(self, latents: Tensor) -> Tensor:
        return (latents if self._projection is None else latents @ self._projection).double()


def other_definitions(
    classifier: Classifier,
    cuts: Sequence[Cut],
    train: ImageSet,
    test: ImageSet,
    count: int,
    *,
    adversarial: Perturb,
    seed: int,
) -> dict[str, list[float]]:
    """Vulnerability of each cut's layer by class probes, and the relative error of its activations.

    Args:
        classifier: The classifier.
        cuts: In execution order.
        train: Images that the probes are trained on, the first `PROBED`.
        test: Images that are attacked.
        count: How many of them.
        adversarial: The attack.
        seed: Of the projections.

    Returns:
        `vulnerability_probe`: `V_l` with the accuracy of a probe in place of that of the judge (1 where a probe is
        right on no natural image). `relative_error`: mean of `norm(z_l(x') - z_l(x)) / norm(z_l(x))`. A number per cut.

    Source: LSA, layer sustainability analysis, arXiv 2202.02626, for the relative error.
    """
    train, test = train.scaled(classifier.bounds), test.scaled(classifier.bounds)
    images, labels = train.batch(slice(0, PROBED))
    latents = _latents(classifier, cuts, images)
    probes = [Probe(z, labels, len(train.classes), seed=seed) for z in latents]
    right = torch.zeros(2, len(probes), dtype=torch.float64)
    error = torch.zeros(len(cuts), dtype=torch.float64)
    for first in range(0, count, BATCH):
        x, y = test.batch(slice(first, min(first + BATCH, count)))
        changed = adversarial(x.to(classifier.device), y.to(classifier.device), first).cpu()
        pair = _latents(classifier, cuts, x), _latents(classifier, cuts, changed)
        for row, found in enumerate(pair):
            right[row] += torch.stack([(probe.read(z) == y).sum() for probe, z in zip(probes, found, strict=True)])
        error += torch.stack(
            [
                ((b - a).norm(dim=1) / a.norm(dim=1).clamp_min(1e-12)).double().sum()
                for a, b in zip(pair[0][1:], pair[1][1:], strict=True)
            ]
        )
    survival = torch.where(right[0] > 0, right[1] / right[0].clamp_min(1), torch.ones_like(right[0]))
    return {
        "vulnerability_probe": (survival[:-1] - survival[1:]).tolist(),
        "relative_error": (error / count).tolist(),
    }


def _latents(classifier: Classifier, cuts: Sequence[Cut], images: Tensor) -> list[Tensor]:
    """`[N, D]` of the images themselves, then of each cut, on the CPU."""
    batches = []
    for first in range(0, len(images), BATCH):
        x = images[first : first + BATCH].to(classifier.device)
        _, found = capture(classifier, x, cuts)
        batches.append([z.flatten(1).float().cpu() for z in (x, *(found[cut.name] for cut in cuts))])
    return [torch.cat(rows) for rows in zip(*batches, strict=True)]
