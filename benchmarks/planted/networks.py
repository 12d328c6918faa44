"""Networks with a known fragile layer, made by seed, and the proof by intervention that it is that layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.planted.kinds import Planting, copied, gate, margins, replace_module, substitution, twin
from benchmarks.planted.lipschitz import require_lipschitz
from interpretgan.attacks import ThreatModel, iterated, predicted_right, search, survivors
from interpretgan.attacks.noise import seeded
from interpretgan.attacks.threat_model import Bounds
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_image_set
from interpretgan.errors import ConfigError, LayerError
from interpretgan.layers import Layer, examine

__all__ = ["KINDS", "Kind", "Planted", "Verification", "plant", "verify"]


@dataclass(frozen=True, eq=False)
class Planted:
    """A network with a known fragile layer, or two, or none.

    Attributes:
        kind: A key of `KINDS`.
        layers: The layers that were made fragile.
        classifier: The network with the plant.
        original: The robust network that it was made from.
        seed: All randomness of the plant follows from it.
        details: What was done: sizes, steps, accuracies on the calibration images.
        turns_at: Where the class of the features turns. `None`: not known for this kind.
        let_in_at: Which layers let the perturbation in, so that mending them mends the network.
    """

    kind: str
    layers: tuple[str, ...]
    classifier: Classifier
    original: Classifier
    seed: int
    details: Mapping[str, Any]
    turns_at: tuple[str, ...] | None
    let_in_at: tuple[str, ...]

    def mended(self, *names: str) -> Classifier:
        """A copy of the planted network with the original's modules at the named layers, and only there.

        Raises:
            LayerError: The original has no module of that name.
        """
        network = copied(self.classifier)
        modules = dict(copied(self.original).model.named_modules())
        for name in names:
            if not name or name not in modules:
                got = repr(name)
                raise LayerError(expected="the name of a module of the network", got=got, do="list its layers")
            replace_module(network.model, name, modules[name])
        return network


Plant = Callable[[Planting, Classifier, tuple[Layer, ...]], dict[str, Any]]


@dataclass(frozen=True)
class Kind:
    """A way to plant: what it does to a copy of a network, at how many layers, and what is then known."""

    plant: Plant
    layers: int
    turns: bool
    """Whether the class turns at the planted layers."""
    description: str


def _gates(planting: Planting, planted: Classifier, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Each gate is made in the network without the others, so that each is enough for an attack."""
    details = {}
    for layer in layers:
        alone = copied(planting.original)
        details[layer.name] = gate(planting, alone, layer)
        replace_module(planted.model, layer.module, alone.model.get_submodule(layer.module))
    return details


def _lipschitz(planting: Planting, planted: Classifier, layers: tuple[Layer, ...]) -> dict[str, Any]:
    constants = require_lipschitz(planting.original, layers[0].module)
    return twin(planting, planted, layers[0]) | {"lipschitz_constants_of_the_others": constants}


KINDS: dict[str, Kind] = {
    "gate": Kind(_gates, 1, True, "a direction that natural images hardly excite feeds another class's features"),
    "twin": Kind(
        lambda planting, planted, layers: twin(planting, planted, layers[0]),
        1, False, "one layer's weights are moved until natural accuracy stays and robust accuracy falls",
    ),
    "substitution": Kind(
        lambda planting, planted, layers: substitution(planting, planted, layers[0]),
        1, False, "one layer is swapped for one that makes the network behave like a naturally trained one",
    ),
    "lipschitz": Kind(_lipschitz, 1, False, "no layer but one can enlarge a perturbation, by theorem"),
    "two": Kind(_gates, 2, True, "gates at two layers, each of which is enough for an attack"),
    "none": Kind(lambda *_: {}, 0, True, "the network as it is"),
}  # fmt: skip


def plant(
    kind: str,
    classifier: Classifier,
    layer: str | Sequence[str],
    data: ImageData,
    threat_model: ThreatModel,
    *,
    seed: int = 0,
) -> Planted:
    """Make one layer of a robust network fragile (`two`: two, `none`: none); whether it worked is for `verify` to say.

    Args:
        kind: A key of `KINDS`.
        classifier: A network that withstands the threat model; it is left as it is. `lipschitz` takes one that
            `train_lipschitz` made.
        layer: Name of the layer; for `two` the two names, for `none` an empty sequence.
        data: Training images with classes.
        threat_model: What the layer is to be fragile to.
        seed: The same seed makes the same plant on the same machine.

    Raises:
        ConfigError: An unknown kind, or another number of layers than it takes.
        LayerError: An unknown layer, or one that this kind cannot be planted at.
        ModelError: `lipschitz` in a network that has other layers that enlarge perturbations.
    """
    if kind not in KINDS:
        raise ConfigError(expected=f"a kind among {', '.join(KINDS)}", got=repr(kind), do="choose one of them")
    names = (layer,) if isinstance(layer, str) else tuple(layer)
    if len(set(names)) != KINDS[kind].layers or len(names) != KINDS[kind].layers:
        expected, got = f"{KINDS[kind].layers} different layers for {kind}", ", ".join(names) or "none"
        raise ConfigError(expected=expected, got=got, do="name as many")
    images = as_image_set(data, "train", bounds=classifier.bounds)
    layers = tuple(examine(classifier, images).select(names))
    for chosen in layers:
        if chosen.name != chosen.module:
            raise LayerError(
                expected="a layer whose module is called once, inside the network",
                got=f"'{chosen.name}'",
                do="choose another layer",
            )
    planted = copied(classifier)
    with torch.inference_mode(False), torch.enable_grad(), seeded(classifier.device, seed):
        details = KINDS[kind].plant(Planting(classifier, images, threat_model, seed), planted, layers)
    where = tuple(chosen.name for chosen in layers)
    return Planted(kind, where, planted, classifier, seed, details, where if KINDS[kind].turns else None, where)


# --- verification ------------------------------------------------------------------------------------------------

NATURAL_TOLERANCE = 0.01
ROBUST_FALL = 0.15
MENDED_TOLERANCE = 0.05
ROUNDING = 1e-9


@dataclass(frozen=True)
class Verification:
    """Whether a plant is what it claims to be, by interventions alone; shares of test images, 0 to 1.

    Attributes:
        natural: Natural accuracy of the planted network.
        robust: Its robust accuracy.
        original_natural: Natural accuracy of the network before.
        original_robust: Its robust accuracy.
        mended: Robust accuracy where all planted layers are mended.
        alone: Robust accuracy where one layer alone is mended, for each layer of the network that neither contains
            nor is inside a planted one.
        examples: Number of test images.
        threat_model: Every setting of the attacks.
        seed: Of the attacks.
        reason: Why the plant is not verified; empty where it is.
    """

    natural: float
    robust: float
    original_natural: float
    original_robust: float
    mended: float
    alone: Mapping[str, float]
    examples: int
    threat_model: Mapping[str, Any]
    seed: int
    reason: str = ""

    @property
    def verified(self) -> bool:
        """Whether the plant is what it claims to be."""
        return not self.reason


def verify(
    planted: Planted,
    original: Classifier,
    data: ImageData,
    threat_model: ThreatModel,
    *,
    examples: int = 500,
    restarts: int = 3,
    seed: int = 0,
) -> Verification:
    """Prove by intervention that the planted layers, and no others, make the network fragile.

    Robust accuracy is the worst case of PGD on the cross-entropy and on the margin, over all restarts of both. Natural
    accuracy must stay within a point, robust accuracy fall by 15 points, come within 5 points of where it was
    when the planted layers are mended, and stay 15 points below when any other layer, or one of two, is mended instead.
    A network without a plant must keep both accuracies.

    Args:
        planted: The network and its claim.
        original: The robust network that it was made from.
        data: Test images with classes.
        threat_model: Norm, eps and steps of the attacks.
        examples: How many images, from the first.
        restarts: Random starts of each attack.
        seed: Of the attacks.
    """
    source = as_image_set(data, "test", bounds=original.bounds).head(examples)
    images, labels = (tensor.to(original.device) for tensor in source.batch(slice(0, len(source))))
    strong = replace(iterated(threat_model), restarts=restarts)

    def natural_accuracy(classifier: Classifier) -> float:
        return float(predicted_right(classifier, images, labels).double().mean())

    def robust_accuracy(classifier: Classifier) -> float:
        right = torch.ones_like(labels, dtype=torch.bool)
        for method in (search, _search_margin):
            left = right.nonzero().flatten()
            if len(left):
                right[left] = survivors(classifier, images[left], labels[left], strong, seed=seed, method=method)
        return float(right.double().mean())

    robust = robust_accuracy(planted.classifier)
    mended = robust_accuracy(planted.mended(*planted.layers)) if planted.layers else robust
    alone = {}
    for layer in examine(original, images).distinct:
        name = layer.module
        near = [other for other in planted.layers if _contains(name, other) or _contains(other, name)]
        if name and (not near or (name in planted.layers and len(planted.layers) > 1)):
            unchanged = _same(planted.classifier, original, name)
            alone[layer.name] = robust if unchanged else robust_accuracy(planted.mended(name))
    found = Verification(
        natural_accuracy(planted.classifier), robust, natural_accuracy(original), robust_accuracy(original), mended,
        alone, len(labels), strong.to_dict(), seed,
    )  # fmt: skip
    return replace(found, reason=_objection(planted, found))


def _search_margin(
    run: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, threat_model: ThreatModel, bounds: Bounds, *,
    start: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """PGD on the margin in place of the cross-entropy."""
    return search(run, x, y, threat_model, bounds, start=start, loss=lambda logits: -margins(logits, y).sum())


def _objection(planted: Planted, found: Verification) -> str:
    """Why a plant is not what it claims to be; empty where it is."""
    moved = abs(found.natural - found.original_natural)
    fall = found.original_robust - found.robust
    still_missing = found.original_robust - found.mended
    if moved > NATURAL_TOLERANCE + ROUNDING:
        return f"natural accuracy moves from {found.original_natural:.3f} to {found.natural:.3f}"
    if not planted.layers:
        return "" if abs(fall) <= MENDED_TOLERANCE else f"without a plant robust accuracy falls by {fall:.3f}"
    if fall < ROBUST_FALL - ROUNDING:
        return f"robust accuracy falls by {fall:.3f}, from {found.original_robust:.3f}, and not by {ROBUST_FALL}"
    if still_missing > MENDED_TOLERANCE + ROUNDING:
        return f"with {' and '.join(planted.layers)} mended robust accuracy is {found.mended:.3f}, not as before"
    for name, value in found.alone.items():
        if found.original_robust - value < ROBUST_FALL - ROUNDING:
            return f"with {name} mended instead robust accuracy is {value:.3f}"
    return ""


def _contains(name: str, other: str) -> bool:
    """Whether a module is another one or contains it, by their qualified names."""
    return f"{other}.".startswith(f"{name}.")


def _same(classifier: Classifier, other: Classifier, name: str) -> bool:
    """Whether a module is the same in two networks, so that to exchange it changes nothing."""
    one, two = (Classifier(network.model.get_submodule(name)) for network in (classifier, other))
    return one.identity() == two.identity() and one.state_sha256() == two.state_sha256()
