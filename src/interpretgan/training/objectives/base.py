"""What every training objective is: a loss of a batch, with the seams that known methods need."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier


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
    epochs, say) returns it from `state` and takes it back in `restore`.
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

    def state(self) -> dict[str, Any]:
        """What a resumed training needs, as tensors and plain numbers; none by default."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027  # most objectives have nothing to take back
        """Take back what `state` returned."""
