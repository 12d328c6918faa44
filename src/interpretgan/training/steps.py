"""What the trainings of this package share: the learning rate, the moving average, and steps that can be resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from interpretgan.store.checkpoints import Checkpoint
from interpretgan.training.checks import require_finite

State = dict[str, Tensor]

OnStep = Callable[[int, dict[str, float]], None]
"""Called after each step with the number of finished steps and the losses of the step."""


def warm_up_and_cosine(step: int, steps: int, *, floor: float) -> float:
    """Share of the peak learning rate at a step: up over 20 steps, then along half a cosine to `floor`."""
    return min(1.0, (step + 1) / 20) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))


class MovingAverage:
    """An exponential moving average of a network's parameters and buffers.

    The decay of early updates is lower, so that the start is soon forgotten: `min(decay, (1 + t) / (10 + t))`.

    Args:
        network: Averaged from its present state on.
        decay: Share of the old average that an update keeps, 0 to below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = copy_of(tensors_of(network))

    @torch.no_grad()
    def update(self, network: nn.Module, t: int) -> None:
        """Take in the network's state at time `t`; at 0 the average becomes that state. Counters are copied."""
        decay = min(self.decay, (1 + t) / (10 + t)) if t else 0.0
        for name, value in tensors_of(network).items():
            if decay and value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def state_dict(self) -> State:
        """The averaged tensors by name, as the network's own `state_dict` has them."""
        return self.state

    @torch.no_grad()
    def load_state_dict(self, state: State) -> None:
        """Take back what `state_dict` returned."""
        for name, value in self.state.items():
            value.copy_(state[name])


def tensors_of(network: nn.Module) -> State:
    """The network's parameters and buffers themselves, by name."""
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def copy_of(state: State) -> State:
    """A copy that does not change with the network, contiguous."""
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


@contextmanager
def swapped(network: nn.Module, state: State) -> Iterator[None]:
    """The network with another state inside, and with its own again outside."""
    own = copy_of(tensors_of(network))
    try:
        network.load_state_dict(state)
        yield
    finally:
        network.load_state_dict(own)


class Stateful(Protocol):
    """A network, an optimiser or an average: whatever a training changes."""

    def state_dict(self) -> dict[str, Any]:
        """Its state."""

    def load_state_dict(self, state: dict[str, Any], /) -> object:
        """Take back what `state_dict` returned."""


def resumable(
    steps: int,
    parts: Mapping[str, Stateful],
    checkpoint: Checkpoint,
    *,
    random: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """The steps of a training, from where its checkpoint stands, to the weights that no interruption would have given.

        for step, losses in resumable(config.steps, parts, checkpoint):
            ...
            losses["loss"] = float(loss)

    Args:
        steps: How many in all.
        parts: All that a step changes, by name.
        checkpoint: Where the state is kept.
        random: Where a step takes its random numbers from. `None`: they follow from its number.
        on_step: See `OnStep`; an error that it raises ends the training before this step is saved.

    Yields:
        The number of finished steps, and a dictionary that the step puts its losses into.

    Raises:
        TrainingError: A loss is not finite.
        RunFolderError: The checkpoint is damaged or of another training, or cannot be written.
    """
    step, saved = 0, checkpoint.load()
    if saved is not None:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        if random is not None:
            random.set_state(saved["random"])
        step = saved["step"]
    while step < steps:
        losses: dict[str, float] = {}
        yield step, losses
        step += 1
        require_finite(losses, step)
        if on_step is not None:
            on_step(step, losses)
        if checkpoint.due(last=step == steps):
            state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            checkpoint.save({"step": step, "random": None if random is None else random.get_state(), **state})
