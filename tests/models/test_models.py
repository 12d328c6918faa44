"""Classifiers by name, and weights that load whole or not at all."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from interpretgan.errors import ConfigError, InputError, ModelError, WeightsError
from interpretgan.models import MODELS, LeNet5, build_model, load_weights, save_weights

FACTORIES = """
import torch.nn as nn
def plain(): return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
def some(num_classes, depth=1): return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))
def every(**settings):
    assert set(settings) == {"in_channels", "num_classes", "image_size", "pool"}
    return plain()
def path(): return "weights.pt"
def needs(depth): return plain()
number = 3
"""


def lenet(seed: int = 0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("lenet5", in_channels=1, num_classes=classes, image_size=28)


def states_equal(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("pool", ["max", "avg"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "size"), [(1, (28, 28)), (3, (32, 32)), (2, (15, 37))])
def test_every_model_classifies_every_shape(name: str, pool: str, channels: int, size: tuple[int, int]) -> None:
    model = build_model(name, in_channels=channels, num_classes=7, image_size=size, pool=pool)
    assert model(torch.rand(4, channels, *size)).shape == (4, 7)
    kinds = {type(module) for module in model.modules()}
    assert (nn.MaxPool2d in kinds, nn.AvgPool2d in kinds) == (pool == "max", pool == "avg")


def test_lenet_runs_in_the_order_of_its_names() -> None:
    model = lenet()
    ran: list[str] = []
    for name, module in model.named_children():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    model(torch.rand(1, 1, 28, 28))
    assert " ".join(ran) == "conv1 relu1 pool1 conv2 relu2 pool2 fc1 relu3 fc2 relu4 fc3"
    assert sum(p.numel() for p in model.parameters()) == 61_706, "LeNet-5 has 61,706 parameters"
    assert not any(module.inplace for module in model.modules() if isinstance(module, nn.ReLU))


@pytest.mark.parametrize(
    ("name", "changes", "error", "words"),
    [
        ("lenet", {}, ModelError, "did you mean lenet5"),
        ("transformer-xl", {}, ModelError, "lenet5, judge"),
        ("lenet5", {"pool": "median"}, ConfigError, "max, avg"),
        ("lenet5", {"image_size": 11}, ConfigError, "11x11"),
        ("judge", {"image_size": 4}, ConfigError, "4x4"),
        ("lenet5", {"num_classes": 1}, ConfigError, "num_classes >= 2"),
    ],
)
def test_refused_models(name: str, changes: dict[str, object], error: type[InputError], words: str) -> None:
    arguments = {"in_channels": 1, "num_classes": 10, "image_size": 28, "pool": "max"} | changes
    with pytest.raises(error, match=words):
        build_model(name, **arguments)  # type: ignore[arg-type]  # a mixed dict of settings


@pytest.fixture
def own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module in the current directory that holds factories."""
    (tmp_path / "own_models_of_a_test.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models_of_a_test", raising=False)
    return "own_models_of_a_test"


@pytest.mark.parametrize(("factory", "classes"), [("plain", 3), ("some", 5), ("every", 3)])
def test_own_factories(own_models: str, factory: str, classes: int) -> None:
    path = list(sys.path)
    model = build_model(f"{own_models}:{factory}", in_channels=3, num_classes=5, image_size=2)
    assert model(torch.rand(2, 3, 2, 2)).shape == (2, classes)
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("{}:path", "returns a str"),
        ("{}:number", "a int"),
        ("{}:missing", "AttributeError"),
        ("{}:needs", "give its other parameters defaults"),
        ("no_such_package.models:net", "ModuleNotFoundError"),
        (":net", "fails with"),
    ],
)
def test_refused_factories(own_models: str, name: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build_model(name.format(own_models), in_channels=3, num_classes=5, image_size=2)


@pytest.mark.parametrize("name", MODELS)
def test_weights_round_trip(tmp_path: Path, name: str) -> None:
    one, two = (build_model(name, in_channels=3, num_classes=4, image_size=16) for _ in "ab")
    one.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    save_weights(one, tmp_path / "new" / "w.safetensors")
    assert not states_equal(one, two)
    load_weights(two, tmp_path / "new" / "w.safetensors")
    assert states_equal(one, two)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["w.safetensors"]


def test_tied_weights_round_trip(tmp_path: Path) -> None:
    one, two = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in "ab")
    for model in (one, two):
        model[1].weight = model[0].weight
    save_weights(one, tmp_path / "w.safetensors")
    load_weights(two, tmp_path / "w.safetensors")
    assert states_equal(one, two)
    assert two[1].weight is two[0].weight


@pytest.mark.parametrize("wrap", ["", "state_dict", "model_state_dict", "model", "parallel"])
def test_torch_files_in_the_usual_wrappings(tmp_path: Path, wrap: str) -> None:
    one, two = lenet(0), lenet(1)
    state: dict[str, object] = dict(one.state_dict())
    if wrap == "parallel":
        state = {f"module.{key}": value for key, value in state.items()}
    elif wrap:
        state = {"epoch": 3, wrap: state}
    torch.save(state, tmp_path / "w.pt")
    load_weights(two, tmp_path / "w.pt")
    assert states_equal(one, two)


def test_refused_weights_leave_the_model_as_it_was(tmp_path: Path) -> None:
    model = lenet(0)
    before = copy.deepcopy(model)
    save_weights(lenet(1), tmp_path / "good.safetensors")
    save_weights(lenet(1, classes=7), tmp_path / "classes.safetensors")
    state = lenet(1).state_dict()
    torch.save({key: value for key, value in state.items() if key != "fc2.bias"}, tmp_path / "fewer.pt")
    torch.save(state | {"zz.weight": torch.ones(1)}, tmp_path / "more.pt")
    torch.save(lenet(1), tmp_path / "module.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    good = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(good[: len(good) // 2])
    whole = (tmp_path / "more.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "w.h5").write_text("")
    for name, words in {
        "classes.safetensors": r"'fc3.weight' of shape \[7, 84\] instead of \[10, 84\]",
        "fewer.pt": "no tensor 'fc2.bias'",
        "more.pt": "'zz.weight'",
        "module.pt": "save model.state_dict",
        "list.pt": "a list",
        "cut.safetensors": "cut.safetensors, which cannot be read",
        "cut.pt": "cut.pt",
        "text.pt": "text.pt",
        "w.h5": "save_weights",
        "missing.pt": "no file",
    }.items():
        with pytest.raises(WeightsError, match=words):
            load_weights(model, tmp_path / name)
        assert states_equal(model, before), name
    with pytest.raises(WeightsError, match="safetensors"):
        save_weights(model, tmp_path / "w.pt")


def test_lenet_is_exported() -> None:
    assert isinstance(lenet(), LeNet5)
