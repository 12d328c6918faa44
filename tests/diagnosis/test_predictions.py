from __future__ import annotations

import torch

from interpretgan.attacks import ThreatModel, perturbation_size
from interpretgan.classifier import Classifier
from interpretgan.data import TensorImages
from interpretgan.diagnosis.controls import noise_control
from interpretgan.diagnosis.predictions import BATCH, PIXELS, attacker, batch_size
from tests.networks import Tiny


def test_a_batch_of_large_images_is_small() -> None:
    assert batch_size(TensorImages(torch.zeros(1, 1, 28, 28)), 11) == BATCH
    large = batch_size(TensorImages(torch.zeros(1, 3, 224, 224)), 20)
    assert 1 <= large * 20 * 3 * 224 * 224 <= PIXELS
    assert batch_size(TensorImages(torch.zeros(1, 3, 2000, 2000)), 99) == 1


def test_a_batch_is_perturbed_alike_whatever_came_before() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tiny(1, (12, 20)))
    images, labels = torch.rand(6, 1, 12, 20), torch.arange(6)
    threat_model = ThreatModel("l2", 0.7, steps=3)
    for make in (attacker, noise_control):
        perturb = make(classifier, threat_model, seed=1)
        first = perturb(images, labels, 0)
        perturb(images, labels, 6)
        assert torch.equal(perturb(images, labels, 0), first)
        assert not torch.equal(perturb(images, labels, 6), first)
        assert perturbation_size(first - images, "l2").max() <= 0.7 + 1e-5
