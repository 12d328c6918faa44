"""Networks in which one layer alone can enlarge a perturbation."""

from __future__ import annotations

import itertools

import pytest
import torch

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ModelError
from interpretgan.layers import capture, find_layers
from interpretgan.planted.kinds import plant
from interpretgan.planted.lipschitz import MaxMin, lipschitz_constants, lipschitz_model, train_lipschitz
from interpretgan.planted.verify import Interventions
from interpretgan.training import Recipe, evaluate_accuracy

Digits = tuple[ImageSet, ImageSet]
THREAT = ThreatModel("l2", 1.0, steps=10)


@pytest.fixture(scope="module")
def contraction(digits: Digits) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(lipschitz_model(digits[0]))
    train_lipschitz(classifier, digits[0], Recipe(4, 64, 4e-3), seed=0)
    return classifier


def test_no_layer_enlarges_a_perturbation(contraction: Classifier, digits: Digits) -> None:
    assert evaluate_accuracy(contraction, digits[1]) > 0.85
    assert all(value == pytest.approx(1, abs=1e-4) for value in lipschitz_constants(contraction.model).values())
    images, _ = digits[1].batch(slice(0, 50))
    moved = images + torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    layers = find_layers(contraction, images)
    sizes = [(moved - images).flatten(1).norm(dim=1)]
    for layer in layers:
        before, after = (capture(contraction, x, [layer])[1][layer.name].flatten(1) for x in (images, moved))
        sizes.append((after - before).norm(dim=1))
    assert len(layers) == 9
    assert all((after <= before + 1e-4).all() for before, after in itertools.pairwise(sizes))


def test_max_min_keeps_lengths_and_sorts() -> None:
    latent = torch.randn(3, 4, 5, 6)
    out = MaxMin()(latent)
    assert (out[:, :2] >= out[:, 2:]).all()
    assert torch.allclose(out.flatten(1).norm(dim=1), latent.flatten(1).norm(dim=1))


@pytest.mark.slow
def test_the_planted_layer_alone_has_a_gain(contraction: Classifier, digits: Digits) -> None:
    planted = plant("lipschitz", contraction, "conv2", digits[0], THREAT, seed=0)
    constants = lipschitz_constants(planted.classifier.model)
    assert constants.pop("conv2") > 1.5
    assert max(constants.values()) < 1 + 1e-3
    found = Interventions(contraction, digits[1], THREAT, examples=300, restarts=1).verify(planted)
    assert found.verified, found.reason


def test_images_of_odd_sides_are_refused_in_one_line(digits: Digits) -> None:
    cropped = ImageSet("cropped", "train", digits[0].images[:8, :, 1:], digits[0].labels[:8], digits[0].classes)
    with pytest.raises(ModelError, match=r"expected images whose sides are multiples of 4, got 27x28; load"):
        lipschitz_model(cropped)
