from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet, load_data
from interpretgan.gan import waiting
from interpretgan.gan.generator import Generator
from interpretgan.gan.linear_start import fit_start
from interpretgan.gan.train import GANConfig, train_generator
from interpretgan.gan.waiting import ALL, NONE, Waiting, agree_beyond_chance, layers_that_wait
from interpretgan.layers import capture, examine
from interpretgan.training.loop import train_classifier
from interpretgan.training.objectives import Natural
from interpretgan.training.recipes import Recipe
from tests.networks import Tiny

CONFIG = GANConfig(steps=4, images_per_layer=3, width=16, blocks=1, noise=4, precision="fp32")


def test_predictions_agree_more_than_by_chance_or_not() -> None:
    predictions = torch.arange(100) % 10
    assert agree_beyond_chance(predictions, predictions)
    some = torch.where(torch.arange(100) < 30, predictions, 0)
    assert agree_beyond_chance(predictions, some)
    assert not agree_beyond_chance(predictions, predictions.flip(0))  # pairs of other classes
    constant = torch.zeros_like(predictions)
    assert not agree_beyond_chance(predictions, constant)  # a tenth are right, as by chance
    assert not agree_beyond_chance(constant, constant)  # of one class nothing can be told


def test_a_layer_is_asked_as_much_as_it_has_learnt() -> None:
    layers = Waiting(torch.tensor([True, True, False]))
    middle = (NONE + ALL) / 2
    assert layers(torch.tensor([0.0, 0.9, 0.9])).tolist() == [0, 0, 1]  # one good step is not enough
    for _ in range(200):
        shares = layers(torch.tensor([ALL / 2, middle, 0.9]))
    torch.testing.assert_close(shares, torch.tensor([1.0, 0.5, 1.0]))
    for _ in range(200):  # what is lost again waits again
        shares = layers(torch.full((3,), 0.9))
    assert shares.tolist() == [0, 0, 1]


def networks(seed: int) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(Tiny())


def trained(classifier: Classifier, recognition: Classifier, config: GANConfig, **more: Any) -> Generator:
    digits = load_data("digits", "train")
    layers = examine(classifier, digits.batch([0, 1, 2])[0]).distinct
    return train_generator(classifier, layers, digits, config, seed=1, recognition_network=recognition, **more)


def same(one: Generator, other: Generator) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_of_layers_in_which_nothing_is_recognised_nothing_but_consistency_is_asked_at_first() -> None:
    classifier, other = networks(0), networks(1)  # untrained ones agree about nothing
    consistency_alone = GANConfig(**(vars(CONFIG) | {"realism": 0.0, "information": 0.0}))
    assert same(trained(classifier, other, CONFIG), trained(classifier, other, consistency_alone))


def test_nothing_waits_for_a_term_that_is_not_there() -> None:
    classifier, other, plain = networks(0), networks(1), GANConfig(**(vars(CONFIG) | {"latent": 0.0}))
    without = GANConfig(**(vars(plain) | {"information": 0.0}))
    assert not same(trained(classifier, other, plain), trained(classifier, other, without))


def test_a_resumed_training_knows_how_far_its_layers_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waiting, "NONE", 1.5)  # they are asked something from the first step on
    classifier, other = networks(0), networks(1)

    def interrupt(step: int, _losses: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    kept = {"checkpoint": tmp_path / "checkpoint.pt", "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        trained(classifier, other, CONFIG, on_step=interrupt, **kept)
    assert same(trained(classifier, other, CONFIG, **kept), unbroken := trained(classifier, other, CONFIG))
    monkeypatch.undo()
    assert not same(unbroken, trained(classifier, other, CONFIG))


def test_a_layer_waits_where_nothing_is_recognised_in_its_start(digits: tuple[ImageSet, ImageSet]) -> None:
    train, _ = digits
    classifier = networks(0)
    train_classifier(classifier, train, objective=Natural(), recipe=Recipe(4, 64, 4e-3), seed=0)
    images, _ = train.batch(range(200))
    layers = examine(classifier, images[:3]).distinct
    logits, latents = capture(classifier, images, layers)
    generator = Generator(layers, (1, 28, 28), linear_start=True)
    generator.calibrate(latents)
    assert generator.start is not None
    fit_start(
        generator.start, train, torch.randperm(len(train)), classifier.bounds,
        lambda x, chosen: [capture(classifier, x, layers)[1][layers[index].name] for index in chosen],
    )  # fmt: skip
    assert not layers_that_wait(generator, classifier, logits, latents).any()
    assert layers_that_wait(generator, networks(1), logits, latents).all()  # an untrained network recognises nothing
    few = {name: latent[:3] for name, latent in latents.items()}
    assert not layers_that_wait(generator, networks(1), logits[:3], few).any()  # three images do not tell
    assert not layers_that_wait(generator, None, logits, latents).any()  # then the classifier itself recognises
    generator.start = None
    assert not layers_that_wait(generator, networks(1), logits, latents).any()
