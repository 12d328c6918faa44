"""Attacks that look for the nearest adversarial image: Carlini and Wagner's in L2, and DeepFool.

What they find beyond eps is projected onto the ball.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from interpretgan.attacks.gradient import Logits, Run, Search
from interpretgan.attacks.threat_model import Bounds, ThreatModel

# foolbox's own defaults, a first constant of 0.001 and steps of 0.01, find little in a few hundred steps. It would also
# stop where a whole batch makes no progress: what is found of an image would depend on those beside it.
CARLINI_WAGNER: dict[str, Any] = {"steps": 200, "binary_search_steps": 5, "step_size": 0.05, "abort_early": False}
DEEPFOOL: dict[str, Any] = {"steps": 50, "overshoot": 0.02, "candidates": 10}


def carlini_wagner(bounds: Bounds) -> tuple[Search, dict[str, Any]]:
    """A search for the smallest L2 perturbation, by Adam on distance and margin, and its settings for the record.

    The weight of the margin against the squared distance is searched for, from one on for pixels from 0 to 1.

    Source: Carlini and Wagner 2017, Towards evaluating the robustness of neural networks.
    """
    from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack

    settings = CARLINI_WAGNER | {"initial_const": (bounds[1] - bounds[0]) ** 2, "confidence": 0}
    own = {"stepsize" if name == "step_size" else name: value for name, value in settings.items()}
    return _projected(L2CarliniWagnerAttack(**own)), settings


def deepfool(norm: str) -> tuple[Search, dict[str, Any]]:
    """A search by steps to the nearest decision boundary of the linearised network, and its settings for the record.

    Source: Moosavi-Dezfooli et al. 2016, DeepFool: a simple and accurate method to fool deep neural networks.
    """
    from foolbox.attacks.deepfool import L2DeepFoolAttack, LinfDeepFoolAttack

    nearest = LinfDeepFoolAttack if norm == "linf" else L2DeepFoolAttack
    return _projected(nearest(**DEEPFOOL)), DEEPFOOL


def _projected(method: Any) -> Search:
    """A search for the images within eps that are nearest to what a method of foolbox finds."""
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    def search(run: Run, x: Tensor, y: Tensor, threat_model: ThreatModel, bounds: Bounds, **_start: object) -> Tensor:
        with _logging_kept():
            found = method.run(PyTorchModel(Logits(run), bounds=bounds, device=x.device), x, Misclassification(y))
        eps, far = threat_model.eps, found.detach() - x
        delta: Tensor = far.clamp(-eps, eps) if threat_model.norm == "linf" else far.renorm(2, 0, eps)
        return (x + delta).clamp(*bounds)

    return search


@contextmanager
def _logging_kept() -> Iterator[None]:
    """The root logger as it is: foolbox logs to it, and it configures itself then, where the user has not done so."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)
