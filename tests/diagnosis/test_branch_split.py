"""What a block loses is split among its branches, exactly."""

from __future__ import annotations

import itertools
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from interpretgan.classifier import Classifier
from interpretgan.diagnosis.branch_split import branch_figures, brought_in, shapley
from interpretgan.diagnosis.predictions import Predictions
from interpretgan.diagnosis.vulnerability import layer_figures
from interpretgan.layers import examine
from interpretgan.layers.branches import Block, Branch
from interpretgan.statistics import bootstrap_weights
from tests.networks import Tiny


def table(predictions: np.ndarray, count: int) -> dict[tuple[int, ...], np.ndarray]:
    """Predictions `[2^k, N]` by coalition, in the order of a binary number."""
    return {tuple(i for i in range(count) if chosen >> i & 1): row for chosen, row in enumerate(predictions)}


@given(st.integers(2, 4), st.integers(0, 10_000))
def test_a_branch_carries_its_mean_over_all_orders(count: int, seed: int) -> None:
    right = table(np.random.default_rng(seed).integers(0, 2, (2**count, 7)).astype(float), count)
    carried = shapley(right, count)
    slow = np.zeros((count, 7))
    for order in itertools.permutations(range(count)):
        for place, branch in enumerate(order):
            before = tuple(sorted(order[:place]))
            slow[branch] += (right[before] - right[tuple(sorted((*before, branch)))]) / factorial(count)
    np.testing.assert_allclose(carried, slow, atol=1e-12)


def test_what_was_lost_before_is_charged_to_no_branch_that_only_carries_it() -> None:
    # Images: lost before and carried by the first branch; newly lost by the second; lost before and won back by it.
    right = table(np.array([[1, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1]], dtype=float), 2)
    carried, before = shapley(right, 2), np.array([1.0, 0.0, 1.0])
    np.testing.assert_allclose(carried, [[1, 0, 0.5], [0, 1, -0.5]])
    np.testing.assert_allclose(carried - brought_in(carried, before), [[0, 0, 0], [0, 1, -1]])


BLOCK_OF = {count: [Branch(str(place), ()) for place in range(count)] for count in (2, 3)}


@pytest.mark.parametrize("spoilt", ["", "natural", "before"])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("generators", [1, 6])
def test_the_parts_of_the_branches_add_up_to_the_block(count: int, generators: int, spoilt: str) -> None:
    rng, names = np.random.default_rng(count), ("image", "first", "block", "last")
    (layer,) = examine(Classifier(Tiny()), torch.rand(4, 1, 28, 28)).select(["conv"])
    block = Block(layer, tuple(BLOCK_OF[count]))
    labels = rng.integers(0, 4, 90)

    def shown(share: float, *shape: int) -> np.ndarray:
        """Predictions of which so large a share is right."""
        return np.where(rng.random((*shape, 90)) < share, labels, (labels + 1) % 4)

    predictions = []
    for _ in range(generators):
        natural, attacked = shown(0.9, len(names)), shown(0.6, len(names))
        if spoilt:  # nothing is predicted right naturally, in this row or the one before
            natural[2 if spoilt == "natural" else 1] = (labels + 1) % 4
        controls = dict.fromkeys(("noise", "smooth", "foreign"), natural)
        some = {"conv": shown(0.7, 2**count - 2)}
        predictions.append(Predictions(labels, natural, attacked, controls, {"natural": labels}, some))
    weights = bootstrap_weights(90, 50, seed=1)
    figures = branch_figures(predictions, block, 2, weights, 0.9)
    row = layer_figures(predictions, weights, 0.9)[2]
    for name, whole in (
        ("vulnerability", row["vulnerability"].value), ("share", row["share"].value),
        ("carried", 0.0 if spoilt == "natural" else 1 - row["survival"]),
    ):  # fmt: skip
        assert sum(getattr(branch, name).value for branch in figures) == pytest.approx(whole, abs=1e-12)
    for branch in figures:
        assert branch.vulnerability.low <= branch.vulnerability.value <= branch.vulnerability.high
        assert (branch.vulnerability.spread is not None) == (generators > 1)
        assert spoilt == "natural" or branch.vulnerability.low < branch.vulnerability.high
