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


class Probe:
    """A linear class probe of fixed capacity: random projection, standardisation, and ridge regression on the classes.

    Args:
        width: Dimensions of the latents that it reads.
        seed: Of the projection to `FEATURES` dimensions; what has no more of them is left as it is.
    """

    def __init__(self, width: int, *, seed: int) -> None:
        matrix = torch.randn(width, FEATURES, generator=torch.Generator().manual_seed(seed)) / width**0.5
        self._matrix = matrix if width > FEATURES else None

    def project(self, latents: Tensor) -> Tensor:
        """`[N, D]` to `[N, FEATURES or fewer]`, in double precision."""
        return (latents if self._matrix is None else latents @ self._matrix).double()

    def fit(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Learn the classes `[N]` of projected latents of training images."""
        self._mean, self._std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
        z = (features - self._mean) / self._std
        wanted = torch.nn.functional.one_hot(labels, classes).double()
        self._offset = wanted.mean(dim=0)
        gram = z.T @ z + RIDGE * len(z) * torch.eye(z.shape[1], dtype=z.dtype)
        self._weights = torch.linalg.solve(gram, z.T @ (wanted - self._offset))

    def predict(self, latents: Tensor) -> Tensor:
        """Classes `[N]` of latents `[N, D]`."""
        scores: Tensor = (self.project(latents) - self._mean) / self._std @ self._weights + self._offset
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
    """Vulnerability of each layer by class probes, and the relative error of its activations.

    Args:
        classifier: The classifier.
        layers: In execution order.
        train: Images that the probes are trained on, the first `PROBED`.
        test: Images that are attacked.
        count: How many of them.
        adversarial: The attack.
        seed: Of the projections.

    Returns:
        A number per layer. `vulnerability_probe`: `V_l` with the accuracy of a probe in place of that of the judge
        (survival is 1 where a probe is right on no natural image). `relative_error`: mean of
        `norm(z_l(x') - z_l(x)) / norm(z_l(x))`.

    Source: LSA, layer sustainability analysis, arXiv 2202.02626, for the relative error.
    """

    def latents_of(images: Tensor) -> list[Tensor]:
        """`[N, D]` of the images themselves, then of each layer, on the CPU."""
        x = images.to(classifier.device)
        _, found = capture(classifier, x, layers)
        return [z.flatten(1).float().cpu() for z in (x, *(found[layer.name] for layer in layers))]

    train, test = train.scaled(classifier.bounds), test.scaled(classifier.bounds)
    probes = [Probe(z.shape[1], seed=seed) for z in latents_of(train.batch(slice(0, 1))[0])]
    trained = min(PROBED, len(train))
    features, labels = [], []  # of whole latents, early maps would fill the memory
    for first in range(0, trained, BATCH):
        x, y = train.batch(slice(first, min(first + BATCH, trained)))
        features.append([probe.project(z) for probe, z in zip(probes, latents_of(x), strict=True)])
        labels.append(y)
    for probe, parts in zip(probes, zip(*features, strict=True), strict=True):
        probe.fit(torch.cat(parts), torch.cat(labels), len(train.classes))
    right, error = torch.zeros(2, len(probes), dtype=torch.float64), torch.zeros(len(probes), dtype=torch.float64)
    size = batch_size(test, len(layers))  # as in the diagnosis: what an attack finds depends on what is beside an image
    for first in range(0, count, size):
        x, y = test.batch(slice(first, min(first + size, count)))
        perturbed = adversarial(x.to(classifier.device), y.to(classifier.device), first)
        natural, changed = latents_of(x), latents_of(perturbed)
        for row, latents in enumerate((natural, changed)):
            right[row] += torch.stack([(p.predict(z) == y).sum() for p, z in zip(probes, latents, strict=True)])
        moved = [(b - a).norm(dim=1) / a.norm(dim=1).clamp_min(1e-12) for a, b in zip(natural, changed, strict=True)]
        error += torch.stack([one.double().sum() for one in moved])
    survival = torch.where(right[0] > 0, right[1] / right[0].clamp_min(1), torch.ones_like(right[0]))
    fallen = survival[:-1] - survival[1:]
    return {"vulnerability_probe": fallen.tolist(), "relative_error": (error[1:] / count).tolist()}
