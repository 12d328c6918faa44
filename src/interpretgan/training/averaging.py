"""Averaged weights, and a model that holds other weights for a moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def tensors_of(model: nn.Module) -> State:
    """The model's parameters and buffers themselves, by name."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def copy_of(state: State) -> State:
    """A copy that does not change with the model, contiguous."""
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


class AveragedWeights:
    """An exponential moving average of a model's parameters and of its BatchNorm statistics.

    The decay of the first steps is lower, `(1 + t) / (10 + t)`, so that the start is forgotten.

    Args:
        model: Averaged from its present state on.
        decay: Share of the old average that a step keeps, 0 to 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = copy_of(tensors_of(model))

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the model's state after `step` steps. Integers (counters) are copied."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in tensors_of(model).items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


@contextmanager
def swapped(model: nn.Module, state: State) -> Iterator[None]:
    """The model with another state inside, its own outside."""
    own = copy_of(tensors_of(model))
    try:
        model.load_state_dict(state)
        yield
    finally:
        model.load_state_dict(own)
