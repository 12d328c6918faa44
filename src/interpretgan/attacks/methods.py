"""The attacks of an evaluation by name, and how each one searches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interpretgan.attacks import Bounds, Logits, Run, Search, ThreatModel, attack, iterated, search
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError

CW_STEPS = 200
CW_SEARCHES = 5
CW_STEP = 0.05
CW_CONST = 1.0
DEEPFOOL_STEPS = 50
OVERSHOOT = 0.02
CANDIDATES = 10


@dataclass(frozen=True)
class Method:
    """One attack.

    Attributes:
        threat_model: What it makes of the evaluation's threat model: its own steps and restarts.
        settings: All that it depends on, for the record.
        search: See `attack`. `None`: it is that of the threat model.
    """

    threat_model: ThreatModel
    settings: dict[str, Any]
    search: Search | None = None


def fgsm(threat_model: ThreatModel, bounds: Bounds) -> Method:
    """One step of size eps along the gradient [27]."""
    one_step = ThreatModel(threat_model.norm, threat_model.eps, "fgsm")
    return Method(one_step, _settings(one_step, "cross-entropy", random_start=False))


def pgd(threat_model: ThreatModel, bounds: Bounds) -> Method:
    """Projected gradient ascent on the cross-entropy, from random starts [25]."""
    tm = iterated(threat_model)
    return Method(tm, _settings(tm, "cross-entropy", random_start=True))


def cw(threat_model: ThreatModel, bounds: Bounds) -> Method:
    """The margin loss of Carlini and Wagner: in L-infinity as PGD ascends it, in L2 their own minimisation.

    Source: Carlini and Wagner 2017, Towards evaluating the robustness of neural networks.
    """
    if threat_model.norm == "linf":
        tm = iterated(threat_model)
        return Method(tm, _settings(tm, "margin", random_start=True), _ascend_margin)
    width = bounds[1] - bounds[0]
    settings = {
        "steps": CW_STEPS,
        "binary_search_steps": CW_SEARCHES,
        "step_size": CW_STEP,
        "initial_const": CW_CONST * width**2,
        "confidence": 0,
        "restarts": 1,
        "loss": "margin",
        "success": "within eps only",
    }
    return Method(replace(threat_model, restarts=1), settings, _carlini_wagner)


def deepfool(threat_model: ThreatModel, bounds: Bounds) -> Method:
    """Steps to the nearest decision boundary of the linearised network; what it finds beyond eps is projected.

    Source: Moosavi-Dezfooli et al. 2016, DeepFool: a simple and accurate method to fool deep neural networks.
    """
    settings = {
        "steps": DEEPFOOL_STEPS,
        "overshoot": OVERSHOOT,
        "candidates": CANDIDATES,
        "restarts": 1,
        "loss": "logits",
    }
    return Method(replace(threat_model, restarts=1), settings, _deepfool)


def survivors(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    method: Search | None = None,
) -> Tensor:
    """Which examples an attack leaves right, bool `[N]`. A restart goes on with those that the ones before left.

    Args:
        classifier: Given back as it was.
        images: `[N, C, H, W]` within the bounds.
        labels: True classes `[N]`, on the classifier's device.
        threat_model: Size, search and restarts.
        seed: Of the first restart; the next one's is larger by one.
        method: See `attack`.
    """
    right = predicted_right(classifier, images, labels)  # what is wrong without an attack stays wrong
    for restart in range(threat_model.restarts):
        left = right.nonzero().flatten()
        if not len(left):
            break
        x, y, once = images[left], labels[left], replace(threat_model, restarts=1)
        right[left] = predicted_right(classifier, attack(classifier, x, y, once, seed=seed + restart, method=method), y)
    return right


def predicted_right(classifier: Classifier, images: Tensor, labels: Tensor, *, batch_size: int = 500) -> Tensor:
    """Which images the classifier reads right, bool `[N]`."""
    parts = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    return torch.cat([classifier.logits(x).argmax(dim=1) == y for x, y in parts])


METHODS: dict[str, Callable[[ThreatModel, Bounds], Method]] = {"fgsm": fgsm, "pgd": pgd, "cw": cw, "deepfool": deepfool}
AUTOATTACK = "autoattack"
NAMES = (*METHODS, AUTOATTACK)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of attacks, each once.

    Raises:
        ConfigError: None at all, one that does not exist, or one twice.
    """
    unknown = [name for name in names if name not in NAMES]
    if not names or unknown or len(set(names)) < len(names):
        raise ConfigError(
            expected=f"attacks of {', '.join(NAMES)}, each once",
            got=repr(unknown[0]) if unknown else repr(",".join(names)),
            do="name them with commas between, e.g. fgsm,pgd,autoattack",
        )
    return tuple(names)


def _settings(threat_model: ThreatModel, loss: str, *, random_start: bool) -> dict[str, Any]:
    named = {name: value for name, value in threat_model.to_dict().items() if name not in ("norm", "eps", "attack")}
    return named | {"loss": loss, "random_start": random_start}


def _ascend_margin(run: Run, x: Tensor, y: Tensor, threat_model: ThreatModel, bounds: Bounds) -> Tensor:
    def margin(logits: Tensor) -> Tensor:
        """Highest other logit minus that of the true class, summed over the examples."""
        true = torch.nn.functional.one_hot(y, logits.shape[1]).bool()
        return (logits.masked_fill(true, -torch.inf).amax(dim=1) - logits[true]).sum()

    return search(run, x, y, threat_model, bounds, loss=margin)


def _carlini_wagner(run: Run, x: Tensor, y: Tensor, threat_model: ThreatModel, bounds: Bounds) -> Tensor:
    from foolbox.attacks.carlini_wagner import L2CarliniWagnerAttack
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    width = bounds[1] - bounds[0]
    # foolbox's own defaults, a first constant of 0.001 and steps of 0.01, find little in a few hundred steps
    method = L2CarliniWagnerAttack(
        binary_search_steps=CW_SEARCHES, steps=CW_STEPS, stepsize=CW_STEP, initial_const=CW_CONST * width**2
    )
    model = PyTorchModel(Logits(run), bounds=bounds, device=x.device)
    found: Tensor = method.run(model, x, Misclassification(y))
    return _projected(found.detach(), x, threat_model, bounds)


def _deepfool(run: Run, x: Tensor, y: Tensor, threat_model: ThreatModel, bounds: Bounds) -> Tensor:
    from foolbox.attacks.deepfool import L2DeepFoolAttack, LinfDeepFoolAttack
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    minimal = LinfDeepFoolAttack if threat_model.norm == "linf" else L2DeepFoolAttack
    model = PyTorchModel(Logits(run), bounds=bounds, device=x.device)
    method = minimal(steps=DEEPFOOL_STEPS, overshoot=OVERSHOOT, candidates=CANDIDATES)
    with _logging_kept():
        found: Tensor = method.run(model, x, Misclassification(y))
    return _projected(found.detach(), x, threat_model, bounds)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """The root logger as it is: foolbox logs to it, and it configures itself then, where the user has not done so."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)


def _projected(found: Tensor, x: Tensor, threat_model: ThreatModel, bounds: Bounds) -> Tensor:
    """The nearest image to `found` within eps of `x`."""
    delta = found - x
    if threat_model.norm == "linf":
        delta = delta.clamp(-threat_model.eps, threat_model.eps)
    else:
        delta = delta.renorm(2, 0, threat_model.eps)
    return (x + delta).clamp(*bounds)
