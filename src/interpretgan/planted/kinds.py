"""The kinds of plants, and a network with one: what was made fragile, and what is then known of its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from interpretgan.attacks import ThreatModel
from interpretgan.attacks.noise import seeded
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_image_set
from interpretgan.errors import ConfigError, LayerError
from interpretgan.layers import Layer, examine
from interpretgan.planted.gate import gate
from interpretgan.planted.lipschitz import require_lipschitz
from interpretgan.planted.planting import Planting, replace_module
from interpretgan.planted.weights import substitution, twin
from interpretgan.torch_state import as_seed


@dataclass(frozen=True, eq=False)
class Planted:
    """A network with a known fragile layer, or two, or none."""

    kind: str  #: A key of `KINDS`.
    layers: tuple[str, ...]  #: The layers that were made fragile.
    classifier: Classifier  #: The network with the plant.
    original: Classifier  #: The robust network that it was made from.
    seed: int  #: All randomness of the plant follows from it.
    details: Mapping[str, Any]  #: What was done: sizes, steps, accuracies on the calibration images.
    turns_at: tuple[str, ...] | None  #: Where the class of the features turns. `None`: not known for this kind.
    let_in_at: tuple[str, ...]  #: Which layers let the perturbation in, so that mending them mends the network.

    def mended(self, *names: str) -> Classifier:
        """A copy of the planted network with the original's modules at the named layers, and only there.

        Raises:
            LayerError: The original has no module of that name.
        """
        network = copy.deepcopy(self.classifier)
        modules = dict(copy.deepcopy(self.original).model.named_modules())
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
    turns: bool  #: Whether the class turns at the planted layers.
    description: str


def _gates(planting: Planting, planted: Classifier, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Each gate is made in the network without the others, so that each is enough for an attack."""
    details = {}
    for layer in layers:
        alone = copy.deepcopy(planting.original)
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
    seed, images = as_seed(seed), as_image_set(data, "train", bounds=classifier.bounds)
    layers = tuple(examine(classifier, images).select(names))
    for chosen in layers:
        if chosen.name != chosen.module:
            raise LayerError(
                expected="a layer whose module is called once, inside the network",
                got=f"'{chosen.name}'",
                do="choose another layer",
            )
    planted = copy.deepcopy(classifier)
    with torch.inference_mode(False), torch.enable_grad(), seeded(classifier.device, seed):
        details = KINDS[kind].plant(Planting(classifier, images, threat_model, seed), planted, layers)
    where = tuple(chosen.name for chosen in layers)
    return Planted(kind, where, planted, classifier, seed, details, where if KINDS[kind].turns else None, where)
