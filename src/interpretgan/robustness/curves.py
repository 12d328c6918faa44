"""Accuracy with its interval, over the size of the perturbation and over the steps of the attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from interpretgan.attacks import ThreatModel, largest_eps, resized
from interpretgan.attacks.methods import predicted_right, survivors
from interpretgan.classifier import Classifier
from interpretgan.statistics import wilson

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Of eps, where the curve over eps has its points, beside 0 and half of the range of the pixels."""
STEPS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Point:
    """One point of a curve: the accuracy at an eps or at a number of steps."""

    at: float
    value: float
    low: float
    high: float


class Sample:
    """A few hundred images on which attacks of many settings are compared; each setting is run once.

    Args:
        classifier: Given back as it was.
        images: Checked images `[N, C, H, W]` on the classifier's device.
        labels: True classes `[N]`.
        seed: Of every attack.
    """

    def __init__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, seed: int) -> None:
        self.classifier, self.images, self.labels, self.seed = classifier, images, labels, seed
        self.examples, self.natural = len(images), int(predicted_right(classifier, images, labels).sum())
        self._known: dict[ThreatModel, int] = {}

    def right(self, threat_model: ThreatModel) -> int:
        """How many examples the attack leaves right."""
        if threat_model not in self._known:
            left = survivors(self.classifier, self.images, self.labels, threat_model, seed=self.seed)
            self._known[threat_model] = int(left.sum())
        return self._known[threat_model]

    def accuracy(self, threat_model: ThreatModel) -> float:
        """The share of examples that the attack leaves right."""
        return self.right(threat_model) / self.examples


def over_eps(sample: Sample, threat_model: ThreatModel, shape: Sequence[int], confidence: float) -> tuple[Point, ...]:
    """Accuracy under PGD of one restart from eps 0 to half of the range of the pixels, or twice eps if that is more.

    Args:
        sample: The images.
        threat_model: Its PGD, resized.
        shape: Channels, height and width of an image.
        confidence: Of the intervals.
    """
    largest = largest_eps(threat_model.norm, sample.classifier.bounds, shape)
    sizes = {round(share * threat_model.eps, 12) for share in SHARES} | {largest / 2}
    one_restart = replace(threat_model, restarts=1)
    return (
        _point(0.0, sample.natural, sample, confidence),
        *(
            _point(eps, sample.right(resized(one_restart, eps)), sample, confidence)
            for eps in sorted(sizes)
            if eps <= largest
        ),
    )


def over_steps(sample: Sample, threat_model: ThreatModel, confidence: float) -> tuple[Point, ...]:
    """Accuracy under PGD of one restart with 0 to 100 steps, and with those of the threat model and twice those."""
    counts = {*STEPS, threat_model.steps, 2 * threat_model.steps}
    one_restart = replace(threat_model, restarts=1)
    return (
        _point(0, sample.natural, sample, confidence),
        *(
            _point(steps, sample.right(replace(one_restart, steps=steps)), sample, confidence)
            for steps in sorted(counts)
        ),
    )


def _point(at: float, right: int, sample: Sample, confidence: float) -> Point:
    share = wilson(right, sample.examples, confidence)
    return Point(at, share.value, share.low, share.high)
