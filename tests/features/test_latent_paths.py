"""Ways towards a class that is asked for, on digits, with the pretrained LeNet and a generator of few steps."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import interpretgan as ig
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError, DataError, InterpretGANError, LabelError, LayerError
from interpretgan.features.latent_paths import CounterfactualPath, counterfactual_path
from interpretgan.layers import capture


class Robust:
    """A judge that is another network than the one that is explained."""

    def __init__(self) -> None:
        self.classifier = ig.load_classifier("lenet5-avg-trades")

    def predict(self, images: Tensor) -> Tensor:
        return self.classifier.logits(images).argmax(dim=1)


class Case(NamedTuple):
    interpreter: ig.InterpretGAN
    images: Tensor  #: None of which the network takes for a 0.
    reference: ImageSet


TOWARDS = 0  # which the judge knows among these digits, too


@pytest.fixture(scope="module")
def case(digits: tuple[ImageSet, ImageSet]) -> Case:
    train, test = digits
    classifier = ig.load_classifier("lenet5-max")
    layers = [layer for layer in ig.find_layers(classifier, train.batch([0])[0]) if layer.name == "fc1"]
    config = ig.GANConfig(steps=30, images_per_layer=8)
    fitted = ig.InterpretGAN(classifier, layers, config=config).fit(train, on_progress=False)
    images, _ = test.batch(range(40))
    return Case(fitted, images[classifier.logits(images).argmax(dim=1) != TOWARDS], train)


@pytest.fixture(scope="module")
def path(case: Case) -> CounterfactualPath:
    return walk(case)


def walk(case: Case, layer: str = "fc1", towards: int = TOWARDS) -> CounterfactualPath:
    return counterfactual_path(case.interpreter, case.images, layer, towards, judge=Robust(), reference=case.reference)


def test_the_way_begins_at_the_image_and_ends_among_natural_latents_of_the_class(
    case: Case, path: CounterfactualPath
) -> None:
    torch.testing.assert_close(path.frames[0], case.interpreter.explain(case.images).natural_explanations[0])
    assert not (path.classified[0] == TOWARDS).any()
    assert (path.classified[-1] == TOWARDS).all()
    layer = case.interpreter.layers[0]
    z = capture(case.interpreter.classifier, case.images, [layer])[1]["fc1"]
    logits, latents = capture(case.interpreter.classifier, case.reference.batch(slice(None))[0], [layer])
    natural = latents["fc1"][logits.argmax(dim=1) == TOWARDS]
    low, high = natural.amin(dim=0), natural.amax(dim=0)
    end = z + path.change.float()
    assert ((end >= low - 1e-4) & (end <= high + 1e-4)).all()


def test_agreement_is_the_first_frame_that_network_and_judge_both_see_so(path: CounterfactualPath) -> None:
    for image, first in enumerate(path.agreed):
        both = [
            int(network) == int(judge) == TOWARDS
            for network, judge in zip(path.classified[:, image], path.judged[:, image], strict=True)
        ]
        assert first == (both.index(True) if any(both) else None)


def seen(pictures: Tensor) -> float:
    """The share of pictures that the judge takes for the class."""
    return float((Robust().predict(pictures) == TOWARDS).float().mean())


def test_what_knows_nothing_of_the_class_does_not_lead_to_it(case: Case, path: CounterfactualPath) -> None:
    interpreter, classifier = case.interpreter, case.interpreter.classifier
    layer, everyone = interpreter.layers[0], range(len(case.images))
    assert seen(path.frames[-1]) > 0.7
    # The same network with random weights after the layer: its latents of the class are any latents.
    model = copy.deepcopy(classifier.model)
    torch.manual_seed(3)
    for name in ("fc2", "fc3"):
        model.get_submodule(name).reset_parameters()  # type: ignore[operator]  # of nn.Linear
    unlike = ig.Classifier(model, classifier.bounds, classifier.mean, classifier.std)
    other = ig.InterpretGAN(unlike, [layer])
    other._network = interpreter.network
    elsewhere = Case(other, case.images[unlike.logits(case.images).argmax(dim=1) != TOWARDS], case.reference)
    assert len(elsewhere.images) > 25
    astray = walk(elsewhere)
    assert (astray.classified[-1] == TOWARDS).float().mean() > 0.5
    assert seen(astray.frames[-1]) < 0.3
    # A direction drawn at random, as long as the way.
    z = capture(classifier, case.images, [layer])[1]["fc1"]
    random = torch.randn(z.shape, generator=torch.Generator().manual_seed(0))
    away = random * (path.change.norm(dim=1) / random.norm(dim=1)).float()[:, None]
    assert seen(interpreter.draw_from(layer, z + away, interpreter.noise_of(everyone))) < 0.3


@pytest.mark.parametrize(
    ("layer", "towards", "error", "said"),
    [
        ("fc9", TOWARDS, LayerError, "one of the layers fc1, got 'fc9'"),
        ("fc1", 10, LabelError, "a class from 0 to 9, got 10"),
        ("fc1", 2, ConfigError, "a class that the network does not see already, got 2, which it sees at place 1, "),
    ],
)
def test_what_has_no_way_is_refused(
    case: Case, layer: str, towards: int, error: type[InterpretGANError], said: str
) -> None:
    with pytest.raises(error, match=said):
        walk(case, layer, towards)


def test_a_class_that_no_natural_image_has_is_refused(case: Case) -> None:
    data = case.reference
    ones = data.batch((torch.from_numpy(data.labels) == 1).nonzero()[:20, 0])
    with pytest.raises(DataError, match="none among 20"):
        counterfactual_path(case.interpreter, case.images, "fc1", TOWARDS, judge=Robust(), reference=ones)
