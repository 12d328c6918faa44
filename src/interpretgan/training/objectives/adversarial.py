"""Adversarial training on PGD, and on FGSM with a random start."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks import ThreatModel, search, seed_generators
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.training.objectives.base import Batch, Objective

FIRST_EPS = 0.05
"""Share of eps that a warm-up starts at; a perturbation must be larger than zero."""
SELECTION_STEPS = 10
"""PGD steps under which the best epoch is chosen."""
FAST_STEP = 1.25
"""Length of the one step of fast training, as a share of eps [39]."""


@dataclass(frozen=True)
class AdversarialTraining(Objective):
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

    @property
    def selection(self) -> ThreatModel:
        """See `Objective`."""
        return selection_of(self.threat_model)

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        images, labels, threat_model = batch.images, batch.labels, grown(self.threat_model, self.warmup, batch.progress)
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
        warmup: See `AdversarialTraining`.

    Raises:
        ConfigError, ThreatModelError: A setting out of range.
    """
    step = FAST_STEP * eps if step_size is None else step_size
    return AdversarialTraining(ThreatModel(norm, eps, steps=1, step_size=step), warmup=warmup)


def grown(threat_model: ThreatModel, warmup: float, progress: float) -> ThreatModel:
    """The inner threat model when `progress` of the training is done: eps and step grow over the warm-up."""
    if progress >= warmup:
        return threat_model
    share = FIRST_EPS + (1 - FIRST_EPS) * progress / warmup
    step = threat_model.step_size
    return replace(threat_model, eps=share * threat_model.eps, step_size=None if step is None else share * step)


def selection_of(threat_model: ThreatModel) -> ThreatModel:
    """The attack of moderate strength that epochs of a training for this norm and eps are compared under."""
    return ThreatModel(threat_model.norm, threat_model.eps, steps=SELECTION_STEPS)
