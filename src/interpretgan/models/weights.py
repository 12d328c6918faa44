"""Weights of classifiers on disk."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from interpretgan.errors import WeightsError
from interpretgan.store.files import atomic_write_bytes

__all__ = ["load_weights", "save_weights"]

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
NESTED_KEYS = ("state_dict", "model_state_dict", "model")


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the state of `model` as safetensors: a reader sees the old file or the new one, never half of it.

    Raises:
        WeightsError: The suffix is not `.safetensors`.
        RunFolderError: The place cannot be written.
    """
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(expected="a path that ends in .safetensors", got=str(path), do="rename the output")
    # safetensors refuses tied and channels_last tensors, a contiguous copy of each is neither
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in _state(model).items()
    }
    atomic_write_bytes(path, save(state))


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
    found = _read_state(path)
    wanted = _state(model)
    if found and all(key.startswith("module.") for key in found) and not any(k.startswith("module.") for k in wanted):
        found = {key.removeprefix("module."): value for key, value in found.items()}
    _check_same_architecture(wanted, found, model, path)
    with torch.no_grad():
        for key, tensor in wanted.items():
            tensor.copy_(found[key])


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}


def _read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, by name."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise WeightsError(expected="a weights file", got=f"no file at {path}", do="check the path")
    if path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        raise WeightsError(
            expected=f"a weights file ending in .safetensors or {', '.join(TORCH_SUFFIXES)}",
            got=str(path),
            do="convert it with interpretgan.models.save_weights",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            expected="a file of tensors alone",
            got=f"{path}, which is damaged or holds other objects ({_first_line(error)})",
            do="save model.state_dict(), not the model",
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise WeightsError(
            expected="a complete weights file",
            got=f"{path}, which cannot be read ({_first_line(error)})",
            do="copy or save it again",
        ) from error
    for key in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise WeightsError(
            expected="a state dict of tensors",
            got=f"a {type(content).__name__} in {path}",
            do="save model.state_dict()",
        )
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _check_same_architecture(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], model: nn.Module, path: Path
) -> None:
    """Raise at the first name, in the model's order, that is missing, differs in shape or is not wanted."""
    problem = ""
    for key, tensor in wanted.items():
        if key not in found:
            problem = f"no tensor {key!r} in {path}"
        elif found[key].shape != tensor.shape:
            problem = f"{key!r} of shape {list(found[key].shape)} instead of {list(tensor.shape)} in {path}"
        if problem:
            break
    extra = [key for key in found if key not in wanted]
    if not problem and extra:
        problem = f"a tensor {extra[0]!r} in {path} that the model does not have"
    if problem:
        raise WeightsError(
            expected=f"weights of {type(model).__name__}",
            got=problem,
            do="build the architecture that the weights were saved from",
        )
