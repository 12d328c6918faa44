"""Attacks that look for the nearest adversarial image: Carlini and Wagner's in L2, and DeepFool.

Each is a `Search`. What it finds beyond eps is projected onto the ball.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from interpretgan.attacks.gradient import Logits, Run
from interpretgan.attacks.threat_model import Bounds, ThreatModel

CARLINI_WAGNER: dict[str, Any] = {"steps": 200, "binary_search_steps": 5, "step_size": 0.05}
"""foolbox's own defaults, a first constant of 0.001 and steps of 0.01, find little in a few hundred steps."""
DEEPFOOL: dict[str, Any] = {"steps": 50, "overshoot": 0.02, "candidates": 10}


def first_constant(bounds: Bounds) -> float:
    """Weight of the margin against the squared distance at first: one, for pixels from 0 to 1."""
    return (bounds[1] - bounds[0]) ** 2


def carlini_wagner(
    run: Run, x: Tensor, y: Tensor, threat_model: ThreatModel, bounds: Bounds, *, start: Tensor | None = None
) -> Tensor:
    """The smallest L2 perturbation, by Adam on distance and margin with a search for their weight.

    Source: Carlini and Wagner 2017, Towards evaluating the robustness of neural networks.
    """
    from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack

    own = {name: CARLINI_WAGNER[name] for name in ("steps", "binary_search_steps")}
    method = L2CarliniWagnerAttack(**own, stepsize=CARLINI_WAGNER["step_size"], initial_const=first_constant(bounds))
    return _projected(method, run, x, y, threat_model=threat_model, bounds=bounds)


def deepfool(
    run: Run, x: Tensor, y: Tensor, threat_model: ThreatModel, bounds: Bounds, *, start: Tensor | None = None
) -> Tensor:
    """Steps to the nearest decision boundary of the linearised network.

    Source: Moosavi-Dezfooli et al. 2016, DeepFool: a simple and accurate method to fool deep neural networks.
    """
    from foolbox.attacks.deepfool import L2DeepFoolAttack, LinfDeepFoolAttack

    nearest = LinfDeepFoolAttack if threat_model.norm == "linf" else L2DeepFoolAttack
    return _projected(nearest(**DEEPFOOL), run, x, y, threat_model=threat_model, bounds=bounds)


def _projected(method: Any, run: Run, x: Tensor, y: Tensor, *, threat_model: ThreatModel, bounds: Bounds) -> Tensor:
    """The images within eps of `x` that are nearest to what a method of foolbox finds."""
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    with _logging_kept():
        found = method.run(PyTorchModel(Logits(run), bounds=bounds, device=x.device), x, Misclassification(y))
    eps, far = threat_model.eps, found.detach() - x
    delta: Tensor = far.clamp(-eps, eps) if threat_model.norm == "linf" else far.renorm(2, 0, eps)
    return (x + delta).clamp(*bounds)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """The root logger as it is: foolbox logs to it, and it configures itself then, where the user has not done so."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
