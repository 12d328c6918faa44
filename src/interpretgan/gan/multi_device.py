"""Several processes of one machine that train one generator, each on a device of its own.

All draw the random numbers that one process alone would draw, and each keeps its share of the rows. As every loss is a
mean over the images, and the shares are equal, the mean of the gradients of all processes is the gradient of the whole
batch: each takes the step that one alone would take, up to rounding.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed, nn

from interpretgan.errors import ConfigError, TrainingError
from interpretgan.store.processes import end_with_parent

PATIENCE = timedelta(minutes=5)
"""How long a process waits for the others, at the start and in each step, before it gives them up."""
GRACE = 10.0
"""Seconds that a process is given to end: after its last step, or once its connection is lost."""

Work = Callable[..., object]
"""What all processes do: called with the team and the arguments of the task."""


class Team:
    """The processes that train one generator: this one alone, or those that `gathered` starts.

    Args:
        rank: Number of this process; 0 leads.
        size: How many there are. With 1, every tensor stays what it is.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of `[N, ...]`: every `size`-th, `[N / size, ...]`, so equally many of every layer."""
        return rows[self.rank :: self.size]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, element by element and without gradient."""
        values = values.detach()
        if self.size > 1:
            values = values.clone()
            distributed.all_reduce(values)
            values /= self.size
        return values

    def average(self, network: nn.Module) -> None:
        """Put the mean over the processes in the place of every gradient of a network."""
        if self.size > 1:
            gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
            means = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
            parts = torch.split(means, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def check_team(devices: int, images_per_layer: int, leader: torch.device | None = None) -> None:
    """Refuse a number of devices that cannot share a training.

    Args:
        devices: How many.
        images_per_layer: What they share, for every layer and step.
        leader: The first of them. `None`: not known yet, and so not looked for.

    Raises:
        ConfigError: Fewer than one, unequal shares, too few GPUs, or a process that is one of several already.
    """
    if devices < 1:
        raise ConfigError(expected="devices >= 1", got=str(devices), do="1 trains on one device")
    if images_per_layer % devices:
        raise ConfigError(
            expected=f"images_per_layer that {devices} devices can share equally",
            got=str(images_per_layer),
            do=f"try {devices * (images_per_layer // devices + 1)}, or other devices",
        )
    if devices > 1 and distributed.is_available() and distributed.is_initialized():
        raise ConfigError(
            expected=f"a process of its own for a training on {devices} devices",
            got="one that is in a torch.distributed group already",
            do="use 1, or start it without torchrun",
        )
    if devices > 1 and leader is not None and leader.type != "cpu":
        first = leader.index or 0
        found = max(0, torch.cuda.device_count() - first) if leader.type == "cuda" else 1
        if found < devices:
            raise ConfigError(
                expected=f"{devices} GPUs from {leader.type}:{first} on", got=str(found), do="use fewer devices"
            )


@contextmanager
def gathered(devices: int, leader: torch.device, work: Work, task: Mapping[str, object]) -> Iterator[Team]:
    """A team for the time of a training, with this process as its first; afterwards none of the others is left.

    Args:
        devices: How many processes, as `check_team` accepts them.
        leader: Device of this one. On a GPU the others take those that follow it; on a CPU they share it, which is no
            faster and is for tests.
        work: What the other processes call, with their `Team` and the task.
        task: Arguments by name. Tensors on the leader's device come on that of the other process.

    Yields:
        The team.

    Raises:
        ConfigError: A task that cannot be brought to another process.
        TrainingError: Another process died, or did not start within `PATIENCE`.
    """
    if devices == 1:
        yield Team()
        return
    from joblib.externals.loky import ProcessPoolExecutor

    content = _packed({"work": work, **task})
    with TemporaryDirectory(prefix="interpretgan-") as folder:
        places = [_Place(rank, devices, leader, str(Path(folder) / "meeting")) for rank in range(devices)]
        pool = ProcessPoolExecutor(devices - 1)
        try:
            followers = [
                pool.submit(_follow, content, place, os.getpid(), torch.get_num_threads()) for place in places[1:]
            ]
            _await_all(places, followers)
            yield places[0].join()
            distributed.destroy_process_group()
            wait(followers, GRACE)
        except RuntimeError as error:  # what torch.distributed raises when it misses one, among others
            lost = _first_error(followers, GRACE)
            if lost is None:
                raise
            raise TrainingError(
                expected=f"{devices} processes until the end of the training",
                got=f"one that died: {_in_a_line(lost)}",
                do="run it again to go on from the last checkpoint, with fewer devices if need be",
            ) from error
        finally:
            pool.shutdown(kill_workers=True)
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _packed(task: Mapping[str, object]) -> bytes:
    import cloudpickle  # takes classes and functions of notebooks and scripts, too

    content = io.BytesIO()
    try:
        torch.save(dict(task), content, pickle_module=cloudpickle)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise _not_for_others(error) from error
    return content.getvalue()


@dataclass(frozen=True)
class _Place:
    """Of a process in a team: its number, how many there are, the device of the first, and the file where they meet."""

    rank: int
    size: int
    leader: torch.device
    meeting: str

    @property
    def device(self) -> torch.device:
        """`rank` GPUs after the first, or the CPU."""
        on_gpu = self.leader.type == "cuda"
        return torch.device("cuda", (self.leader.index or 0) + self.rank) if on_gpu else self.leader

    @property
    def ready(self) -> str:
        """What the process leaves at the meeting when it has read its task."""
        return f"ready-{self.rank}"

    def store(self) -> Any:
        """The meeting; no port, which another program could take meanwhile."""
        return distributed.FileStore(self.meeting, self.size)  # type: ignore[attr-defined]  # public, not listed

    def join(self) -> Team:
        """Make this process one of the team, as soon as all others do the same."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:  # a lost process is then an error here, and not the end of this process
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=self.store(),
            rank=self.rank,
            world_size=self.size,
            timeout=PATIENCE,
            device_id=self.device if on_gpu else None,
        )
        return Team(self.rank, self.size)


def _follow(content: bytes, place: _Place, parent: int, threads: int) -> None:
    """What the other processes do: take their share of the work; the first process keeps the result."""
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the others by itself
    torch.set_num_threads(threads)
    where = {str(place.leader): str(place.device)}
    task = torch.load(io.BytesIO(content), map_location=where, weights_only=False)  # made by our own first process
    work = task.pop("work")
    place.store().set(place.ready, "")
    work(place.join(), **task)
    distributed.destroy_process_group()


def _await_all(places: list[_Place], followers: list[Future[None]]) -> None:
    """Wait until all followers have read their task."""
    store, until = places[0].store(), time.monotonic() + PATIENCE.total_seconds()
    while not store.check([place.ready for place in places[1:]]):
        lost = _first_error(followers, 0.05)
        if lost is not None:
            raise _not_for_others(lost)
        if time.monotonic() > until:
            raise TrainingError(
                expected=f"{len(followers)} more processes within {PATIENCE}", got="fewer", do="use fewer devices"
            )


def _first_error(followers: list[Future[None]], seconds: float) -> BaseException | None:
    """The error of the first follower that ends with one within so many seconds, else `None`."""
    ended, _ = wait(followers, seconds, FIRST_COMPLETED)
    return next((error for error in (future.exception() for future in ended) if error is not None), None)


def _in_a_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _not_for_others(error: BaseException) -> ConfigError:
    return ConfigError(
        expected="a classifier and images that can be brought to the process of another device",
        got=_in_a_line(error),
        do="leave out what cannot be pickled, such as open files and locks, or use 1 device",
    )
