"""Classifiers by name, and their weights on disk."""

from __future__ import annotations

import importlib
import inspect
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.errors import ConfigError, ModelError, WeightsError
from interpretgan.files import atomic_write_bytes
from interpretgan.models.judge_net import JudgeNet
from interpretgan.models.lenet import LeNet5

__all__ = ["MODELS", "JudgeNet", "LeNet5", "ModelSpec", "build_model", "load_weights", "save_weights"]

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
NESTED_KEYS = ("state_dict", "model_state_dict", "model")


@dataclass(frozen=True)
class ModelSpec:
    """An architecture that can be built by name.

    Attributes:
        factory: Called with the keywords in_channels, num_classes, image_size (height, width) and pool.
        pools: The poolings it knows.
        description: One line for the list of models.
        source: Where the architecture comes from.
    """

    factory: Callable[..., nn.Module]
    pools: tuple[str, ...]
    description: str
    source: str


MODELS: dict[str, ModelSpec] = {
    "lenet5": ModelSpec(
        factory=LeNet5,
        pools=("max", "avg"),
        description="two 5x5 convolutions, three linear layers, ReLU (61,706 parameters on 28x28 grey)",
        source="LeCun et al. 1998, Gradient-based learning applied to document recognition",
    ),
    "judge": ModelSpec(
        factory=JudgeNet,
        pools=("max", "avg"),
        description="strided stem, three 3x3 convolutions with BatchNorm: the default judge",
        source="this project, after VGG (Simonyan and Zisserman 2015)",
    ),
}


def build_model(
    name: str, *, in_channels: int, num_classes: int, image_size: int | tuple[int, int], pool: str = "max"
) -> nn.Module:
    """A fresh classifier, its weights drawn from torch's global random state.

    Args:
        name: A key of `MODELS`, or `"package.module:factory"` for your own network. A factory is called with
            those of the other arguments that its signature accepts; the current directory is importable
            meanwhile.
        in_channels: Channels of the images.
        num_classes: Number of logits, at least 2.
        image_size: Height and width of the images; one number if they are square.
        pool: `"max"` or `"avg"`, if the model leaves the choice.

    Raises:
        ModelError: Unknown name, or a factory that cannot be imported or returns no `nn.Module`.
        ConfigError: A pooling or a size that the model does not know.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))
    if in_channels < 1 or num_classes < 2 or min(size) < 1:
        raise ConfigError(
            expected="in_channels >= 1, num_classes >= 2 and image_size >= 1",
            got=f"{in_channels}, {num_classes} and {size[0]}x{size[1]}",
            do="take them from the data: images [N, C, H, W] and its classes",
        )
    arguments = {"in_channels": in_channels, "num_classes": num_classes, "image_size": size, "pool": pool}
    if ":" in name:
        return _call_user_factory(name, arguments)
    if name not in MODELS:
        nearest = get_close_matches(name.lower(), MODELS, n=1, cutoff=0.3)
        raise ModelError(
            expected=f"a model among {', '.join(MODELS)}, or package.module:factory",
            got=repr(name),
            do=f"did you mean {nearest[0]}?" if nearest else "choose one of them",
        )
    spec = MODELS[name]
    if pool not in spec.pools:
        raise ConfigError(
            expected=f"a pooling among {', '.join(spec.pools)} for {name}",
            got=repr(pool),
            do="choose one of them",
        )
    return spec.factory(**arguments)


def _call_user_factory(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The module that `"package.module:factory"` returns."""
    where, _, attribute = name.partition(":")

    def refuse(got: str, do: str, cause: Exception | None = None) -> ModelError:
        error = ModelError(expected="package.module:factory, a callable that returns a torch.nn.Module", got=got, do=do)
        error.__cause__ = cause
        return error

    with _current_directory_importable():
        try:
            factory = getattr(importlib.import_module(where), attribute)
        except Exception as error:  # the user's module may raise anything while it is imported
            problem = f"{name!r}, which fails with {type(error).__name__}: {error}"
            raise refuse(problem, "check the name, and that the module imports on its own", error) from error
        if not callable(factory):
            raise refuse(f"{name!r}, a {type(factory).__name__}", "name a class or a function")
        try:
            parameters = inspect.signature(factory).parameters.values()
        except (TypeError, ValueError):  # some built-in callables have no signature
            parameters = {}.values()
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            arguments = {
                p.name: arguments[p.name]
                for p in parameters
                if p.name in arguments and p.kind is not inspect.Parameter.POSITIONAL_ONLY
            }
        try:
            model = factory(**arguments)
        except Exception as error:  # likewise while it is called
            problem = f"{name!r}, which fails with {type(error).__name__}: {error}"
            remedy = "give its other parameters defaults (it is called with those of in_channels, num_classes, "
            raise refuse(problem, remedy + "image_size and pool that it accepts)", error) from error
    if not isinstance(model, nn.Module):
        raise refuse(f"{name!r}, which returns a {type(model).__name__}", "return the module itself")
    return model


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


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
