"""What a score of layers may look at, and how it gets at latents, gradients and the rest of the network from there.

*Places* are the image (place 0) and the layers (place `l` is layer `l`), in execution order.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_source
from interpretgan.layers import Layer, capture, capturing, replay
from interpretgan.layers.proof import size_of_logits
from interpretgan.statistics import Floats

BATCH = 250  #: Images that are looked at a time, where their latents are small.
NUMBERS = 2**25  #: Of all latents of a batch, that are in memory at a time.


@dataclass(frozen=True, eq=False)
class ScoreInputs:
    """What a score may look at: a classifier, its layers, and images before and after an attack."""

    classifier: Classifier
    layers: tuple[Layer, ...]  #: The distinct layers, in execution order.
    images: Tensor  #: Natural test images `[N, C, H, W]` within the classifier's bounds, on its device.
    labels: Tensor  #: Their true classes, int64 `[N]`.
    adversarial: Tensor  #: The same images attacked, `[N, C, H, W]`.
    train: ImageData  #: Training images with their classes.
    threat_model: ThreatModel  #: That of the attack.
    seed: int  #: Of all that a score draws.
    information: Floats | None = None  #: Information loss of each layer by the decoders, where it was measured.

    @property
    def places(self) -> int:
        """One more than layers: the image comes first."""
        return len(self.layers) + 1

    def only(self, chosen: Tensor, most: int) -> Self:
        """The same with the first `most` of the chosen images alone; `chosen` is bool `[N]`."""
        rows = chosen.nonzero()[:most, 0]
        return replace(self, images=self.images[rows], labels=self.labels[rows], adversarial=self.adversarial[rows])

    def shown(self, images: Tensor) -> Tensor:
        """The class that the network shows for each image, int64 `[n]`."""
        with torch.no_grad():
            return torch.cat([self.logits_from(0, x, x).argmax(dim=1) for x in torch.split(images, BATCH)])

    def batch_size(self) -> int:
        """As many images as keep all their latents below `NUMBERS`."""
        numbers = self.images[0].numel() + sum(math.prod(layer.shape) for layer in self.layers)
        return max(1, min(BATCH, NUMBERS // numbers))

    def latents(self, images: Tensor) -> list[Tensor]:
        """Images `[n, C, H, W]` and their latents `[n, *shape]`: one for each place, without gradient."""
        _, found = capture(self.classifier, images, self.layers)
        return [images, *(found[layer.name] for layer in self.layers)]

    def pairs(self) -> Iterator[tuple[Tensor, list[Tensor], list[Tensor]]]:
        """Batch by batch the labels `[n]`, and the latents of all places, natural and adversarial."""
        tensors = (self.images, self.adversarial, self.labels)
        for x, changed, y in zip(*(torch.split(part, self.batch_size()) for part in tensors), strict=True):
            yield y, self.latents(x), self.latents(changed)

    def logits_from(self, place: int, latent: Tensor, images: Tensor) -> Tensor:
        """Logits `[n, K]` of the network from a place on; gradients flow to the latent. For images see `replay`."""
        if place:
            return replay(self.classifier, self.layers[place - 1], latent, images)
        with self.classifier.borrowed():
            return self.classifier.run(latent)

    def before(self, place: int, latent: Tensor, images: Tensor) -> Tensor:
        """The images that `logits_from` needs for such latents; see `fewest_images`."""
        return fewest_images(partial(self.logits_from, place), latent, images)

    def latent_from(self, place: int, latent: Tensor, images: Tensor) -> Tensor:
        """The latent of the place that follows: what one layer makes of the latent before it; gradients flow."""
        after = self.layers[place]
        with capturing(self.classifier, [after]) as found:
            self.logits_from(place, latent, images)
            return found[after.name]

    def batches_of_train(self, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """At most so many training images, drawn by the seed, on the device, and their labels; a batch at a time."""
        source = as_source(self.train, None, self.classifier.bounds, labelled=True)
        drawn = torch.randperm(len(source), generator=torch.Generator().manual_seed(self.seed))[:most]
        for indices in torch.split(drawn, self.batch_size()):
            x, y = source.batch(indices)
            yield x.to(self.images.device), y.to(self.images.device)


def fewest_images(logits_from: Callable[[Tensor, Tensor], Tensor], latent: Tensor, images: Tensor) -> Tensor:
    """The images that a replay from such latents needs: the first alone where it does as well as all.

    The network up to the layer runs in vain, so it may as well run on one image, unless the model takes the number of
    rows from its images.
    """
    with torch.no_grad():
        try:
            one, whole = (logits_from(latent, x) for x in (images[:1], images))
        except (RuntimeError, ValueError, IndexError):
            return images
    same = one.shape == whole.shape and torch.allclose(one, whole, rtol=1e-4, atol=1e-5 * size_of_logits(whole))
    return images[:1] if same else images


def gradient_of(score: Callable[[Tensor], Tensor], latent: Tensor) -> tuple[Tensor, Tensor]:
    """Values `[n]` of a score of latents `[n, ...]`, and the gradient of each with respect to its latent."""
    latent = latent.detach().clone().requires_grad_()
    values = score(latent)
    (gradient,) = torch.autograd.grad(values.sum(), latent)
    return values.detach(), gradient


def norms(values: Tensor) -> Tensor:
    """Euclidean length of each `[n, ...]`, in doubles: `[n]`."""
    lengths: Tensor = values.flatten(1).double().norm(dim=1)
    return lengths


def stretched(factors: Tensor, like: Tensor) -> Tensor:
    """Factors `[n]` that multiply `[n, ...]`."""
    shaped: Tensor = factors.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
    return shaped
