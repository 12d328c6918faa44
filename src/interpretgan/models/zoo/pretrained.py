"""A pretrained classifier by its name, checked against its card."""

from __future__ import annotations

import torch

from interpretgan.classifier import Classifier
from interpretgan.errors import WeightsError
from interpretgan.models.build import build_model
from interpretgan.models.weights import load_weights
from interpretgan.models.zoo.cards import Card, read_card, weights_file
from interpretgan.store.files import file_sha256


def load_classifier(name: str, *, device: torch.device | str = "cpu") -> Classifier:
    """A trained classifier that comes with the package, by a name such as `"lenet5-avg-trades"`, on a device.

    `interpretgan models` lists them with their accuracy. `ModelError` for a name that does not exist, `WeightsError`
    for weights that are missing or not those of the card.
    """
    card = read_card(name)
    file = weights_file(name)
    if not file.is_file():
        raise WeightsError(expected=f"the weights of {name}", got=f"no file at {file}", do="install the package again")
    found = file_sha256(file)
    if found != card.sha256:
        expected, got = f"weights with the SHA-256 of their card, {card.sha256[:12]}...", f"{found[:12]}... in {file}"
        raise WeightsError(expected=expected, got=got, do="install the package again: the file is damaged")
    model = build(card)
    load_weights(model, file)
    return Classifier(model.to(device).eval(), bounds=card.bounds, mean=card.mean, std=card.std)


def build(card: Card) -> torch.nn.Module:
    """The network of a card, without its weights; the global random state stays as it is."""
    settings = {key: getattr(card, key) for key in ("in_channels", "num_classes", "image_size", "pool", "width")}
    with torch.random.fork_rng(devices=()):
        return build_model(card.architecture, **settings)
