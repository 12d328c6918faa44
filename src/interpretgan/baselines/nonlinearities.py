"""Nonlinear operations that are no modules, and modules that are called several times: traps of methods with hooks."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from interpretgan.classifier import Classifier
from interpretgan.layers import examine

#: Operations of torch by a common name, and the modules that are one call of each.
OPERATIONS = {
    "relu": ("relu", "relu_", "threshold", "clamp_min", "clamp_min_"), "max pooling": ("max_pool2d_with_indices",),
    "sigmoid": ("sigmoid", "sigmoid_"), "tanh": ("tanh", "tanh_"), "gelu": ("gelu",), "silu": ("silu", "silu_"),
    "elu": ("elu", "elu_"), "leaky_relu": ("leaky_relu", "leaky_relu_"), "softmax": ("_softmax", "_log_softmax"),
}  # fmt: skip
MODULES = {
    "relu": ("ReLU",), "max pooling": ("MaxPool2d",), "sigmoid": ("Sigmoid",), "tanh": ("Tanh",), "gelu": ("GELU",),
    "silu": ("SiLU",), "elu": ("ELU",), "leaky_relu": ("LeakyReLU",), "softmax": ("Softmax", "LogSoftmax"),
}  # fmt: skip


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class says nothing of types
    """Counts the operations that run, by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def functional_operations(classifier: Classifier, images: Tensor) -> Counter[str]:
    """How often each nonlinear operation runs outside of a module of its own, in one pass over the images."""
    calls = Counter(kind for kind, _ in _calls(classifier, images))
    with classifier.borrowed(), torch.enable_grad(), _Counting() as counted:
        classifier.run(images[:1].detach().clone().requires_grad_())
    hidden: Counter[str] = Counter()
    for name, operations in OPERATIONS.items():
        count = sum(counted.seen[operation] for operation in operations) - sum(calls[kind] for kind in MODULES[name])
        if count > 0:
            hidden[name] = count
    return hidden


def reused_modules(classifier: Classifier, images: Tensor) -> list[str]:
    """Names of the modules that are called more than once in a pass."""
    counts = Counter(name.rpartition(":")[0] for _, name in _calls(classifier, images) if ":" in name)
    return [name for name, count in counts.items() if count > 1]


def _calls(classifier: Classifier, images: Tensor) -> list[tuple[str, str]]:
    """Class and name of every module call, see `Anatomy`."""
    anatomy = examine(classifier, images[:2])
    layers = [(layer.kind, layer.name) for layer in anatomy.layers]
    return layers + [(call.kind, call.name) for call in anatomy.refused]
