"""Input that is valid and out of the ordinary: it gives the result of ordinary input, or one clear line."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpretgan import (
    Classifier,
    GANConfig,
    ImageSet,
    InterpretGAN,
    Judge,
    ThreatModel,
    diagnose,
    evaluate,
    find_layers,
    modified_features,
    train_judge,
)
from interpretgan.attacks import attack
from interpretgan.attacks.autoattack import autoattack
from interpretgan.cli.app import run_command
from interpretgan.diagnosis.let_in import let_in
from interpretgan.errors import ConfigError, LabelError, ThreatModelError, WeightsError
from interpretgan.information import Decoders, InformationConfig
from interpretgan.layers import examine
from interpretgan.planted.kinds import plant
from interpretgan.planted.verify import Interventions
from tests.networks import Tiny

SMALL = GANConfig(steps=2, images_per_layer=2, width=8, blocks=1, precision="fp32")
DECODERS = InformationConfig(
    steps=2, batch=8, images_per_layer=2, width=8, blocks=1, features=8, hidden=8, precision="fp32"
)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Tiny())


class InPlace(nn.Module):
    """Shifts its own input."""

    def __init__(self, net: nn.Module, *, in_place: bool = True) -> None:
        super().__init__()
        self.net, self.in_place = net, in_place

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            x -= 0.5
        else:
            x = x - 0.5
        logits: Tensor = self.net(x)
        return logits


# --- pixels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [(-0.4242, 2.8215), (0.0, 0.1), (-2.1179, 2.64), (-0.1, 0.7)])
def test_bounds_that_single_precision_rounds_are_attacked_within(
    bounds: tuple[float, float], digits: tuple[ImageSet, ImageSet]
) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tiny(), bounds=bounds)
    low, high = classifier.bounds
    assert (low, high) == pytest.approx(bounds)
    images, labels = digits[1].scaled(bounds).batch(slice(0, 16))
    assert low <= float(images.min())
    assert float(images.max()) <= high
    found = attack(classifier, images, labels, ThreatModel("linf", 0.05 * (high - low), steps=2), seed=0)
    assert low <= float(found.min())
    assert float(found.max()) <= high


def test_a_model_that_changes_its_input_changes_nothing_of_ours(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    rude = Classifier(InPlace(classifier.model))
    polite = Classifier(InPlace(copy.deepcopy(classifier.model), in_place=False))
    images, labels = digits[1].batch(slice(0, 12))
    before = images.clone()
    assert [layer.name for layer in find_layers(rude, images)] == [layer.name for layer in find_layers(polite, images)]
    threat_model = ThreatModel("linf", 0.1, steps=2)
    assert torch.equal(*(attack(one, images, labels, threat_model, seed=0) for one in (rude, polite)))
    assert torch.equal(images, before)
    measured = [
        Decoders(one, find_layers(one, images), config=DECODERS).fit(digits[0]).measure(digits[1], examples=20)
        for one in (rude, polite)
    ]
    assert (measured[0].variance == measured[1].variance).all()


def test_a_generator_is_for_one_range_of_pixels_and_one_normalisation(classifier: Classifier, tmp_path: Path) -> None:
    images = torch.rand(6, 1, 28, 28)
    InterpretGAN(classifier, find_layers(classifier, images), config=SMALL).fit(images).save(tmp_path / "g.safetensors")
    InterpretGAN.load(tmp_path / "g.safetensors", Classifier(classifier.model))
    for other in (Classifier(classifier.model, mean=(0.5,), std=(0.2,)), Classifier(classifier.model, bounds=(-1, 1))):
        with pytest.raises(WeightsError, match="other weights, bounds or normalisation"):
            InterpretGAN.load(tmp_path / "g.safetensors", other)


def test_a_judge_of_other_pixels_is_refused(classifier: Classifier, digits: tuple[ImageSet, ImageSet]) -> None:
    images, labels = digits[1].batch(slice(0, 6))
    interpreter = InterpretGAN(classifier, find_layers(classifier, images), config=SMALL).fit(images)
    judge = Judge(Classifier(Tiny(), bounds=(-1, 1)), 0.9, 0.5, "tiny")
    with pytest.raises(ConfigError, match=r"a judge of pixels within \(0.0, 1.0\).*got \(-1.0, 1.0\)"):
        diagnose(interpreter, judge, images, labels, threat_model=ThreatModel("linf", 0.1))
    with pytest.raises(ConfigError, match="a judge of pixels within"):
        interpreter.explain(images, judge=judge)


def fitted(classifier: Classifier, images: Tensor) -> tuple[InterpretGAN, Judge]:
    interpreter = InterpretGAN(classifier, find_layers(classifier, images), config=SMALL).fit(images)
    return interpreter, Judge(Classifier(Tiny()), 0.9, 0.5, "tiny")


@pytest.mark.parametrize("seed", [-1, 1.0, True, None, "0", 2**63])
def test_a_seed_that_is_none_is_told_before_anything_is_made(
    seed: Any, classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    (images, labels), threat_model = digits[1].batch(slice(0, 6)), ThreatModel("linf", 0.1, steps=1)
    interpreter, judge = fitted(classifier, images)
    layers = interpreter.layers
    calls: list[Callable[[], object]] = [
        lambda: InterpretGAN(classifier, layers, seed=seed),
        lambda: attack(classifier, images, labels, threat_model, seed=seed),
        lambda: diagnose(interpreter, judge, images, labels, threat_model=threat_model, seed=seed),
        lambda: train_judge(*digits, threat_model=threat_model, seed=seed),
        lambda: evaluate(classifier, images, labels, threat_model=threat_model, attacks=("pgd",), seed=seed),
        lambda: modified_features(classifier, images, images, labels, reference=images, seed=seed),
        lambda: digits[1].sample(3, seed),
        lambda: plant("gate", classifier, ["conv"], digits[0], threat_model, seed=seed),
        lambda: Interventions(classifier, digits[1], threat_model, seed=seed),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match=r"a whole number 0 <= seed < 2\^63"):
            call()


def test_an_eps_in_other_units_than_the_pixels_is_told_wherever_it_is_given(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    (images, labels), threat_model = digits[1].batch(slice(0, 6)), ThreatModel("linf", 8, steps=1)
    interpreter, judge = fitted(classifier, images)
    layers = interpreter.layers
    calls: list[Callable[[], object]] = [
        lambda: attack(classifier, images, labels, threat_model, seed=0),
        lambda: autoattack(classifier, images, labels, threat_model, seed=0),
        lambda: diagnose(interpreter, judge, images, labels, threat_model=threat_model, adversarial=images),
        lambda: train_judge(*digits, threat_model=threat_model, seed=0),
        lambda: evaluate(classifier, images, labels, threat_model=threat_model, attacks=("pgd",)),
        lambda: let_in(classifier, layers, images, labels, images, natural=images, threat_model=threat_model, seed=0),
    ]
    for call in calls:
        with pytest.raises(ThreatModelError, match="a linf eps <= 1"):
            call()


def test_a_seed_of_numpy_is_that_number(classifier: Classifier, digits: tuple[ImageSet, ImageSet]) -> None:
    images, labels = digits[1].batch(slice(0, 6))
    layers = find_layers(classifier, images)
    for seed in np.arange(2):
        drawn, found = [], []
        each: Any  # a seed of numpy is no int to a type checker
        for each in (seed, int(seed)):
            interpreter = InterpretGAN(classifier, layers, config=SMALL, seed=each)
            drawn.append(interpreter.fit(images).explain(images, seed=each))
            found.append(attack(classifier, images, labels, ThreatModel("linf", 0.1, steps=1), seed=each))
        assert torch.equal(*(one.natural_explanations for one in drawn))
        assert torch.equal(*found)


# --- tensors -----------------------------------------------------------------------------------------------------


def test_double_precision_and_a_caller_without_gradients_fit_the_same(classifier: Classifier) -> None:
    images, labels = torch.rand(12, 1, 28, 28), torch.arange(12) % 10
    layers = find_layers(classifier, images)
    plain = InterpretGAN(classifier, layers, config=SMALL).fit(images)
    with torch.no_grad():
        quiet = InterpretGAN(classifier, layers, config=SMALL).fit(images)
        Decoders(classifier, layers, config=DECODERS).fit(images, labels)
    double = InterpretGAN(classifier, layers, config=SMALL).fit(images.double())
    drawn = [one.explain(images[:3]).natural_explanations for one in (plain, quiet, double)]
    assert torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn[0], drawn[2])


class Meta(Tensor):
    """A tensor of another library."""


def test_images_with_a_gradient_and_tensors_of_other_libraries_are_as_plain_ones(classifier: Classifier) -> None:
    images, labels = torch.rand(12, 1, 28, 28), torch.arange(12) % 10
    threat_model = ThreatModel("linf", 0.1, steps=1)
    pairs: Any = [
        (image.clone().requires_grad_().as_subclass(Meta), int(y)) for image, y in zip(images, labels, strict=True)
    ]
    fitted_to = [InterpretGAN(classifier, config=SMALL).fit(given) for given in (images, pairs)]
    assert torch.equal(*(one.explain(images[:3]).natural_explanations for one in fitted_to))
    found = [
        evaluate(classifier, *given, threat_model=threat_model, attacks=("fgsm",)).accuracy
        for given in ((images, labels), (images.as_subclass(Meta), labels.as_subclass(Meta)), (pairs,))
    ]
    assert found[0] == found[1] == found[2]


def test_labels_that_are_no_tensor_or_too_few_are_told(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    images, labels = digits[1].batch(slice(0, 6))
    interpreter = InterpretGAN(classifier, find_layers(classifier, images), config=SMALL).fit(images)
    judge = Judge(classifier, 0.9, 0.5, "tiny")
    with pytest.raises(LabelError, match=r"labels \[6\] with a tensor of images, got a list"):
        diagnose(interpreter, judge, images, labels.tolist(), threat_model=ThreatModel("linf", 0.1))  # type: ignore[arg-type]
    with pytest.raises(LabelError, match=r"of 6 labels, one per image, got torch.int64 of shape \(2,\)"):
        interpreter.explain(images, labels=labels[:2])


# --- networks ----------------------------------------------------------------------------------------------------


class SequenceFirst(nn.Module):
    """Four tokens of each image, the token axis in front."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.mix, self.head = nn.Conv2d(1, 8, 14, stride=14), nn.LayerNorm(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.mix(self.patch(x).flatten(2).permute(2, 0, 1))  # [4, N, 8]
        logits: Tensor = self.head(tokens.mean(dim=0))
        return logits


def test_an_axis_as_long_as_the_batch_is_no_batch_axis() -> None:
    anatomy = examine(Classifier(SequenceFirst()), torch.rand(4, 1, 28, 28))
    (mix,) = [layer for layer in anatomy.layers if layer.name == "mix"]
    assert (mix.axes, mix.shape) == ((1, 0, 2), (4, 8))


class Remembering(nn.Module):
    """State of its own kind, and a buffer that is not saved."""

    sign: Tensor

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.net = Tiny()
        self.register_buffer("sign", torch.tensor(sign), persistent=False)

    def get_extra_state(self) -> dict[str, int]:
        return {"version": 1}

    def set_extra_state(self, state: object) -> None:
        pass


def test_the_hash_of_a_network_covers_all_its_state() -> None:
    torch.manual_seed(0)
    one = Remembering(1.0)
    other = copy.deepcopy(one)
    assert Classifier(one).state_sha256() == Classifier(other).state_sha256()
    other.sign.neg_()
    assert Classifier(one).state_sha256() != Classifier(other).state_sha256()


def test_logits_that_no_image_has_do_not_count_as_classes(digits: tuple[ImageSet, ImageSet]) -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tiny(classes=1000))
    layers = find_layers(classifier, digits[0].batch([0, 1])[0])
    bits = Decoders(classifier, layers, config=DECODERS).fit(digits[0]).network.class_bits
    labels = torch.from_numpy(digits[0].labels.copy()).long()
    shares = torch.bincount(labels) / len(labels)
    torch.testing.assert_close(bits[:10], -shares.log2(), rtol=0.02, atol=0.0)  # of the images it looked at
    assert (bits[10:] > bits[:10].max()).all()


@pytest.fixture
def own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "surely_mine.py"
    file.write_text("from tests.networks import Tiny\n\ndef make():\n    return Tiny()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    yield file
    sys.modules.pop("surely_mine", None)
    importlib.invalidate_caches()


def test_a_run_does_not_go_on_with_another_code_of_the_model(
    own_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "train",
        "--model",
        "surely_mine:make",
        "--epochs",
        "1",
        "--device",
        "cpu",
        "--out",
        str(tmp_path / "run"),
    ]
    assert run_command(command) == 0
    assert len(json.loads((tmp_path / "run" / "config.json").read_text())["model"]["model_sha256"]) == 64
    own_model.write_text(own_model.read_text().replace("Tiny()", "Tiny().double()"))
    assert run_command(command) == 2
    assert "model_sha256" in capsys.readouterr().err
