"""What the trainings of this package share: the learning rate, the moving average, and steps that can be resumed."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from interpretgan.errors import TrainingError
from interpretgan.store.progress import OnProgress, Progress
from interpretgan.store.training_checkpoint import Checkpoint
from interpretgan.training.checks import require_finite

READ_EVERY = 10  # steps on a GPU

State = dict[str, Any]
OnStep = Callable[[int, dict[str, float]], None]  #: Called after each step with their number so far and its losses.


def told(report: OnProgress, stage: str, steps: int) -> OnStep:
    """An `on_step` that reports each of so many steps whose losses were read as the progress of a stage."""
    start = -1

    def on_step(step: int, losses: dict[str, float]) -> None:
        nonlocal start
        start = step - 1 if start < 0 else start
        if not losses:
            return
        report(Progress(stage, step, steps, start=start, values=losses))

    return on_step


def read_now(step: int, steps: int, device: torch.device) -> bool:
    """Whether the losses of a step, counted from 0, are read: on a GPU, which must be waited for, not those of all."""
    return device.type == "cpu" or (step + 1) % READ_EVERY == 0 or step + 1 == steps


def warm_up_and_cosine(step: int, steps: int, *, floor: float) -> float:
    """Share of the peak learning rate at a step: up over 20 steps, then along half a cosine to `floor`."""
    return min(1.0, (step + 1) / 20) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps)))


class MovingAverage:
    """An exponential moving average of a network's state, from the present one on.

    At update `t` the old average keeps the share `min(decay, (1 + t) / (10 + t))`, so that the start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = copy_of(network)

    @torch.no_grad()
    def update(self, network: nn.Module, t: int) -> None:
        """Take in the network's state at update `t`; at 0 the average becomes that state. Counters are copied."""
        decay, old, new = min(self.decay, (1 + t) / (10 + t)) if t else 0.0, list[Tensor](), list[Tensor]()
        for name, value in network.state_dict().items():
            if decay and isinstance(value, Tensor) and value.is_floating_point():
                old.append(self.state[name])
                new.append(value)
            else:
                self._put(name, value)
        if old:  # all at once, which a GPU does in one go
            get_ema_multi_avg_fn(decay)(old, new, 0)  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def state_dict(self) -> State:
        """The average, under the names that the network's own `state_dict` has."""
        return self.state

    def load_state_dict(self, state: State) -> None:
        """Take back what `state_dict` returned."""
        for name, value in state.items():
            self._put(name, value)

    def _put(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            self.state[name].copy_(value)
        else:  # what a module's `get_extra_state` returns
            self.state[name] = value


def copy_of(network: nn.Module) -> State:
    """The network's state as it is now, its tensors contiguous."""
    return {
        name: value.detach().clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value
        for name, value in network.state_dict().items()
    }


@contextmanager
def swapped(network: nn.Module, state: State) -> Iterator[None]:
    """The network with another state inside, and with its own again outside."""
    own = copy_of(network)
    try:
        network.load_state_dict(state)
        yield
    finally:
        network.load_state_dict(own)


def relative_rates(tensors: Iterable[Tensor], rate: float) -> list[dict[str, Any]]:
    """Groups of weights for an optimiser whose steps are a share of each tensor's root mean square."""
    return [
        {"params": [tensor], "lr": rate * (float(tensor.detach().square().mean().sqrt()) or 1e-3)} for tensor in tensors
    ]


def resumable(
    steps: int,
    parts: Mapping[str, Any],
    checkpoint: Checkpoint,
    *,
    random: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Iterator[tuple[int, dict[str, float]]]:
    """The steps of a training, from where its checkpoint stands, to the weights that no interruption would have given.

    Each step is yielded with the number of finished steps and a dictionary that it puts its losses into, if it reads
    them (`read_now`), which must be finite (`require_finite`). `parts` is all that a step changes, each with
    `state_dict` and `load_state_dict`, and `random` where it takes its random numbers from, if they do not follow from
    its number. An error that `on_step` raises ends the training before the step is saved. So do weights that are not
    numbers, for the losses of a step need not have been read.
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
            _require_weights(parts, step)
            state: dict[str, Any] = {name: part.state_dict() for name, part in parts.items()}
            checkpoint.save({"step": step, "random": None if random is None else random.get_state(), **state})


def _require_weights(parts: Mapping[str, Any], step: int) -> None:
    """Stop a training, by a `TrainingError`, whose weights became NaN: saved, they could never be gone on from."""
    for name, part in parts.items():
        if isinstance(part, nn.Module) and any(bool(weights.isnan().any()) for weights in part.parameters()):
            expected, do = f"finite weights of the {name}", "lower the learning rate"
            raise TrainingError(expected=expected, got=f"NaN at step {step}", do=do)
