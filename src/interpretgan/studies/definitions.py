"""Other ways to say how vulnerable each layer is: class probes, and the relative error of activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.predictions import BATCH, Perturb, batch_size
from interpretgan.layers import Layer, capture

FEATURES = 512
"""Dimensions that a latent is projected to before it is probed: the same capacity at every layer."""
PROBED = 4000
"""Training images of a probe."""
RIDGE = 1e-2
"""Weight of the probe's penalty, relative to the mean variance of its features."""


class Projection:
    """A random projection to `FEATURES` dimensions; what has no more of them is left as it is.

    Args:
        width: Dimensions of what it projects.
        seed: Of its matrix.
    """

    def __init__(self, width: int, *, seed: int) -> None:
        self._matrix: Tensor | None = None
        if width > FEATURES:
            generator = torch.Generator().manual_seed(seed)
            self._matrix = torch.randn(width, FEATURES, generator=generator) / width**0.5

    def __call__(self, latents: Tensor) -> Tensor:
        """`[N, D]` to `[N, FEATURES or fewer]`, in double precision."""
        return (latents if self._matrix is None else latents @ self._matrix).double()


class Probe:
    """A linear class probe of fixed capacity: standardisation, and ridge regression on the classes.

    Args:
        features: Projected latents `[N, D]` of training images.
        labels: True classes `[N]`.
        classes: How many there are.
    """

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self._mean, self._std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
        z = (features - self._mean) / self._std
        wanted = torch.nn.functional.one_hot(labels, classes).double()
        gram = z.T @ z + RIDGE * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
        self._offset = wanted.mean(dim=0)
        self._weights = torch.linalg.solve(gram, z.T @ (wanted - self._offset))

    def read(self, features: Tensor) -> Tensor:
        """Classes `[N]` of projected latents `[N, D]`."""
        scores: Tensor = (features - self._mean) / self._std @ self._weights + self._offset
        return scores.argmax(dim=1)


def other_definitions(
    classifier: Classifier,
    layers: Sequence[Layer],
    train: ImageSet,
    test: ImageSet,
    count: int,
    *,
    adversarial: Perturb,
    seed: int,
) -> dict[str, list[float]]:
    """Vulnerability of each layer's layer by class probes, and the relative error of its activations.

    Args:
        classifier: The classifier.
        layers: In execution order.
        train: Images that the probes are trained on, the first `PROBED`.
        test: Images that are attacked.
        count: How many of them.
        adversarial: The attack.
        seed: Of the projections.

    Returns:
        `vulnerability_probe`: `V_l` with the accuracy of a probe in place of that of the judge (1 where a probe is
        right on no natural image). `relative_error`: mean of `norm(z_l(x') - z_l(x)) / norm(z_l(x))`. A number per
        layer.

    Source: LSA, layer sustainability analysis, arXiv 2202.02626, for the relative error.
    """
    train, test = train.scaled(classifier.bounds), test.scaled(classifier.bounds)
    few, _ = train.batch(slice(0, 1))
    projections = [Projection(z.shape[1], seed=seed) for z in _latents(classifier, layers, few)]
    count_trained = min(PROBED, len(train))
    features: list[list[Tensor]] = []  # latents themselves would fill the memory: early maps are large
    labels = []
    for first in range(0, count_trained, BATCH):
        x, y = train.batch(slice(first, min(first + BATCH, count_trained)))
        features.append([p(z) for p, z in zip(projections, _latents(classifier, layers, x), strict=True)])
        labels.append(y)
    probes = [Probe(torch.cat(parts), torch.cat(labels), len(train.classes)) for parts in zip(*features, strict=True)]
    right = torch.zeros(2, len(probes), dtype=torch.float64)
    error = torch.zeros(len(layers), dtype=torch.float64)
    size = batch_size(test, len(layers))  # as in the diagnosis: what an attack finds depends on what is beside an image
    for first in range(0, count, size):
        x, y = test.batch(slice(first, min(first + size, count)))
        changed = adversarial(x.to(classifier.device), y.to(classifier.device), first).cpu()
        pair = _latents(classifier, layers, x), _latents(classifier, layers, changed)
        for row, found in enumerate(pair):
            read = [probe.read(p(z)) for probe, p, z in zip(probes, projections, found, strict=True)]
            right[row] += torch.stack([(classes == y).sum() for classes in read])
        error += torch.stack(
            [
                ((b - a).norm(dim=1) / a.norm(dim=1).clamp_min(1e-12)).double().sum()
                for a, b in zip(pair[0][1:], pair[1][1:], strict=True)
            ]
        )
    survival = torch.where(right[0] > 0, right[1] / right[0].clamp_min(1), torch.ones_like(right[0]))
    return {"vulnerability_probe": (survival[:-1] - survival[1:]).tolist(), "relative_error": (error / count).tolist()}


def _latents(classifier: Classifier, layers: Sequence[Layer], images: Tensor) -> list[Tensor]:
    """`[N, D]` of one batch of images themselves, then of each layer, on the CPU."""
    x = images.to(classifier.device)
    _, found = capture(classifier, x, layers)
    return [z.flatten(1).float().cpu() for z in (x, *(found[layer.name] for layer in layers))]
