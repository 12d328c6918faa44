"""Several processes of one machine that train one generator, each on a device of its own.

All draw the random numbers that one process alone would draw, and each keeps its share of the rows. As every loss is a
mean over the images, and the shares are equal, the mean of the gradients of all processes is the gradient of the whole
batch: each takes the step that one alone would take, up to rounding.
"""

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

from interpretgan.errors import ConfigError, TrainingError, in_a_line
from interpretgan.store.child_processes import end_with_parent

PATIENCE = timedelta(minutes=5)  # that a process waits for the others, at the start and in each step
GRACE = 10.0  # seconds that a process is given to end: after its last step, or once its connection is lost


@dataclass(frozen=True)
class Team:
    """The processes that train one generator: this one alone, or those that `gathered` starts."""

    rank: int = 0  #: Number of this process; 0 leads.
    size: int = 1  #: How many there are. With 1, every tensor stays what it is.
    leader: torch.device = torch.device("cpu")  # noqa: RUF009  # it cannot change
    meeting: str = ""  #: The file where they find each other; a port could be taken by another program meanwhile.

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

    @property
    def device(self) -> torch.device:
        """Of this process: `rank` GPUs after the first, or the CPU."""
        return torch.device("cuda", (self.leader.index or 0) + self.rank) if self.leader.type == "cuda" else self.leader

    def store(self) -> Any:
        """The store through which they find each other, in the file `meeting`."""
        return distributed.FileStore(self.meeting, self.size)  # type: ignore[attr-defined]  # public, not listed

    def join(self) -> None:
        """Wait until all processes join, so that `mean` works."""
        on_gpu = self.device.type == "cuda"
        if on_gpu:  # a lost process is then an error here, and not the end of this process
            os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo", store=self.store(), rank=self.rank, world_size=self.size, timeout=PATIENCE,
            device_id=self.device if on_gpu else None,
        )  # fmt: skip


def check_team(devices: int, images_per_layer: int, leader: torch.device | None = None) -> None:
    """Refuse, by a `ConfigError`, a number of devices that cannot share a training (`leader` is the first of them)."""
    if devices < 1:
        raise ConfigError(expected="devices >= 1", got=str(devices), do="1 trains on one device")
    if images_per_layer % devices:
        do = f"try {devices * (images_per_layer // devices + 1)}, or other devices"
        expected = f"images_per_layer that {devices} devices can share equally"
        raise ConfigError(expected=expected, got=str(images_per_layer), do=do)
    if devices > 1 and distributed.is_available() and distributed.is_initialized():
        got = "one that is in a torch.distributed group already"
        raise ConfigError(expected="a process of its own", got=got, do="use 1 device, or start it without torchrun")
    if devices > 1 and leader is not None and leader.type != "cpu":
        found = max(0, torch.cuda.device_count() - (leader.index or 0)) if leader.type == "cuda" else 1
        if found < devices:
            expected = f"{devices} GPUs from {leader.type}:{leader.index or 0} on"
            raise ConfigError(expected=expected, got=str(found), do="use fewer devices")


@contextmanager
def gathered(devices: int, work: Callable[..., object], task: Mapping[str, Any]) -> Iterator[Team]:
    """A team for the time of a training, with this process as its first; afterwards none of the others is left.

    The others call `work(team=team, **task)`, on the GPUs that follow that of the task's classifier, with its tensors
    there; on a CPU they share it, which is no faster and is for tests. A task that cannot be brought to another process
    is a `ConfigError`, a process that died or did not start within `PATIENCE` a `TrainingError`.
    """
    if devices == 1:
        yield Team()
        return
    from joblib.externals.loky import ProcessPoolExecutor

    content, parent, threads = _packed({"work": work, **task}), os.getpid(), torch.get_num_threads()
    leader: torch.device = task["classifier"].device
    with TemporaryDirectory(prefix="interpretgan-") as folder:
        team, *others = (Team(rank, devices, leader, str(Path(folder) / "meeting")) for rank in range(devices))
        pool = ProcessPoolExecutor(devices - 1)
        try:
            followers = [pool.submit(_follow, other, content, parent, threads) for other in others]
            _await_all(team, followers)
            team.join()
            yield team
            distributed.destroy_process_group()
            wait(followers, GRACE)
        except RuntimeError as error:  # what torch.distributed raises when it misses one, among others
            lost = _first_error(followers, GRACE)
            if lost is None:
                raise
            expected, got = f"{devices} processes until the end of the training", f"one that died: {in_a_line(lost)}"
            do = "run it again to go on from the last checkpoint, with fewer devices if need be"
            raise TrainingError(expected=expected, got=got, do=do) from error
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


def _follow(team: Team, content: bytes, parent: int, threads: int) -> None:
    """What the other processes do: their share of the work; the first process keeps the result."""
    end_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends the others by itself
    torch.set_num_threads(threads)
    where = {str(team.leader): str(team.device)}
    task = torch.load(io.BytesIO(content), map_location=where, weights_only=False)  # made by our own first process
    work = task.pop("work")
    team.store().set(f"ready-{team.rank}", "")
    team.join()
    work(team=team, **task)
    distributed.destroy_process_group()


def _await_all(team: Team, followers: list[Future[None]]) -> None:
    """Wait until all followers have read their task."""
    store, until = team.store(), time.monotonic() + PATIENCE.total_seconds()
    while not store.check([f"ready-{rank}" for rank in range(1, team.size)]):
        lost = _first_error(followers, 0.05)
        if lost is not None:
            raise _not_for_others(lost)
        if time.monotonic() > until:
            expected = f"{team.size} processes within {PATIENCE}"
            raise TrainingError(expected=expected, got="fewer", do="use fewer devices")


def _first_error(followers: list[Future[None]], seconds: float) -> BaseException | None:
    """The error of the first follower that ends with one within so many seconds, else `None`."""
    ended, _ = wait(followers, seconds, FIRST_COMPLETED)
    return next((error for error in (future.exception() for future in ended) if error is not None), None)


def _not_for_others(error: BaseException) -> ConfigError:
    expected = "a classifier and images that can be brought to the process of another device"
    do = "leave out what cannot be pickled, such as open files and locks, or use 1 device"
    return ConfigError(expected=expected, got=in_a_line(error), do=do)
