"""Adversarial training on PGD, and on FGSM with a random start."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks import ThreatModel, search, seed_generators
from interpretgan.classifier import Classifier
from interpretgan.training.checks import check_settings
from interpretgan.training.objectives.base import Batch, RobustObjective

FAST_STEP = 1.25
"""Length of the one step of fast training, as a share of eps [39]."""


@dataclass(frozen=True)
class AdversarialTraining(RobustObjective):
    """Cross-entropy on adversarial examples, `min E max_{||d|| <= eps} CE(f(x + d), y)` [25].

    Args:
        threat_model: Of the inner attack; few steps suffice. See `RobustObjective`.
        warmup: See `RobustObjective`.
        natural_share: Weight of the cross-entropy on the natural images, 0 to 1; the rest is on the adversarial ones.

    Raises:
        ConfigError: `warmup` or `natural_share` out of range.
    """

    natural_share: float = 0.0

    def __post_init__(self) -> None:
        """Check every setting."""
        check_settings(self, {"from 0 to 1": ("warmup", "natural_share")})

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        images, labels, threat_model = batch.images, batch.labels, self.inner(batch.progress)
        seed = int(torch.randint(2**62, (), generator=batch.generator))
        with classifier.borrowed(), torch.enable_grad():
            seed_generators(images.device, seed)  # borrowed() puts the global state back
            adversarial = search(classifier.run, images, labels, threat_model, classifier.bounds)
        logits = classifier.run(adversarial).float()
        loss = F.cross_entropy(logits, labels)
        if self.natural_share:
            natural = F.cross_entropy(classifier.run(images).float(), labels)
            loss = (1 - self.natural_share) * loss + self.natural_share * natural
        return loss, logits


def fast_training(norm: str, eps: float, step_size: float | None = None, warmup: float = 0.0) -> AdversarialTraining:
    """FGSM from a random start inside the ball, "fast" adversarial training [39] after [27].

    It is PGD of one step, longer than eps and projected back: two forward and two backward passes per step.

    Args:
        norm: See `ThreatModel`.
        eps: See `ThreatModel`.
        step_size: Length of the step. `None`: 1.25 eps, as published; from 2 eps on the random start is lost,
            and training may end in a network that only single steps cannot fool (catastrophic overfitting).
        warmup: See `RobustObjective`.

    Raises:
        ConfigError, ThreatModelError: A setting out of range.
    """
    step = FAST_STEP * eps if step_size is None else step_size
    return AdversarialTraining(ThreatModel(norm, eps, steps=1, step_size=step), warmup=warmup)
