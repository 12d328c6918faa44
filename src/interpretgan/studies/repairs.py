"""What an engineer does with a diagnosis: fine-tune some layers and no others, or swap one pooling."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.errors import ModelError
from interpretgan.layers import Anatomy, Layer
from interpretgan.models.architectures.pooling import BlurPool, Subsample, pooling

KINDS = {"max": nn.MaxPool2d.__name__, "avg": nn.AvgPool2d.__name__, "stride": Subsample.__name__,
         "blur": BlurPool.__name__}  # fmt: skip
"""Poolings that can be swapped for each other, and what their layers are called in a diagnosis."""


@dataclass(frozen=True)
class Unit:
    """A layer with weights, and what follows it up to the next one: what fine-tuning can be restricted to.

    Attributes:
        name: Of the module with the weights.
        layers: Rows of the diagnosis that belong to it.
        parameters: Names of its parameters.
    """

    name: str
    layers: tuple[str, ...]
    parameters: tuple[str, ...]


def units_of(classifier: Classifier, anatomy: Anatomy, layers: Sequence[str]) -> list[Unit]:
    """The layers with weights of a network that a diagnosis tells apart, in the order in which they run.

    A weight is a parameter of two or more axes; normalisation, activation and pooling belong to the layer before them.
    Where no layer is between layers (inside a residual block, or because it was not diagnosed), they form one unit.

    Args:
        classifier: The network.
        anatomy: Its module calls.
        layers: Names of the layers that were diagnosed.
    """
    modules = dict(classifier.model.named_modules())
    called = {call if call in modules else call.rpartition(":")[0] for call in anatomy.order}
    owned: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for full, parameter in classifier.model.named_parameters():
        owner = full.rpartition(".")[0]
        while owner and owner not in called:  # what is never called belongs to the module that reads its weights
            owner = owner.rpartition(".")[0]
        owned.setdefault(owner, []).append((full, parameter))
    units: list[tuple[str, list[str], list[str]]] = []
    names: list[str] = []
    seen: set[str] = set()
    opens: str | None = None
    for call in anatomy.order:
        module = call if call in modules else call.rpartition(":")[0]
        for full, parameter in owned.get(module, ()):
            if full not in seen:
                seen.add(full)
                names.append(full)
                if parameter.ndim >= 2:
                    opens = opens or module or "model"
        if call in layers:
            if opens is not None or not units:
                units.append((opens or call, [], []))
            units[-1][1].append(call)
            units[-1][2].extend(names)
            names, opens = [], None
    if units:
        units[-1][2].extend(names)  # of what is called after the last layer
    return [Unit(name, tuple(layers), tuple(parameters)) for name, layers, parameters in units if parameters]


@contextmanager
def only(model: nn.Module, parameters: Sequence[str]) -> Iterator[None]:
    """Inside, only the named parameters learn, and normalisation without one of them stays in eval mode.

    Its statistics are part of the layer, so those of a layer that is left alone must not move. Outside, everything is
    as it was.

    Raises:
        ModelError: A name that the model does not have.
    """
    known = dict(model.named_parameters())
    unknown = [name for name in parameters if name not in known]
    if unknown or not parameters:
        raise ModelError(
            expected="names of the model's parameters", got=str(unknown or "none"), do="diagnose this very network"
        )
    flags = [(parameter, parameter.requires_grad) for parameter in known.values()]
    frozen = [
        (module, module.training)
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        and known.keys() - set(parameters)  # else all layers learn, also those without parameters of their own
        and not any(f"{name}.{own}" in parameters for own, _ in module.named_parameters(recurse=False))
    ]
    try:
        for name, parameter in known.items():
            parameter.requires_grad_(name in parameters)
        for module, _ in frozen:
            module.eval()
            module.train = _stay(module)  # type: ignore[method-assign]  # model.train() calls it; removed below
        yield
    finally:
        for parameter, learns in flags:
            parameter.requires_grad_(learns)
        for module, training in frozen:
            del module.__dict__["train"]
            module.training = training


def _stay(module: nn.Module) -> Any:
    return lambda mode=True: module


def halves(module: nn.Module) -> bool:
    """Whether the module is a pooling of 2x2 values, as those of `pooling` are: one that can be swapped for another."""
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        two = ((2, 2), 2)
        plain = module.kernel_size in two and module.stride in two and module.padding in ((0, 0), 0)
        return plain and not module.ceil_mode and getattr(module, "dilation", 1) in ((1, 1), 1)
    return isinstance(module, Subsample | BlurPool)


def swappable(model: nn.Module, layers: Sequence[Layer]) -> set[str]:
    """Names of the layers behind a pooling that can be swapped.

    Not of a module that runs more than once: a swap would change all its calls, whichever of them is blamed.
    """
    modules = dict(model.named_modules())
    return {layer.name for layer in layers if layer.name == layer.module and halves(modules[layer.module])}


def swap_pooling(model: nn.Module, name: str, kind: str, channels: int) -> None:
    """Put another pooling in the place of the one of that name.

    Args:
        model: Changed in place; no pooling has parameters.
        name: Of the module.
        kind: See `pooling`.
        channels: Of the map.

    Raises:
        ModelError: There is no pooling of that name that halves its map.
    """
    found = dict(model.named_modules()).get(name)
    if found is None or not halves(found):
        raise ModelError(
            expected="the name of a pooling of 2x2 values", got=repr(name), do="choose one that the diagnosis lists"
        )
    model.set_submodule(name, pooling(kind, channels))


def unit_vulnerability(unit: Unit, layers: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Sum over the unit's rows, or `None` where one of them is unreliable."""
    rows = [layers[name] for name in unit.layers]
    if any(row["unreliable"] for row in rows):
        return None
    return sum(float(row["vulnerability"]["value"]) for row in rows)
