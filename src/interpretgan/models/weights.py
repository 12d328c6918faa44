"""Weights of classifiers on disk."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from interpretgan.errors import WeightsError, in_a_line, kind_of
from interpretgan.store.files import atomic_write_bytes
from interpretgan.training.steps import copy_of

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
NESTED_KEYS = ("state_dict", "model_state_dict", "model")


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the state of `model` to a `.safetensors` file, atomically (else `WeightsError` or `RunFolderError`)."""
    from safetensors.torch import save

    if Path(path).suffix != ".safetensors":
        raise WeightsError(expected="a path that ends in .safetensors", got=str(path), do="rename the output")
    atomic_write_bytes(path, save(_tensors(copy_of(model))))  # copies, as tied and channels_last tensors are refused


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read the state of `model` from a file, all of it or nothing.

    Args:
        model: The module whose parameters and buffers are overwritten.
        path: `.safetensors`, or a `.pt`/`.pth`/`.bin`/`.ckpt` file of tensors (read with
            `weights_only=True`), whose state may lie under `state_dict`, `model_state_dict` or `model`, or
            under a common prefix `module.`.

    Raises:
        WeightsError: The file is missing, truncated, no weights file, or of another architecture; the model
            is then unchanged.
    """
    path = Path(path)
    found, wanted = _read_state(path), _tensors(model.state_dict())
    if found and all(key.startswith("module.") for key in found) and not any(k.startswith("module.") for k in wanted):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    for key in (*wanted, *found):
        if key not in found:
            problem = f"no tensor {key!r} in {path}"
        elif key not in wanted:
            problem = f"a tensor {key!r} in {path} that the model does not have"
        elif found[key].shape != wanted[key].shape:
            problem = f"{key!r} of shape {list(found[key].shape)} instead of {list(wanted[key].shape)} in {path}"
        elif (was := _arithmetic(found[key])) != (now := _arithmetic(wanted[key])):
            problem = f"{key!r} of {was} numbers instead of {now} ones in {path}"
        else:
            continue
        do = "build the architecture that the weights were saved from"
        raise WeightsError(expected=f"weights of {type(model).__name__}", got=problem, do=do)
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(found[key])


def _tensors(state: Mapping[str, object]) -> dict[str, Tensor]:
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _arithmetic(tensor: Tensor) -> str:
    """Which numbers a tensor holds: within a kind they are converted, between kinds something would be lost."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return "sparse or quantised"
    return "complex" if tensor.is_complex() else "floating point" if tensor.is_floating_point() else "whole"


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by name."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(expected="a weights file", got=f"no file at {path}", do="check the path")
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        expected = f"a weights file ending in .safetensors or {', '.join(TORCH_SUFFIXES)}"
        raise WeightsError(expected=expected, got=str(path), do="convert it with interpretgan.models.save_weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what the readers of damaged files raise is of a dozen kinds
        got = f"{path}, which cannot be read ({in_a_line(error)})"
        do = "save model.state_dict() and not the model, or copy the file again"
        raise WeightsError(expected="a complete file of tensors alone", got=got, do=do) from error
    for key in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = _tensors(content) if isinstance(content, Mapping) else {}
    if not tensors:
        got = f"{kind_of(content)} in {path}"
        raise WeightsError(expected="a state dict of tensors", got=got, do="save model.state_dict()")
    return tensors
