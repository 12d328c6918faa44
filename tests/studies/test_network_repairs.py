from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.data import load_data
from interpretgan.errors import ConfigError
from interpretgan.layers import examine
from interpretgan.models import build_model
from interpretgan.models.architectures.pooling import pooling
from interpretgan.studies.config import Repair
from interpretgan.studies.network_repairs import halves, only, swappable, targets, units_of
from interpretgan.training import Natural, Recipe, train_classifier


def network(name: str = "lenet5", width: float = 1.0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Classifier(build_model(name, in_channels=1, num_classes=10, image_size=28, width=width))


class Tokens(nn.Module):
    """Attention, whose projection out is read and never called, and a weight that is used after the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(1, 8, 14, stride=14), nn.LayerNorm(8)
        self.mix, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(self.mix(z, z, z, need_weights=False)[0].mean(dim=1)) * self.scale
        return logits


def units(classifier: Classifier, layers: Sequence[str] | None = None) -> list[dict[str, Any]]:
    anatomy = examine(classifier, torch.rand(4, 1, 28, 28))
    names = [layer.name for layer in anatomy.distinct] if layers is None else layers
    rows = [{"name": name, "unreliable": name == "relu1_1", "vulnerability": {"value": 0.25}} for name in names]
    return units_of(classifier, anatomy, rows)


@pytest.mark.parametrize("classifier", [network("vgg-small", 0.125), network("wrn-10-1", 0.25), Classifier(Tokens())])
def test_each_parameter_belongs_to_one_unit(classifier: Classifier) -> None:
    owned = [name for unit in units(classifier) for name in unit["parameters"]]
    assert sorted(owned) == sorted(name for name, _ in classifier.model.named_parameters())


def test_the_layers_with_weights_and_what_follows_them() -> None:
    found = units(network("vgg-small", 0.125))
    names = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv4_1", "fc"]
    assert [unit["name"] for unit in found] == names
    assert found[1]["layers"] == ["conv1_2", "norm1_2", "relu1_2", "pool1"]
    assert {"norm1_2.weight", "norm1_2.bias"} < set(found[1]["parameters"])
    model = network("vgg-small", 0.125).model
    assert found[0]["size"] == sum(model.get_parameter(name).numel() for name in found[0]["parameters"])
    assert [unit["vulnerability"] for unit in found[:2]] == [
        None,
        1.0,
    ]  # one of its rows is unreliable; the sum of four


def test_layers_that_nothing_tells_apart_are_one_unit() -> None:
    assert [(unit["name"], len(unit["parameters"])) for unit in units(network(), ["pool1", "fc3"])] == [
        ("conv1", 2), ("conv2", 8),
    ]  # fmt: skip
    residual = network("wrn-10-1", 0.25)
    weighted = [module for module in residual.model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(units(residual)) < len(weighted)
    attention = [unit for unit in units(Classifier(Tokens())) if "mix.out_proj.weight" in unit["parameters"]]
    assert [("mix.in_proj_weight" in unit["parameters"]) for unit in attention] == [True]


def test_where_all_layers_learn_normalisation_without_parameters_does() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Conv2d(2, 2, 3))
    with only(model, ["0.weight", "0.bias"]):
        assert not model[1].training
    with only(model, [name for name, _ in model.named_parameters()]):
        assert model[1].training


@pytest.mark.parametrize("averaging", [0.0, 0.9])
def test_fine_tuning_moves_the_chosen_layer_and_nothing_else(averaging: float) -> None:
    classifier = network("vgg-small", 0.125)
    before = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    chosen = ["conv2_1.weight", "conv2_1.bias", "norm2_1.weight", "norm2_1.bias"]
    recipe = Recipe(epochs=1, batch_size=32, lr=1e-2, averaging=averaging)
    flags = [module.training for module in classifier.model.modules()]
    with only(classifier.model, chosen):
        train_classifier(classifier, load_data("digits", "train").head(64), objective=Natural(), recipe=recipe, seed=0)
    moved = {name for name, value in classifier.model.state_dict().items() if not torch.equal(value, before[name])}
    statistics = {"norm2_1.running_mean", "norm2_1.running_var", "norm2_1.num_batches_tracked"}
    # a bias before its normalisation has no gradient, and may stay
    assert set(chosen) - {"conv2_1.bias"} | statistics <= moved <= set(chosen) | statistics
    assert all(parameter.requires_grad for parameter in classifier.model.parameters())
    assert [module.training for module in classifier.model.modules()] == flags
    classifier.model.train()
    assert all(module.training for module in classifier.model.modules())  # train() is its own again


def test_a_pooling_that_runs_twice_is_not_swapped_for_one_of_its_calls() -> None:
    lenet = network()
    assert swappable(lenet.model, examine(lenet, torch.rand(4, 1, 28, 28)).layers) == {"pool1", "pool2"}
    pool, head = nn.MaxPool2d(2), nn.Linear(49, 10)
    twice = Classifier(nn.Sequential(OrderedDict(first=pool, relu=nn.ReLU(), again=pool, flat=nn.Flatten(), head=head)))
    layers = examine(twice, torch.rand(4, 1, 28, 28)).layers
    assert {"first:1", "first:2"} <= {layer.name for layer in layers}
    assert swappable(twice.model, layers) == set()


@pytest.mark.parametrize(
    ("module", "can"),
    [
        (nn.MaxPool2d(2), True), (nn.AvgPool2d((2, 2), stride=2), True), (pooling("stride", 4), True),
        (pooling("blur", 4), True), (nn.MaxPool2d(3, stride=1, padding=1), False), (nn.MaxPool2d(3, 2, 1), False),
        (nn.AvgPool2d(8), False), (nn.MaxPool2d(2, ceil_mode=True), False), (nn.MaxPool2d(2, dilation=2), False),
        (nn.ReLU(), False),
    ],
)  # fmt: skip
def test_a_pooling_of_another_geometry_is_not_swapped(module: nn.Module, can: bool) -> None:
    assert halves(module) is can


UNITS: list[dict[str, Any]] = [
    {"name": "conv1", "vulnerability": 0.1, "size": 156}, {"name": "conv2", "vulnerability": 0.4, "size": 2416},
    {"name": "fc1", "vulnerability": None, "size": 48120}, {"name": "fc2", "vulnerability": -0.02, "size": 10164},
]  # fmt: skip
ROWS: list[dict[str, Any]] = [
    {"name": name, "kind": "MaxPool2d", "pooling": name.startswith("pool"), "unreliable": False,
     "vulnerability": {"value": value}}
    for name, value in [("conv1", 0.9), ("pool1", 0.2), ("conv2", 0.8), ("pool2", 0.3)]
]  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "count", "chosen"),
    [
        ("finetune-blamed", 1, ["conv2"]),
        ("finetune-cleared", 1, ["fc2"]),
        ("finetune-equal", 1, ["fc2"]),
        ("finetune-random", 1, ["fc1"]),
        ("finetune-best", 1, ["conv1", "conv2", "fc1", "fc2"]),
        ("finetune-all", 1, ["conv1", "conv2", "fc1", "fc2"]),
        ("swap-blamed", 3, ["pool2"]),
        ("swap-cleared", 3, ["pool1"]),
    ],
)
def test_what_a_variant_changes(variant: str, count: int, chosen: list[str]) -> None:
    assert targets(variant, UNITS, ROWS, Repair(layers=count), seed=0) == chosen


def test_units_to_mend_are_those_that_let_the_perturbation_in_where_that_is_known() -> None:
    units = [{**unit, "let_in": value} for unit, value in zip(UNITS, (0.7, 0.2, 0.9, 0.1), strict=True)]
    assert targets("finetune-blamed", units, ROWS, Repair(), seed=0) == ["fc1"]
    assert targets("finetune-cleared", units, ROWS, Repair(layers=2), seed=0) == ["conv2", "fc2"]
    assert targets("swap-blamed", units, ROWS, Repair(), seed=0) == ["pool2"]
    units[0]["let_in"] = None
    assert targets("finetune-blamed", units, ROWS, Repair(), seed=0) == ["conv2"]


def test_a_random_layer_is_any_of_them() -> None:
    drawn = [targets("finetune-random", UNITS, ROWS, Repair(), seed=seed)[0] for seed in range(40)]
    assert set(drawn) == {"conv1", "conv2", "fc1", "fc2"}
    assert drawn[3] == targets("finetune-random", UNITS, ROWS, Repair(), seed=3)[0]


def test_blamed_and_cleared_do_not_overlap() -> None:
    equal = [{"name": name, "vulnerability": 0.1} for name in ("conv1", "fc1")]
    assert targets("finetune-blamed", equal, ROWS, Repair(), seed=0) == ["conv1"]
    assert targets("finetune-cleared", equal, ROWS, Repair(), seed=0) == ["fc1"]
    with pytest.raises(ConfigError, match=r"at least 4 layers with weights that can be read reliably.*got 3"):
        targets("finetune-blamed", UNITS, ROWS, Repair(layers=2), seed=0)
    hidden = [{**row, "unreliable": True} for row in ROWS]
    with pytest.raises(ConfigError, match="at least 2 poolings"):
        targets("swap-cleared", UNITS, hidden, Repair(), seed=0)
    average = [{**row, "kind": "AvgPool2d"} if row["name"] == "pool1" else row for row in ROWS]
    with pytest.raises(ConfigError, match=r"at least 2 poolings.*got 1"):  # pool1 is an average already
        targets("swap-cleared", UNITS, average, Repair(), seed=0)
    assert targets("swap-cleared", UNITS, average, replace(Repair(), pool="blur"), seed=0) == ["pool1"]
