"""How a classifier is trained, and what suits which data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from interpretgan.attacks import ThreatModel
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError
from interpretgan.training.augmentation import AUGMENTATIONS
from interpretgan.training.checks import check_settings
from interpretgan.training.objectives import OBJECTIVES, AdversarialTraining

WARMUP_SHARE = 0.2
"""Share of the training in which the learning rate of one cycle rises; it falls over the rest."""
DROPS = (0.5, 0.75)
"""Shares of the training after which the learning rate of the step schedule falls to a tenth."""


@dataclass(frozen=True)
class Recipe:
    """Everything about a training but its objective, its data and its seed.

    Attributes:
        epochs: Passes over the images, at least 1.
        batch_size: Images per step.
        lr: Highest learning rate of the schedule.
        weight_decay: Of the optimiser.
        optimizer: `"adamw"`, or `"sgd"` with Nesterov momentum 0.9, as most published robust networks.
        schedule: `"one-cycle"`, a linear rise and a cosine to zero, or `"step"`, a tenth after half and after
            three quarters of the training.
        augmentation: `"none"`, `"shift"` or `"shift-flip"`; see `augment`.
        averaging: Decay of an exponential moving average of the weights, which is then what is evaluated and
            kept. 0: none.
        validation: Images held out of the training, on which the best epoch is selected. 0: the last is kept.

    Raises:
        ConfigError: A setting out of range.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float = 5e-4
    optimizer: str = "adamw"
    schedule: str = "one-cycle"
    augmentation: str = "none"
    averaging: float = 0.0
    validation: int = 0

    def __post_init__(self) -> None:
        """Check every setting."""
        ranges = {
            ">= 1": ("epochs", "batch_size"), "> 0": ("lr",), ">= 0": ("weight_decay", "validation"),
            "from 0 to below 1": ("averaging",),
        }  # fmt: skip
        check_settings(self, ranges)
        choices = {"optimizer": ("adamw", "sgd"), "schedule": ("one-cycle", "step"), "augmentation": AUGMENTATIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    expected=f"{name} among {', '.join(known)}", got=repr(getattr(self, name)), do="choose one"
                )

    def rate(self, done: float) -> float:
        """The learning rate when `done` of the training, 0 to 1, is behind."""
        if self.schedule == "step":
            return self.lr * 0.1 ** sum(done >= drop for drop in DROPS)
        if done < WARMUP_SHARE:
            return self.lr * (0.05 + 0.95 * done / WARMUP_SHARE)
        return self.lr * (0.5 * (1 + math.cos(math.pi * (done - WARMUP_SHARE) / (1 - WARMUP_SHARE))))


NATURAL_STEPS = (500, 1400)
"""Fewest and most steps on grey images."""
ADVERSARIAL_STEPS = (400, 500)
"""The same for the judge's adversarial training; colour images take four times as many."""
ROBUST_EPOCHS = {"fast": 20, "pgd": 20, "trades": 20}
"""Passes of robust training over a large set of grey images."""
COLOUR_EPOCHS = {"natural": 12, "fast": 15, "pgd": 12, "trades": 12}
"""Passes over a large set of colour images."""
AVERAGING = 0.995
"""Decay of the averaged weights where robust networks are trained."""
VALIDATION = 500
"""Images that the best epoch of a robust training is selected on."""
INNER_STEPS = 3
"""Iterations of the inner attack of the judge's training; more cost proportionally."""
LARGE_EPS = 0.25
"""Above this L-infinity size training needs help; see `adversarial_objective`."""
LARGE_EPS_EPOCHS = 3
"""There a judge is trained so many times as long, at half the rate. In one epoch of MNIST at 0.3 it learns to withstand
little; in three its own PGD-20 leaves it right on most images."""
SMALL_SET = 10_000
"""Below this many images a batch is halved, and the fewest steps are the budget: more only overfit."""


def default_recipe(data: ImageSet, objective: str) -> Recipe:
    """A recipe that reaches the plateau of a small network in little time.

    Natural training on grey images is counted in steps, not epochs: a set of a thousand images needs many
    epochs, one of sixty thousand one to three. Robust training takes longer and selects its best epoch on images
    held out. On colour images that is done in every training, with shifts and flips.

    Args:
        data: The training images: their number and channels count.
        objective: A key of `OBJECTIVES`, or `"judge"` for the short adversarial training of a judge.

    Raises:
        ConfigError: Another `objective`.
    """
    if objective not in (*OBJECTIVES, "judge"):
        raise ConfigError(
            expected=f"a recipe for judge, {', '.join(OBJECTIVES)}", got=repr(objective), do="choose one of them"
        )
    small, colour = len(data) < SMALL_SET, data.shape[0] > 1
    batch_size = min(64 if small else 128, len(data))
    lr = 4e-3

    def epochs(steps: int) -> int:
        return max(1, round(steps * batch_size / len(data)))

    if objective == "judge":
        fewest, most = ADVERSARIAL_STEPS
        return Recipe(epochs((fewest if small else most) * (4 if colour else 1)), batch_size, lr)
    robust = objective != "natural"
    if not colour and not robust:
        return Recipe(epochs(NATURAL_STEPS[0] if small else NATURAL_STEPS[1]), batch_size, lr)
    table = COLOUR_EPOCHS if colour else ROBUST_EPOCHS
    return Recipe(
        epochs(2 * NATURAL_STEPS[0]) if small else table[objective],
        batch_size,
        lr,
        augmentation="shift-flip" if colour else "none",
        averaging=AVERAGING,
        validation=min(VALIDATION, len(data) // 10),
    )


def judge_recipe(data: ImageSet, threat_model: ThreatModel) -> Recipe:
    """The recipe of a judge: that of the data, and longer where eps is large; see `adversarial_objective`.

    Args:
        data: The training images.
        threat_model: What the judge is to withstand.
    """
    recipe = default_recipe(data, "judge")
    if _large(threat_model) and len(data) >= SMALL_SET:
        return replace(recipe, epochs=LARGE_EPS_EPOCHS * recipe.epochs, lr=recipe.lr / 2)
    return recipe


def adversarial_objective(data: ImageSet, threat_model: ThreatModel) -> AdversarialTraining:
    """Adversarial training of a judge at the norm and eps of a threat model, with an inner PGD of three steps.

    eps grows over the first third. Large sizes (L-infinity above a quarter of the range [0, 1]) stall at chance that
    way, so there it grows for longer. From a small set they cannot be learned at all: there eps grows to the end, and
    half of the loss is on the natural images, so that the network still reads what is not attacked.

    Args:
        data: The training images.
        threat_model: What the judge is to withstand.
    """
    inner = ThreatModel(threat_model.norm, threat_model.eps, steps=INNER_STEPS)
    if not _large(threat_model):
        return AdversarialTraining(inner, warmup=0.3)
    if len(data) < SMALL_SET:
        return AdversarialTraining(inner, warmup=1.0, natural_share=0.5)
    return AdversarialTraining(inner, warmup=0.6)


def _large(threat_model: ThreatModel) -> bool:
    return threat_model.norm == "linf" and threat_model.eps > LARGE_EPS
