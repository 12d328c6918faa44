"""Weights of classifiers on disk."""

import argparse
import json
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interpretgan.classifier import require_values, unwrapped
from interpretgan.errors import WeightsError, in_a_line, kind_of
from interpretgan.store.files import atomic_write_bytes
from interpretgan.training.steps import copy_of

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".th")
NESTED_KEYS = (
    "state_dict", "model_state_dict", "model", "net", "network", "weights", "params",
    "ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema",
)  # fmt: skip
"""Under which of these a file's state lies first of all."""
NORMALISATION = re.compile(r"(?<!running)(^|[._])(mean|std)$|normali[sz]er?\.\w+$")
"""How tensors that normalise images are called, which have a number for each channel."""
CHANNELS = 4  # at most, of an image
STATE_OF_ITS_OWN = "interpretgan."  # names of the metadata that hold what modules keep beside tensors
PLAIN: tuple[Any, ...] = (argparse.Namespace, np.dtype, *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"))
"""What checkpoints hold beside tensors, and whose loading runs no code of the file's."""

State = dict[str, Any]


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the state of `model` to a `.safetensors` file, atomically (else `WeightsError` or `RunFolderError`).

    What its modules keep beside tensors (`get_extra_state`) must be plain numbers and words, in lists and dictionaries.
    """
    from safetensors.torch import save

    if Path(path).suffix != ".safetensors":
        raise WeightsError(expected="a path that ends in .safetensors", got=str(path), do="rename the output")
    state, beside = copy_of(model), dict[str, str]()  # copies, as tied and channels_last tensors are refused
    for name, value in state.items():
        if not isinstance(value, Tensor):
            beside[STATE_OF_ITS_OWN + name] = text = json.dumps(value, default=lambda _: None)
            if json.loads(text) != value:
                expected, got = "extra state of plain numbers and words", f"{kind_of(value)} as {name}"
                raise WeightsError(expected=expected, got=got, do="return such from get_extra_state, or a tensor")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    atomic_write_bytes(path, save(tensors, metadata=beside))


class LeftOut(UserWarning):
    """What a weights file holds beside the weights of a network, and may change its logits."""


class NormalisationLeftOut(LeftOut):
    """What a weights file holds beside the weights of a network, and normalises its images."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read the state of `model` from a file, all of it or nothing, by the model's own `load_state_dict`.

    Args:
        model: The module whose state is overwritten.
        path: `.safetensors`, or a `.pt`, `.pth`, `.pth.tar`, `.bin`, `.ckpt` or `.th` file of tensors (read with
            `weights_only=True`), whose state may lie under one of `NESTED_KEYS` or else any key, or a key under that,
            and whose names may begin with something: `module.`, `_orig_mod.`, `model.`. What has other names is left
            out, with a warning: a `NormalisationLeftOut` where it normalises images, else a `LeftOut`.

    Raises:
        ModelError: The model has no weights yet, see `require_values`.
        WeightsError: The file is missing, truncated, no weights file, of another architecture, or has several sets of
            weights for this one; the model is then unchanged.
    """
    path, model = Path(path), unwrapped(model)
    require_values(model)
    before = copy_of(model)
    fitting, problem, left = dict[str, State](), "", dict[str, Tensor]()
    for states in _states(path, before):
        for place, state, beside in states:
            tied = _with_tied(state, model)
            found = _problem(tied, model, before, str(path))
            if found:
                problem = problem or found
            else:
                fitting[place] = tied
                left |= beside
        if fitting:
            break
    if not fitting:
        do = "build the architecture that the weights were saved from"
        raise WeightsError(expected=f"weights of {type(model).__name__}", got=problem, do=do)
    first, *others = fitting.values()
    if any(not _same(first, other) for other in others):
        got, do = f"{len(fitting)} in {path}: {', '.join(fitting)}", "save the one that you mean in a file of its own"
        raise WeightsError(expected=f"one set of weights of {type(model).__name__}", got=got, do=do)
    for normalise, kind, do in (
        (True, NormalisationLeftOut, "state the normalisation of the images, mean and std"),
        (False, LeftOut, "build the network that has them, if its logits need them"),
    ):
        if names := [name for name, tensor in left.items() if _normalises(name, tensor) == normalise]:
            some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            told = f"{some} in {path} stand beside the weights of {type(model).__name__}: {do}"
            warnings.warn(told, kind, stacklevel=2)
    model.load_state_dict(first)


def _states(path: Path, wanted: State) -> Iterator[list[tuple[str, State, dict[str, Tensor]]]]:
    """The states in a file that may be meant, those under `NESTED_KEYS` first: of each the most like what is wanted.

    Each has its place, and the tensors beside it.
    """
    content = _read(path)
    nested = {str(key): value for key, value in content.items() if isinstance(value, Mapping)}
    for key, inner in list(nested.items()):  # one level deeper, as {"model": {"state_dict": ...}}
        nested |= {f"{key}.{k}": value for k, value in inner.items() if isinstance(value, Mapping)}
    states = {key: dict(value) for key, value in nested.items() if _has_tensors(value)}
    states |= {"": content} if _has_tensors(content) else {}
    if not states:
        raise WeightsError(expected="a state dict of tensors", got=f"none in {path}", do="save model.state_dict()")
    usual = {place: state for place, state in states.items() if {*place.split(".")} <= {*NESTED_KEYS}}
    outside = {
        f"{place}.{name}".strip("."): tensor
        for place, state in {**nested, "": content}.items()
        for name, tensor in state.items()
        if _normalises(f"{place}.{name}", tensor) and not _prefixes(str(name), wanted)
    }
    for some in (usual, {place: state for place, state in states.items() if place not in usual}):
        if some:
            yield _most_like(some, wanted, outside)


def _normalises(name: str, value: object) -> bool:
    small = isinstance(value, Tensor) and value.is_floating_point() and value.numel() <= CHANNELS
    return small and bool(NORMALISATION.search(name))


def _prefixes(name: str, wanted: State) -> list[str]:
    """What may stand before a name that is wanted."""
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
    return [name[:start] for start in starts if name[start:] in wanted]


def _most_like(
    states: Mapping[str, Mapping[Any, Any]], wanted: State, outside: Mapping[str, Tensor]
) -> list[tuple[str, State, dict[str, Tensor]]]:
    """Those with most of the names that are wanted, wherever their names begin; beside them is what is outside."""
    found: list[tuple[int, str, State, dict[str, Tensor]]] = []
    for place, state in states.items():
        names = {name: name.replace("_orig_mod.", "") for name in state if isinstance(name, str)}
        counts, others = Counter[str](), dict[str, Tensor]()
        further = {name: tensor for name, tensor in outside.items() if not place or not name.startswith(f"{place}.")}
        for given, name in names.items():
            prefixes = _prefixes(name, wanted)
            counts.update(prefixes)
            if not prefixes and isinstance(state[given], Tensor) and state[given].is_floating_point():
                others[name] = state[given]
        for prefix, count in counts.items() or [("", 0)]:
            chosen = {short[len(prefix) :]: state[name] for name, short in names.items() if short.startswith(prefix)}
            beside = further | {name: tensor for name, tensor in others.items() if not name.startswith(prefix)}
            found.append((count, f"{place} {prefix}*".strip() if place or prefix else "*", chosen, beside))
    most = max(count for count, *_ in found)
    return [(place, state, beside) for count, place, state, beside in found if count == most]


def _has_tensors(state: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in state.values())


def _with_tied(state: State, model: nn.Module) -> State:
    """The state with what other files leave out: a tensor that the model has under a second name."""
    names: dict[tuple[int, torch.Size], list[str]] = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.numel():
            names.setdefault((value.data_ptr(), value.shape), []).append(name)
    there = {name: next((n for n in tied if n in state), name) for tied in names.values() for name in tied}
    return {**state, **{name: state[other] for name, other in there.items() if other in state and name not in state}}


def _problem(state: State, model: nn.Module, before: State, path: str) -> str:
    """Why the model does not load the state, or nothing; the model is as before."""
    for name, value in before.items():
        own = state.get(name)
        if not (isinstance(value, Tensor) and isinstance(own, Tensor)) or name.endswith("num_batches_tracked"):
            continue
        if (was := _arithmetic(own)) != (now := _arithmetic(value)):
            return f"{name!r} of {was} numbers instead of {now} ones in {path}"
    try:
        told: Any = model.load_state_dict(state)
        known = [name for name in getattr(told, "missing_keys", ()) if name in before]
        missing = [name for name in known if not name.endswith("num_batches_tracked")]
        refused = f"no tensor {missing[0]!r}" if missing else ""  # a method of the user's may not be strict
    except Exception as error:  # noqa: BLE001  # hooks of the user's may raise anything
        refused = in_a_line(error)
    model.load_state_dict(before)
    if not refused:
        return ""
    for name in (*before, *state):
        if name not in state and not name.endswith("num_batches_tracked"):
            return f"no tensor {name!r} in {path}"
        if name not in before:
            return f"a tensor {name!r} in {path} that the model does not have"
        if isinstance(state.get(name), Tensor) and isinstance(before[name], Tensor):
            shapes = list(state[name].shape), list(before[name].shape)
            if shapes[0] != shapes[1]:
                return f"{name!r} of shape {shapes[0]} instead of {shapes[1]} in {path}"
    return f"{refused} from {path}"


def _arithmetic(tensor: Tensor) -> str:
    """Which numbers a tensor holds: within a kind they are converted, between kinds something would be lost."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return "sparse or quantised"
    return "complex" if tensor.is_complex() else "floating point" if tensor.is_floating_point() else "whole"


def _same(state: State, other: State) -> bool:
    return state.keys() == other.keys() and all(
        torch.equal(value, other[name]) for name, value in state.items() if isinstance(value, Tensor)
    )


def _read(path: Path) -> State:
    """What a weights file holds, by name."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(expected="a weights file", got=f"no file at {path}", do="check the path")
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        expected = f"a weights file ending in .safetensors or {', '.join(TORCH_SUFFIXES)}"
        raise WeightsError(expected=expected, got=str(path), do="convert it with interpretgan.models.save_weights")
    do = "save model.state_dict() and not the model, or copy the file again"
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                beside = file.metadata() or {}
            own = {
                name.removeprefix(STATE_OF_ITS_OWN): json.loads(text)
                for name, text in beside.items()
                if name.startswith(STATE_OF_ITS_OWN)
            }
            return {**load_file(path), **own}
        with torch.serialization.safe_globals([*PLAIN, *_numpy_scalar()]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about a TorchScript program, which it refuses then
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words advise to load such a file all the same: it would run code of the file's.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        got = f"{path}, which {f'asks for {asked[1]}' if asked else 'cannot be read'}"
        if asked and asked[1].startswith("numpy.") and asked[1].endswith("._reconstruct"):
            got, do = f"arrays of numpy in {path}", "save tensors: {name: torch.from_numpy(array), ...}"
        raise WeightsError(expected="a complete file of tensors alone", got=got, do=do) from None
    except Exception as error:  # noqa: BLE001  # what the readers of damaged files raise is of a dozen kinds
        got = f"{path}, which cannot be read ({in_a_line(error)})"
        cause = None if "weights_only" in str(error) else error
        raise WeightsError(expected="a complete file of tensors alone", got=got, do=do) from cause
    if not isinstance(content, Mapping):
        got = f"{kind_of(content)} in {path}"
        raise WeightsError(expected="a state dict of tensors", got=got, do="save model.state_dict()")
    return dict(content)


def _numpy_scalar() -> list[Any]:
    """What numpy makes a scalar with, under the names that files of both its versions have."""
    make = np.float64(0).__reduce__()[0]
    return [(make, f"numpy.{module}.multiarray.scalar") for module in ("core", "_core")]
