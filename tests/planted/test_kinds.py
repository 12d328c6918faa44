"""Plants at every kind of layer, what they claim, and the interventions that prove it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from interpretgan.attacks import ThreatModel, attack, predicted_right
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError, LayerError, ModelError
from interpretgan.layers import find_layers
from interpretgan.models import load_classifier
from interpretgan.planted.kinds import KINDS, Planted, plant
from interpretgan.planted.verify import Interventions
from tests.planted.conftest import THREAT

Digits = tuple[ImageSet, ImageSet]


def check(planted: Planted, digits: Digits) -> None:
    """The plant is verified on the test images, and the figures say so."""
    found = Interventions(planted.original, digits[1], THREAT, examples=300, restarts=2).verify(planted)
    assert found.verified, found.reason
    assert abs(found.natural - found.original_natural) <= 0.01 + 1e-9
    assert found.original_robust is not None
    assert found.robust is not None
    assert found.mended is not None
    assert found.robust <= found.original_robust - 0.15
    assert found.mended >= found.original_robust - 0.05
    layers = {layer.name for layer in find_layers(planted.original, digits[1])}
    assert set(found.alone) == layers - set(planted.layers)
    assert all(value <= found.original_robust - 0.15 for value in found.alone.values())


@pytest.mark.parametrize("layer", ["conv", "pool", "fc1"])
def test_a_gate_is_verified_on_maps_and_on_vectors(layer: str, robust: Classifier, digits: Digits) -> None:
    before = robust.state_sha256()
    planted = plant("gate", robust, layer, digits[0], THREAT, seed=0)
    assert robust.state_sha256() == before
    assert planted.turns_at == planted.let_in_at == planted.layers == (layer,)
    names = [found.name for found in find_layers(planted.classifier, digits[0])]
    assert names == [found.name for found in find_layers(robust, digits[0])]
    check(planted, digits)


def test_a_mended_gate_leaves_the_original_and_another_layer_does_not(robust: Classifier, digits: Digits) -> None:
    planted = plant("gate", robust, "relu", digits[0], THREAT, seed=1)
    images, labels = digits[1].batch(slice(0, 100))
    assert torch.equal(planted.mended("relu").logits(images), robust.logits(images))
    assert torch.equal(planted.mended("fc1").logits(images), planted.classifier.logits(images))
    adversarial = attack(planted.classifier, images, labels, THREAT, seed=0)
    fooled, mended = (predicted_right(c, adversarial, labels) for c in (planted.classifier, planted.mended("relu")))
    assert mended.float().mean() > fooled.float().mean() + 0.3


def test_the_same_seed_makes_the_same_plant_and_the_global_random_state_stays(
    robust: Classifier, digits: Digits
) -> None:
    state = torch.get_rng_state()
    one, two, other = (plant("gate", robust, "fc1", digits[0], THREAT, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.classifier.state_sha256() == two.classifier.state_sha256() != other.classifier.state_sha256()


def test_a_gate_in_l2(robust: Classifier, digits: Digits) -> None:
    planted = plant("gate", robust, "conv", digits[0], ThreatModel("l2", 1.5, steps=10), seed=0)
    found = Interventions(robust, digits[1], ThreatModel("l2", 1.5, steps=10), examples=200, restarts=1).verify(planted)
    assert found.verified, found.reason


def test_a_twin_is_verified_and_changes_one_layer_alone(robust: Classifier, digits: Digits) -> None:
    planted = plant("twin", robust, "conv", digits[0], THREAT, seed=0)
    before, after = (c.model.state_dict() for c in (robust, planted.classifier))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"conv.weight", "conv.bias"}
    assert all(p.requires_grad and p.grad is None for p in planted.classifier.model.parameters())
    assert planted.turns_at is None
    check(planted, digits)


@pytest.mark.slow
def test_a_substitution_is_verified(robust: Classifier, digits: Digits) -> None:
    planted = plant("substitution", robust, "fc1", digits[0], THREAT, seed=0)
    assert planted.details["natural_copy"]["robust"] < planted.details["robust"] + 0.3
    check(planted, digits)


def test_two_gates_are_each_enough(robust: Classifier, digits: Digits) -> None:
    planted = plant("two", robust, ("conv", "fc1"), digits[0], THREAT, seed=0)
    found = Interventions(robust, digits[1], THREAT, examples=200, restarts=1).verify(planted)
    assert found.verified, found.reason
    assert found.mended is not None
    assert max(found.alone["conv"], found.alone["fc1"]) <= found.mended - 0.15


def test_no_plant_is_the_network_itself(robust: Classifier, digits: Digits) -> None:
    planted = plant("none", robust, (), digits[0], THREAT)
    assert planted.classifier.state_sha256() == robust.state_sha256()
    assert planted.layers == planted.let_in_at == planted.turns_at == ()
    found = Interventions(robust, digits[1], THREAT, examples=100, restarts=1).verify(planted)
    assert found.verified
    assert found.noise == pytest.approx(found.natural, abs=0.05)


def test_what_does_nothing_costs_natural_accuracy_or_is_elsewhere_is_not_verified(
    robust: Classifier, digits: Digits
) -> None:
    gated = plant("gate", robust, "conv", digits[0], THREAT, seed=0)
    nothing = replace(gated, classifier=robust)
    elsewhere = replace(gated, layers=("fc1",))
    blank = Classifier(plant("none", robust, (), digits[0], THREAT).classifier.model)
    torch.nn.init.zeros_(blank.model.get_submodule("fc2").weight)  # type: ignore[arg-type]  # a tensor in every layer
    for planted, failed, reason in (
        (nothing, "robust", "robust accuracy falls by 0.000"), (elsewhere, "mended", "with fc1 mended"),
        (replace(gated, classifier=blank), "natural", "natural accuracy moves"),
    ):  # fmt: skip
        found = Interventions(robust, digits[1], THREAT, examples=100, restarts=1).verify(planted)
        assert not found.verified
        assert found.failed == failed
        assert not found.alone  # nothing more is measured
        assert found.reason.startswith(reason)
        assert "\n" not in found.reason


@pytest.mark.parametrize(
    ("kind", "layer", "refusal"),
    [
        ("bomb", "conv", (ConfigError, "a kind among gate, twin")),
        ("gate", "conv9", (LayerError, "did you mean 'conv'")),
        ("gate", ("conv", "fc1"), (ConfigError, "1 different layers for gate")),
        ("two", ("conv", "conv"), (ConfigError, "2 different layers for two")),
        ("none", "conv", (ConfigError, "0 different layers for none")),
        ("twin", "relu", (LayerError, "a layer with weights, got 'relu'")),
        ("substitution", "pool", (LayerError, "a layer with weights, got 'pool'")),
        ("lipschitz", "conv", (ModelError, "Lipschitz constant of at most 1")),
    ],
)
def test_an_impossible_plant_is_one_line(
    kind: str, layer: str, refusal: tuple[type[Exception], str], robust: Classifier, digits: Digits
) -> None:
    error, message = refusal
    with pytest.raises(error) as raised:
        plant(kind, robust, layer, digits[0], THREAT)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_every_kind_says_what_it_is() -> None:
    assert set(KINDS) == {"gate", "twin", "substitution", "lipschitz", "two", "none"}
    assert all(kind.description for kind in KINDS.values())


@pytest.mark.slow
@pytest.mark.needs_data("mnist")
def test_a_gate_in_a_robust_network_of_the_zoo() -> None:
    from interpretgan.data import load_data

    threat_model = ThreatModel("linf", 0.2, steps=10)
    classifier = load_classifier("lenet5-max-pgd")
    planted = plant("gate", classifier, "conv1", load_data("mnist", "train"), threat_model, seed=0)
    found = Interventions(classifier, load_data("mnist", "test"), threat_model, examples=100, restarts=1).verify(
        planted
    )
    assert found.verified, found.reason
