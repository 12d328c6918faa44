"""What a classifier is trained for: one file and one line of `OBJECTIVES` for each objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from interpretgan.attacks import ThreatModel
from interpretgan.errors import ConfigError
from interpretgan.training.objectives.adversarial import AdversarialTraining, fast_training
from interpretgan.training.objectives.base import Batch, Objective
from interpretgan.training.objectives.natural import Natural
from interpretgan.training.objectives.trades import Trades

__all__ = [
    "OBJECTIVES",
    "AdversarialTraining",
    "Batch",
    "Natural",
    "Objective",
    "ObjectiveSpec",
    "Trades",
    "build_objective",
    "fast_training",
]

WARMUP = 0.3
"""Share of the training over which eps grows: without it small networks stall at chance at MNIST's 0.3."""


@dataclass(frozen=True)
class ObjectiveSpec:
    """An objective that can be built by name.

    Attributes:
        build: Called without arguments, or with norm, eps and those of its further arguments that are stated.
        description: One line for the list of objectives.
        source: Where it comes from.
    """

    build: Callable[..., Objective]
    description: str
    source: str

    @property
    def settings(self) -> tuple[str, ...]:
        """What it can be told beside the norm: eps first, and nothing where it perturbs nothing."""
        return tuple(inspect.signature(self.build).parameters)[1:]


def _pgd(norm: str, eps: float, steps: int = 7, step_size: float | None = None) -> Objective:
    return AdversarialTraining(ThreatModel(norm, eps, steps=steps, step_size=step_size), warmup=WARMUP)


def _fast(norm: str, eps: float, step_size: float | None = None) -> Objective:
    return fast_training(norm, eps, step_size, warmup=WARMUP)


def _trades(norm: str, eps: float, steps: int = 10, step_size: float | None = None, beta: float = 6.0) -> Objective:
    return Trades(ThreatModel(norm, eps, steps=steps, step_size=step_size), beta=beta, warmup=WARMUP)


OBJECTIVES: dict[str, ObjectiveSpec] = {
    "natural": ObjectiveSpec(Natural, "cross-entropy on the images as they are", "the undefended network"),
    "fast": ObjectiveSpec(
        _fast,
        "adversarial training on one gradient step from a random start",
        "Wong et al. 2020, Fast is better than free, after Goodfellow et al. 2015",
    ),
    "pgd": ObjectiveSpec(
        _pgd,
        "adversarial training on projected gradient descent (7 steps)",
        "Madry et al. 2018, Towards deep learning models resistant to adversarial attacks",
    ),
    "trades": ObjectiveSpec(
        _trades,
        "natural cross-entropy plus beta (6) times the divergence inside the ball (10 steps)",
        "Zhang et al. 2019, Theoretically principled trade-off between robustness and accuracy",
    ),
}


def build_objective(
    name: str,
    *,
    eps: float | None = None,
    norm: str = "linf",
    steps: int | None = None,
    step_size: float | None = None,
    beta: float | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Objective:
    """An objective of `OBJECTIVES`. All but the natural one let eps grow over the first 30 % of the training.

    Args:
        name: A key of `OBJECTIVES`.
        eps: Size of the perturbation that is trained against, in the units of the pixels.
        norm: `"linf"` or `"l2"`.
        steps: Of the inner search. `None`: as the table describes.
        step_size: Of the inner search. `None`: see `ThreatModel`; 1.25 eps for `fast`.
        beta: Weight of the divergence in `trades`. `None`: 6.
        bounds: Range of the pixels, which an L-infinity eps must be inside.

    Raises:
        ConfigError: Unknown name, a missing parameter, or one that the objective does not have.
        ThreatModelError: A parameter out of range.
    """
    if name not in OBJECTIVES:
        raise ConfigError(expected=f"an objective among {', '.join(OBJECTIVES)}", got=repr(name), do="choose one")
    spec, given = OBJECTIVES[name], {"eps": eps, "steps": steps, "step_size": step_size, "beta": beta}
    stated = {key: value for key, value in given.items() if value is not None}
    foreign = [key for key in stated if key not in spec.settings]
    if foreign:
        known = f"the parameters {', '.join(spec.settings)}" if spec.settings else "no parameter"
        raise ConfigError(
            expected=f"{known} for {name}", got=", ".join(foreign), do="leave it out, or choose another objective"
        )
    if not spec.settings:
        return spec.build()
    if eps is None:
        raise ConfigError(
            expected=f"an eps for the objective {name}",
            got="none",
            do="state it, e.g. 0.3 on MNIST or 8/255 on CIFAR-10",
        )
    low, high = bounds
    if norm == "linf" and eps >= high - low:
        raise ConfigError(
            expected=f"an eps below {high - low:g}, the range of the pixels",
            got=f"{eps:g}",
            do=f"state it in the units of the pixels, {low:g} to {high:g}, e.g. 8/255 for 8 grey levels",
        )
    return spec.build(norm, **stated)
