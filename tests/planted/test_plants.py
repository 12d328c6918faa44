"""The table of plants, and what the rest of it does when one cannot be made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError, InterpretGANError
from interpretgan.planted.kinds import KINDS, Planted
from interpretgan.planted.plants import NETWORKS, Plan, RobustTraining, make, plans, robust_network, setting


def test_the_table_has_every_kind_at_every_place_once() -> None:
    table = list(plans(seeds=(0, 1)))
    assert len({plan.key for plan in table}) == len(table) > 150
    for name, network in NETWORKS.items():
        own = [plan for plan in table if plan.network == name and plan.seed == 1]
        assert {plan.kind for plan in own} == set(network.kinds) <= set(KINDS)
        assert all(len(plan.layers) == KINDS[plan.kind].layers for plan in own)
        assert [plan.layers for plan in own if plan.kind == "gate"] == [(layer,) for layer in network.layers]
    pairs = [plan.layers for plan in plans(["mnist-wide"], ["two"])]
    assert pairs == [("conv1", "pool2"), ("pool1", "fc1")]
    assert Plan("mnist-wide", "two", ("conv1", "fc1"), 3).key == "mnist-wide/two/conv1+fc1/3"
    assert Plan("mnist-wide", "none", (), 0).key == "mnist-wide/none/-/0"


def test_layers_can_be_chosen_and_a_kind_stays_with_its_networks() -> None:
    assert [plan.layers for plan in plans(["lenet5-max-pgd"], ["twin"], ["conv2", "fc1"])] == [("conv2",), ("fc1",)]
    assert not list(plans(["lenet5-max-pgd"], ["lipschitz"]))


@pytest.mark.slow
@pytest.mark.needs_data("mnist")
def test_what_cannot_be_made_comes_with_its_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    network = setting("lenet5-max-pgd", tmp_path)
    found = {plan.key: make(plan, network) for plan in plans(["lenet5-max-pgd"], ["bomb", "none", "twin"], ["relu1"])}
    assert isinstance(found.pop("lenet5-max-pgd/none/-/0"), Planted)
    assert all(isinstance(error, InterpretGANError) and "\n" not in str(error) for error in found.values())
    assert "a kind among" in str(found["lenet5-max-pgd/bomb/-/0"])
    assert "a layer with weights" in str(found["lenet5-max-pgd/twin/relu1/0"])


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a network among"):
        setting("nowhere", tmp_path)


@pytest.mark.parametrize("architecture", ["lenet5", "lipschitz"])
def test_a_network_is_trained_once_and_then_found(
    architecture: str, tmp_path: Path, digits: tuple[ImageSet, ImageSet]
) -> None:
    training = RobustTraining(architecture, epochs=1, batch_size=64, steps=1, eps=0.1)
    few = digits[0].head(256)
    reports: list[object] = []
    state = torch.get_rng_state()
    first = robust_network(training, few, tmp_path, on_progress=reports.append)
    assert reports
    reports.clear()
    again = robust_network(training, few, tmp_path, on_progress=reports.append)
    assert not reports
    assert first.state_sha256() == again.state_sha256()
    assert torch.equal(torch.get_rng_state(), state)
    robust_network(training, few, tmp_path, seed=1, on_progress=reports.append)
    assert reports
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"] * 2
