"""Accuracy with its interval, over the size of the perturbation and over the steps of the attack."""

from dataclasses import dataclass, replace

from torch import Tensor

from interpretgan.attacks import ThreatModel, largest_eps, predicted_right, resized, survivors
from interpretgan.classifier import Classifier
from interpretgan.statistics import wilson

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  #: Of eps, at which it has points, beside 0 and half of the pixels' range.
STEPS = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Point:
    """One point of a curve: the accuracy at an eps or at a number of steps."""

    at: float
    value: float
    low: float
    high: float


class Sample:
    """A few hundred checked images on which attacks of one seed and many settings are compared, each run once."""

    def __init__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, seed: int) -> None:
        self.classifier, self.images, self.labels, self.seed = classifier, images, labels, seed
        self.examples = len(images)
        self._known: dict[ThreatModel | None, int] = {None: int(predicted_right(classifier, images, labels).sum())}

    def right(self, threat_model: ThreatModel | None) -> int:
        """How many examples the attack leaves right; `None`: how many are right without one."""
        if threat_model not in self._known:
            assert threat_model is not None
            left = survivors(self.classifier, self.images, self.labels, threat_model, seed=self.seed)
            self._known[threat_model] = int(left.sum())
        return self._known[threat_model]

    def accuracy(self, threat_model: ThreatModel) -> float:
        """The share of examples that the attack leaves right."""
        return self.right(threat_model) / self.examples


def curves(sample: Sample, threat_model: ThreatModel, confidence: float) -> dict[str, tuple[Point, ...]]:
    """Accuracy with its interval, under PGD of one restart: over `eps` and over `steps`.

    Eps goes from 0 to half of the range of the pixels, or to twice eps if that is more; steps go from 0 to 100, with
    those of the threat model and twice those among them.
    """
    largest = largest_eps(threat_model.norm, sample.classifier.bounds, sample.images.shape[1:])
    sizes = {round(share * threat_model.eps, 12) for share in SHARES} | {largest / 2}
    base = replace(threat_model, restarts=1)
    settings: dict[str, list[tuple[float, ThreatModel | None]]] = {
        "eps": [(0.0, None), *((eps, resized(base, eps)) for eps in sorted(sizes) if eps <= largest)],
        "steps": [(0, None), *((n, replace(base, steps=n)) for n in sorted({*STEPS, base.steps, 2 * base.steps}))],
    }

    def point(at: float, setting: ThreatModel | None) -> Point:
        share = wilson(sample.right(setting), sample.examples, confidence)
        return Point(at, share.value, share.low, share.high)

    return {name: tuple(point(at, setting) for at, setting in points) for name, points in settings.items()}
