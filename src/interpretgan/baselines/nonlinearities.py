"""Nonlinear operations that are no modules, and modules that are called several times: traps of methods with hooks."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from interpretgan.classifier import Classifier
from interpretgan.layers.hooks import visiting

#: Nonlinear operations by a common name: the modules that are one call of each, and the names that torch has for it.
KINDS: dict[str, tuple[tuple[type[nn.Module], ...], tuple[str, ...]]] = {
    "relu": ((nn.ReLU,), ("relu", "relu_", "threshold", "clamp_min", "clamp_min_", "clamp", "clamp_")),
    "hardtanh": ((nn.Hardtanh,), ("hardtanh", "hardtanh_")),  # ReLU6 is one
    "max pooling": ((nn.MaxPool2d,), ("max_pool2d_with_indices",)),
    "sigmoid": ((nn.Sigmoid,), ("sigmoid", "sigmoid_")),
    "tanh": ((nn.Tanh,), ("tanh", "tanh_")),
    "gelu": ((nn.GELU,), ("gelu",)),
    "silu": ((nn.SiLU,), ("silu", "silu_")),
    "elu": ((nn.ELU,), ("elu", "elu_")),
    "leaky_relu": ((nn.LeakyReLU,), ("leaky_relu", "leaky_relu_")),
    "softmax": ((nn.Softmax, nn.LogSoftmax), ("_softmax", "_log_softmax")),
}


@dataclass(frozen=True)
class Nonlinearities:
    """The nonlinear operations of one pass through a network, by their names in `KINDS`."""

    modules: Counter[str]  #: How often each runs as a module of its own.
    functions: Counter[str]  #: How often each runs outside of one.
    reused: tuple[str, ...]  #: Names of the modules, of any kind, that are called more than once.


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class says nothing of types
    """Counts the operations that run, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def nonlinearities(classifier: Classifier, images: Tensor) -> Nonlinearities:
    """Those of one pass of the first image."""
    modules, reused = Counter[str](), list[str]()

    def visit(name: str, call: int, module: nn.Module, _output: object) -> None:
        modules.update(kind for kind, (types, _) in KINDS.items() if isinstance(module, types))
        if call == 2:
            reused.append(name)

    with classifier.borrowed(), torch.enable_grad(), visiting(classifier, visit), _Counting() as counted:
        classifier.run(images[:1].detach().clone().requires_grad_())
    functions = Counter[str]()
    for kind, (_, operations) in KINDS.items():
        if (count := sum(counted.seen[operation] for operation in operations) - modules[kind]) > 0:
            functions[kind] = count
    return Nonlinearities(modules, functions, tuple(reused))
