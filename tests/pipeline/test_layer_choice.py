"""Names, patterns and groups of layers, and the layers that are explained where none is named."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.errors import LayerError
from interpretgan.layers import Anatomy, examine
from interpretgan.models import build_model
from interpretgan.pipeline.layer_choice import MOST, choose_layers


@cache
def anatomy(name: str, channels: int = 1, size: int = 28, width: float = 0.1) -> Anatomy:
    torch.manual_seed(0)
    model = build_model(name, in_channels=channels, num_classes=5, image_size=size, width=width)
    images = torch.rand(4, channels, size, size)
    for module in model.modules():  # fresh statistics would let the signal die out in deep networks
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model(images)
    return examine(Classifier(model), images)


def chosen(network: Anatomy, *names: str) -> list[str]:
    return [layer.name for layer in choose_layers(network, names or None)]


def test_the_default_is_all_of_few_layers_and_can_be_read_of_many() -> None:
    lenet = anatomy("lenet5")
    assert chosen(lenet) == [layer.name for layer in lenet.distinct]
    assert len(lenet.distinct) == 11
    assert chosen(anatomy("vgg-small", 3, 32)) == [
        "relu1_1", "relu1_2", "pool1", "relu2_1", "relu2_2", "pool2", "relu3_1", "relu3_2", "pool3", "relu4_1", "mean",
        "fc",
    ]  # fmt: skip
    deep = anatomy("vgg16", 3, 32)
    names, order = chosen(deep), [layer.name for layer in deep.distinct]
    assert len(names) == MOST
    assert (names[0], names[-1]) == ("relu1_1", "fc")
    places = [order.index(name) for name in names]
    assert places == sorted(places)
    assert max(b - a for a, b in pairwise(places)) <= 6


def test_functional_activations_leave_the_convolutions_in_the_default() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(1, 1, 3, padding=1) for _ in range(20)])
            self.fc = nn.Linear(36, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for conv in self.convs:
                x = torch.tanh(conv(x))
            logits: torch.Tensor = self.fc(x.flatten(1))
            return logits

    torch.manual_seed(0)
    network = examine(Classifier(Plain()), torch.rand(4, 1, 6, 6))
    names = chosen(network)
    assert len(names) == MOST
    assert names[-1] == "fc"
    assert sum(name.startswith("convs") for name in names) == MOST - 1


def test_patterns_and_groups_are_names_for_several_layers() -> None:
    lenet, wide = anatomy("lenet5"), anatomy("wrn-16-4", 1, 12, 0.05)
    assert chosen(lenet, "activations") == ["relu1", "relu2", "relu3", "relu4"]
    assert chosen(lenet, "fc*", "conv1") == ["conv1", "fc1", "fc2", "fc3"]
    assert chosen(lenet, "fc[12]", "fc?") == ["fc1", "fc2", "fc3"]
    assert chosen(lenet, "all") == [layer.name for layer in lenet.distinct]
    blocks = [f"block{group}.layer.{block}" for group in (1, 2, 3) for block in (0, 1)]
    assert chosen(wide, "blocks") == blocks
    assert set(blocks) < set(chosen(wide, "block*"))
    # A container that repeats the tensor of its last block stands for it.
    vit = anatomy("vit-small", 1, 12)
    assert chosen(vit, "blocks") == [f"blocks.{block}" for block in range(6)] == chosen(vit, "block[s]*")
    assert chosen(vit, "block[s]") == ["blocks.5"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("blocks",), "a pattern or a group of layers, got 'blocks', which has none here"),
        (("fc1", "stage*"), "got 'stage\\*', which has none here"),
        (("fc9",), "did you mean 'fc"),
    ],
)
def test_what_matches_no_layer_is_told(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(LayerError, match=message):
        choose_layers(anatomy("lenet5"), names)
