"""Scores by small probes that are trained on natural latents, and read attacked ones."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.baselines.inputs import ScoreInputs
from interpretgan.statistics import Floats, falls

TRAINED = 2000  #: Training images of a probe, at most.
FEATURES = 256  #: Numbers of a latent that a probe sees: the same capacity at every layer.
RIDGE = 1e-2  #: Penalty of a `RidgeProbe`, relative to the variance of its features, which is one.
HIDDEN, STEPS, RATE = 64, 50, 1e-2  #: Of the probe with a hidden layer: units, steps of Adam on all images, rate.

Fit = Callable[[Tensor, Tensor, int, torch.Generator], Callable[[Tensor], Tensor]]
"""Features `[N, D]`, classes `[N]`, how many there are, and randomness to a probe, features to classes `[n]`."""


def linear_probe(inputs: ScoreInputs) -> Floats:
    """`a_{l-1} - a_l`, `a_l` the accuracy on attacked latents of ridge regression from `z_l` to the class.

    See `_fall`. Source: linear probes, arXiv 1610.01644, read under attack.
    """
    return _fall(inputs, lambda features, labels, classes, _: RidgeProbe(features, labels, classes).predict)


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
    probes = [fit(torch.cat(parts), torch.cat(labels), classes, random) for parts in zip(*trained, strict=True)]
    right = torch.zeros(inputs.places, dtype=torch.float64)
    for y, _, changed in inputs.pairs():
        for place, (probe, z) in enumerate(zip(probes, features(changed), strict=True)):
            right[place] += float((probe(z) == y).sum())
    return falls((right / len(inputs.labels)).numpy())[1:]


def sketch(flat: Tensor, how: tuple[Tensor, Tensor] | None) -> Tensor:
    """`[n, D] → [n, FEATURES]`, each number with its sign added to the sum that was drawn for it; or as it is."""
    if how is None:
        return flat
    return torch.zeros(len(flat), FEATURES, device=flat.device).index_add_(1, how[0], flat * how[1])


class RidgeProbe:
    """A linear probe of features `[N, D]` for their classes `[N]`: ridge regression, standardised, in doubles."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        from sklearn.linear_model import Ridge
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        self._ridge = make_pipeline(StandardScaler(), Ridge(RIDGE * len(features)))
        self._ridge.fit(features.double().cpu().numpy(), F.one_hot(labels, classes).cpu().numpy())

    def predict(self, features: Tensor) -> Tensor:
        """Classes `[n]` of features `[n, D]`, on their device."""
        scores = torch.from_numpy(self._ridge.predict(features.double().cpu().numpy()))
        return scores.argmax(dim=1).to(features.device)


def _mlp(features: Tensor, labels: Tensor, classes: int, random: torch.Generator) -> Callable[[Tensor], Tensor]:
    mean, deviation = features.double().mean(dim=0), features.double().std(dim=0, correction=0)
    deviation = deviation.masked_fill(deviation < 1e-9, 1.0)  # of units that never change
    first = torch.randn(features.shape[1], HIDDEN, generator=random) * (2 / features.shape[1]) ** 0.5
    shapes = (first, torch.zeros(HIDDEN), torch.zeros(HIDDEN, classes), torch.zeros(classes))
    parameters = [start.to(features).requires_grad_() for start in shapes]

    def standardised(z: Tensor) -> Tensor:
        return ((z.double() - mean) / deviation).float()

    def scores(z: Tensor) -> Tensor:
        hidden = F.relu(z @ parameters[0] + parameters[1])
        return hidden @ parameters[2] + parameters[3]

    adam, seen = torch.optim.Adam(parameters, lr=RATE), standardised(features)
    for _ in range(STEPS):
        loss = F.cross_entropy(scores(seen), labels)
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
    return lambda z: scores(standardised(z)).argmax(dim=1)
