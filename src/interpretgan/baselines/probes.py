"""Scores by small probes that are trained on natural latents, and read attacked ones."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.baselines.inputs import ScoreInputs
from interpretgan.statistics import Floats, falls

TRAINED = 2000  #: Training images of a probe, at most.
FEATURES = 256  #: Numbers of a latent that a probe sees: the same capacity at every layer.
RIDGE = 1e-2  #: Penalty of the linear probe, relative to the variance of its features, which is one.
HIDDEN, STEPS, RATE = 64, 50, 1e-2  #: Of the probe with a hidden layer: units, steps of Adam on all images, rate.

Fit = Callable[[Tensor, Tensor, torch.Generator], Callable[[Tensor], Tensor]]
"""Features `[N, D]`, one-hot classes `[N, K]` and randomness to a probe, features to scores `[n, K]`."""


def linear_probe(inputs: ScoreInputs) -> Floats:
    """`a_{l-1} - a_l`, `a_l` the accuracy on attacked latents of ridge regression from `z_l` to the class.

    See `_fall`. Source: linear probes, arXiv 1610.01644, read under attack.
    """
    return _fall(inputs, _ridge)


def mlp_probe(inputs: ScoreInputs) -> Floats:
    """`a_{l-1} - a_l`, `a_l` the accuracy on attacked latents of a probe with one hidden layer. See `_fall`."""
    return _fall(inputs, _mlp)


def _fall(inputs: ScoreInputs, fit: Fit) -> Floats:
    """How far the accuracy of the probes on attacked latents falls from the layer before to each layer.

    Probes are trained on natural latents of at most `TRAINED` training images. A latent of more than `FEATURES` numbers
    is seen through a random sketch: each number, with a random sign, is added to one of `FEATURES` sums.
    """
    random = torch.Generator().manual_seed(inputs.seed)
    device = inputs.images.device
    sketches: list[tuple[Tensor, Tensor] | None] = []
    for latent in inputs.latents(inputs.images[:1]):
        size = latent[0].numel()
        draws = (torch.randint(FEATURES, (size,), generator=random), torch.randint(2, (size,), generator=random))
        sketches.append(None if size <= FEATURES else (draws[0].to(device), 2.0 * draws[1].to(device) - 1))

    def features(latents: list[Tensor]) -> list[Tensor]:
        return [sketch(z.flatten(1).float(), how) for z, how in zip(latents, sketches, strict=True)]

    trained, labels = zip(*((features(inputs.latents(x)), y) for x, y in inputs.batches_of_train(TRAINED)), strict=True)
    with inputs.classifier.borrowed(), torch.no_grad():
        classes = inputs.classifier.run(inputs.images[:1]).shape[1]
    wanted = F.one_hot(torch.cat(labels), classes).double()
    probes = [_standardised(fit, torch.cat(parts), wanted, random) for parts in zip(*trained, strict=True)]
    right = torch.zeros(inputs.places, dtype=torch.float64)
    for y, _, changed in inputs.pairs():
        for place, (probe, z) in enumerate(zip(probes, features(changed), strict=True)):
            right[place] += float((probe(z).argmax(dim=1) == y).sum())
    return falls((right / len(inputs.labels)).numpy())[1:]


def sketch(flat: Tensor, how: tuple[Tensor, Tensor] | None) -> Tensor:
    """`[n, D] → [n, FEATURES]`, each number with its sign added to the sum that was drawn for it; or as it is."""
    if how is None:
        return flat
    return torch.zeros(len(flat), FEATURES, device=flat.device).index_add_(1, how[0], flat * how[1])


def _standardised(fit: Fit, features: Tensor, wanted: Tensor, random: torch.Generator) -> Callable[[Tensor], Tensor]:
    mean, deviation = features.double().mean(dim=0), features.double().std(dim=0, correction=0)
    deviation = deviation.masked_fill(deviation < 1e-9, 1.0)  # of units that never change
    probe = fit((features.double() - mean) / deviation, wanted, random)
    return lambda z: probe((z.double() - mean) / deviation)


def _ridge(features: Tensor, wanted: Tensor, _random: torch.Generator) -> Callable[[Tensor], Tensor]:
    offset = wanted.mean(dim=0)
    square = features.T @ features + RIDGE * len(features) * torch.eye(features.shape[1]).to(features)
    matrix = torch.linalg.solve(square, features.T @ (wanted - offset))
    return lambda z: z @ matrix + offset


def _mlp(features: Tensor, wanted: Tensor, random: torch.Generator) -> Callable[[Tensor], Tensor]:
    features, wanted = features.float(), wanted.float()
    first = torch.randn(features.shape[1], HIDDEN, generator=random) * (2 / features.shape[1]) ** 0.5
    shapes = (first, torch.zeros(HIDDEN), torch.zeros(HIDDEN, wanted.shape[1]), torch.zeros(wanted.shape[1]))
    parameters = [start.to(features).requires_grad_() for start in shapes]

    def probe(z: Tensor) -> Tensor:
        hidden = F.relu(z.float() @ parameters[0] + parameters[1])
        return hidden @ parameters[2] + parameters[3]

    adam = torch.optim.Adam(parameters, lr=RATE)
    for _ in range(STEPS):
        loss = F.cross_entropy(probe(features), wanted)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    return probe
