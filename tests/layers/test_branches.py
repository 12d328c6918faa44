"""Branches are found by trying, and patched exactly, on networks whose branches are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.errors import LayerError
from interpretgan.layers import capture, examine
from interpretgan.layers.branches import Block, find_branches, patched_latents
from interpretgan.models import build_model
from tests.networks import Residual, Tiny


class Paths(nn.Module):
    """`paths` convolutions side by side, their maps concatenated, and with `skip` the input itself."""

    def __init__(self, paths: int, *, skip: bool) -> None:
        super().__init__()
        self.paths = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 2, 3, padding=1), nn.ReLU()) for _ in range(paths)])
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([path(x) for path in self.paths] + ([x] if self.skip else []), dim=1)


class Pair(nn.Module):
    """An attention that returns a pair, as many do, and takes its tokens first in front, with a dropout behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.drop = nn.Dropout(0.1)
        self.relu = nn.ReLU(inplace=True)
        self.mlp = nn.Sequential(nn.Linear(8, 8), self.relu, nn.Linear(8, 8), self.relu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(x, x, x)[0])
        out: Tensor = x + self.mlp(x)
        return out


class Net(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8 if isinstance(block, Pair) else 4, 3)
        self.block = block
        self.fc = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x)
        if isinstance(self.block, Pair):
            z = z.flatten(2).permute(2, 0, 1)
        z = self.block(z)
        logits: Tensor = self.fc((z.transpose(0, 1) if isinstance(self.block, Pair) else z).flatten(1))
        return logits


class InPieces(nn.Module):
    """Runs two images at a time, whatever the batch is."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.net(part) for part in torch.split(x, 2)])


def found(net: nn.Module, shape: tuple[int, ...], only: list[str] | None = None) -> dict[str, list[str]]:
    """The names of the branches of each block, where all layers are explained, or only some."""
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    net(images)
    classifier = Classifier(net)
    anatomy = examine(classifier, images)
    layers = anatomy.distinct if only is None else anatomy.select(only)
    return {
        block.layer.name: [branch.name for branch in block.branches]
        for block in find_branches(classifier, anatomy, layers, images)
    }


def test_branches_are_those_that_are_added_or_concatenated_and_what_flows_around() -> None:
    torch.manual_seed(1)
    assert found(Residual(), (1, 9, 8)) == {"blocks.0": ["bn2", "shortcut"], "blocks.1": ["bn2", "shortcut"]}
    assert found(Net(Pair()), (1, 7, 6)) == {"block": ["skip", "attention", "mlp"]}
    assert found(Net(Paths(3, skip=False)), (1, 7, 6)) == {"block": ["paths.0", "paths.1", "paths.2"]}
    assert found(Net(Paths(6, skip=True)), (1, 7, 6)) == {
        "block": ["skip", "paths.0 to paths.1", "paths.2 to paths.3", "paths.4", "paths.5"]
    }
    wide = build_model("wrn-16-4", in_channels=1, num_classes=4, image_size=12, width=0.05)
    skips = {f"block{group}.layer.1": ["skip", "conv2"] for group in (1, 2, 3)}
    assert (
        found(wide, (1, 12, 12)) == {f"block{group}.layer.0": ["conv2", "convShortcut"] for group in (1, 2, 3)} | skips
    )
    assert found(Tiny(), (1, 28, 28)) == {}


def test_a_layer_that_is_not_explained_is_a_branch_of_the_next_block() -> None:
    torch.manual_seed(1)
    net = build_model("vit-small", in_channels=1, num_classes=4, image_size=12, width=0.1)
    branches = ["skip", "attention", "mlp"]
    assert found(net, (1, 12, 12)) == {f"blocks.{block}": branches for block in range(6)}
    some = found(net, (1, 12, 12), ["position", "blocks.0", "blocks.3", "fc"])
    assert some == {"blocks.0": branches, "blocks.3": ["blocks.2", "attention", "mlp"]}


def test_a_layer_of_another_network_is_told() -> None:
    images, other = torch.rand(4, 1, 28, 28), Classifier(Net(Paths(2, skip=True)))
    other.model(images)
    layers = examine(other, images).distinct
    with pytest.raises(LayerError, match="'first', which is not called"):
        find_branches(Classifier(Tiny()), examine(Classifier(Tiny()), images), layers, images)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_patching_replaces_the_chosen_branches_and_no_others(*, in_pieces: bool) -> None:
    torch.manual_seed(2)
    block = Paths(2, skip=True)
    net = Net(block)
    natural, attacked = torch.rand(5, 1, 7, 6), torch.rand(5, 1, 7, 6)
    net(natural)
    classifier = Classifier(InPieces(net) if in_pieces else net)
    anatomy = examine(classifier, natural)
    (splittable,) = find_branches(classifier, anatomy, anatomy.distinct, natural)
    assert [branch.name for branch in splittable.branches] == ["skip", "paths.0", "paths.1"]
    with torch.no_grad():
        z = [net.first(natural), net.first(attacked)]
        parts = [[z[version], block.paths[0](z[version]), block.paths[1](z[version])] for version in (0, 1)]
    seen = set()
    for coalition, latent in patched_latents(classifier, splittable, natural, attacked):
        skip, first, second = (parts[place in coalition][place] for place in range(3))
        torch.testing.assert_close(latent, torch.cat([first, second, skip], dim=1))
        seen.add(coalition)
    assert len(seen) == 6
    # All branches together fix the latent, and the model is as it was.
    whole = Block(splittable.layer, splittable.branches)
    assert {(0, 1), (1, 2), (0,)} < set(whole.coalitions)
    logits, latents = capture(classifier, attacked, [splittable.layer])
    torch.testing.assert_close(latents[splittable.layer.name], torch.cat([*parts[1][1:], parts[1][0]], dim=1))
    assert all(not module._forward_hooks for module in net.modules())
    torch.testing.assert_close(logits, net(attacked).detach())
