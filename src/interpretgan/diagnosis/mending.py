"""How a layer is mended: its weights trained to withstand the attack, or its input freed of what is not natural."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from interpretgan.attacks import ThreatModel, iterated, search, seed_generators
from interpretgan.attacks.gradient import Run
from interpretgan.attacks.threat_model import Bounds
from interpretgan.classifier import Classifier
from interpretgan.errors import ModelError, in_a_line
from interpretgan.layers import Layer, capture, capturing, owned_by_layers, replay
from interpretgan.layers.outputs import without_history
from interpretgan.training.steps import relative_rates

BATCH = 50
INNER_STEPS = 3
"""PGD steps of the adversarial images that weights are mended on."""
RATE = 0.06
"""Length of Adam's steps, as a share of the root mean square of each tensor of weights."""
RENEWED_STEPS = 10
"""PGD steps against each mended network, from the adversarial images."""
FILTER_IMAGES = 300
"""Natural images that the filter is made from."""
RIDGE = 0.1
"""Of the filter, as a share of the mean natural variance over the directions that are used."""


@dataclass(frozen=True)
class Trial:
    """Images and their adversarial ones, on which networks are attacked afresh; call it with gradients enabled."""

    images: Tensor
    labels: Tensor
    adversarial: Tensor
    bounds: Bounds
    threat_model: ThreatModel

    def old(self, run: Run) -> Tensor:
        """Probabilities of the true classes on the adversarial images as they are, `[N]`."""
        return true_probability(run, self.adversarial, self.labels)

    def renewed(self, run: Run) -> Tensor:
        """The lower one of that and of what an attack leaves that goes on from there."""
        found = search(run, self.images, self.labels, self.threat_model, self.bounds, start=self.adversarial)
        return torch.minimum(self.old(run), true_probability(run, found, self.labels))


@torch.no_grad()
def true_probability(run: Run, images: Tensor, labels: Tensor) -> Tensor:
    """What a network gives to the true class of each image, `[N]`."""
    return run(images).float().softmax(dim=1).gather(1, labels[:, None])[:, 0]


def shortened(threat_model: ThreatModel, steps: int) -> ThreatModel:
    """PGD of the same size with few steps, as long as suits their number."""
    return replace(iterated(threat_model), steps=steps, restarts=1, step_size=None)


def mended_weights(classifier: Classifier, layers: Sequence[Layer], image: Tensor) -> list[list[str]]:
    """The names of the weights that are retrained for each layer, by an image `[1, C, H, W]`.

    A `ModelError` for a network whose layers cannot be trained apart.
    """
    with mendable(), torch.inference_mode(False), torch.enable_grad():
        return owned_by_layers(classifier, layers, image.to(classifier.device), _weights(classifier.model))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of real numbers by name; not the statistics that a normalisation has collected."""
    counted = [b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
    skipped = {id(buffer) for buffer in counted}
    buffers = {n: b for n, b in model.named_buffers() if b.is_floating_point() and id(b) not in skipped}
    return {**{n: p for n, p in model.named_parameters() if p.is_floating_point()}, **buffers}


@contextmanager
def mendable() -> Iterator[None]:
    """Says of a network that torch cannot copy, train or replay in parts that it cannot be mended."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        expected = "a network that can be copied, and its layers trained apart"
        raise ModelError(expected=expected, got=in_a_line(error), do="leave it out: --let-in-steps 0") from error


@contextmanager
def _trainable(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Tensors that take part in autograd inside."""
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(False)


def retrained(
    classifier: Classifier, names: Sequence[str], natural: Tensor, *, tm: ThreatModel, steps: int, batch: int, seed: int
) -> Classifier:
    """A copy whose named weights are trained to withstand the attack and to keep natural answers."""
    mended = copy.deepcopy(classifier, without_history(classifier.model))
    generator, inner = torch.Generator().manual_seed(seed), shortened(tm, INNER_STEPS)
    seed_generators(natural.device, seed)  # whichever layers were mended before
    own = _weights(mended.model)
    tensors = [own[name] for name in names]
    optimizer = torch.optim.Adam(relative_rates(tensors, RATE))
    for _ in range(steps):
        images = natural[torch.randint(len(natural), (batch,), generator=generator).to(natural.device)]
        with torch.no_grad():
            answers = classifier.run(images).float().log_softmax(dim=1)
        classes = answers.argmax(dim=1)
        adversarial = search(mended.run, images, classes, inner, mended.bounds)
        with _trainable(tensors):
            attacked, calm = mended.run(torch.cat([adversarial, images])).float().chunk(2)
            divergence = F.kl_div(calm.log_softmax(dim=1), answers, log_target=True, reduction="batchmean")
            loss = F.cross_entropy(attacked, classes) + divergence
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        optimizer.step()
    return mended


def filtered(classifier: Classifier, previous: Layer | None, natural: Tensor) -> Run:
    """The network with what natural latents do not do taken out of one latent. `None`: out of the image."""
    if previous is None:
        clean = _Filter(natural)
        return lambda images: classifier.run(clean(images))
    clean = _Filter(capture(classifier, natural, [previous])[1][previous.name])

    def run(images: Tensor) -> Tensor:
        with capturing(classifier, [previous]) as latents:
            classifier.run(images)
        return replay(classifier, previous, clean(latents[previous.name]), images.detach())

    return run


class _Filter:
    """`mu + S (S + rho)^-1 (z - mu)`, solved in the dimensions of natural latents `[M, ...]`."""

    def __init__(self, latents: Tensor) -> None:
        flat = latents.detach().flatten(1).float()
        self._mean = flat.mean(dim=0)
        self._centred = flat - self._mean
        gram = self._centred @ self._centred.T
        ridge = RIDGE * gram.trace() / min(flat.shape)
        self._solved = torch.linalg.solve(gram + ridge.clamp_min(1e-12) * torch.eye(len(flat)).to(gram), self._centred)

    def __call__(self, latent: Tensor) -> Tensor:
        """Of the same shape; gradients flow."""
        along = (latent.float().flatten(1) - self._mean) @ self._centred.T
        clean: Tensor = self._mean + along @ self._solved
        return clean.view_as(latent).to(latent.dtype)
