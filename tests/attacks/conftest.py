"""A sound network for the digits, trained in a second, and the images to attack it on."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data import load_data
from tests.networks import Tiny


@pytest.fixture(scope="session")
def net() -> Tiny:
    train = load_data("digits", "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tiny()
    optimiser = torch.optim.Adam(model.parameters(), 4e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(8):
        for images, labels in train.batches(64, generator=order):
            optimiser.zero_grad()
            torch.autograd.backward(F.cross_entropy(model(images), labels))
            optimiser.step()
    return model.eval()


@pytest.fixture(scope="session")
def sound(net: Tiny) -> Classifier:
    return Classifier(net)


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor]:
    return load_data("digits", "test").batch(slice(0, 80))
