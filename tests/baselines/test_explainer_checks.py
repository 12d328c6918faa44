"""Fidelity and random weights, on maps that are built to pass and to fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from interpretgan.baselines.explainer_checks import fidelity, randomisation
from interpretgan.baselines.explainers import Explainer
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.layers import Layer, find_layers
from tests.networks import Tiny


class Corner(torch.nn.Module):
    """Class 1 by the upper left quarter alone."""

    def forward(self, x: Tensor) -> Tensor:
        corner = x[:, 0, :5, :5].mean(dim=(1, 2))
        return torch.stack([5 * (1 - corner), 5 * corner], dim=1)


def test_a_map_of_what_decides_is_faithful_and_its_opposite_is_not() -> None:
    images, targets = torch.full((3, 1, 10, 10), 1.0), torch.ones(3, dtype=torch.int64)
    right = torch.zeros(3, 10, 10)
    right[:, :5, :5] = 1
    good, bad = (fidelity(Classifier(Corner()), maps, images, targets, seed=0) for maps in (right, -right))
    assert good.deletion.max() < good.deletion_random.min() < bad.deletion.min()
    assert good.insertion.min() > good.insertion_random.max() > bad.insertion.max()
    # By hand: the quarter is gone after 5 of 20 steps.
    logistic = [1 / (1 + np.exp(-5 * (2 * max(0.0, 1 - step / 5) - 1))) for step in range(21)]
    np.testing.assert_allclose(good.deletion, (sum(logistic) - (logistic[0] + logistic[-1]) / 2) / 20, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"maps \[3, 10, 10\]"):
        fidelity(Classifier(Corner()), right[:, :5], images, targets, seed=0)


def edges(_classifier: Classifier, _layer: Layer, images: Tensor, _targets: Tensor) -> Tensor:
    """A map that looks like the image and knows nothing of the network."""
    return images[:, 0]


def nothing(_classifier: Classifier, _layer: Layer, images: Tensor, _targets: Tensor) -> Tensor:
    return 0 * images[:, 0]


def slopes(classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    images = images.requires_grad_()
    (found,) = torch.autograd.grad(classifier.run(images).gather(1, targets[:, None]).sum(), images)
    return found[:, 0]


def test_a_map_that_survives_random_weights_is_told_from_one_that_does_not() -> None:
    torch.manual_seed(0)
    classifier = Classifier(Tiny(size=(12, 14)))
    images, targets = torch.rand(4, 1, 12, 14), torch.tensor([0, 1, 2, 3])
    layer, before = find_layers(classifier, images)[0], classifier.state_sha256()
    blind, seeing, flat = (
        randomisation(
            Explainer(method.__name__, "", "", method, captum=False), classifier, layer, images, targets, seed=0
        )
        for method in (edges, slopes, nothing)
    )
    assert [step.module for step in seeing] == ["fc2", "fc1", "conv"]
    assert all(min(step.similarity) > 0.999 for step in blind)
    assert np.mean(seeing[-1].similarity) < 0.5
    assert all(np.isnan(step.similarity).all() for step in flat)  # a map of nothing does not pass
    assert classifier.state_sha256() == before
