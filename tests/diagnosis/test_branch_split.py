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
from interpretgan.diagnosis.result import BranchResult
from interpretgan.diagnosis.vulnerability import layer_figures
from interpretgan.layers import examine
from interpretgan.layers.branches import Block, Branch, Group
from interpretgan.statistics import bootstrap_weights
from tests.networks import Tiny


def table(predictions: np.ndarray, count: int) -> dict[tuple[int, ...], np.ndarray]:
    """Predictions `[2^k, N]` by coalition, in the order of a binary number."""
    return {tuple(i for i in range(count) if chosen >> i & 1): row for chosen, row in enumerate(predictions)}


def alone(count: int) -> list[tuple[int, ...]]:
    """Branches that are not split into groups."""
    return [(place,) for place in range(count)]


@given(st.integers(2, 4), st.integers(0, 10_000))
def test_a_branch_carries_its_mean_over_all_orders(count: int, seed: int) -> None:
    right = table(np.random.default_rng(seed).integers(0, 2, (2**count, 7)).astype(float), count)
    carried = shapley(right, alone(count))
    slow = np.zeros((count, 7))
    for order in itertools.permutations(range(count)):
        for place, branch in enumerate(order):
            before = tuple(sorted(order[:place]))
            slow[branch] += (right[before] - right[tuple(sorted((*before, branch)))]) / factorial(count)
    np.testing.assert_allclose(carried, slow, atol=1e-12)


def test_what_was_lost_before_is_charged_to_no_branch_that_only_carries_it() -> None:
    # Images: lost before and carried by the first branch; newly lost by the second; lost before and won back by it.
    right = table(np.array([[1, 1, 1], [0, 1, 0], [1, 0, 1], [0, 0, 1]], dtype=float), 2)
    carried, before = shapley(right, alone(2)), np.array([1.0, 0.0, 1.0])
    np.testing.assert_allclose(carried, [[1, 0, 0.5], [0, 1, -0.5]])
    np.testing.assert_allclose(carried - brought_in(carried, before, np.full(2, 0.5)), [[0, 0, 0], [0, 1, -1]])


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


def test_groups_carry_their_mean_over_the_orders_in_which_they_come_one_after_the_other() -> None:
    (layer,) = examine(Classifier(Tiny()), torch.rand(4, 1, 28, 28)).select(["conv"])
    some = [Group(str(place), layer, 1, place, place + 1) for place in range(3)]
    block = Block(
        layer, (Branch("skip", ()), Branch("a", (layer,), tuple(some)), Branch("b", (layer,), tuple(some[:2])))
    )
    assert block.members == [(0,), (1, 2, 3), (4, 5)]
    rng, known = np.random.default_rng(0), [(), *block.coalitions, tuple(range(6))]
    assert len(set(known)) == len(known) == 8 + 4 * 6 + 4 * 2
    right = {chosen: rng.integers(0, 2, 7).astype(float) for chosen in known}
    slow, orders = np.zeros((6, 7)), 0
    for outer in itertools.permutations(block.members):
        for inner in itertools.product(*map(itertools.permutations, outer)):
            order, orders = [place for own in inner for place in own], orders + 1
            for place, player in enumerate(order):
                slow[player] += right[tuple(sorted(order[:place]))] - right[tuple(sorted(order[: place + 1]))]
    carried = shapley(right, block.members)
    np.testing.assert_allclose(carried, slow / orders, atol=1e-12)
    unsplit = {(): right[()]} | {
        tuple(i for i, own in enumerate(block.members) if own[0] in chosen): right[chosen]
        for chosen in known
        if all(set(own) <= set(chosen) or not set(own) & set(chosen) for own in block.members)
    }
    whole = shapley(unsplit, alone(3))
    np.testing.assert_allclose([carried[list(own)].sum(axis=0) for own in block.members], whole, atol=1e-12)


@pytest.mark.parametrize("spoilt", ["", "natural", "before"])
def test_the_parts_of_groups_add_up_to_their_branch_which_stays_as_it_was(spoilt: str) -> None:
    rng = np.random.default_rng(3)
    (layer,) = examine(Classifier(Tiny()), torch.rand(4, 1, 28, 28)).select(["conv"])
    groups = tuple(Group(f"conv[{place}:{place + 1}]", layer, 1, place, place + 1) for place in range(3))
    block = Block(layer, (Branch("skip", ()), Branch("conv", (layer,), groups)))
    labels = rng.integers(0, 4, 90)

    def shown(share: float, *shape: int) -> np.ndarray:
        return np.where(rng.random((*shape, 90)) < share, labels, (labels + 1) % 4)

    natural, attacked, some = shown(0.9, 4), shown(0.6, 4), shown(0.7, 2 + 2 * 6)
    if spoilt:
        natural[2 if spoilt == "natural" else 1] = (labels + 1) % 4
    weights = bootstrap_weights(90, 50, seed=1)

    def figures(block: Block, some: np.ndarray) -> tuple[BranchResult, ...]:
        controls = dict.fromkeys(("noise", "smooth", "foreign"), natural)
        found = Predictions(labels, natural, attacked, controls, {"natural": labels}, {"conv": some})
        return branch_figures([found], block, 2, weights, 0.9)

    split, plain = figures(block, some), figures(Block(layer, (Branch("skip", ()), Branch("conv", (layer,)))), some[:2])
    assert block.coalitions[:2] == [(0,), (1, 2, 3)]  # so these are the same ones
    for name in ("vulnerability", "share", "carried", "alone", "others"):
        for one, other in zip(split, plain, strict=True):
            interval, same = getattr(one, name), getattr(other, name)
            np.testing.assert_allclose(
                (interval.value, interval.low, interval.high), (same.value, same.low, same.high), atol=1e-12
            )
        if name not in ("alone", "others"):
            total = sum(getattr(group, name).value for group in split[1].parts)
            assert total == pytest.approx(getattr(split[1], name).value, abs=1e-12)
    assert [group.channels for group in split[1].parts] == [(0, 1), (1, 2), (2, 3)]
    # A layer that is split among its own channels has these in place of branches.
    alone = figures(Block(layer, (Branch("conv", (layer,), groups),)), some[:6])
    assert [group.name for group in alone] == [group.name for group in groups]
