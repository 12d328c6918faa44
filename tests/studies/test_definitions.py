from __future__ import annotations

import pytest
import torch

from interpretgan.classifier import Classifier
from interpretgan.data import load_data
from interpretgan.layers import capture, find_layers
from interpretgan.studies.definitions import other_definitions
from tests.networks import Tiny


@pytest.fixture
def classifier() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(Tiny())


def test_without_a_perturbation_no_definition_blames_a_layer(classifier: Classifier) -> None:
    train, test = load_data("digits", "train").head(300), load_data("digits", "test")
    layers = find_layers(classifier, test.batch(slice(0, 4))[0])
    found = other_definitions(classifier, layers, train, test, 40, adversarial=lambda x, *_: x, seed=0)
    assert found == {"vulnerability_probe": [0.0] * len(layers), "relative_error": [0.0] * len(layers)}


def test_the_relative_error_is_that_of_the_activations(classifier: Classifier) -> None:
    train, test = load_data("digits", "train").head(300), load_data("digits", "test")
    x, _ = test.batch(slice(0, 300))  # more than a batch
    layers = find_layers(classifier, x[:4])
    found = other_definitions(classifier, layers, train, test, 300, adversarial=lambda x, *_: x * 0.5, seed=0)
    _, before = capture(classifier, x, layers)
    _, after = capture(classifier, x * 0.5, layers)
    for layer, value in zip(layers, found["relative_error"], strict=True):
        a, b = before[layer.name].flatten(1), after[layer.name].flatten(1)
        assert value == pytest.approx(float(((b - a).norm(dim=1) / a.norm(dim=1)).mean()), rel=1e-5)
    assert any(abs(value) > 0.01 for value in found["vulnerability_probe"])
