"""Plants in the weights of a layer: moved until robustness is gone, or swapped for those of a fragile network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks.named_attacks import margins
from interpretgan.attacks.noise import seeded
from interpretgan.classifier import Classifier
from interpretgan.errors import LayerError
from interpretgan.layers import Layer
from interpretgan.planted.planting import NATURAL_LOSS, Accuracies, Planting
from interpretgan.training import Natural, Recipe, train_classifier
from interpretgan.training.steps import relative_rates

STEPS = 600  #: Most steps; it ends when enough robustness is gone.
CHECK_EVERY = 50
BATCH = 100
INNER_STEPS = 5  #: PGD steps of the adversarial images that the weights are moved by.
RATE = 0.03  #: Length of Adam's steps, as a share of the root mean square of each tensor of weights.
MARGIN_FLOOR = 1.0  #: An adversarial image that is wrong by this margin of logits is wrong enough.


def twin(planting: Planting, planted: Classifier, layer: Layer) -> dict[str, Any]:
    """Move one layer's weights until the network keeps natural accuracy and loses robust accuracy.

    The margin of the true class on fresh adversarial images of the network itself is minimised, down to a floor.
    """
    _require_weights(planted, layer)

    def pull(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = planting.perturb(planted, images, labels, INNER_STEPS)
        return margins(planted.run(adversarial), labels).clamp_min(-MARGIN_FLOOR).mean()

    return _fit(planting, planted, layer, pull, rate=RATE, like_original=True)


NATURAL_STEPS = 1000  #: Of the natural training of the network that a substitution copies.
NATURAL_BATCH = 128
NATURAL_RATE = 8e-3


def substitution(planting: Planting, planted: Classifier, layer: Layer) -> dict[str, Any]:
    """Swap one layer for one that makes the network behave like a naturally trained one; the rest stays frozen.

    A copy of the whole network is trained on natural images. The layer starts afresh and learns, within the frozen rest
    of the robust network, the classes of natural images and the copy's answers to images that are adversarial to the
    copy. No attack on the resulting network has a part in it.
    """
    _require_weights(planted, layer)
    natural = _natural_copy(planting)
    with seeded(planted.device, planting.seed):
        for module in planted.model.get_submodule(layer.module).modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def pull(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = planting.perturb(natural, images, labels, INNER_STEPS)
        with torch.no_grad():
            answers = natural(adversarial).softmax(dim=1)
        return F.cross_entropy(planted.run(adversarial), answers)

    details = _fit(planting, planted, layer, pull, rate=2 * RATE, like_original=False)
    return details | {"natural_copy": vars(planting.measure(natural))}


_natural_copies: dict[tuple[str, str, int], Classifier] = {}  # the last one: substitutions come layer after layer


def _natural_copy(planting: Planting) -> Classifier:
    """A copy of the robust network, trained on natural images."""
    key = (planting.original.state_sha256(), planting.data.sha256, planting.seed)
    if key not in _natural_copies:
        natural = copy.deepcopy(planting.original)
        natural.model.requires_grad_(True)
        epochs = max(1, round(NATURAL_STEPS * NATURAL_BATCH / len(planting.data)))
        recipe = Recipe(epochs, NATURAL_BATCH, NATURAL_RATE)
        train_classifier(natural, planting.data, objective=Natural(), recipe=recipe, seed=planting.seed)
        _natural_copies.clear()
        _natural_copies[key] = natural
    return _natural_copies[key]


def _require_weights(planted: Classifier, layer: Layer) -> None:
    if not list(planted.model.get_submodule(layer.module).parameters()):
        expected, got = "a layer with weights", f"'{layer.name}' without any"
        raise LayerError(expected=expected, got=got, do="choose a convolution or a linear layer")


def _fit(
    planting: Planting,
    planted: Classifier,
    layer: Layer,
    pull: Callable[[Tensor, Tensor], Tensor],
    *,
    rate: float,
    like_original: bool,
) -> dict[str, Any]:
    """Train one layer's weights on natural images and on `pull`, which weighs as much as natural accuracy allows."""
    module, original = (c.model.get_submodule(layer.module) for c in (planted, planting.original))
    parameters, flags = list(module.parameters()), [(p, p.requires_grad) for p in planted.model.parameters()]
    planted.model.eval().requires_grad_(False)
    module.requires_grad_(True)
    optimizer = torch.optim.Adam(relative_rates(parameters, rate))
    weight, lost, step = 0.1, 0.0, 0
    best: tuple[Accuracies, dict[str, Tensor]] | None = None
    while step < STEPS:
        images, labels = planting.batch(BATCH)
        before = planting.original(images).detach()
        logits = planted.run(images)
        loss = F.cross_entropy(logits, labels)
        if like_original:
            divergence = F.kl_div(logits.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean")
            loss = loss + divergence
        wrong = (logits.argmax(dim=1) != labels).float().mean() - (before.argmax(dim=1) != labels).float().mean()
        lost = 0.95 * lost + 0.05 * float(wrong)
        weight = min(3.0, 1.03 * weight) if lost < NATURAL_LOSS else max(0.03, 0.9 * weight)
        optimizer.zero_grad()
        torch.autograd.backward((loss + weight * pull(images, labels)) / (1 + weight))
        optimizer.step()
        step += 1
        if not step % CHECK_EVERY:
            found = planting.measure(planted)
            if best is None or (planting.keeps(found), -found.robust) > (planting.keeps(best[0]), -best[0].robust):
                best = found, copy.deepcopy(module.state_dict())
            if planting.succeeds(found):
                break
    assert best is not None
    module.load_state_dict(best[1])
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
        parameter.grad = None
    new, old = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (module, original))
    return {"steps": step, "weight": weight, "moved": float((new - old).norm() / old.norm()), **vars(best[0])}
