"""A network in train mode, as a module is when it was just built: nothing runs it so, and nothing changes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

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
    find_layers,
    load_data,
)
from interpretgan.attacks import attack, require_gradient
from interpretgan.diagnosis.predictions import attacker
from interpretgan.features.findings import look_closely
from interpretgan.information import Decoders, InformationConfig
from interpretgan.judge import measure_judge
from interpretgan.layers import Layer, examine
from interpretgan.robustness import evaluate
from interpretgan.studies.definitions import other_definitions
from interpretgan.training import evaluate_accuracy

THREAT_MODEL = ThreatModel("linf", eps=0.1, attack="pgd", steps=2)
SMALL = GANConfig(steps=2, images_per_layer=2, width=8, blocks=1, precision="fp32")


class Watched(nn.Module):
    """BatchNorm and dropout; a pass in train mode is an error."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(4 * ((size - 3) // 2 + 1) ** 2, 10)

    def forward(self, x: Tensor) -> Tensor:
        assert not any(module.training for module in self.modules()), "run in train mode"
        logits: Tensor = self.head(self.drop(self.relu(self.norm(self.conv(x))).flatten(1)))
        return logits


@dataclass(frozen=True)
class Bench:
    """A watched classifier, and what is used on it."""

    classifier: Classifier
    train: ImageSet
    test: ImageSet

    @property
    def images(self) -> Tensor:
        return self.test.batch(range(4))[0]

    @cached_property
    def layers(self) -> list[Layer]:
        return find_layers(self.classifier, self.images)

    @cached_property
    def interpreter(self) -> InterpretGAN:
        return InterpretGAN(self.classifier, self.layers, config=SMALL).fit(self.train)

    @cached_property
    def judge(self) -> Judge:
        return measure_judge(self.classifier, "watched", self.test, threat_model=THREAT_MODEL, seed=0)

    @cached_property
    def decoders(self) -> Decoders:
        config = InformationConfig(
            steps=2, batch=8, images_per_layer=2, width=8, blocks=1, features=8, hidden=8, precision="fp32"
        )
        return Decoders(self.classifier, self.layers, config=config).fit(self.train)


def _evaluate(one: Bench) -> None:
    attacks = ("fgsm", "pgd", "cw", "deepfool", "autoattack")
    evaluate(one.classifier, one.test, threat_model=THREAT_MODEL, attacks=attacks, examples=4, curve_examples=4)


def _train_with_recognition_network(one: Bench) -> None:
    recognition_network = Classifier(one.classifier.model)
    InterpretGAN(one.classifier, one.layers, config=SMALL).fit(one.train, recognition_network=recognition_network)


def _diagnose(one: Bench) -> None:
    measured = one.decoders.measure(one.test)
    diagnose(one.interpreter, one.judge, one.test, threat_model=THREAT_MODEL, bootstrap=5, information=measured)


def _other_definitions(one: Bench) -> None:
    adversarial = attacker(one.classifier, THREAT_MODEL, seed=0)
    other_definitions(one.classifier, one.layers, one.train, one.test, 6, adversarial=adversarial, seed=0)


def _look_closely(one: Bench) -> None:
    images, labels = one.test.batch(range(4))
    found = look_closely(one.interpreter, one.judge, images, 1 - images, labels, reference=one.train)
    assert all(layer.error.max() < 1e-2 for layer in found.units.layers)


USES: dict[str, Callable[[Bench], object]] = {
    "classify": lambda one: one.classifier.logits(one.images),
    "accuracy": lambda one: evaluate_accuracy(one.classifier, one.test),
    "labels": lambda one: one.classifier.check_labels(torch.zeros(4, dtype=torch.int64), one.images),
    "gradient": lambda one: require_gradient(one.classifier, one.images),
    "layers": lambda one: examine(one.classifier, one.images),
    "attack": lambda one: attack(one.classifier, *one.test.batch(range(5)), THREAT_MODEL, seed=0),
    "evaluate": _evaluate,
    "interpretgan": lambda one: one.interpreter.explain(one.images),
    "recognition_network": _train_with_recognition_network,
    "information": lambda one: one.decoders.measure(one.test),
    "judge": lambda one: one.judge.predict(one.images),
    "diagnose": _diagnose,
    "other definitions": _other_definitions,
    "look closely": _look_closely,
}


@pytest.mark.parametrize("use", USES)
def test_a_network_in_train_mode_is_run_in_eval_mode_and_given_back(use: str) -> None:
    train, test = load_data("digits", "train").head(40), load_data("digits", "test").head(20)
    torch.manual_seed(0)
    model = Watched(test.shape[1])
    classifier = Classifier(model)
    before = classifier.state_sha256()
    USES[use](Bench(classifier, train, test))
    assert classifier.state_sha256() == before
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("use", ["interpretgan", "information", "judge"])
def test_a_training_leaves_the_random_state_of_gpus_to_the_user(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = load_data("digits", "train").head(40), load_data("digits", "test").head(20)
    seeded = list[int]()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    USES[use](Bench(Classifier(Watched(test.shape[1])), train, test))
    assert not seeded
