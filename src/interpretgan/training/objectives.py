"""What a classifier is trained for. A new objective is one class in this file and one line of `OBJECTIVES`."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks import ThreatModel, search, seed_generators
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.training.checks import Checked, Positive, Share

WARMUP = 0.3  #: Share of the training over which eps grows: without it small networks stall at chance at MNIST's 0.3.
FIRST_EPS = 0.05  # share of eps that the warm-up starts at: a perturbation must be larger than zero
SELECTION_STEPS = 10  # of PGD, under which the best epoch is chosen
FAST_STEP = 1.25  # length of the one step of fast training, as a share of eps [39]
TRADES_START = 0.001  # deviation of the noise that the search of TRADES starts from, as a share of the pixel range [22]


@dataclass(frozen=True, eq=False)
class Batch:
    """What an objective sees of one step."""

    images: Tensor  #: `[N, C, H, W]` within the classifier's bounds, augmented.
    labels: Tensor  #: int64 `[N]`.
    indices: Tensor  #: int64 `[N]` on the CPU, the places of the images in the training set.
    progress: float  #: Share of the training that is done, 0 to 1.
    replay: int  #: How often this batch was seen just before, 0 to `Objective.replays - 1`.
    generator: torch.Generator  #: On the CPU, seeded anew for each step: the only source of randomness.


class Objective(ABC):
    """A training loss. Its `repr` names it in checkpoints, so it must state every setting.

    One that trains several times on each batch sets `replays`. One that carries something from step to step
    (perturbations of earlier epochs, say) returns it from `state_dict` and takes it back in `load_state_dict`.
    """

    replays = 1  #: Steps in a row on each batch; an epoch has that many times fewer batches of new images.

    @property
    def selection(self) -> ThreatModel | None:
        """What the best epoch is chosen under, on images held out of the training. `None`: natural accuracy."""
        return None

    @abstractmethod
    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss to minimise, a scalar, and the logits `[N, K]` that accuracy is counted on.

        The classifier is in train mode: call `classifier.run`.
        """

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training needs, as tensors and plain numbers; nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most objectives have nothing to take back
        """Take back what `state_dict` returned; tensors come on the CPU."""


@dataclass(frozen=True)
class Natural(Objective):
    """Cross-entropy on the images as they are."""

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        logits = classifier.run(batch.images).float()
        return F.cross_entropy(logits, batch.labels), logits


@dataclass(frozen=True)
class RobustObjective(Checked, Objective):
    """An objective with an inner search for the worst perturbation of each image.

    The search runs once, whatever the restarts, against the network in eval mode: BatchNorm uses its running statistics
    and does not see the iterates.
    """

    threat_model: ThreatModel  #: Norm, eps, steps and step size of the inner search.
    warmup: Share = 0.0  #: Of the training, over which eps and the step grow from a twentieth to their full size.

    @property
    def selection(self) -> ThreatModel:
        """An attack of moderate strength with the norm and eps that are trained against."""
        return ThreatModel(self.threat_model.norm, self.threat_model.eps, steps=SELECTION_STEPS)

    def inner(self, progress: float) -> ThreatModel:
        """The threat model of the inner search when `progress` of the training is done."""
        full = self.threat_model
        if progress >= self.warmup:
            return full
        share = FIRST_EPS + (1 - FIRST_EPS) * progress / self.warmup
        step = None if full.step_size is None else share * full.step_size
        return replace(full, eps=share * full.eps, step_size=step)


@dataclass(frozen=True)
class AdversarialTraining(RobustObjective):
    """Cross-entropy on adversarial examples, `min E max_{||d|| <= eps} CE(f(x + d), y)` [25]."""

    natural_share: Share = 0.0  #: Weight of the cross-entropy on the natural images.
    one_step_first: bool = False  #: Whether the inner search is that of `fast_training` while eps grows.

    def inner(self, progress: float) -> ThreatModel:
        """See `RobustObjective`."""
        found = super().inner(progress)
        if not self.one_step_first or progress >= self.warmup:
            return found
        return replace(found, steps=1, step_size=FAST_STEP * found.eps)

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`."""
        images, labels = batch.images, batch.labels
        seed = int(torch.randint(2**62, (), generator=batch.generator))
        with classifier.borrowed(), torch.enable_grad():
            seed_generators(images.device, seed)  # borrowed() puts the global state back
            adversarial = search(classifier.run, images, labels, self.inner(batch.progress), classifier.bounds)
        logits = classifier.run(adversarial).float()
        loss = F.cross_entropy(logits, labels)
        if self.natural_share:
            natural = F.cross_entropy(classifier.run(images).float(), labels)
            loss = (1 - self.natural_share) * loss + self.natural_share * natural
        return loss, logits


def fast_training(norm: str, eps: float, step_size: float | None = None, warmup: float = 0.0) -> AdversarialTraining:
    """FGSM from a random start inside the ball, "fast" adversarial training [39] after [27].

    It is PGD of one step, by default of 1.25 eps, projected back: two forward and two backward passes per step. From
    2 eps on the random start is lost, and training may end in a network that only single steps cannot fool.
    """
    step = FAST_STEP * eps if step_size is None else step_size
    return AdversarialTraining(ThreatModel(norm, eps, steps=1, step_size=step), warmup)


@dataclass(frozen=True)
class Trades(RobustObjective):
    """`CE(f(x), y) + beta KL(f(x) || f(x'))`, with x' the maximiser of that divergence inside the ball [22].

    The inner search starts at the image plus a little Gaussian noise: at the image itself the gradient is zero.
    """

    beta: Positive = 6.0  #: The paper's 1 / lambda, 1 to 6: more is more robust and less accurate.

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Objective`; accuracy is counted on the perturbed images."""
        images, (low, high) = batch.images, classifier.bounds
        noise = torch.randn(images.shape, generator=batch.generator).to(images)
        start = (images + TRADES_START * (high - low) * noise).clamp(low, high)
        with classifier.borrowed(), torch.enable_grad():
            with torch.no_grad():
                natural = F.softmax(classifier.run(images).float(), dim=1)
            perturbed = search(
                classifier.run, images, batch.labels, self.inner(batch.progress), classifier.bounds,
                loss=lambda logits: divergence_from(natural, logits), start=start,
            )  # fmt: skip
        natural_logits, logits = classifier.run(images).float(), classifier.run(perturbed).float()
        divergence = divergence_from(F.softmax(natural_logits, dim=1), logits) / len(logits)
        return F.cross_entropy(natural_logits, batch.labels) + self.beta * divergence, logits


def divergence_from(natural: Tensor, logits: Tensor) -> Tensor:
    """Sum over the batch of `KL(p || softmax(logits))`, p `[N, K]` probabilities, in nats."""
    return F.kl_div(F.log_softmax(logits, dim=1), natural, reduction="sum")


def _pgd(norm: str, eps: float, steps: int = 7, step_size: float | None = None) -> Objective:
    return AdversarialTraining(ThreatModel(norm, eps, steps=steps, step_size=step_size), WARMUP)


def _fast(norm: str, eps: float, step_size: float | None = None) -> Objective:
    return fast_training(norm, eps, step_size, WARMUP)


def _trades(norm: str, eps: float, steps: int = 10, step_size: float | None = None, beta: float = 6.0) -> Objective:
    return Trades(ThreatModel(norm, eps, steps=steps, step_size=step_size), WARMUP, beta)


#: What builds each objective: called without arguments, or with norm, eps and further settings.
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "natural": Natural,  # the undefended network
    "fast": _fast,  # Wong et al. 2020, Fast is better than free, after Goodfellow et al. 2015
    "pgd": _pgd,  # Madry et al. 2018, Towards deep learning models resistant to adversarial attacks
    "trades": _trades,  # Zhang et al. 2019, Theoretically principled trade-off between robustness and accuracy
}


def build_objective(
    name: str, *, norm: str = "linf", bounds: tuple[float, float] = (0.0, 1.0), **settings: float | None
) -> Objective:
    """An objective of `OBJECTIVES`. All but the natural one let eps grow over the first 30 % of the training.

    The settings are eps, in the units of the pixels, whose range the bounds are, and steps, step_size and beta where
    the objective has them; `None` leaves one out. An unknown name, and a setting that is missing, out of range or not
    the objective's, is a `ConfigError` or a `ThreatModelError`.
    """
    if name not in OBJECTIVES:
        raise ConfigError(expected=f"an objective among {', '.join(OBJECTIVES)}", got=repr(name), do="choose one")
    build, stated = OBJECTIVES[name], {key: value for key, value in settings.items() if value is not None}
    known = list(inspect.signature(build).parameters)[1:]  # the norm comes first
    if foreign := ", ".join(key for key in stated if key not in known):
        expected = f"the settings {', '.join(known)} for {name}" if known else f"no setting for {name}"
        raise ConfigError(expected=expected, got=foreign, do="leave it out, or choose another objective")
    if not known:
        return build()
    if "eps" not in stated:
        do = "state it, e.g. 0.3 on MNIST or 8/255 on CIFAR-10"
        raise ConfigError(expected=f"an eps for the objective {name}", got="none", do=do)
    low, high = bounds
    if norm == "linf" and stated["eps"] >= high - low:
        do = f"state it in the units of the pixels, {low:g} to {high:g}, e.g. 8/255 for 8 grey levels"
        expected = f"an eps below {high - low:g}, the range of the pixels"
        raise ConfigError(expected=expected, got=f"{stated['eps']:g}", do=do)
    return build(norm, **stated)
