"""What a classifier is trained for: one object per objective, with one method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks import ThreatModel, search
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError

FIRST_EPS = 0.05
"""Share of eps that a warm-up starts at; a perturbation must be larger than zero."""


class Objective(Protocol):
    """A training loss. Its `repr` names it in checkpoints, so it must state every setting."""

    def loss(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The loss that is minimised, and the logits that accuracy is counted on.

        Args:
            classifier: In train mode; call `classifier.run`.
            images: `[N, C, H, W]` within the bounds.
            labels: int64 `[N]`.
            progress: Share of the training that is done, 0 to 1.
            generator: On the CPU, seeded anew for each step: the only source of randomness, so that a resumed
                training repeats the uninterrupted one.

        Returns:
            A scalar and `[N, K]`.
        """
        ...


@dataclass(frozen=True)
class Natural:
    """Cross-entropy on the images as they are."""

    def loss(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        logits = classifier.run(images).float()
        return F.cross_entropy(logits, labels), logits


@dataclass(frozen=True)
class AdversarialTraining:
    """Cross-entropy on adversarial examples, `min E max_{||d|| <= eps} CE(f(x + d), y)` [25].

    The inner attack runs against the network in eval mode (BatchNorm uses its running statistics and does not
    see the iterates), once per step, whatever the restarts.

    Args:
        threat_model: Of the inner attack; few steps suffice.
        warmup: Share of the training over which eps (and the step) grow linearly from a twentieth to their
            full size. Large perturbations need it: without it training stalls at chance.
        natural_share: Weight of the cross-entropy on the natural images; the rest is on the adversarial ones.

    Raises:
        ConfigError: `warmup` or `natural_share` outside [0, 1].
    """

    threat_model: ThreatModel
    warmup: float = 0.0
    natural_share: float = 0.0

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in ("warmup", "natural_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(expected=f"{name} from 0 to 1", got=f"{getattr(self, name)}", do="pass it as a share")

    def loss(
        self,
        classifier: Classifier,
        images: Tensor,
        labels: Tensor,
        *,
        progress: float,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        threat_model = self.at(progress)
        seed = int(torch.randint(2**62, (), generator=generator))
        with classifier.borrowed(), torch.enable_grad():
            torch.manual_seed(seed)  # borrowed() puts the global state back
            adversarial = search(classifier.run, images, labels, threat_model, classifier.bounds)
        logits = classifier.run(adversarial).float()
        loss = F.cross_entropy(logits, labels)
        if self.natural_share:
            natural = F.cross_entropy(classifier.run(images).float(), labels)
            loss = (1 - self.natural_share) * loss + self.natural_share * natural
        return loss, logits

    def at(self, progress: float) -> ThreatModel:
        """The inner threat model when `progress` of the training is done."""
        if progress >= self.warmup:
            return self.threat_model
        share = FIRST_EPS + (1 - FIRST_EPS) * progress / self.warmup
        step = self.threat_model.step_size
        return replace(
            self.threat_model,
            eps=share * self.threat_model.eps,
            step_size=None if step is None else share * step,
        )
