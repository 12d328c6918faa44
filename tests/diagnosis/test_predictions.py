from __future__ import annotations

import dataclasses

import numpy as np
import torch

from interpretgan.attacks import ThreatModel, perturbation_size
from interpretgan.classifier import Classifier
from interpretgan.data import TensorImages
from interpretgan.diagnosis.controls import CONTROLS, perturbing_controls, positive_control
from interpretgan.diagnosis.predictions import BATCH, LAYERS, PIXELS, Predictions, attacker, batch_size, batches_of
from tests.networks import Tiny


def test_a_batch_of_large_images_is_small() -> None:
    assert batch_size(TensorImages(torch.zeros(1, 1, 28, 28))) == BATCH
    large = batch_size(TensorImages(torch.zeros(1, 3, 224, 224)))
    assert 1 <= large * LAYERS * 3 * 224 * 224 <= PIXELS
    assert batch_size(TensorImages(torch.zeros(1, 3, 2000, 2000))) == 2


def test_the_last_image_has_another_one_beside_it() -> None:
    sizes = {count: [end - first for first, end in batches_of(count, 4)] for count in (1, 4, 5, 6, 9)}
    assert sizes == {1: [1], 4: [4], 5: [5], 6: [4, 2], 9: [4, 5]}


def test_a_batch_is_perturbed_alike_whatever_came_before() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tiny(1, (12, 20)))
    images, labels = torch.rand(6, 1, 12, 20), torch.arange(6)
    threat_model = ThreatModel("l2", 0.7, steps=3)
    perturb = attacker(classifier, threat_model, seed=1)
    first = perturb(images, labels, 0)
    perturb(images, labels, 6)
    assert torch.equal(perturb(images, labels, 0), first)
    assert not torch.equal(perturb(images, labels, 6), first)
    assert perturbation_size(first - images, "l2").max() <= 0.7 + 1e-5


def test_what_controls_perturb_does_not_depend_on_the_batches() -> None:
    torch.manual_seed(0)
    images = torch.rand(7, 1, 12, 20)
    adversarial = images + 0.01 * torch.arange(7).view(7, 1, 1, 1) * (images < 0.5)
    controls = perturbing_controls(Classifier(Tiny(1, (12, 20))), seed=1)
    assert tuple(controls) == CONTROLS
    for name, control in controls.items():
        whole = control(images, adversarial, 0)
        parts = [control(images[i : i + 4], adversarial[i : i + 4], i) for i in (0, 4)]
        assert torch.equal(torch.cat(parts), whole), name
        for norm in ("linf", "l2"):
            sizes = perturbation_size(adversarial - images, norm)
            if name != "foreign":
                assert torch.allclose(perturbation_size(whole - images, norm), sizes, atol=1e-6)
    foreign = (controls["foreign"](images, adversarial, 0) - images).amax(dim=(1, 2, 3))
    assert torch.allclose(foreign, 0.01 * torch.tensor([1.0, 0, 3, 2, 5, 4, 5]), atol=1e-6)  # of another image, each


def test_a_latent_of_another_class_lands_where_it_is_put_and_one_picture_for_all_fails() -> None:
    labels = np.arange(40) % 4

    def shown(*rows: np.ndarray) -> Predictions:
        return Predictions(labels, np.stack([labels, *rows]), np.stack([labels, *rows]), {}, {})

    misread = np.where(np.arange(40) < 8, (labels - 1) % 4, labels)
    np.testing.assert_allclose(positive_control([shown(labels, labels)]), [1, 1])
    one_picture = np.zeros_like(labels)
    np.testing.assert_array_equal(positive_control([shown(labels, one_picture)])[1], 0)
    assert 0.5 < positive_control([shown(misread, labels)])[0] < 1
    half = positive_control([shown(labels, labels), shown(one_picture, one_picture)])
    np.testing.assert_allclose(half, [0.5, 0.5])
    two_as_one = np.where(labels < 2, labels, 2)  # at the last layer, whose own share is 1 whatever it shows
    np.testing.assert_allclose(positive_control([shown(labels, two_as_one)]), [1.5, 1])
    alone = dataclasses.replace(shown(labels), labels=np.zeros_like(labels))
    assert np.isnan(positive_control([alone])).all()
