"""What every training objective is: a loss of a batch, with the seams that known methods need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.training.checks import check_settings

FIRST_EPS = 0.05
"""Share of eps that a warm-up starts at; a perturbation must be larger than zero."""
SELECTION_STEPS = 10
"""PGD steps under which the best epoch is chosen."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What an objective sees of one step.

    Attributes:
        images: `[N, C, H, W]` within the classifier's bounds, augmented.
        labels: int64 `[N]`.
        indices: int64 `[N]` on the CPU, the places of the images in the training set: for objectives that
            remember something about each image.
        progress: Share of the training that is done, 0 to 1.
        replay: How often this batch was seen just before, 0 to `Objective.replays - 1`.
        generator: On the CPU, seeded anew for each step: the only source of randomness, so that a resumed
            training repeats the uninterrupted one.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    progress: float
    replay: int
    generator: torch.Generator


class Objective(ABC):
    """A training loss. Its `repr` names it in checkpoints, so it must state every setting.

    A new objective is one file with one subclass, and one line in `OBJECTIVES`. An objective that trains several
    times on each batch sets `replays`; one that carries something from step to step (perturbations of earlier
    epochs, say) returns it from `state_dict` and takes it back in `load_state_dict`.
    """

    @property
    def replays(self) -> int:
        """Steps in a row on each batch; an epoch has that many times fewer batches of new images."""
        return 1

    @property
    def selection(self) -> ThreatModel | None:
        """What the best epoch is chosen under, on images held out of the training. `None`: natural accuracy."""
        return None

    @abstractmethod
    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss that is minimised, and the logits that accuracy is counted on.

        Args:
            classifier: In train mode; call `classifier.run`.
            batch: The images.

        Returns:
            A scalar and `[N, K]`.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, as tensors and plain numbers; nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most objectives have nothing to take back
        """Take back what `state_dict` returned; tensors come on the CPU."""


@dataclass(frozen=True)
class RobustObjective(Objective):
    """An objective with an inner search for the worst perturbation of each image.

    Args:
        threat_model: Norm, eps, steps and step size of the inner search. It runs once, whatever the restarts, against
            the network in eval mode: BatchNorm uses its running statistics and does not see the iterates.
        warmup: Share of the training over which eps (and the step) grow linearly from a twentieth to their
            full size. Large perturbations need it: without it training stalls at chance.

    Raises:
        ConfigError: A setting out of range.
    """

    threat_model: ThreatModel
    warmup: float = 0.0

    def __post_init__(self) -> None:
        """Check every setting."""
        check_settings(self, {"from 0 to 1": ("warmup",)})

    @property
    def selection(self) -> ThreatModel:
        """An attack of moderate strength with the norm and eps that are trained against."""
        return ThreatModel(self.threat_model.norm, self.threat_model.eps, steps=SELECTION_STEPS)

    def inner(self, progress: float) -> ThreatModel:
        """The threat model of the inner search when `progress` of the training is done."""
        if progress >= self.warmup:
            return self.threat_model
        share, step = FIRST_EPS + (1 - FIRST_EPS) * progress / self.warmup, self.threat_model.step_size
        return replace(
            self.threat_model, eps=share * self.threat_model.eps, step_size=None if step is None else share * step
        )
