"""Classifiers by name, and their weights on disk."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from interpretgan.errors import ConfigError, ModelError
from interpretgan.models.architectures.judge_net import JudgeNet
from interpretgan.models.architectures.lenet import LeNet5
from interpretgan.models.architectures.mnist_cnn import MnistWide
from interpretgan.models.architectures.vgg import VGG
from interpretgan.models.architectures.wide_resnet import WideResNet, depth_and_widening
from interpretgan.models.weights import load_weights, save_weights

__all__ = [
    "MODELS",
    "VGG",
    "JudgeNet",
    "LeNet5",
    "MnistWide",
    "ModelSpec",
    "WideResNet",
    "build_model",
    "load_weights",
    "published_pool",
    "save_weights",
    "source_file",
]

POOLS = ("max", "avg", "stride", "blur")
WRN_POOLS = ("stride", "max", "avg", "blur")


@dataclass(frozen=True)
class ModelSpec:
    """An architecture that can be built by name.

    Attributes:
        factory: Called with the keywords in_channels, num_classes, image_size (height, width), pool and width.
        pools: The poolings it knows, the published one first.
        description: One line for the list of models.
        source: Where the architecture comes from.
        input_shape: Channels, height and width of the images that it is meant for.
        parameters: Number of trained values for such images, 10 classes and width 1, whatever the pooling.
    """

    factory: Callable[..., nn.Module]
    pools: tuple[str, ...]
    description: str
    source: str
    input_shape: tuple[int, int, int]
    parameters: int


def _wide_resnet(name: str, parameters: int) -> ModelSpec:
    depth, widening = depth_and_widening(name)
    return ModelSpec(
        factory=partial(WideResNet, depth=depth, widening=widening),
        pools=WRN_POOLS,
        description=f"wide residual network of depth {depth}, {16 * widening} to {64 * widening} channels",
        source="Zagoruyko and Komodakis 2016, Wide residual networks",
        input_shape=(3, 32, 32),
        parameters=parameters,
    )


MODELS: dict[str, ModelSpec] = {
    "lenet5": ModelSpec(
        factory=LeNet5,
        pools=POOLS,
        description="two 5x5 convolutions, three linear layers, ReLU",
        source="LeCun et al. 1998, Gradient-based learning applied to document recognition",
        input_shape=(1, 28, 28),
        parameters=61_706,
    ),
    "mnist-wide": ModelSpec(
        factory=MnistWide,
        pools=POOLS,
        description="two padded 5x5 convolutions with 32 and 64 channels, 1,024 hidden units",
        source="Madry et al. 2018, Towards deep learning models resistant to adversarial attacks",
        input_shape=(1, 28, 28),
        parameters=3_274_634,
    ),
    "judge": ModelSpec(
        factory=JudgeNet,
        pools=POOLS,
        description="strided stem, three 3x3 convolutions with BatchNorm: the default judge",
        source="this project, after VGG (Simonyan and Zisserman 2015)",
        input_shape=(1, 28, 28),
        parameters=93_890,
    ),
    "vgg-small": ModelSpec(
        factory=partial(VGG, variant="vgg-small"),
        pools=POOLS,
        description="seven 3x3 convolutions with BatchNorm, 32 to 128 channels",
        source="this project, after VGG (Simonyan and Zisserman 2015)",
        input_shape=(3, 32, 32),
        parameters=437_034,
    ),
    "vgg11": ModelSpec(
        factory=partial(VGG, variant="vgg11"),
        pools=POOLS,
        description="eight 3x3 convolutions with BatchNorm, 64 to 512 channels, one linear layer",
        source="Simonyan and Zisserman 2015, configuration A",
        input_shape=(3, 32, 32),
        parameters=9_231_114,
    ),
    "vgg16": ModelSpec(
        factory=partial(VGG, variant="vgg16"),
        pools=POOLS,
        description="thirteen 3x3 convolutions with BatchNorm, 64 to 512 channels, one linear layer",
        source="Simonyan and Zisserman 2015, configuration D",
        input_shape=(3, 32, 32),
        parameters=14_728_266,
    ),
    "wrn-16-4": _wide_resnet("wrn-16-4", 2_748_890),
    "wrn-28-10": _wide_resnet("wrn-28-10", 36_479_194),
    "wrn-34-10": _wide_resnet("wrn-34-10", 46_160_474),
}


def build_model(
    name: str,
    *,
    in_channels: int,
    num_classes: int,
    image_size: int | tuple[int, int],
    pool: str | None = None,
    width: float = 1.0,
) -> nn.Module:
    """A fresh classifier, its weights drawn from torch's global random state.

    Args:
        name: A key of `MODELS`, any `"wrn-D-K"` with a depth D of 6 n + 4, or `"package.module:factory"` for your
            own network. A factory is called with those of the other arguments that its signature accepts, with
            `pool` and `width` only where they are given; the current directory is importable meanwhile.
        in_channels: Channels of the images.
        num_classes: Number of logits, at least 2.
        image_size: Height and width of the images; one number if they are square.
        pool: One of the poolings that the model knows, see `architectures.pooling`. `None`: the published one.
        width: Multiplies the channels and the hidden units, each rounded and at least 1; above 0.

    Raises:
        ModelError: Unknown name, or a factory that cannot be imported or returns no `nn.Module`.
        ConfigError: A pooling, a size, a width or a depth that the model does not know.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))
    if in_channels < 1 or num_classes < 2 or min(size) < 1:
        raise ConfigError(
            expected="in_channels >= 1, num_classes >= 2 and image_size >= 1",
            got=f"{in_channels}, {num_classes} and {size[0]}x{size[1]}",
            do="take them from the data: images [N, C, H, W] and its classes",
        )
    if not (math.isfinite(width) and width > 0):
        raise ConfigError(expected="a width above 0", got=str(width), do="pass 1 for the published channels")
    arguments: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes, "image_size": size}
    if pool is not None:
        arguments["pool"] = pool
    if width != 1:
        arguments["width"] = width
    if ":" in name:
        return _call_user_factory(name, arguments)
    factory, pools = _factory(name)
    if pool is not None and pool not in pools:
        raise ConfigError(
            expected=f"a pooling among {', '.join(pools)} for {name}", got=repr(pool), do="choose one of them"
        )
    return factory(**arguments)


def published_pool(name: str) -> str | None:
    """The pooling of a network where none is chosen; `None` of a network of the user's own.

    Raises:
        ModelError: Unknown name.
    """
    return None if ":" in name else _factory(name)[1][0]


def _factory(name: str) -> tuple[Callable[..., nn.Module], tuple[str, ...]]:
    """What builds the network of that name, and the poolings it knows."""
    if name in MODELS:
        return MODELS[name].factory, MODELS[name].pools
    if name.startswith("wrn-"):
        depth, widening = depth_and_widening(name)
        return partial(WideResNet, depth=depth, widening=widening), WRN_POOLS
    nearest = get_close_matches(name.lower(), MODELS, n=1, cutoff=0.3)
    raise ModelError(
        expected=f"a model among {', '.join(MODELS)}, wrn-D-K or package.module:factory",
        got=repr(name),
        do=f"did you mean {nearest[0]}?" if nearest else "choose one of them",
    )


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
            raise refuse(problem, remedy + "image_size, pool and width that it accepts)", error) from error
    if not isinstance(model, nn.Module):
        raise refuse(f"{name!r}, which returns a {type(model).__name__}", "return the module itself")
    return model


def source_file(name: str) -> Path | None:
    """The file that `"package.module:factory"` is in; `None` for a model of this package, or where there is none."""
    where, own, _ = name.partition(":")
    if not own:
        return None
    with _current_directory_importable():
        try:
            found = importlib.util.find_spec(where)
        except (ImportError, ValueError):  # a package above it that does not import, or a module without a spec
            return None
    return Path(found.origin) if found is not None and found.has_location and found.origin else None


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
