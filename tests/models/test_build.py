"""Classifiers by name: the names, their errors, and the networks of the list one by one."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from interpretgan.errors import ConfigError, InputError, ModelError
from interpretgan.models import build_model, load_weights, save_weights
from interpretgan.models.architectures.lenet import LeNet5
from interpretgan.models.architectures.wide_resnet import Block

FACTORIES = """
import torch.nn as nn
def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
def some(num_classes, depth=1): return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))
def every(num_classes, *, weights=None, **settings):
    assert not settings
    return some(num_classes)
def given(pool, width, **settings):
    assert (pool, width, settings) == ("thrice", 2, {})
    return plain()
def parses():
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr")
    assert parser.parse_args().lr is None
    return plain()
def leaves():
    import os
    os.chdir(os.sep)
    return plain()
def exits(): raise SystemExit(0)
def path(): return "weights.pt"
def needs(depth): return plain()
number = 3
module = plain()
"""


def lenet(seed: int = 0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("lenet5", in_channels=1, num_classes=classes, image_size=28)


def test_lenet_runs_in_the_order_of_its_names() -> None:
    model = lenet()
    assert isinstance(model, LeNet5)
    ran: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(torch.rand(1, 1, 28, 28))
    assert " ".join(ran) == "conv1 relu1 pool1 conv2 relu2 pool2 fc1 relu3 fc2 relu4 fc3"


def test_names_that_older_weights_bear() -> None:
    layers = ["conv1", "conv2", "fc1", "fc2", "fc3"]
    assert list(lenet().state_dict()) == [f"{layer}.{what}" for layer in layers for what in ("weight", "bias")]
    judge = build_model("judge", in_channels=1, num_classes=10, image_size=28).state_dict()
    norm = ["1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    convolutions = ["stem", "block1.0", "block2.0", "block2.1"]
    assert list(judge) == [
        *(f"{convolution}.{what}" for convolution in convolutions for what in ("0.weight", *norm)),
        *(f"{layer}.{what}" for layer in ("hidden.0", "head") for what in ("weight", "bias")),
    ]


@pytest.mark.parametrize(
    ("name", "table", "counted"),
    [
        ("vgg11", "64 M 128 M 256 256 M 512 512 M 512 512 M", 9_231_114),
        ("vgg16", "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M", 14_728_266),
    ],
)
def test_vgg_is_the_published_table(name: str, table: str, counted: int) -> None:
    with torch.device("meta"):
        model = build_model(name, in_channels=3, num_classes=10, image_size=32)
    rows = [
        str(module.out_channels) if isinstance(module, nn.Conv2d) else "M"
        for module in model.children()
        if isinstance(module, nn.Conv2d | nn.MaxPool2d)
    ]
    assert " ".join(rows) == table
    channels = [3, *(int(row) for row in table.split() if row != "M")]
    pairs = pairwise(channels)
    # kernels and biases, scale and shift of BatchNorm, and the linear layer
    by_hand = sum(9 * inputs * outputs + 3 * outputs for inputs, outputs in pairs) + 512 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == by_hand == counted


def test_small_vgg_costs_at_most_42_million_multiplications() -> None:
    model = build_model("vgg-small", in_channels=3, num_classes=10, image_size=32)
    costs: list[int] = []
    for module in model.children():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda conv, _, output: costs.append(conv.weight.numel() * output.shape[2] * output.shape[3])
            )
    model(torch.rand(1, 3, 32, 32))
    assert len(costs) == 7
    assert sum(costs) == 40_992_768


def test_first_weights_as_published() -> None:
    torch.manual_seed(0)
    wide = build_model("mnist-wide", in_channels=1, num_classes=10, image_size=28)
    for name, value in wide.named_parameters():
        if name.endswith("bias"):
            assert (value == 0.1).all(), name
        else:
            assert value.abs().max() <= 0.2, name
    assert wide.state_dict()["fc1.weight"].std().item() == pytest.approx(0.088, abs=5e-4)
    vgg = build_model("vgg-small", in_channels=3, num_classes=10, image_size=32)
    resnet = build_model("wrn-10-2", in_channels=3, num_classes=10, image_size=32)
    for model in (vgg, resnet):
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d):
                expected = (2 / (module.out_channels * module.kernel_size[0] ** 2)) ** 0.5
                assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name
                assert module.bias is None or not module.bias.any(), name
    assert vgg.state_dict()["fc.weight"].std().item() == pytest.approx(0.01, rel=0.1)
    assert not any(model.state_dict()["fc.bias"].any() for model in (vgg, resnet))


def test_wide_resnet_counts_as_published() -> None:
    with torch.device("meta"):
        for name, millions in {"wrn-16-8": 11.0, "wrn-22-8": 17.2, "wrn-40-4": 8.9, "wrn-40-1": 0.6}.items():
            model = build_model(name, in_channels=3, num_classes=10, image_size=32)
            assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions, name


def test_half_the_width_is_half_the_widening() -> None:
    with torch.device("meta"):
        half, four = (
            build_model(name, in_channels=3, num_classes=10, image_size=32, width=width).state_dict()
            for name, width in (("wrn-16-8", 0.5), ("wrn-16-4", 1.0))
        )
    assert [(name, value.shape) for name, value in half.items()] == [(name, v.shape) for name, v in four.items()]


def test_wide_resnet_bears_the_usual_names_of_published_weights() -> None:
    with torch.device("meta"):
        names = build_model("wrn-16-2", in_channels=3, num_classes=10, image_size=32, pool="blur").state_dict()
    layers = {name.rpartition(".")[0] for name in names}
    first = {f"block2.layer.0.{layer}" for layer in ("bn1", "conv1", "bn2", "conv2", "convShortcut")}
    assert {name for name in layers if name.startswith("block2.layer.0")} == first
    assert "block2.layer.1.convShortcut" not in layers
    assert {name for name in layers if "block" not in name} == {"conv1", "bn1", "fc"}


@pytest.mark.parametrize("pool", ["stride", "avg"])
def test_a_halving_block_by_hand(pool: str) -> None:
    torch.manual_seed(0)
    block = Block(2, 3, pool).eval()
    z = torch.randn(1, 2, 6, 6)
    active = z.relu() / (1 + 1e-5) ** 0.5  # fresh statistics: mean 0, variance 1
    if pool == "avg":
        active = F.avg_pool2d(active, 2)
    stride = 2 if pool == "stride" else 1
    inner = F.conv2d(active, block.conv1.weight, padding=1, stride=stride).relu() / (1 + 1e-5) ** 0.5
    assert block.convShortcut is not None
    shortcut = F.conv2d(active, block.convShortcut.weight, stride=stride)
    expected = F.conv2d(inner, block.conv2.weight, padding=1) + shortcut
    torch.testing.assert_close(block(z), expected)


def test_a_block_that_changes_nothing_adds_to_its_input() -> None:
    block = Block(2, 2)
    nn.init.zeros_(block.conv2.weight)
    z = torch.randn(2, 2, 4, 4)
    assert torch.equal(block(z), z)


@pytest.mark.parametrize(
    ("name", "changes", "error", "words"),
    [
        ("lenet", {}, ModelError, "did you mean lenet5"),
        ("vgg19", {}, ModelError, "did you mean vgg1[16]"),
        (
            "transformer-xl",
            {},
            ModelError,
            "lenet5, .*judge, .*, wrn-D-K, hf:NAME, timm:NAME, torchvision:NAME or package",
        ),
        ("wrn-15-4", {}, ConfigError, "10, 16, 22, 28, 34, .*got 'wrn-15-4'"),
        ("wrn-4-1", {}, ConfigError, "got 'wrn-4-1'"),
        ("wrn-28-0", {}, ConfigError, "got 'wrn-28-0'"),
        ("wrn-28", {}, ConfigError, "got 'wrn-28'"),
        ("lenet5", {"pool": "median"}, ConfigError, "max, avg, stride, blur for lenet5"),
        ("wrn-16-1", {"pool": "median"}, ConfigError, "stride, max, avg, blur for wrn-16-1"),
        ("lenet5", {"width": 0}, ConfigError, "a width above 0"),
        ("lenet5", {"width": float("nan")}, ConfigError, "a width above 0"),
        ("lenet5", {"width": float("inf")}, ConfigError, "a width above 0"),
        ("lenet5", {"image_size": 11}, ConfigError, "11x11"),
        ("judge", {"image_size": 4}, ConfigError, "4x4"),
        ("lenet5", {"num_classes": 1}, ConfigError, "num_classes >= 2"),
    ],
)
def test_refused_models(name: str, changes: dict[str, object], error: type[InputError], words: str) -> None:
    arguments = {"in_channels": 1, "num_classes": 10, "image_size": 28} | changes
    with pytest.raises(error, match=words):
        build_model(name, **arguments)  # type: ignore[arg-type]  # a mixed dict of settings


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the current directory that holds factories."""
    (tmp_path / "own_models_of_a_test.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models_of_a_test", raising=False)
    return "own_models_of_a_test"


@pytest.mark.parametrize(
    ("factory", "classes"), [("plain", 3), ("some", 5), ("every", 5), ("parses", 3), ("leaves", 3), ("module", 3)]
)
def test_own_factories(own_models: str, factory: str, classes: int) -> None:
    path, arguments, here = list(sys.path), sys.argv, Path.cwd()
    model, again = (
        build_model(f"{own_models}:{factory}", in_channels=3, num_classes=5, image_size=2) for _ in range(2)
    )
    assert model is not again
    assert Path.cwd() == here
    assert model(torch.rand(2, 3, 2, 2)).shape == (2, classes)
    assert sys.path == path
    assert sys.argv is arguments


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_layers_see_images_first_and_then_take_weights(tmp_path: Path) -> None:
    first, second = (
        build_model("tests.networks:lazy", in_channels=3, num_classes=10, image_size=(4, 6)) for _ in range(2)
    )
    assert all(module.training for module in first.modules())
    before = first.state_dict()
    assert before["1.weight"].shape == (12, 72)
    assert torch.equal(before["2.running_mean"], torch.zeros(12))
    save_weights(first, tmp_path / "lazy.safetensors")
    load_weights(second, tmp_path / "lazy.safetensors")
    assert torch.equal(second.state_dict()["4.weight"], before["4.weight"])


def test_own_factories_get_pool_and_width_where_they_are_given(own_models: str) -> None:
    name = f"{own_models}:given"
    model = build_model(name, in_channels=3, num_classes=5, image_size=2, pool="thrice", width=2)
    assert model(torch.rand(2, 3, 2, 2)).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}:path", "gives a str"),
        ("{}:number", "gives an int"),
        ("{}:missing", "AttributeError"),
        ("{}:exits", r"ends the program \(0\): it reads the command line, or calls exit"),
        ("{}:needs", "give its other parameters defaults"),
        ("no_such_package.models:net", "ModuleNotFoundError"),
        (":net", "fails with"),
        ("some/models.py:net", "say models:net, in the folder of models.py"),
        ("some/models.py", "say models:factory, in the folder of models.py"),
    ],
)
def test_refused_factories(own_models: str, name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_model(name.format(own_models), in_channels=3, num_classes=5, image_size=2)
