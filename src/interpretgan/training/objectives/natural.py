"""Natural training."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.training.objectives.base import Batch, Objective


@dataclass(frozen=True)
class Natural(Objective):
    """Cross-entropy on the images as they are."""

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        logits = classifier.run(batch.images).float()
        return F.cross_entropy(logits, batch.labels), logits
