"""Weights load whole or not at all."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from interpretgan.errors import WeightsError
from interpretgan.models import MODELS, build_model, load_weights, save_weights


def lenet(seed: int = 0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("lenet5", in_channels=1, num_classes=classes, image_size=28)


def states_equal(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("name", MODELS)
def test_weights_round_trip(tmp_path: Path, name: str) -> None:
    one, two = (build_model(name, in_channels=3, num_classes=4, image_size=32, width=0.1) for _ in "ab")
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
    (tmp_path / "half.safetensors").write_bytes(good[: len(good) // 2])
    whole = (tmp_path / "more.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "w.h5").write_text("")
    for name, words in {
        "classes.safetensors": r"'fc3.weight' of shape \[7, 84\] instead of \[10, 84\]",
        "fewer.pt": "no tensor 'fc2.bias'",
        "more.pt": "'zz.weight'",
        "module.pt": "save model.state_dict",
        "list.pt": "a list",
        "half.safetensors": "half.safetensors, which cannot be read",
        "half.pt": "half.pt",
        "text.pt": "text.pt",
        "w.h5": "save_weights",
        "missing.pt": "no file",
    }.items():
        with pytest.raises(WeightsError, match=words):
            load_weights(model, tmp_path / name)
        assert states_equal(model, before), name
    with pytest.raises(WeightsError, match="safetensors"):
        save_weights(model, tmp_path / "w.pt")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.complex64])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    torch.save({"weight": torch.ones(2, 2, dtype=dtype), "bias": torch.ones(2)}, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"'weight' of (whole|complex) numbers instead of floating point ones"):
        load_weights(model, tmp_path / "net.pt")
    assert torch.equal(model.weight, before)
