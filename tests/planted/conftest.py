"""A network for the digits that withstands small perturbations, trained in seconds."""

from __future__ import annotations

import pytest
import torch

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.training import AdversarialTraining, Recipe, train_classifier
from tests.networks import Tiny

THREAT = ThreatModel("linf", 0.1, steps=10)


@pytest.fixture(scope="session")
def robust(digits: tuple[ImageSet, ImageSet]) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = Classifier(Tiny())
    objective = AdversarialTraining(ThreatModel("linf", 0.15, steps=4), warmup=0.5)
    train_classifier(classifier, digits[0], objective=objective, recipe=Recipe(16, 64, 4e-3), seed=0)
    return classifier
