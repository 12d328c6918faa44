"""Weights load whole or not at all."""

from __future__ import annotations

import argparse
import copy
import io
import tarfile
import traceback
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from interpretgan.errors import WeightsError
from interpretgan.models import MODELS, build_model, load_weights, save_weights
from interpretgan.models.weights import LeftOut, NormalisationLeftOut
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.options import ModelOptions
from interpretgan.pipeline.settings import Settings


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


@pytest.mark.parametrize("wrap", ["", "state_dict", "model_state_dict", "model", "net", "ema", "parallel"])
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


# --- as other tools write them -----------------------------------------------------------------------------------


def normed(how: Callable[[nn.Module], object]) -> nn.Module:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv2d(1, 4, 7, stride=7), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 10))
    how(model[3])
    return model


def answers(model: nn.Module) -> Tensor:
    logits: Tensor = model.eval()(torch.ones(2, 1, 28, 28))
    return logits.detach()


@pytest.mark.parametrize(
    "names",
    [
        "_orig_mod.{}", "module._orig_mod.{}", "_orig_mod.module.{}", "model.{}", "net.{}", "module.model.{}",
        "backbone.{}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("under", ["", "state_dict", "model"])
def test_names_may_begin_with_something(tmp_path: Path, names: str, under: str) -> None:
    one, two = lenet(0), lenet(1)
    state: dict[str, object] = {names.format(key): value for key, value in one.state_dict().items()}
    # Lightning has its settings and its losses beside the network.
    beside = {"hyper_parameters": argparse.Namespace(lr=np.float64(0.1)), "epoch": 3}
    losses = {} if names == "_orig_mod.{}" else {"loss.weight": torch.ones(3)}
    torch.save({under: state | losses, **beside} if under else state, tmp_path / "w.pth.tar")
    with pytest.warns(LeftOut, match=r"^loss\.weight in ") if under and losses else nullcontext():
        load_weights(two, tmp_path / "w.pth.tar")
    assert states_equal(one, two)


class Normalise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1]))
        self.register_buffer("std", torch.tensor([0.3]))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({"norm": Normalise()}, r"norm\.mean, .*norm\.std in .* stand beside .*: state the normalisation"),
        ({"normalizer": nn.Linear(1, 1, bias=False)}, r"normalizer\.weight in .*: state the normalisation"),
        ({"normalizer": nn.Linear(9, 9, bias=False)}, r"normalizer\.weight in .*: build the network"),
        (
            {"loss_fn": nn.Linear(2, 2), "bn": nn.BatchNorm2d(3)},
            r"loss_fn\.weight, .* and 3 more in .*: build the network",
        ),
        ({"copy": lenet(0)}, None),
    ],
)
def test_what_stands_beside_the_network_is_told(
    tmp_path: Path, beside: dict[str, nn.Module], told: str | None, prefix: str
) -> None:
    one, two = lenet(0), lenet(1)
    whole = nn.Sequential(OrderedDict[str, nn.Module](**beside, net=one))
    torch.save({f"{prefix}{name}": value for name, value in whole.state_dict().items()}, tmp_path / "w.pt")
    with nullcontext() if told is None else pytest.warns(LeftOut, match=told):
        load_weights(two, tmp_path / "w.pt")
    assert states_equal(two, one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # into the whole network nothing is left out
        load_weights(whole, tmp_path / "w.pt")


@pytest.mark.parametrize("beside", [{"mean": torch.ones(3)}, {"normalizer": {"mean": torch.ones(3)}}])
def test_a_normalisation_outside_of_the_state_is_told(tmp_path: Path, beside: dict[str, Any]) -> None:
    one, two = lenet(0), lenet(1)
    torch.save({"state_dict": one.state_dict(), "loss": torch.ones(1), **beside}, tmp_path / "w.pt")
    with pytest.warns(NormalisationLeftOut, match=r"^(normalizer\.)?mean in .*: state the normalisation"):
        load_weights(two, tmp_path / "w.pt")
    assert states_equal(one, two)


def test_averaged_weights_of_torch_load(tmp_path: Path) -> None:
    one, two = lenet(0), lenet(1)
    torch.save(torch.optim.swa_utils.AveragedModel(one).state_dict(), tmp_path / "w.pt")
    load_weights(two, tmp_path / "w.pt")
    assert states_equal(two, one)


def test_a_normalisation_in_the_file_must_be_stated(tmp_path: Path) -> None:
    whole = nn.Sequential(OrderedDict[str, nn.Module](norm=Normalise(), net=lenet(0)))
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    options = ModelOptions("lenet5", weights=tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"norm\.mean, norm\.std in .*; say --mean and --std"):
        _ = Inputs(Settings(model=options)).classifier
    stated = Inputs(Settings(model=replace(options, mean=(0.1,), std=(0.3,)))).classifier
    assert (stated.mean, stated.std) == ((0.1,), (0.3,))


def test_inner_parts_may_be_compiled(tmp_path: Path) -> None:
    one, two = lenet(0), lenet(1)
    state = {key.replace("fc1.", "fc1._orig_mod."): value for key, value in one.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    load_weights(nn.DataParallel(two), tmp_path / "w.pt")
    assert states_equal(one, two)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")  # the old one, on purpose
def test_what_torch_itself_mends_is_mended(tmp_path: Path) -> None:
    old, new = normed(nn.utils.weight_norm), normed(nn.utils.parametrizations.weight_norm)
    with torch.no_grad():
        old.get_parameter("3.weight_g").mul_(2)
    state = {key: value for key, value in old.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "w.pt")
    load_weights(new, tmp_path / "w.pt")
    torch.testing.assert_close(answers(new), answers(old))


def test_tied_weights_that_safetensors_wrote_once(tmp_path: Path) -> None:
    one, two = (nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)) for _ in "ab")
    for model in (one, two):
        model[1].weight = model[0].weight
    safetensors.torch.save_model(one, str(tmp_path / "w.safetensors"))
    load_weights(two, tmp_path / "w.safetensors")
    assert states_equal(one, two)


class Tempered(nn.Module):
    """Has state of its own, of a kind that the test chooses, and a kernel that a hook makes after loading."""

    def __init__(self, state: object) -> None:
        super().__init__()
        self.net, self.state = nn.Linear(784, 10), state
        self.kernel = self.net.weight.detach().sign()
        self.register_load_state_dict_post_hook(lambda module, _: module.refresh())  # type: ignore[no-untyped-call]  # torch's own

    def refresh(self) -> None:
        self.kernel = self.net.weight.detach().sign()

    def get_extra_state(self) -> object:
        return self.state

    def set_extra_state(self, state: object) -> None:
        self.state = state


@pytest.mark.parametrize("state", [{"temperature": 0.01, "names": ["a"]}, torch.tensor(0.01)])
@pytest.mark.parametrize("file", ["w.safetensors", "w.pt"])
def test_extra_state_and_load_hooks_are_honoured(tmp_path: Path, state: object, file: str) -> None:
    one, two = Tempered(state), Tempered(None if isinstance(state, dict) else torch.tensor(1.0))
    save_weights(one, tmp_path / file) if file.endswith("s") else torch.save(one.state_dict(), tmp_path / file)
    load_weights(two, tmp_path / file)
    assert two.state == state
    assert torch.equal(two.kernel, one.kernel)
    with pytest.raises(WeightsError, match="plain numbers and words, got a dict as _extra_state"):
        save_weights(Tempered({"a": object()}), tmp_path / "other.safetensors")


def test_two_sets_of_weights_are_refused_unless_they_are_equal(tmp_path: Path) -> None:
    one, two = lenet(0), lenet(1)
    torch.save({"model": one.state_dict(), "ema": two.state_dict()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"one set of weights of LeNet5, got 2 in .*model \*, ema \*; save the one"):
        load_weights(lenet(2), tmp_path / "w.pt")
    torch.save({"model": one.state_dict(), "ema": one.state_dict()}, tmp_path / "w.pt")
    load_weights(two, tmp_path / "w.pt")
    assert states_equal(one, two)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.complex64])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    torch.save({"weight": torch.ones(2, 2, dtype=dtype), "bias": torch.ones(2)}, tmp_path / "net.pt")
    with pytest.raises(WeightsError, match=r"'weight' of (whole|complex) numbers instead of floating point ones"):
        load_weights(model, tmp_path / "net.pt")
    assert torch.equal(model.weight, before)


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(nn.Linear(2, 2)).save(str(path))  # type: ignore[no-untyped-call]  # torch's own


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            file.addfile(tarfile.TarInfo(name), io.BytesIO())


@pytest.mark.parametrize(
    ("written", "told"),
    [
        (
            lambda path: torch.save(lenet(0), path),
            "which asks for interpretgan.models.architectures.lenet.LeNet5; save model.state_dict()",
        ),
        (script, "the file holds more than tensors); save model.state_dict()"),
        (tar, "the file holds more than tensors); save model.state_dict()"),
        (lambda path: torch.save({"weight": np.ones((2, 2))}, path), "got arrays of numpy in"),
    ],
    ids=["module", "script", "tar", "numpy"],
)
def test_nobody_is_told_to_load_a_pickle_unsafely(tmp_path: Path, written: Callable[[Path], None], told: str) -> None:
    written(tmp_path / "w.pt")
    with pytest.raises(WeightsError) as caught:
        load_weights(lenet(1), tmp_path / "w.pt")
    assert told in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "Re-running" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("key", ["classifier", "student", "swa"])
def test_a_state_may_lie_under_any_key(tmp_path: Path, key: str) -> None:
    one, two = lenet(0), lenet(1)
    optimizer = torch.optim.Adam(one.parameters())
    one(torch.ones(2, 1, 28, 28)).sum().backward()
    optimizer.step()
    torch.save({key: one.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "w.pt")
    load_weights(two, tmp_path / "w.pt")
    assert states_equal(one, two)
    torch.save({"state_dict": one.state_dict(), key: lenet(2).state_dict()}, tmp_path / "w.pt")
    load_weights(two, tmp_path / "w.pt")  # which is meant by that name, whatever else there is
    assert states_equal(one, two)
    torch.save({key: one.state_dict(), "teacher": lenet(2).state_dict()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=rf"got 2 in .*{key} \*, teacher \*; save the one that you mean"):
        load_weights(two, tmp_path / "w.pt")


class Lenient(nn.Linear):
    """Loads what it finds, and leaves the rest as it is."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = False, assign: bool = False) -> Any:
        """Never strict."""
        return super().load_state_dict(state_dict, strict=False, assign=assign)


def test_a_model_that_is_not_strict_wants_all_its_weights_from_a_file(tmp_path: Path) -> None:
    one, two = Lenient(2, 2), Lenient(2, 2)
    torch.save({"weight": one.weight}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="got no tensor 'bias' in "):
        load_weights(two, tmp_path / "w.pt")
    torch.save(one.state_dict(), tmp_path / "w.pt")
    load_weights(two, tmp_path / "w.pt")
    assert states_equal(one, two)
