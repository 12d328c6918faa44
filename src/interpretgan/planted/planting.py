"""What a plant is made from, and whether it succeeds on images that it is tuned on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack, iterated, predicted_right, search, seed_generators
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError

CALIBRATION = 500  #: Images that a plant is tuned on and not made from, at most a quarter of all.
#: Natural accuracy that a plant may cost on them; verification allows twice as much on other images.
NATURAL_LOSS = 0.005
ROBUST_LOSS = 0.25  #: Robust accuracy that it must cost there; verification asks for 0.15.


@dataclass(frozen=True)
class Accuracies:
    """Shares of the calibration images that are predicted right, 0 to 1: as they are, and under the attack."""

    natural: float
    robust: float


class Planting:
    """What a plant is made from: a robust network, images, the attack that it is to be fragile to, and a seed.

    Args:
        original: The robust network; it is left as it is.
        data: Training images with classes.
        threat_model: Norm, eps and steps of the attack.
        seed: All randomness follows from it.
    """

    def __init__(self, original: Classifier, data: ImageSet, threat_model: ThreatModel, seed: int) -> None:
        self.original, self.threat_model, self.seed = original, iterated(threat_model), seed
        self.data = data.scaled(original.bounds)
        self.generator = torch.Generator().manual_seed(seed)
        count = min(CALIBRATION, len(data) // 4)
        if not count:
            raise ConfigError(expected="at least 4 images", got=f"{len(data)}", do="pass more training images")
        order = torch.randperm(len(data), generator=self.generator)
        self._calibration = self._images(order[:count])
        self._rest = order[count:]
        self.before = self.measure(original)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """At most `count` different images and their classes."""
        return self._images(self._rest[:count])

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """The next `count` images, drawn at random, and their classes."""
        return self._images(self._rest[torch.randint(len(self._rest), (count,), generator=self.generator)])

    def measure(self, classifier: Classifier) -> Accuracies:
        """Accuracies of a network on the calibration images."""
        images, labels = self._calibration
        adversarial = attack(classifier, images, labels, self.threat_model, seed=self.seed)
        natural, robust = (predicted_right(classifier, x, labels) for x in (images, adversarial))
        return Accuracies(float(natural.float().mean()), float(robust.float().mean()))

    def keeps(self, found: Accuracies) -> bool:
        """Whether natural accuracy is kept."""
        return found.natural >= self.before.natural - NATURAL_LOSS

    def succeeds(self, found: Accuracies) -> bool:
        """Whether natural accuracy is kept and robust accuracy falls by enough."""
        return self.keeps(found) and found.robust <= self.before.robust - ROBUST_LOSS

    def perturb(self, classifier: Classifier, images: Tensor, labels: Tensor, steps: int) -> Tensor:
        """Adversarial images of a network by a few steps, from random starts."""
        threat_model = ThreatModel(self.threat_model.norm, self.threat_model.eps, steps=steps)
        with classifier.borrowed():
            seed_generators(images.device, int(torch.randint(2**62, (), generator=self.generator)))
            return search(classifier.run, images, labels, threat_model, classifier.bounds)

    def _images(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.data.batch(indices)
        return images.to(self.original.device), labels.to(self.original.device)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module in the place of a named one, under every name that it has."""
    old = model.get_submodule(name)
    places = [(parent, own) for parent in model.modules() for own, child in parent._modules.items() if child is old]
    for parent, own in places:
        parent._modules[own] = module
