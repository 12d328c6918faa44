"""The attacks of an evaluation by name: what each makes of a threat model, and how it searches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from interpretgan.attacks.gradient import Run, Search, at_a_time, attack, search
from interpretgan.attacks.minimal_norm import carlini_wagner, deepfool
from interpretgan.attacks.threat_model import Bounds, ThreatModel, iterated
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError


@dataclass(frozen=True)
class NamedAttack:
    """One attack: what it makes of a threat model, all that it depends on (for the record), and how it searches."""

    threat_model: ThreatModel
    settings: dict[str, Any]
    search: Search | None = None  #: See `attack`. `None`: that of the threat model.


def _climbing(threat_model: ThreatModel, loss: str, search: Search | None = None) -> NamedAttack:
    """FGSM or PGD on a loss."""
    settings = {name: v for name, v in threat_model.to_dict().items() if name not in ("norm", "eps", "attack")}
    settings |= {"loss": loss, "random_start": threat_model.attack == "pgd"}
    return NamedAttack(threat_model, settings, search)


def _cw(threat_model: ThreatModel, bounds: Bounds) -> NamedAttack:
    if threat_model.norm == "linf":
        return _climbing(iterated(threat_model), "margin", search_margin)
    method, settings = carlini_wagner(bounds)
    settings |= {"restarts": 1, "loss": "margin", "success": "within eps only"}
    return NamedAttack(replace(threat_model, restarts=1), settings, method)


def _deepfool(threat_model: ThreatModel, _bounds: Bounds) -> NamedAttack:
    method, settings = deepfool(threat_model.norm)
    return NamedAttack(replace(threat_model, restarts=1), {**settings, "restarts": 1, "loss": "logits"}, method)


NAMED_ATTACKS: dict[str, Callable[[ThreatModel, Bounds], NamedAttack]] = {
    "fgsm": lambda tm, _bounds: _climbing(ThreatModel(tm.norm, tm.eps, "fgsm"), "cross-entropy"),  # one step [27]
    "pgd": lambda tm, _bounds: _climbing(iterated(tm), "cross-entropy"),  # from random starts [25]
    "cw": _cw,  # Carlini and Wagner's margin: in L-infinity as PGD climbs it, in L2 by their own minimisation
    "deepfool": _deepfool,
}
AUTOATTACK = "autoattack"  #: Runs as a whole, see `autoattack`.
NAMES = (*NAMED_ATTACKS, AUTOATTACK)


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the logit of the true class leads, `[N]`; negative where another is higher."""
    true = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    return logits[true] - logits.masked_fill(true, -torch.inf).amax(dim=1)


def search_margin(run: Run, x: Tensor, y: Tensor, *settings: Any, start: Tensor | None) -> Tensor:
    """PGD on the margin in place of the cross-entropy, for `attack`."""
    return search(run, x, y, *settings, start=start, loss=lambda logits: -margins(logits, y).sum())


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of attacks; `ConfigError` for none at all, one that does not exist, or one twice."""
    unknown = [name for name in names if name not in NAMES]
    if not names or unknown or len(set(names)) < len(names):
        expected, got = f"attacks of {', '.join(NAMES)}, each once", repr(unknown[0] if unknown else ",".join(names))
        raise ConfigError(expected=expected, got=got, do="name them with commas between, e.g. fgsm,pgd,autoattack")
    return tuple(names)


def survivors(
    classifier: Classifier, images: Tensor, labels: Tensor, threat_model: ThreatModel, *, seed: int,
    method: Search | None = None,
) -> Tensor:  # fmt: skip
    """Which checked examples an attack leaves right, bool `[N]`; its settings are those of `attack`.

    A restart goes on with those that the ones before left, with the next seed.
    """
    right = predicted_right(classifier, images, labels)  # what is wrong without an attack stays wrong
    once = replace(threat_model, restarts=1)
    for restart in range(threat_model.restarts):
        left = right.nonzero().flatten()
        if not len(left):
            break
        x, y = images[left], labels[left]
        right[left] = predicted_right(classifier, attack(classifier, x, y, once, seed=seed + restart, method=method), y)
    return right


def predicted_right(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Which images the classifier predicts right, bool `[N]`."""
    parts = zip(*(torch.split(each, at_a_time(images)) for each in (images, labels)), strict=True)
    return torch.cat([classifier.logits(x).argmax(dim=1) == y for x, y in parts])
