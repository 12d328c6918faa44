from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interpretgan.attacks.noise import varied_noise
from interpretgan.classifier import Classifier
from interpretgan.data import TensorImages, load_data
from interpretgan.gan import image_noise
from interpretgan.gan.image_noise import GREY_NOISE, moved_by_noise, usual_noise, with_noise
from interpretgan.gan.train import GANConfig
from interpretgan.interpreter import InterpretGAN
from interpretgan.layers import find_layers
from tests.networks import Tiny

CONFIG = GANConfig(steps=1, images_per_layer=2, width=16, blocks=1, noise=4, precision="fp32")


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Tiny(), mean=(0.2,), std=(0.3,))


def test_noise_leaves_predictions_alone(classifier: Classifier) -> None:
    images, _ = load_data("digits", "test").batch(range(200))
    noise = varied_noise(images.shape, 0.9, random=torch.Generator().manual_seed(0))
    noisy = with_noise(classifier, images, noise)
    assert torch.equal(classifier(noisy).argmax(dim=1), classifier(images).argmax(dim=1))
    left = (noisy == images).flatten(1).all(dim=1)
    moved = (images + noise).clamp(0, 1)
    assert left[::4].all()
    assert 0 < left.sum() - 50 < 100  # some with noise would be classified differently, and most would not
    assert torch.equal(noisy[~left], moved[~left])


def steady(channels: int) -> Classifier:
    """One that predicts the first class, whatever it sees."""
    torch.manual_seed(0)
    model = Tiny(channels)
    with torch.no_grad():
        model.fc2.bias[0] += 10
    return Classifier(model)


def test_there_is_noise_where_images_are_grey_and_the_classifier_withstands_it(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits, photographs = load_data("digits", "train"), TensorImages(torch.rand(20, 3, 28, 28))
    assert usual_noise(steady(1), digits) == GREY_NOISE == 0.3
    assert usual_noise(steady(3), photographs) == 0
    images, _ = digits.batch(range(512))
    noise = varied_noise(images.shape, 0.3, random=torch.Generator().manual_seed(0))
    moved = moved_by_noise(classifier, images, noise)
    assert not moved[::4].any()  # these have none
    assert 0.1 < moved.float().mean() < 0.3
    assert usual_noise(classifier, digits) == 0
    seen = list[Tensor]()
    monkeypatch.setattr(image_noise, "TRIED_PIXELS", 100 * 28 * 28)

    def remembered(_: Classifier, images: Tensor, noise: Tensor) -> Tensor:
        seen.append(noise.flatten(1).any(dim=1))
        return seen[-1] & (torch.arange(len(images)) % 10 == 1)  # a tenth of all, and more of those with noise

    monkeypatch.setattr(image_noise, "moved_by_noise", remembered)
    assert usual_noise(steady(1), digits) == 0
    assert [len(part) for part in seen] == [100] * 5 + [12]
    assert torch.cat(seen).float().mean() == 0.75
    seen.clear()
    usual_noise(steady(1), TensorImages(images[:1]))
    assert int(torch.cat(seen).sum()) == 384  # one image is tried as often as many


def test_generators_of_all_seeds_have_the_noise_that_they_tell(classifier: Classifier) -> None:
    images, _ = load_data("digits", "train").batch(range(40))
    for network, wanted in ((classifier, 0.0), (steady(1), 0.3)):
        layers = find_layers(network, images)[:2]
        fitted = [InterpretGAN(network, layers, config=CONFIG, seed=seed).fit(images) for seed in (0, 1)]
        assert [each.resolved_config.image_noise for each in fitted] == [wanted, wanted]
        assert [each.natural_start is None for each in fitted] == [wanted > 0] * 2
    said = GANConfig(**{**vars(CONFIG), "image_noise": 0.2})  # what is said holds
    assert InterpretGAN(classifier, layers, config=said).fit(images).resolved_config.image_noise == 0.2
