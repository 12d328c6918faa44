"""TRADES: accuracy on natural images, and predictions that do not change inside the ball."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks import ThreatModel, search
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.training.objectives.adversarial import grown, selection_of
from interpretgan.training.objectives.base import Batch, Objective

START = 0.001
"""Deviation of the Gaussian noise that the inner search starts from, as a share of the pixel range [22]."""


@dataclass(frozen=True)
class Trades(Objective):
    """`CE(f(x), y) + beta KL(f(x) || f(x'))`, with x' the maximiser of that divergence inside the ball [22].

    The inner search starts at the image plus a little Gaussian noise (at the image itself the gradient is zero)
    and runs against the network in eval mode, as published.

    Args:
        threat_model: Norm, eps, steps and step size of the inner search.
        beta: Weight of the divergence, > 0 (the paper's 1 / lambda): more is more robust and less accurate.
        warmup: See `AdversarialTraining`.

    Raises:
        ConfigError: `beta` or `warmup` out of range.
    """

    threat_model: ThreatModel
    beta: float = 6.0
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Check every setting."""
        if not 0 < self.beta < math.inf:
            raise ConfigError(expected="beta > 0", got=f"{self.beta}", do="the paper uses 1 to 6")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(expected="warmup from 0 to 1", got=f"{self.warmup}", do="pass it as a share")

    @property
    def selection(self) -> ThreatModel:
        """See `Objective`."""
        return selection_of(self.threat_model)

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`; accuracy is counted on the perturbed images."""
        threat_model = grown(self.threat_model, self.warmup, batch.progress)
        low, high = classifier.bounds
        noise = torch.randn(batch.images.shape, generator=batch.generator).to(batch.images)
        start = (batch.images + START * (high - low) * noise).clamp(low, high)
        with classifier.borrowed(), torch.enable_grad():
            with torch.no_grad():
                natural = F.softmax(classifier.run(batch.images).float(), dim=1)
            perturbed = search(
                classifier.run,
                batch.images,
                batch.labels,
                threat_model,
                classifier.bounds,
                loss=lambda logits: divergence_from(natural, logits),
                start=start,
            )
        natural_logits, logits = classifier.run(batch.images).float(), classifier.run(perturbed).float()
        divergence = divergence_from(F.softmax(natural_logits, dim=1), logits) / len(logits)
        return F.cross_entropy(natural_logits, batch.labels) + self.beta * divergence, logits


def divergence_from(natural: Tensor, logits: Tensor) -> Tensor:
    """Sum over the batch of `KL(p || softmax(logits))`, p `[N, K]` probabilities, in nats."""
    return F.kl_div(F.log_softmax(logits, dim=1), natural, reduction="sum")
