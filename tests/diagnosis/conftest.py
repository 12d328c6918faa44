"""A tiny network of the digits, diagnosed: trained once for all tests of this folder."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.diagnose import diagnose
from interpretgan.diagnosis.predictions import Predictions
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.gan.train import GANConfig
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge
from interpretgan.layers import examine
from interpretgan.training import Natural, Recipe, train_classifier
from tests.networks import Tiny

THREAT = ThreatModel("linf", 0.15, steps=4)
CONFIG = GANConfig(steps=40, images_per_layer=8, width=24, blocks=1, noise=4, precision="fp32")


def trained(train: ImageSet, seed: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Classifier:
    torch.manual_seed(seed)
    classifier = Classifier(Tiny(), bounds=bounds, mean=(bounds[1] / 4,), std=(bounds[1] / 3,))
    train_classifier(classifier, train, objective=Natural(), recipe=Recipe(epochs=6, batch_size=64, lr=4e-3), seed=seed)
    return classifier


@pytest.fixture(scope="session")
def fitted(digits: tuple[ImageSet, ImageSet]) -> tuple[InterpretGAN, Judge]:
    train, test = digits
    classifier = trained(train, 0)
    layers = examine(classifier, test.batch([0, 1, 2])[0]).distinct
    return InterpretGAN(classifier, layers, config=CONFIG).fit(train), Judge(trained(train, 1), 0.95, 0.5, "tiny")


@dataclass(frozen=True)
class Diagnosed:
    diagnosis: Diagnosis
    predictions: Predictions


@pytest.fixture(scope="session")
def diagnosed(fitted: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]) -> Diagnosed:
    kept: list[Predictions] = []
    found = diagnose(
        *fitted, digits[1], threat_model=THREAT, examples=120, bootstrap=200, seed=4, on_predictions=kept.extend
    )
    return Diagnosed(found, kept[0])
