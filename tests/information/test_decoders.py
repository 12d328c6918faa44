from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpretgan.baselines.explainers import ExplainerError
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import (
    ConfigError,
    ImageError,
    LabelError,
    LayerError,
    RunFolderError,
    TrainingError,
    WeightsError,
)
from interpretgan.gan.train import GANConfig
from interpretgan.information import Decoders, InformationConfig, LayerInformation, Measurement
from interpretgan.information.inversion import PERCEPTUAL, inversion_by_decoder, inversion_by_generator
from interpretgan.interpreter import InterpretGAN
from interpretgan.layers import Layer, examine, find_layers
from interpretgan.statistics import Interval, bootstrap_weights
from interpretgan.store.progress import Progress
from tests.networks import Tiny

SMALL = InformationConfig(
    steps=6, batch=24, images_per_layer=4, width=16, blocks=1, features=32, hidden=16, precision="fp32"
)
LONGER = InformationConfig(
    steps=100, batch=64, images_per_layer=10, width=32, blocks=1, features=64, hidden=32, precision="fp32"
)


class Chain(nn.Module):
    """Layers that keep the image, a quarter of it, a sixteenth of it, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.coarse, self.coarser = nn.Identity(), nn.AvgPool2d(2), nn.AvgPool2d(4)
        self.nothing, self.head = nn.Threshold(9.0, 0.7), nn.Linear(49, 10)

    def forward(self, x: Tensor) -> Tensor:
        whole = self.whole(2 * x - 1)
        coarser = self.coarser(whole)
        self.coarse(whole)
        self.nothing(coarser)
        logits: Tensor = self.head(coarser.flatten(1))
        return logits


class Few(nn.Module):
    """A layer of twelve numbers, in which an image is mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.few, self.head = nn.Linear(784, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.few(x.flatten(1)))
        return logits


def layer(name: str, *shape: int) -> Layer:
    return Layer(name, name, 1, "Module", shape)


CHAIN = [layer("whole", 1, 28, 28), layer("coarse", 1, 14, 14), layer("coarser", 1, 7, 7), layer("nothing", 1, 7, 7)]


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Tiny().train(), mean=(0.2,), std=(0.3,))


def rows_of(found: Measurement) -> list[LayerInformation]:
    return found.rows(bootstrap_weights(len(found.variance), 200, seed=0), 0.95)


def decoders_of(classifier: Classifier, images: ImageSet) -> Decoders:
    return Decoders(classifier, examine(classifier, images.batch([0, 1, 2])[0]).distinct, config=SMALL)


def same(one: Measurement, other: Measurement) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


def test_what_linear_decoders_leave_is_learnt(digits: tuple[ImageSet, ImageSet]) -> None:
    torch.manual_seed(0)
    classifier, left = Classifier(Few()), []
    for steps in (1, 100):
        config = dataclasses.replace(LONGER, steps=steps)
        decoders = Decoders(classifier, [layer("few", 12)], config=config).fit(digits[0], on_progress=False)
        found = decoders.measure(digits[1], on_progress=False)
        left.append(found.errors[1].sum() / found.variance.sum())
    start, trained = left
    assert start < 0.5
    # A trunk that does not see what it adds to stays at the start.
    assert trained < 0.95 * start


def test_a_start_of_a_generator_is_taken_over(digits: tuple[ImageSet, ImageSet]) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Few())
    config = GANConfig(steps=1, images_per_layer=2, width=16, blocks=1, image_noise=0.0)
    interpreter = InterpretGAN(classifier, [layer("few", 12)], config=config).fit(digits[0], on_progress=False)
    start = interpreter.natural_start
    noisy = InterpretGAN(classifier, interpreter.layers, config=dataclasses.replace(config, image_noise=0.1))
    assert noisy.fit(digits[0], on_progress=False).natural_start is None
    own, taken = (
        Decoders(classifier, [layer("few", 12)], config=SMALL).fit(digits[0], start=given, on_progress=False)
        for given in (None, start)
    )
    assert len(own.network.controls) == 1  # which the generator's start knows nothing of
    assert all(torch.equal(a, b) for a, b in zip(own.network.parameters(), taken.network.parameters(), strict=True))
    renamed = dataclasses.replace(layer("few", 12), name="other")  # of the same shape
    with pytest.raises(ConfigError, match=r"expected a start of layers other, control of other .*, got one of few and"):
        Decoders(classifier, [renamed], config=SMALL).fit(digits[0], start=start, on_progress=False)
    with pytest.raises(ConfigError, match=r"pass interpreter\.natural_start"):
        Decoders(classifier, [renamed], config=SMALL).fit(digits[0], start=interpreter, on_progress=False)  # type: ignore[arg-type]


def test_what_each_layer_keeps_is_found(digits: tuple[ImageSet, ImageSet]) -> None:
    torch.manual_seed(0)
    decoders = Decoders(Classifier(Chain()), CHAIN, config=LONGER).fit(digits[0])
    image, whole, coarse, coarser, nothing = rows_of(decoders.measure(digits[1]))
    assert image.unexplained == Interval(0.0, 0.0, 0.0)
    assert whole.unexplained.value < 0.05
    assert whole.unexplained.value < coarse.unexplained.value < coarser.unexplained.value < 0.5
    assert nothing.unexplained.value == pytest.approx(1, abs=0.02)
    assert coarser.information_loss.low > 0
    assert nothing.information_loss.low > 0.5
    assert image.class_information.value > 2
    assert abs(nothing.class_information.value) < 0.1
    assert nothing.class_information_loss.value > 1.5
    assert image.class_accuracy.value > 0.85
    assert nothing.class_accuracy.value < 0.2
    assert [row.information_control is None for row in (image, whole, coarse, coarser, nothing)] == [
        True, True, False, False, True
    ]  # fmt: skip
    # A mean of sixteen pixels keeps more of an image than random mixtures of the means of four.
    assert coarser.information_control is not None
    assert coarser.information_control.low > 0


def test_a_resumed_training_measures_what_an_unbroken_one_does(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: Progress) -> None:
        if progress.done == 4:
            raise Killed

    checkpoint = tmp_path / "checkpoint.pt"
    unbroken = decoders_of(classifier, digits[0]).fit(digits[0]).measure(digits[1], examples=20)
    with pytest.raises(Killed):
        decoders_of(classifier, digits[0]).fit(
            digits[0], checkpoint=checkpoint, checkpoint_seconds=0.0, on_progress=kill
        )
    steps: list[int] = []
    resumed = decoders_of(classifier, digits[0])
    resumed.fit(digits[0], checkpoint=checkpoint, on_progress=lambda at: steps.append(at.done))
    assert steps == [4, 5, 6]  # the fourth had not been saved
    assert same(resumed.measure(digits[1], examples=20), unbroken)
    checkpoint.write_bytes(b"half a file")
    with pytest.raises(RunFolderError, match="delete it"):
        decoders_of(classifier, digits[0]).fit(digits[0], checkpoint=checkpoint)


def test_the_classifier_and_the_random_state_are_only_borrowed(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    state = torch.get_rng_state()
    decoders_of(classifier, digits[0]).fit(digits[0]).measure(digits[1], examples=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in classifier.model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())
    assert all(module.training and not module._forward_hooks for module in classifier.model.modules())


def test_saving_and_loading_is_an_identity(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    decoders = decoders_of(classifier, digits[0]).fit(digits[0])
    decoders.save(tmp_path / "decoders.safetensors")
    loaded = Decoders.load(tmp_path / "decoders.safetensors", classifier)
    assert same(loaded.measure(digits[1], examples=20), decoders.measure(digits[1], examples=20))
    with pytest.raises(WeightsError, match="another one"):
        Decoders.load(tmp_path / "decoders.safetensors", Classifier(Tiny()))
    (tmp_path / "decoders.safetensors").write_bytes(b"coarse")
    with pytest.raises(WeightsError, match="fit it again"):
        Decoders.load(tmp_path / "decoders.safetensors", classifier)


def test_layers_with_one_tensor_are_measured_once(classifier: Classifier, digits: tuple[ImageSet, ImageSet]) -> None:
    pool = next(each for each in find_layers(classifier, digits[0].batch([0, 1])[0]) if each.name == "pool")
    twin = Layer("twin", "pool", 1, "Sequential", pool.shape, same_as="pool")
    logits = Layer("fc2", "fc2", 1, "Linear", (10,))
    found = Decoders(classifier, [pool, twin, logits], config=SMALL).fit(digits[0]).measure(digits[1])
    rows = rows_of(found)
    assert found.layers == ("pool", "twin", "fc2")
    assert rows[2].information_loss == Interval(0.0, 0.0, 0.0)
    assert rows[2].class_information == rows[1].class_information
    assert rows[2].information_control is None
    assert rows[3].information_control is not None


def test_other_bounds_measure_the_same(digits: tuple[ImageSet, ImageSet]) -> None:
    found = []
    for high in (1.0, 255.0):
        torch.manual_seed(0)
        classifier = Classifier(Tiny(), bounds=(0, high), mean=(0.2 * high,), std=(0.3 * high,))
        rows = rows_of(decoders_of(classifier, digits[0].scaled((0, high))).fit(digits[0]).measure(digits[1]))
        found.append([row.unexplained.value for row in rows])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-2)


def test_a_tensor_measures_as_a_set_does(classifier: Classifier, digits: tuple[ImageSet, ImageSet]) -> None:
    decoders = decoders_of(classifier, digits[0]).fit(*digits[0].batch(slice(0, 200)))
    images, labels = digits[1].batch(slice(0, 30))
    done: list[int] = []
    measured = decoders.measure(images, labels, on_progress=lambda at: done.append(at.done))
    assert same(measured, decoders.measure(digits[1], examples=30))
    assert done == [30]


def test_images_of_another_size_are_refused_where_the_classifier_takes_them() -> None:
    torch.manual_seed(0)
    parts = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 10))
    classifier, labels = Classifier(nn.Sequential(*parts)), torch.arange(8)
    small = torch.rand(8, 1, 12, 12)
    decoders = Decoders(classifier, config=SMALL).fit(small, labels)
    with pytest.raises(ImageError, match=r"images \[1, 12, 12\], as in fit, got \[1, 9, 9\]"):
        decoders.measure(torch.rand(8, 1, 9, 9), labels)


def test_misuse_is_answered_with_what_to_do(classifier: Classifier, digits: tuple[ImageSet, ImageSet]) -> None:
    images, labels = digits[1].batch(slice(0, 8))
    with pytest.raises(LayerError, match="at least one layer"):
        Decoders(classifier, [])
    decoders = decoders_of(classifier, images=digits[0])
    with pytest.raises(ConfigError, match=r"call fit\(images\) first"):
        decoders.measure(images, labels)
    with pytest.raises(LabelError, match="labels"):
        decoders.fit(images)
    with pytest.raises(LabelError):
        decoders.fit(images, labels + 90)
    with pytest.raises(ConfigError, match="at least one example"):
        decoders.fit(images, labels).measure(images, labels, examples=0)


def test_a_loss_that_leaves_the_numbers_stops_the_training(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    layers = examine(classifier, digits[0].batch([0, 1])[0]).distinct
    wild = InformationConfig(
        steps=20, batch=8, images_per_layer=2, width=8, blocks=1, probe_rate=1e30, precision="fp32"
    )
    with pytest.raises(TrainingError, match="lower the learning rate"):
        Decoders(classifier, layers, config=wild).fit(digits[0])


def test_a_decoder_inverts_a_layer_as_it_was_measured(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    train, test = digits[0].head(60), digits[1].head(6)
    decoders = decoders_of(classifier, train).fit(train)
    images, labels = test.batch(range(6))
    errors = decoders.measure(test, examples=6).errors
    explainer = inversion_by_decoder(decoders)
    for row, each in enumerate(decoders.layers):
        found = explainer.explain(classifier, each, images, labels)
        assert found.shape == images.shape
        slow = (found - images).double().square().sum(dim=(1, 2, 3)).numpy()
        np.testing.assert_allclose(slow, errors[row + 1], rtol=1e-4, atol=1e-4)
    interpreter = InterpretGAN(
        classifier, decoders.layers, config=dataclasses.replace(PERCEPTUAL, steps=2, images_per_layer=2)
    )
    perceptual = inversion_by_generator(interpreter.fit(train))
    assert perceptual.name == "inversion by a perceptual decoder"
    drawn = interpreter.explain(images).natural_explanations
    for slow_ones, each in zip(drawn, interpreter.layers, strict=True):
        torch.testing.assert_close(perceptual.explain(classifier, each, images, labels), slow_ones)
    for method in (explainer, perceptual):
        with pytest.raises(ExplainerError, match="'fc9'"):
            method.explain(classifier, layer("fc9", 10), images, labels)
    with pytest.raises(ExplainerError, match="got none"):
        inversion_by_decoder(None).explain(classifier, decoders.layers[0], images, labels)
