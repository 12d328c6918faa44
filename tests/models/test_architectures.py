"""Every network of the list: size, shapes, layers, first weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.layers import examine
from interpretgan.models import MODELS, build_model
from interpretgan.models.architectures.pooling import BlurPool, Subsample

# One wide residual network stands for all: the others have more of the same blocks. The transformer has no poolings.
NETWORKS = [name for name in MODELS if name not in ("wrn-28-10", "wrn-34-10", "vit-small")]
POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d, "stride": Subsample, "blur": BlurPool}
SMALLEST = {"lenet5": 12, "mnist-wide": 4, "judge": 8, "vgg-small": 8, "vgg11": 32, "vgg16": 32}
SMALLEST |= {name: 4 for name in MODELS if name.startswith("wrn")}
POOLINGS = {"lenet5": 2, "mnist-wide": 2, "judge": 2, "vgg-small": 3, "vgg11": 5, "vgg16": 5}
POOLINGS |= {name: 2 for name in MODELS if name.startswith("wrn")}


def narrow(name: str, pool: str | None = None, size: int | tuple[int, int] = 32, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, in_channels=channels, num_classes=7, image_size=size, pool=pool, width=0.1).eval()


def pooled(model: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in model.named_modules() if type(module) in POOLS.values()}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_parameters_as_published_whatever_the_pooling(name: str) -> None:
    spec = MODELS[name]
    assert set(spec.pools) == ({"stride"} if name == "vit-small" else set(POOLS))
    with torch.device("meta"):
        for pool in (None, *spec.pools):
            channels, *size = spec.input_shape
            model = build_model(name, in_channels=channels, num_classes=10, image_size=(size[0], size[1]), pool=pool)
            assert count(model) == spec.parameters, pool


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 32)), (2, (15, 37))])
def test_every_model_classifies_every_shape(name: str, pool: str, channels: int, size: tuple[int, int]) -> None:
    if min(size) < SMALLEST[name]:
        with pytest.raises(ConfigError, match=rf"at least 32x32 for {name}, got {size[0]}x{size[1]}"):
            narrow(name, pool, size, channels)
        return
    model = narrow(name, pool, size, channels)
    assert model(torch.rand(2, channels, *size)).shape == (2, 7)
    of_its_own = 0 if name.startswith("wrn") and pool == "stride" else POOLINGS[name]
    assert [type(module) for module in pooled(model).values()] == [POOLS[pool]] * of_its_own


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", NETWORKS)
def test_smallest_images(name: str, pool: str) -> None:
    side = SMALLEST[name]
    assert narrow(name, pool, side)(torch.rand(2, 3, side, side)).shape == (2, 7)
    with pytest.raises(ConfigError, match=f"at least {side}x{side}"):
        narrow(name, pool, (side, side - 1))


def test_a_judge_of_large_images_is_no_larger_and_sees_their_means() -> None:
    small, large, wide = (narrow("judge", size=size) for size in (64, 256, (96, 192)))
    assert count(small) == count(large) > count(wide)
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(large(images.repeat_interleave(4, 2).repeat_interleave(4, 3)), small(images))
    assert wide(torch.rand(2, 3, 96, 192)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_first_weights_come_from_the_seed_alone(name: str) -> None:
    first = narrow(name).state_dict()
    for pool in POOLS:
        again = narrow(name, pool).state_dict()
        assert list(again) == list(first)
        assert all(torch.equal(first[key], again[key]) for key in first), pool
    torch.manual_seed(1)
    other = build_model(name, in_channels=3, num_classes=7, image_size=32, width=0.1).state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_pooling_is_the_default(name: str) -> None:
    default = [(key, type(module)) for key, module in narrow(name).named_modules()]
    for pool in MODELS[name].pools:
        modules = [(key, type(module)) for key, module in narrow(name, pool).named_modules()]
        assert (modules == default) == (pool == MODELS[name].pools[0]), pool


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("name", NETWORKS)
def test_poolings_and_blocks_are_layers(name: str, pool: str) -> None:
    torch.manual_seed(2)
    model = build_model(name, in_channels=1, num_classes=4, image_size=32, pool=pool, width=0.1)
    for module in model.modules():  # fresh statistics would let the signal die out in deep networks
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(torch.rand(16, 1, 32, 32))
    names = {layer.name for layer in examine(Classifier(model.eval()), torch.rand(4, 1, 32, 32)).layers}
    assert set(pooled(model)) <= names
    if name.startswith("wrn"):
        blocks = {f"block{group}.layer.{block}" for group in (1, 2, 3) for block in range((int(name[4:6]) - 4) // 6)}
        assert blocks <= names
    else:
        activations = {name for name, module in model.named_modules() if isinstance(module, nn.ReLU)}
        assert activations <= names


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_are_modules_of_their_own(name: str) -> None:
    model = narrow(name)
    calls: dict[str, int] = {}
    for key, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            assert not module.inplace
            calls[key] = 0
            module.register_forward_hook(lambda *_, key=key: calls.update({key: calls[key] + 1}))
    model(torch.rand(2, 3, 32, 32))
    assert calls
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("name", NETWORKS)
def test_width_scales_channels_and_units(name: str) -> None:
    with torch.device("meta"):
        one, two, least = (
            build_model(name, in_channels=3, num_classes=7, image_size=32, width=width) for width in (1.0, 2.0, 1e-6)
        )
    wide, narrowest = dict(two.named_parameters()), dict(least.named_parameters())
    for key, value in one.named_parameters():
        stem = name.startswith("wrn") and key.startswith(("conv1", "block1.layer.0.bn1"))
        fixed = stem or value.shape[0] == 7
        assert wide[key].shape[0] == value.shape[0] * (1 if fixed else 2), key
        assert narrowest[key].shape[0] == (value.shape[0] if fixed else 1), key
