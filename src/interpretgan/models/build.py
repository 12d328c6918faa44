"""Networks by name: the table of those that come with the package, and the user's own."""

import copy
import importlib
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from interpretgan.classifier import require_values
from interpretgan.errors import ConfigError, ModelError, in_a_line, kind_of
from interpretgan.layers.outputs import without_history
from interpretgan.models.architectures import NetworkOptions
from interpretgan.models.architectures.lenet import LeNet5, MnistWide
from interpretgan.models.architectures.vgg import VGG, JudgeNet
from interpretgan.models.architectures.vit import ViT
from interpretgan.models.architectures.wide_resnet import WideResNet, depth_and_widening
from interpretgan.models.named import HUBS, is_named

POOLS = ("max", "avg", "stride", "blur")
WRN_POOLS = ("stride", "max", "avg", "blur")
GREY, COLOUR = (1, 28, 28), (3, 32, 32)


@dataclass(frozen=True)
class ModelSpec:
    """An architecture that can be built by name."""

    factory: Callable[[NetworkOptions], nn.Module]
    pools: tuple[str, ...]  #: The poolings that it knows, the published one first.
    smallest: int  #: Smallest height and width of an image: below, its map would vanish.
    input_shape: tuple[int, int, int]  #: Channels, height and width of the images that it is meant for.
    parameters: int  #: Number of trained values for such images, 10 classes and width 1, whatever the pooling.
    source: str


def _wide_resnet(name: str, parameters: int = 0) -> ModelSpec:
    depth, widening = depth_and_widening(name)
    factory = partial(WideResNet, depth=depth, widening=widening)
    return ModelSpec(factory, WRN_POOLS, 4, COLOUR, parameters, "Zagoruyko and Komodakis 2016, Wide residual networks")


LECUN = "LeCun et al. 1998, Gradient-based learning applied to document recognition"
MADRY = "Madry et al. 2018, Towards deep learning models resistant to adversarial attacks"
SIMONYAN = "Simonyan and Zisserman 2015"
DOSOVITSKIY = "Dosovitskiy et al. 2021"
OWN = f"this project, after VGG ({SIMONYAN})"

MODELS: dict[str, ModelSpec] = {
    "lenet5": ModelSpec(LeNet5, POOLS, 12, GREY, 61_706, LECUN),
    "mnist-wide": ModelSpec(MnistWide, POOLS, 4, GREY, 3_274_634, MADRY),
    "judge": ModelSpec(JudgeNet, POOLS, 8, GREY, 93_890, OWN),
    "vgg-small": ModelSpec(partial(VGG, variant="vgg-small"), POOLS, 8, COLOUR, 437_034, OWN),
    "vgg11": ModelSpec(partial(VGG, variant="vgg11"), POOLS, 32, COLOUR, 9_231_114, f"{SIMONYAN}, configuration A"),
    "vgg16": ModelSpec(partial(VGG, variant="vgg16"), POOLS, 32, COLOUR, 14_728_266, f"{SIMONYAN}, configuration D"),
    "vit-small": ModelSpec(ViT, ("stride",), 4, COLOUR, 2_852_650, f"this project, after ViT ({DOSOVITSKIY})"),
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
            own network. A factory is called with those of the other arguments that its signature names, with
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
        expected, got = "in_channels >= 1, num_classes >= 2, image_size >= 1", f"{in_channels}, {num_classes}, {size}"
        raise ConfigError(expected=expected, got=got, do="take them from the data: images [N, C, H, W] and its classes")
    if not (math.isfinite(width) and width > 0):
        raise ConfigError(expected="a width above 0", got=str(width), do="pass 1 for the published channels")
    if is_named(name):
        do = "name it as the classifier (--model), or call load_classifier, which gives it with its normalisation"
        raise ModelError(expected="an architecture, or a factory of your own", got=f"{name}, a trained model", do=do)
    if ":" in name:
        arguments: dict[str, Any] = {"in_channels": in_channels, "num_classes": num_classes, "image_size": size}
        arguments |= ({} if pool is None else {"pool": pool}) | ({} if width == 1 else {"width": width})
        model = _call_user_factory(name, arguments)
        _give_values(model, name, (2, in_channels, *size))
        require_values(model)  # what has none cannot go to a device
        return model
    spec = _spec(name)
    pool = spec.pools[0] if pool is None else pool
    if pool not in spec.pools:
        expected = f"a pooling among {', '.join(spec.pools)} for {name}"
        raise ConfigError(expected=expected, got=repr(pool), do="choose one of them")
    if min(size) < spec.smallest:
        expected, got = f"images of at least {spec.smallest}x{spec.smallest} for {name}", f"{size[0]}x{size[1]}"
        raise ConfigError(expected=expected, got=got, do="load the data with a larger image_size")
    return spec.factory(NetworkOptions(in_channels, num_classes, size, pool, width))


def published_pool(name: str) -> str | None:
    """The pooling of a network where none is chosen; `None` of a network from elsewhere."""
    return None if ":" in name or is_named(name) else _spec(name).pools[0]


def _spec(name: str) -> ModelSpec:
    if name in MODELS:
        return MODELS[name]
    if name.startswith("wrn-"):
        return _wide_resnet(name)
    nearest = get_close_matches(name.lower(), MODELS, n=1, cutoff=0.3)
    expected = f"a model among {', '.join(MODELS)}, wrn-D-K, {':NAME, '.join(HUBS)}:NAME or package.module:factory"
    do = f"did you mean {nearest[0]}?" if nearest else "choose one of them"
    if name.endswith(".py"):
        do = _named_by_file(name, "factory")
    raise ModelError(expected=expected, got=repr(name), do=do)


def _call_user_factory(name: str, arguments: dict[str, Any]) -> nn.Module:
    """The module that `"package.module:factory"` returns."""
    where, _, attribute = name.partition(":")
    cause: BaseException | None = None
    with _current_directory_importable(), _without_arguments(name):
        try:
            factory = getattr(importlib.import_module(where), attribute)
            if isinstance(factory, nn.Module):  # a network that is there already: the next call is to find it as it is
                model = copy.deepcopy(factory, without_history(factory))
            else:
                model = factory(**_accepted(factory, arguments)) if callable(factory) else factory
            problem = f"gives {kind_of(model)}"
        except SystemExit as error:  # research code that parses the command line as it is imported
            model, cause = None, error
            problem = f"ends the program ({error.code}): it reads the command line, or calls exit, where it is imported"
        except Exception as error:  # noqa: BLE001  # the user's code may raise anything
            model, cause, problem = None, error, f"fails with {in_a_line(error)}"
    if not isinstance(model, nn.Module):
        expected = "package.module:factory, a callable that returns a torch.nn.Module"
        do = "check the name and that the module imports on its own; give its other parameters defaults (it gets those "
        do += "of in_channels, num_classes, image_size, pool and width that it names)"
        if where.endswith(".py"):
            do = _named_by_file(where, attribute)
        raise ModelError(expected=expected, got=f"{name!r}, which {problem}", do=do) from cause
    return model


def _give_values(model: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Lazy layers take their size from the first images that they see, so let them see some."""
    modules = list(model.modules())
    if not any(isinstance(module, nn.modules.lazy.LazyModuleMixin) for module in modules):
        return
    training = [module.training for module in modules]
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(shape))
    except Exception as error:  # the user's code may raise anything
        expected, got = f"a model that takes images {list(shape)}", f"{name!r}, which fails with {in_a_line(error)}"
        raise ModelError(expected=expected, got=got, do="bring the images to the size that it takes") from error
    for module, mode in zip(modules, training, strict=True):
        module.training = mode


def _named_by_file(file: str, attribute: str) -> str:
    return f"say {Path(file).stem}:{attribute}, in the folder of {Path(file).name}"


def _accepted(factory: Callable[..., object], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of the arguments that a callable names: what it takes as `**` may go to one that knows none of them."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some built-in callables have no signature
        return {}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {p.name for p in parameters if p.kind in kinds}
    return {key: value for key, value in arguments.items() if key in named}


def source_file(name: str) -> Path | None:
    """The file that `"package.module:factory"` is in; `None` for a model of this package, or where there is none."""
    where, own, _ = name.partition(":")
    if not own or is_named(name):
        return None
    with _current_directory_importable():
        try:
            found = importlib.util.find_spec(where)
        except (ImportError, ValueError):  # a package above it that does not import, or a module without a spec
            return None
    return Path(found.origin) if found is not None and found.has_location and found.origin else None


@contextmanager
def _without_arguments(name: str) -> Iterator[None]:
    """The user's code sees no arguments of ours, which it would refuse in its own words."""
    given, sys.argv = sys.argv, [name]
    try:
        yield
    finally:
        sys.argv = given


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        os.chdir(here)  # the user's code may have left it: relative paths are the caller's
        if here in sys.path:
            sys.path.remove(here)
