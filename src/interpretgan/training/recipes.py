"""How long and how fast to train, by the size of the data."""

from __future__ import annotations

from dataclasses import dataclass

from interpretgan.attacks import ThreatModel
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError
from interpretgan.training.objectives import AdversarialTraining


@dataclass(frozen=True)
class Recipe:
    """Settings of `train_classifier` that suit a set.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per step.
        lr: Highest learning rate of the cycle.
    """

    epochs: int
    batch_size: int
    lr: float


NATURAL_STEPS = (500, 1400)
"""Fewest and most steps on grey images; colour images take four times as many."""
ADVERSARIAL_STEPS = (400, 500)
"""The same for adversarial training."""
INNER_STEPS = 3
"""Iterations of the inner attack; more cost proportionally."""
LARGE_EPS = 0.25
"""Above this L-infinity size training needs help; see `adversarial_objective`."""
SMALL_SET = 10_000
"""Below this many images a batch is halved, and the fewest steps are the budget: more only overfit."""


def default_recipe(data: ImageSet, kind: str) -> Recipe:
    """A recipe that reaches the plateau of a small network in little time.

    The budget is counted in steps, not epochs: a set of a thousand images needs many epochs, one of sixty
    thousand one to three. Adversarial training costs one more pass per inner step, so its budget is smaller.

    Args:
        data: The training images: their number and channels count.
        kind: `"natural"` or `"adversarial"`.

    Raises:
        ConfigError: Another `kind`.
    """
    if kind not in ("natural", "adversarial"):
        raise ConfigError(expected="a recipe of natural or adversarial", got=repr(kind), do="choose one of them")
    fewest, most = NATURAL_STEPS if kind == "natural" else ADVERSARIAL_STEPS
    small = len(data) < SMALL_SET
    batch_size = min(64 if small else 128, len(data))
    steps = (fewest if small else most) * (1 if data.shape[0] == 1 else 4)
    return Recipe(epochs=max(1, round(steps * batch_size / len(data))), batch_size=batch_size, lr=4e-3)


def adversarial_objective(threat_model: ThreatModel) -> AdversarialTraining:
    """Adversarial training at the norm and eps of a threat model, with an inner PGD of three steps.

    eps grows over the first third. Large sizes (L-infinity above a quarter of the range [0, 1]) stall at
    chance that way, so there it grows to the end, and half of the loss is on the natural images: where the
    full size cannot be learned at all, the network still reads what is not attacked.
    """
    inner = ThreatModel(threat_model.norm, threat_model.eps, steps=INNER_STEPS)
    if inner.norm == "linf" and inner.eps > LARGE_EPS:
        return AdversarialTraining(inner, warmup=1.0, natural_share=0.5)
    return AdversarialTraining(inner, warmup=0.3)
