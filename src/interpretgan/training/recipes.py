"""How a classifier is trained, and what suits which data."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks import ThreatModel
from interpretgan.data import ImageSet, sent
from interpretgan.errors import ConfigError
from interpretgan.training.checks import Checked, Count, Decay, NotNegative, Positive, WholeNumber
from interpretgan.training.objectives import OBJECTIVES, AdversarialTraining

AUGMENTATIONS = ("none", "shift", "shift-flip")
SHIFT = 8  # images are shifted by up to an eighth of their side: four pixels of 32, as is usual on CIFAR-10
WARMUP_SHARE = 0.2  # of the training, in which the learning rate of one cycle rises; it falls over the rest
DROPS = (0.5, 0.75)  # shares of the training after which the learning rate of the step schedule falls to a tenth

SMALL_SET = 10_000  #: Below this many images a batch is halved, and the fewest steps are the budget: more only overfit.
NATURAL_STEPS = (500, 1400)  # fewest and most, on grey images
ADVERSARIAL_STEPS = (400, 500)  # the same for the judge; colour images take four times as many
ROBUST_EPOCHS = 20  # over a large set of grey images
COLOUR_EPOCHS, FAST_COLOUR_EPOCHS = 12, 15  # over a large set of colour images; the steps of fast training are cheap
AVERAGING = 0.995  # where robust networks are trained
VALIDATION = 500  # images that the best epoch of a robust training is selected on
INNER_STEPS = 3  # of the inner attack of the judge's training; more cost proportionally
LARGE_EPS = 0.25  # above this L-infinity size training needs help; see `adversarial_objective`
# A judge is then trained so many times as long, at half the rate: in one epoch of MNIST at 0.3 it hardly learns.
LARGE_EPS_EPOCHS = 3


@dataclass(frozen=True)
class Recipe(Checked):
    """Everything about a training but its objective, its data and its seed; see `Checked`."""

    epochs: Count
    batch_size: Count
    lr: Positive  #: Highest learning rate of the schedule.
    weight_decay: NotNegative = 5e-4
    optimizer: Annotated[str, ("adamw", "sgd")] = "adamw"  #: SGD has Nesterov momentum 0.9, as is usual.
    #: A linear rise and a cosine to zero, or a tenth after half and after three quarters of the training.
    schedule: Annotated[str, ("one-cycle", "step")] = "one-cycle"
    augmentation: Annotated[str, AUGMENTATIONS] = "none"  #: See `augment`.
    averaging: Decay = 0.0  #: Of a moving average of the weights, which is then evaluated and kept. 0: none.
    #: Images held out of the training, on which the best epoch is selected. 0: the last is kept.
    validation: WholeNumber = 0

    def rate(self, done: float) -> float:
        """The learning rate when `done` of the training, 0 to 1, is behind."""
        if self.schedule == "step":
            return self.lr * 0.1 ** sum(done >= drop for drop in DROPS)
        if done < WARMUP_SHARE:
            return self.lr * (0.05 + 0.95 * done / WARMUP_SHARE)
        return self.lr * (0.5 * (1 + math.cos(math.pi * (done - WARMUP_SHARE) / (1 - WARMUP_SHARE))))


def augment(images: Tensor, kind: str, generator: torch.Generator, *, fill: float = 0.0) -> Tensor:
    """Images `[N, C, H, W]`, each shifted by its own whole number of pixels; what comes in at the border is `fill`.

    `"shift-flip"` mirrors half of the images left to right as well. The generator is on the CPU.
    """
    if kind == "none":
        return images
    (count, channels, height, width), place = images.shape, images.device
    rows, columns = height // SHIFT, width // SHIFT
    padded = F.pad(images, (columns, columns, rows, rows), value=fill)
    down, right = (torch.randint(2 * most + 1, (count, 1), generator=generator) for most in (rows, columns))
    down = sent(down, place) + torch.arange(height, device=place)
    right = sent(right, place) + torch.arange(width, device=place)
    if kind == "shift-flip":
        flipped = sent(torch.rand(count, 1, generator=generator) < 0.5, place)
        right = torch.where(flipped, right.flip(1), right)
    example = torch.arange(count, device=place).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=place).view(1, -1, 1, 1)
    return padded[example, channel, down[:, None, :, None], right[:, None, None, :]]


def default_recipe(data: ImageSet, objective: str) -> Recipe:
    """A recipe that reaches the plateau of a small network in little time.

    Natural training on grey images is counted in steps, not epochs: a set of a thousand images needs many epochs, one
    of sixty thousand one to three. Robust training takes longer and selects its best epoch on images held out. On
    colour images that is done in every training, with shifts and flips.

    It depends on the number and channels of the training images, and on the objective: a key of `OBJECTIVES`, or
    `"judge"` for the short adversarial training of a judge.
    """
    if objective not in (*OBJECTIVES, "judge"):
        expected = f"a recipe for judge, {', '.join(OBJECTIVES)}"
        raise ConfigError(expected=expected, got=repr(objective), do="choose one of them")
    small, colour = len(data) < SMALL_SET, data.shape[0] > 1
    batch_size = min(64 if small else 128, len(data))

    def recipe(*, steps: int = 0, epochs: int = 0, **more: Any) -> Recipe:
        return Recipe(epochs or max(1, round(steps * batch_size / len(data))), batch_size, 4e-3, **more)

    if objective == "judge":
        return recipe(steps=ADVERSARIAL_STEPS[not small] * (4 if colour else 1))
    if objective == "natural" and not colour:
        return recipe(steps=NATURAL_STEPS[not small])
    colour_epochs = FAST_COLOUR_EPOCHS if objective == "fast" else COLOUR_EPOCHS
    return recipe(
        steps=2 * NATURAL_STEPS[0],
        epochs=0 if small else colour_epochs if colour else ROBUST_EPOCHS,
        augmentation="shift-flip" if colour else "none",
        averaging=AVERAGING,
        validation=min(VALIDATION, len(data) // 10),
    )


def judge_recipe(data: ImageSet, threat_model: ThreatModel) -> Recipe:
    """The recipe of a judge of such training images: longer where the eps to withstand is large."""
    recipe = default_recipe(data, "judge")
    if _large(threat_model) and len(data) >= SMALL_SET:
        return replace(recipe, epochs=LARGE_EPS_EPOCHS * recipe.epochs, lr=recipe.lr / 2)
    return recipe


def adversarial_objective(data: ImageSet, threat_model: ThreatModel) -> AdversarialTraining:
    """Adversarial training of a judge at the norm and eps of a threat model, with an inner PGD of three steps.

    eps grows over the first third. Large sizes (L-infinity above a quarter of the range [0, 1]) stall at chance that
    way, so there it grows for longer. From a small set they cannot be learned at all: there eps grows to the end, and
    half of the loss is on the natural images, so that the network still recognises what is not attacked.

    On grey images one step is enough while eps grows, where it is not large: a fifth of the time is saved so.
    """
    inner = ThreatModel(threat_model.norm, threat_model.eps, steps=INNER_STEPS)
    if not _large(threat_model):
        return AdversarialTraining(inner, warmup=0.3, one_step_first=data.shape[0] == 1)
    if len(data) < SMALL_SET:
        return AdversarialTraining(inner, warmup=1.0, natural_share=0.5)
    return AdversarialTraining(inner, warmup=0.6)


def _large(threat_model: ThreatModel) -> bool:
    return threat_model.norm == "linf" and threat_model.eps > LARGE_EPS
