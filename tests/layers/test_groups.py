"""Channels and heads are found by trying, and patched exactly, on networks whose channels and heads are known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.errors import InterpretGANError
from interpretgan.layers import capture, examine
from interpretgan.layers.branches import Block, patched_latents
from interpretgan.layers.groups import find_blocks, parse_groups
from interpretgan.models import build_model
from interpretgan.models.architectures.vit import TransformerBlock
from tests.networks import Residual


@pytest.fixture(scope="module")
def vit() -> Classifier:
    torch.manual_seed(0)
    return Classifier(build_model("vit-small", in_channels=1, num_classes=10, image_size=(12, 8)))


def blocks(classifier: Classifier, groups: dict[str, int | str], images: Tensor, *names: str) -> list[Block]:
    anatomy = examine(classifier, images)
    layers = anatomy.select(names) if names else anatomy.distinct
    return list(find_blocks(classifier, anatomy, layers, images, groups=groups))


def test_heads_are_what_enters_the_output_projection(vit: Classifier) -> None:
    images = torch.rand(3, 1, 12, 8)
    found = blocks(vit, {"blocks.*.attention": "heads"}, images)
    assert [block.layer.name for block in found] == [f"blocks.{number}" for number in range(6)]
    for block in found:
        assert [len(branch.groups) for branch in block.branches] == [0, 6, 0]
    attention = found[1].branches[1]
    assert [(head.name, head.start, head.stop) for head in attention.groups][::5] == [
        ("head 0", 0, 32), ("head 5", 160, 192),
    ]  # fmt: skip
    pairs = blocks(vit, {"blocks.1.attention": "heads:3"}, images, "blocks.0", "blocks.1")[1].branches[1].groups
    assert [head.name for head in pairs] == ["heads 0 to 1", "heads 2 to 3", "heads 4 to 5"]


def test_patching_replaces_the_chosen_heads_and_no_others(vit: Classifier) -> None:
    natural, attacked = torch.rand(2, 4, 1, 12, 8)
    (block,) = blocks(vit, {"blocks.0.attention": "heads:2"}, natural, "position", "blocks.0", "fc")[:1]
    net = vit.model.get_submodule("blocks.0")
    assert isinstance(net, TransformerBlock)
    (position,) = examine(vit, natural).select(["position"])
    tokens = [capture(vit, images, [position])[1]["position"] for images in (natural, attacked)]
    entering, mlps = list[Tensor](), list[Tensor]()
    with (
        torch.no_grad(),
        net.attention.out.register_forward_pre_hook(lambda _m, given: entering.append(given[0])),
        net.mlp.register_forward_hook(lambda _m, _i, output: mlps.append(output)),
    ):
        for version in tokens:
            net(version)
    seen = set()
    for coalition, latent in patched_latents(vit, block, natural, attacked):
        skip, first, second, mlp = (place in coalition for place in range(4))
        heads = torch.cat([entering[first][..., :96], entering[second][..., 96:]], dim=-1)
        with torch.no_grad():
            torch.testing.assert_close(latent, tokens[skip] + net.attention.out(heads) + mlps[mlp])
        seen.add(coalition)
    assert len(seen) == 6 + 4 * 2
    assert all(not module._forward_pre_hooks and "forward" not in vars(module) for module in vit.model.modules())


def test_groups_of_a_layer_are_its_channels_and_of_a_call_in_a_branch_those_of_the_branch() -> None:
    torch.manual_seed(1)
    natural, attacked = torch.rand(2, 4, 1, 9, 10)
    classifier = Classifier(Residual())
    found = {block.layer.name: block for block in blocks(classifier, {"blocks.0": 2, "blocks.1.bn1": 3}, natural)}
    own, inner = found["blocks.0"], found["blocks.1"]
    assert [branch.name for branch in own.branches] == ["blocks.0"]
    assert [(branch.name, len(branch.groups)) for branch in inner.branches] == [("bn2", 3), ("shortcut", 0)]
    usual, other = (capture(classifier, images, [own.layer])[1]["blocks.0"] for images in (natural, attacked))
    half = own.layer.shape[0] // 2
    (first, of_first), (second, of_second) = patched_latents(classifier, own, natural, attacked)
    assert (first, second) == ((0,), (1,))
    assert torch.equal(of_first, torch.cat([other[:, :half], usual[:, half:]], dim=1))
    assert torch.equal(of_second, torch.cat([usual[:, :half], other[:, half:]], dim=1))


class Last(nn.Module):
    """A residual MLP on maps `[N, H, W, C]`, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.fc2(self.act(self.fc1(self.norm(x))))
        return out


class ChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.fc = nn.Conv2d(1, 4, 3, padding=1), Last(), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.block(self.first(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))
        return logits


def test_channels_are_the_last_axis_where_a_network_keeps_its_maps_so() -> None:
    torch.manual_seed(0)
    found = blocks(Classifier(ChannelsLast()), {"first": 2, "block.act": 4}, torch.rand(3, 1, 16, 16))
    axes = {group.name: group.axis for block in found for branch in block.branches for group in branch.groups}
    assert axes == {"first[0:2]": 1, "first[2:4]": 1} | {f"act[{start}:{start + 2}]": 3 for start in (0, 2, 4, 6)}


class Torchs(nn.Module):
    """A transformer block of torch's own, which in eval mode runs as one function."""

    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        self.axes = (0, 1, 2) if batch_first else (1, 0, 2)
        self.first = nn.Conv2d(1, 8, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, norm_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.block(self.first(x).flatten(2).transpose(1, 2).permute(self.axes))
        logits: Tensor = self.fc(tokens.permute(self.axes).mean(dim=1))
        return logits


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_heads_of_torchs_own_attention_are_patched_though_it_calls_no_projection(*, batch_first: bool) -> None:
    torch.manual_seed(0)
    model = Torchs(batch_first=batch_first)
    nn.init.normal_(model.block.self_attn.out_proj.bias)
    classifier, (natural, attacked) = Classifier(model), torch.rand(2, 4, 1, 12, 8)
    before, fast = classifier.logits(natural), torch.backends.mha.get_fastpath_enabled()
    (block,) = blocks(classifier, {"block.self_attn": "heads"}, natural)
    assert [(branch.name, len(branch.groups)) for branch in block.branches] == [
        ("skip", 0), ("self_attn", 2), ("linear2", 0)
    ]  # fmt: skip

    layer, heads, tokens, mlps = model.block, list[Tensor](), list[Tensor](), list[Tensor]()
    with torch.no_grad():
        for images in (natural, attacked):
            x = model.first(images).flatten(2).transpose(1, 2)
            weight, bias = layer.self_attn.in_proj_weight, layer.self_attn.in_proj_bias
            read = nn.functional.linear(layer.norm1(x), weight, bias).chunk(3, dim=2)
            q, k, v = (part.reshape(4, -1, 2, 4).transpose(1, 2) for part in read)
            each = torch.softmax(q @ k.transpose(2, 3) / 2, dim=3) @ v
            heads.append(each.transpose(1, 2).flatten(2))
            y = x + layer.self_attn.out_proj(heads[-1])
            tokens.append(x)
            mlps.append(layer.linear2(torch.relu(layer.linear1(layer.norm2(y)))))
        for coalition, latent in patched_latents(classifier, block, natural, attacked):
            skip, first, second, mlp = (place in coalition for place in range(4))
            mixed = torch.cat([heads[first][..., :4], heads[second][..., 4:]], dim=2)
            torch.testing.assert_close(latent, tokens[skip] + layer.self_attn.out_proj(mixed) + mlps[mlp])
    assert torch.equal(classifier.logits(natural), before)
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"blocks.1.attentio": "heads"}, "did you mean 'blocks.1.attention'"),
        ({"nope": 3}, "a layer or a module call of the network, got 'nope'"),
        ({"block.*": 3}, "got 'block.*', which has none here"),
        ({"blocks.1": 5}, "2 to 8 groups that divide the 192 channels of blocks.1, got 5; try blocks.1=8"),
        ({"blocks.1": 96}, "2 to 8 groups"),
        ({"blocks.1.attention": "heads:12"}, "6 heads of blocks.1.attention, got 12; try blocks.1.attention=heads:6"),
        ({"blocks.1": "heads"}, "name the attention in it, as blocks.1.attention"),
        ({"blocks.*": "heads"}, "name the attention in it, as blocks.0.attention"),
        ({"blocks.1.mlp": 4, "blocks.1": 4}, "expected 'blocks.1', or a part of it, once"),
        ({"blocks.1": 4, "blocks.1.mlp": 4}, "expected 'blocks.1', or a part of it, once"),
        ({"blocks.1": 4, "blocks.*": 2}, "expected 'blocks.1', or a part of it, once"),
        ({"blocks.1.mlp": "heads"}, "say how many, e.g. blocks.1.mlp=heads:4"),
        ({"blocks.4.mlp": 2}, "that fixes one or a branch of one, got 'blocks.4.mlp', which is neither"),
        ({"blocks.1.mlp": 2, "blocks.1.mlp.1": 2}, "one name for the branch mlp of blocks.1"),
        ({"blocks.1": "all"}, "NAME=heads"),
        ({"blocks.1": -2}, "NAME=heads"),
    ],
)
def test_what_cannot_be_split_is_told_in_one_line(vit: Classifier, groups: dict[str, int | str], message: str) -> None:
    with pytest.raises(InterpretGANError) as error:
        blocks(vit, groups, torch.rand(3, 1, 12, 8), "blocks.0", "blocks.1", "fc")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


class Pooled(nn.Module):
    """Attention in the place of pooling: one query reads all tokens, and nothing flows around."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.query = nn.Conv2d(1, 8, 4, stride=4), nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.first(x).flatten(2).transpose(1, 2)
        logits: Tensor = self.fc(self.attention(self.query.expand(len(x), -1, -1), tokens, tokens)[0][:, 0])
        return logits


@pytest.mark.parametrize(
    ("names", "groups", "split"),
    [
        (("first", "attention", "fc"), {"attention": "heads"}, "attention"),
        (("first", "fc"), {"attention": "heads"}, "fc"),
        (("first", "fc"), {"attention": 2}, "fc"),
    ],
)
def test_a_layer_is_split_among_groups_of_a_call_that_fixes_it(
    names: tuple[str, ...], groups: dict[str, int | str], split: str
) -> None:
    torch.manual_seed(0)
    model = Pooled()
    classifier, (natural, attacked) = Classifier(model), torch.rand(2, 4, 1, 12, 8)
    (block,) = blocks(classifier, groups, natural, *names)
    assert (block.layer.name, len(block.branches), len(block.branches[0].groups)) == (split, 1, 2)
    entering = groups["attention"] == "heads"
    pieces = list[Tensor]()
    for images in (natural, attacked):
        with torch.no_grad(), _identity_projection(model.attention) if entering else nullcontext():
            tokens = model.first(images).flatten(2).transpose(1, 2)
            pieces.append(model.attention(model.query.expand(4, -1, -1), tokens, tokens)[0])
    for coalition, latent in patched_latents(classifier, block, natural, attacked):
        mixed = torch.cat([pieces[0 in coalition][..., :4], pieces[1 in coalition][..., 4:]], dim=2)
        with torch.no_grad():
            given = model.attention.out_proj(mixed) if entering else mixed
            torch.testing.assert_close(latent, given if split == "attention" else model.fc(given[:, 0]))


@pytest.mark.parametrize("names", [("blocks.0", "blocks.2", "fc"), ("blocks.0", "blocks.1")])
def test_a_pattern_splits_the_layers_that_are_explained_and_no_others(vit: Classifier, names: tuple[str, ...]) -> None:
    found = blocks(vit, {"blocks.*": 4}, torch.rand(3, 1, 12, 8), *names)
    called = {block.layer.name: block.branches[0].groups[0].call.name for block in found if block.branches[0].groups}
    assert called == {name: name for name in names if name != "fc"}
    with pytest.raises(
        InterpretGANError, match=r"expected a pattern of explained layers, got 'blocks\.5', which is not"
    ):
        blocks(vit, {"blocks.[45]": 4}, torch.rand(3, 1, 12, 8), "blocks.0", "fc")


class Turned(nn.Module):
    """A map with channels first becomes one with channels last, and attention without a skip gives the logits."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Conv2d(1, 8, 2, stride=2), nn.LayerNorm(8), nn.Dropout()
        self.attention, self.fc = attention, nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.drop(self.norm(self.first(x).permute(0, 2, 3, 1))).flatten(1, 2)
        given = self.attention(tokens) if isinstance(self.attention, Around) else self.attention.forward(*3 * [tokens])
        logits: Tensor = self.fc(given[0].mean(dim=1) if isinstance(given, tuple) else given.mean(dim=1))
        return logits


class Around(nn.Module):
    """Attention, and a linear layer that is not its projection."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        outer: Tensor = self.outer(self.inner(x, x, x)[0].tanh())
        return outer


def test_channels_of_a_call_need_not_stand_where_those_of_its_layer_do() -> None:
    classifier, images = Classifier(Turned(Around())), torch.rand(3, 1, 16, 16)
    (block,) = blocks(classifier, {"first": 4}, images, "norm", "fc")
    assert [(group.axis, group.start, group.stop) for group in block.branches[0].groups][-1] == (1, 6, 8)
    (block,) = blocks(classifier, {"norm": 4}, images, "fc")
    assert block.branches[0].groups[0].axis == 3
    (block,) = blocks(classifier, {"drop": 4}, images, "norm", "fc")  # the same tensor
    assert block.branches[0].groups[0].call.name == "norm"


def test_an_attention_that_is_a_layer_is_split_though_its_projection_returns_the_same() -> None:
    class Own(TransformerBlock):
        def forward(self, x: Tensor) -> Tensor:
            attended: Tensor = self.attention(x)
            return attended

    torch.manual_seed(0)
    model = build_model("vit-small", in_channels=1, num_classes=10, image_size=(12, 8))
    model.get_submodule("blocks.2").__class__ = Own
    classifier, images = Classifier(model), torch.rand(3, 1, 12, 8)
    (layer,) = [each for each in examine(classifier, images).layers if each.name == "blocks.2.attention"]
    assert layer.same_as
    found = blocks(classifier, {"blocks.2.attention": "heads"}, images, "blocks.1", "blocks.2", "fc")
    groups = {block.layer.name: block.branches[0].groups for block in found}
    assert [group.name for group in groups["blocks.2"]] == [f"head {number}" for number in range(6)]


def test_the_heads_of_a_torchs_attention_are_not_looked_for_behind_its_projection() -> None:
    images = torch.rand(3, 1, 16, 16)
    with pytest.raises(InterpretGANError, match=r"calls attention\.outer as well; name .* as attention\.inner"):
        blocks(Classifier(Turned(Around())), {"attention": "heads"}, images, "fc")


def _wrapped(attention: nn.MultiheadAttention) -> nn.MultiheadAttention:
    """As code does that keeps the weights."""
    own = attention.forward
    attention.__dict__["forward"] = lambda *args: own(*args)[0]
    return attention


@pytest.mark.parametrize("change", [lambda attention: attention, _wrapped])
def test_an_attention_whose_forward_is_called_or_changed_is_split(change: Any) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    attention.out_proj.register_forward_hook(lambda *_: pytest.fail("it is never called"))
    model = Turned(change(attention))
    classifier, images, kept = Classifier(model), torch.rand(3, 1, 16, 16), vars(model.attention).get("forward")
    (block,) = blocks(classifier, {"attention": "heads"}, images, "norm", "attention", "fc")
    assert (block.layer.name, len(block.branches[0].groups)) == ("attention", 2)
    usual = capture(classifier, images, [block.layer])[1]["attention"]
    for _, latent in patched_latents(classifier, block, images, images):
        torch.testing.assert_close(latent, usual)
    assert vars(model.attention).get("forward") is kept


def test_a_projection_that_would_give_something_else_is_not_called() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
            return super().forward(input).sin()

    model = Torchs(batch_first=False)
    model.block.self_attn._modules["out_proj"] = Own(8, 8)  # torch's attention reads its weights
    with pytest.raises(InterpretGANError, match=r"'block\.self_attn', which calls none"):
        blocks(Classifier(model), {"block.self_attn": "heads"}, torch.rand(3, 1, 12, 8))


@contextmanager
def _identity_projection(attention: nn.MultiheadAttention) -> Iterator[None]:
    weight, bias = attention.out_proj.weight, attention.out_proj.bias
    attention.out_proj.weight, attention.out_proj.bias = nn.Parameter(torch.eye(len(bias))), nn.Parameter(0 * bias)
    yield
    attention.out_proj.weight, attention.out_proj.bias = weight, bias


def test_an_attention_that_calls_no_projection_is_told() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(query, *args, **kwargs)

    model = Torchs(batch_first=True)
    model.block.self_attn = Own(8, 2, batch_first=True)
    with pytest.raises(
        InterpretGANError, match=r"an attention that calls its output projection, got 'block\.self_attn'"
    ):
        blocks(Classifier(model), {"block.self_attn": "heads"}, torch.rand(3, 1, 12, 8))


def test_groups_are_read_from_one_line() -> None:
    assert parse_groups(" relu3=4, blocks.*.attention = heads:2 ,") == {"relu3": "4", "blocks.*.attention": "heads:2"}
    for text in ("relu3", "=4", "relu3=", "relu3=4,relu3=2", "relu3=four"):
        with pytest.raises(InterpretGANError, match=r"e\.g\. --groups relu3=4"):
            parse_groups(text)


def test_channels_are_the_last_axis_inside_a_block_that_turns_its_maps_around() -> None:
    """As ConvNeXt does: a linear layer on `[N, H, W, C]` in a network of `[N, C, H, W]`."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            turned: torch.Tensor = self.inner(x.permute(0, 2, 3, 1))
            return x + turned.permute(0, 3, 1, 2)

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 2, 2), Turned(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    images = torch.rand(4, 1, 16, 16)
    for name, channels in (("1.inner", 6), ("1.inner.1", 12)):
        found = blocks(Classifier(net), {name: 2}, images)
        (groups,) = [branch.groups for block in found for branch in block.branches if branch.groups]
        assert [(group.axis, group.start, group.stop) for group in groups] == [
            (3, 0, channels // 2), (3, channels // 2, channels)
        ]  # fmt: skip
