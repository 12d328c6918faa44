"""TRADES: accuracy on natural images, and predictions that do not change inside the ball."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks import search
from interpretgan.classifier import Classifier
from interpretgan.training.checks import check_settings
from interpretgan.training.objectives.base import Batch, RobustObjective

START = 0.001
"""Deviation of the Gaussian noise that the inner search starts from, as a share of the pixel range [22]."""


@dataclass(frozen=True)
class Trades(RobustObjective):
    """`CE(f(x), y) + beta KL(f(x) || f(x'))`, with x' the maximiser of that divergence inside the ball [22].

    The inner search starts at the image plus a little Gaussian noise: at the image itself the gradient is zero.

    Args:
        threat_model: See `RobustObjective`.
        warmup: See `RobustObjective`.
        beta: Weight of the divergence, > 0 (the paper's 1 / lambda, 1 to 6): more is more robust and less accurate.

    Raises:
        ConfigError: `beta` or `warmup` out of range.
    """

    beta: float = 6.0

    def __post_init__(self) -> None:
        """Check every setting."""
        check_settings(self, {"from 0 to 1": ("warmup",), "> 0": ("beta",)})

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`; accuracy is counted on the perturbed images."""
        images, (low, high) = batch.images, classifier.bounds
        noise = torch.randn(images.shape, generator=batch.generator).to(images)
        start = (images + START * (high - low) * noise).clamp(low, high)
        with classifier.borrowed(), torch.enable_grad():
            with torch.no_grad():
                natural = F.softmax(classifier.run(images).float(), dim=1)
            perturbed = search(
                classifier.run,
                images,
                batch.labels,
                self.inner(batch.progress),
                classifier.bounds,
                loss=lambda logits: divergence_from(natural, logits),
                start=start,
            )
        natural_logits, logits = classifier.run(images).float(), classifier.run(perturbed).float()
        divergence = divergence_from(F.softmax(natural_logits, dim=1), logits) / len(logits)
        return F.cross_entropy(natural_logits, batch.labels) + self.beta * divergence, logits


def divergence_from(natural: Tensor, logits: Tensor) -> Tensor:
    """Sum over the batch of `KL(p || softmax(logits))`, p `[N, K]` probabilities, in nats."""
    return F.kl_div(F.log_softmax(logits, dim=1), natural, reduction="sum")
