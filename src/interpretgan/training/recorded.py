"""A step of a training as a CUDA graph: a GPU repeats it without being told each operation again.

Most steps here are many small operations, and a GPU waits for the CPU to start each of them. What such a step does is
recorded once and started as a whole from then on, which changes no number.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

WARM_UP = 3  # steps before the recording, in which libraries choose their ways to compute and optimisers set up

Step = Callable[..., dict[str, Tensor]]
"""From tensors of the same shapes in every step to detached tensors; it must not read one on the CPU."""


class Recorded:
    """A step that is recorded on a GPU after `WARM_UP` calls; where that cannot be, and on a CPU, it is just called.

    What it returns is overwritten by the next call. Networks and optimisers must keep their tensors in place: load a
    checkpoint before the first call.
    """

    def __init__(self, step: Step, device: torch.device, *, wanted: bool = True) -> None:
        self._step, self._device, self._calls = step, device, 0
        self._possible = wanted and device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: list[Tensor] = []
        self._outputs: dict[str, Tensor] = {}

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Make the step."""
        self._calls += 1
        if self._possible and self._graph is None and self._calls > WARM_UP:
            self._record(inputs)
        if self._graph is None:
            return self._step(*inputs)
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._outputs

    def _record(self, inputs: tuple[Tensor, ...]) -> None:
        graph = torch.cuda.CUDAGraph()
        self._inputs = [given.clone() for given in inputs]
        with torch.cuda.device(self._device):  # a stream of another GPU would record nothing, and say nothing
            before, own = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            try:  # recording runs nothing, so whatever fails in it can be called as before
                with torch.cuda.graph(graph, stream=own, capture_error_mode="thread_local"):
                    self._outputs = self._step(*self._inputs)
            except Exception:  # noqa: BLE001  # a classifier may do what cannot be recorded, such as reading a tensor
                self._possible = False
                torch.cuda.set_stream(before)  # a recording that fails stays in its own
            else:
                self._graph = graph


def recordable(device: torch.device, rate: float) -> dict[str, Any]:
    """Arguments of an optimiser with this learning rate whose steps can be recorded on this device."""
    on_gpu = device.type == "cuda"
    return {"lr": torch.tensor(rate, device=device) if on_gpu else rate, "capturable": on_gpu}


def set_rate(optimizer: Optimizer, rate: float, group: int = 0) -> None:
    """Give one group of parameters another learning rate, in place where it is a tensor, as a recorded step needs.

    A checkpoint brings one on the CPU, whose value would be recorded and stay; it is brought to the parameters first.
    """
    parameters = optimizer.param_groups[group]
    if isinstance(parameters["lr"], Tensor):
        parameters["lr"] = parameters["lr"].to(parameters["params"][0].device)
        parameters["lr"].fill_(rate)
    else:
        parameters["lr"] = rate
