"""What an engineer does with a diagnosis: fine-tune some layers and no others, or swap one pooling."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.layers import Anatomy, Layer
from interpretgan.models.architectures.pooling import BlurPool, Subsample, pooling
from interpretgan.studies.config import Repair

Rows = Sequence[Mapping[str, Any]]


def units_of(classifier: Classifier, anatomy: Anatomy, rows: Rows) -> list[dict[str, Any]]:
    """The layers with weights of a network, in the order in which they run: what fine-tuning can be restricted to.

    A weight is a parameter of two or more axes; normalisation, activation and pooling belong to the layer before them.
    Where no diagnosed layer, that is, no row, is between weights (as inside a residual block), they form one unit.

    Returns:
        `name` of the module with the first weight, `layers` (names of the rows that belong to it), names of its
        `parameters`, their `size` (how many numbers), `vulnerability`: the sum over the rows, `None` where one of
        them is unreliable; and `let_in`, the highest of the rows, `None` where that was not measured.
    """
    modules, by_name = dict(classifier.model.named_modules()), {row["name"]: row for row in rows}
    calls = [(call, call if call in modules else call.rpartition(":")[0]) for call in anatomy.order]
    called = {module for _, module in calls}
    owned: dict[str, dict[str, nn.Parameter]] = {}
    for full, parameter in classifier.model.named_parameters():
        owner = full.rpartition(".")[0]
        while owner and owner not in called:  # what is never called belongs to the module that reads its weights
            owner = owner.rpartition(".")[0]
        owned.setdefault(owner, {})[full] = parameter
    units: list[dict[str, Any]] = []
    waiting, opens = list[str](), ""  # parameters since the last diagnosed layer, and the first module with a weight
    for call, module in calls:
        parameters = owned.pop(module, {})  # at its first call
        waiting += parameters
        if any(parameter.ndim >= 2 for parameter in parameters.values()):
            opens = opens or module or "model"
        if call in by_name:
            if opens or not units:
                units.append({"name": opens or call, "layers": [], "parameters": []})
            units[-1]["layers"].append(call)
            units[-1]["parameters"] += waiting
            waiting, opens = [], ""
    for unit in units:
        own = [by_name[name] for name in unit["layers"]]
        sure = not any(row["unreliable"] for row in own)
        unit["vulnerability"] = sum(float(row["vulnerability"]["value"]) for row in own) if sure else None
        unit["let_in"] = max((row["let_in"]["value"] for row in own if row.get("let_in")), default=None)
    if units:
        units[-1]["parameters"] += waiting  # of what is called after the last layer
    known = dict(classifier.model.named_parameters())
    for unit in units:
        unit["size"] = sum(known[name].numel() for name in unit["parameters"])
    return [unit for unit in units if unit["parameters"]]


def targets(variant: str, units: Rows, rows: Rows, repair: Repair, *, seed: int) -> list[str]:
    """Names of what a variant changes: units to fine-tune, or the pooling to swap, in a row of the diagnosis.

    Units are ordered by which of them let the perturbation in, as that says what to mend; where it was not measured,
    and poolings, by vulnerability. An unreliable one is left out, and so is a pooling that is of the kind already. Of
    equals the earlier counts as the more fragile: so none is both blamed and cleared. Of the controls, `random`
    draws from all units by the seed, `equal` takes those that are nearest in size to the blamed, and `all` and `best`
    have every unit. Too few to choose from are a `ConfigError`.
    """
    action, _, chosen = variant.partition("-")
    if chosen == "all":
        return [unit["name"] for unit in units]
    if chosen in ("best", "random", "equal"):  # of a network that is not repaired there are no controls
        blamed = targets(f"{action}-blamed", units, rows, repair, seed=seed)
    if chosen == "best":
        return [unit["name"] for unit in units]
    if chosen == "random":
        drawn = np.random.default_rng(seed).permutation(len(units))[: repair.layers]
        return [units[place]["name"] for place in sorted(drawn)]
    if chosen == "equal":
        sizes = {unit["name"]: unit["size"] for unit in units}
        left = [name for name in sizes if name not in blamed]
        for name in blamed:
            nearest = min(left, key=lambda other: abs(math.log(sizes[other] / sizes[name])))
            left.remove(nearest)
        return [name for name in sizes if name not in (*blamed, *left)]
    count, what = repair.layers, "layers with weights"
    score = "let_in" if all(unit.get("let_in") is not None for unit in units) else "vulnerability"
    found = {unit["name"]: unit[score] for unit in units if unit[score] is not None}
    if action == "swap":
        count, what, kind = 1, "poolings", type(pooling(repair.pool, 1)).__name__
        reliable = [row for row in rows if row["pooling"] and not row["unreliable"] and row["kind"] != kind]
        found = {row["name"]: row["vulnerability"]["value"] for row in reliable}
    if len(found) < 2 * count:
        expected = f"at least {2 * count} {what} that can be read reliably, for {variant}"
        do = "train the generators longer, change fewer layers, or leave the variant out"
        raise ConfigError(expected=expected, got=str(len(found)), do=do)
    ranked = sorted(found, key=lambda name: -found[name])
    return ranked[:count] if chosen == "blamed" else ranked[-count:]


@contextmanager
def only(model: nn.Module, parameters: Sequence[str]) -> Iterator[None]:
    """Inside, only the named parameters learn, and normalisation without one of them stays in eval mode.

    Its statistics are part of the layer, so those of a layer that is left alone must not move. Outside, everything is
    as it was.
    """
    known = dict(model.named_parameters())
    assert parameters
    assert set(parameters) <= known.keys()
    learned = {name: parameter.requires_grad for name, parameter in known.items()}
    frozen = {
        module: module.training
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
        and known.keys() - set(parameters)  # else all layers learn, also those without parameters of their own
        and not any(f"{name}.{own}" in parameters for own, _ in module.named_parameters(recurse=False))
    }
    try:
        for name, parameter in known.items():
            parameter.requires_grad_(name in parameters)
        for module in frozen:
            module.eval()
            module.__dict__["train"] = lambda mode=True, module=module: module  # `model.train()` calls it
        yield
    finally:
        for name, parameter in known.items():
            parameter.requires_grad_(learned[name])
        for module, training in frozen.items():
            del module.__dict__["train"]
            module.training = training


def halves(module: nn.Module) -> bool:
    """Whether the module is a pooling of 2x2 values, as those of `pooling` are: one that can be swapped for another."""
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        two, none = ((2, 2), 2), ((0, 0), 0)
        plain = module.kernel_size in two and module.stride in two and module.padding in none
        return plain and not module.ceil_mode and getattr(module, "dilation", 1) in ((1, 1), 1)
    return isinstance(module, Subsample | BlurPool)


def swappable(model: nn.Module, layers: Sequence[Layer]) -> set[str]:
    """Names of the layers behind a pooling that can be swapped.

    Not of a module that runs more than once: a swap would change all its calls, whichever of them is blamed.
    """
    modules = dict(model.named_modules())
    return {layer.name for layer in layers if layer.name == layer.module and halves(modules[layer.module])}
