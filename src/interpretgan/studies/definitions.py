"""Other ways to say how vulnerable each layer is: class probes, and the relative error of activations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from interpretgan.baselines.probes import RidgeProbe
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.predictions import BATCH, Perturb, batch_size
from interpretgan.information.probes import RandomMixture
from interpretgan.layers import Layer, capture

FEATURES = 512  #: Numbers of a latent that a probe sees: the same capacity at every layer.
PROBED = 4000  #: Training images of a probe.


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

    The probes see random projections, drawn by the seed, of the first `PROBED` training images. The first `count` test
    images are attacked.

    Returns:
        A number for each of the layers, which are in execution order. `vulnerability_probe`: `V_l` with the accuracy of
        a probe in place of that of the judge (survival is 1 where a probe is right on no natural image).
        `relative_error`: mean of `norm(z_l(x') - z_l(x)) / norm(z_l(x))`. Source: LSA, arXiv 2202.02626.
    """

    def latents_of(images: Tensor) -> list[Tensor]:
        """`[N, D]` of the images themselves, then of each layer, on the CPU."""
        x = images.to(classifier.device)
        _, found = capture(classifier, x, layers)
        return [z.flatten(1).float().cpu() for z in (x, *(found[layer.name] for layer in layers))]

    def projected(latents: list[Tensor]) -> list[Tensor]:
        return [projection(z) for projection, z in zip(projections, latents, strict=True)]

    train, test = train.scaled(classifier.bounds), test.scaled(classifier.bounds)
    widths = [z.shape[1] for z in latents_of(train.batch(slice(0, 1))[0])]
    projections = [RandomMixture(width, FEATURES, torch.Generator().manual_seed(seed)) for width in widths]
    trained = min(PROBED, len(train))
    features, labels = [], []  # of whole latents, early maps would fill the memory
    for first in range(0, trained, BATCH):
        x, y = train.batch(slice(first, min(first + BATCH, trained)))
        features.append(projected(latents_of(x)))
        labels.append(y)
    classes, each = torch.cat(labels), zip(*features, strict=True)
    probes = [RidgeProbe(torch.cat(parts), classes, len(train.classes)) for parts in each]
    right, error = torch.zeros(2, len(probes), dtype=torch.float64), torch.zeros(len(probes), dtype=torch.float64)
    size = batch_size(test)  # as in the diagnosis: what an attack finds depends on what is beside an image
    for first in range(0, count, size):
        x, y = test.batch(slice(first, min(first + size, count)))
        perturbed = adversarial(x.to(classifier.device), y.to(classifier.device), first)
        natural, changed = latents_of(x), latents_of(perturbed)
        for row, latents in enumerate((natural, changed)):
            pairs = zip(probes, projected(latents), strict=True)
            right[row] += torch.stack([(probe.predict(z) == y).sum() for probe, z in pairs])
        moved = [(b - a).norm(dim=1) / a.norm(dim=1).clamp_min(1e-12) for a, b in zip(natural, changed, strict=True)]
        error += torch.stack([ratios.double().sum() for ratios in moved])
    survival = torch.where(right[0] > 0, right[1] / right[0].clamp_min(1), torch.ones_like(right[0]))
    fallen = survival[:-1] - survival[1:]
    return {"vulnerability_probe": fallen.tolist(), "relative_error": (error[1:] / count).tolist()}
