"""Several processes of one machine that train one generator, each on a device of its own, joined by Lightning Fabric.

All draw the random numbers that one process alone would draw, and each keeps its share of the rows. As every loss is a
mean over the images, and the shares are equal, the mean of the processes' gradients is the gradient of the whole batch:
all take the step that one alone would take, up to rounding.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from interpretgan.errors import ConfigError, TrainingError
from interpretgan.store.processes import how_it_ended

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PATIENCE = timedelta(minutes=5)
"""How long a process waits for the others, at the start and in each step, before it gives them up."""
GRACE = 10.0
"""Seconds that a process is given to end: after its last step, or once its connection is lost."""
TASK = "task.pt"
"""File with what the followers are handed."""


class Team:
    """The processes that train one generator: this one alone, or those that `gathered` starts.

    Args:
        rank: Number of this process; 0 leads.
        size: How many there are.
        fabric: What joins them. `None`: this process is alone, and every tensor stays what it is.
    """

    def __init__(self, rank: int = 0, size: int = 1, fabric: Fabric | None = None) -> None:
        self.rank, self.size, self._fabric = rank, size, fabric

    def share(self, rows: Tensor) -> Tensor:
        """This process's rows of `[N, ...]`: every `size`-th, `[N / size, ...]`, so equally many of every layer."""
        return rows[self.rank :: self.size]

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, element by element and without gradient."""
        values = values.detach()
        if self._fabric is None:
            return values
        mean = self._fabric.all_reduce(values.clone(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def average(self, network: nn.Module) -> None:
        """Put the mean over the processes in the place of every gradient of a network."""
        if self._fabric is None:
            return
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
        ConfigError: Fewer than one, unequal shares, a missing package, too few GPUs, or a process that is one of
            several already.
    """
    if devices < 1:
        raise ConfigError(expected="devices >= 1", got=str(devices), do="1 trains on one device")
    if images_per_layer % devices:
        raise ConfigError(
            expected=f"images_per_layer that {devices} devices can share equally",
            got=str(images_per_layer),
            do=f"try {devices * (images_per_layer // devices + 1)}, or other devices",
        )
    if devices == 1:
        return
    if find_spec("lightning_fabric") is None:
        raise ConfigError(
            expected=f"the package lightning-fabric for {devices} devices",
            got="none",
            do="pip install 'interpretgan[fabric]', or use 1",
        )
    if distributed.is_available() and distributed.is_initialized():
        raise ConfigError(
            expected=f"a process of its own for a training on {devices} devices",
            got="one that is in a torch.distributed group already",
            do="use 1, or start it without torchrun",
        )
    if leader is not None and leader.type != "cpu":
        first = leader.index or 0
        found = max(0, torch.cuda.device_count() - first) if leader.type == "cuda" else 1
        if found < devices:
            raise ConfigError(
                expected=f"{devices} GPUs from {leader.type}:{first} on", got=str(found), do="use fewer devices"
            )


@contextmanager
def gathered(devices: int, leader: torch.device, task: Mapping[str, object]) -> Iterator[Team]:
    """A team for the time of a training, with this process as its first; afterwards no other process is left.

    Args:
        devices: How many processes, as `check_team` accepts them.
        leader: Device of this one. On a GPU the others take those that follow it; on a CPU they share it, which is no
            faster and is for tests.
        task: The arguments of `interpretgan.gan.train.train_share`, for the others.

    Yields:
        The team.

    Raises:
        ConfigError: A task that cannot be brought to another process.
        TrainingError: Another process died, or did not start within `PATIENCE`.
    """
    if devices == 1:
        yield Team()
        return
    with TemporaryDirectory(prefix="interpretgan-") as name:
        folder, followers = Path(name), list[subprocess.Popen[bytes]]()
        try:
            _hand_over(task, folder / TASK)
            for rank in range(1, devices):
                followers.append(_start(folder, rank, devices, leader))
            _await(folder, followers)
            (folder / TASK).unlink()  # all have it; it may be large
            yield join(folder, 0, devices, leader)
            distributed.destroy_process_group()
            for follower in followers:
                with suppress(subprocess.TimeoutExpired):
                    follower.wait(GRACE)
        except RuntimeError as error:  # what torch.distributed raises when it misses one, among others
            lost = _ended(folder, followers, GRACE)
            if lost is None:
                raise
            raise TrainingError(
                expected=f"{devices} processes until the end of the training",
                got=f"one that died: {lost}",
                do="run it again to go on from the last checkpoint, with fewer devices if need be",
            ) from error
        finally:
            for follower in followers:
                follower.kill()
                follower.wait()
                assert follower.stdin is not None
                follower.stdin.close()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def join(folder: Path, rank: int, size: int, leader: torch.device) -> Team:
    """Make this process one of a team, as soon as all others do the same.

    Args:
        folder: Where they meet; empty but for what `gathered` puts there.
        rank: Number of this process.
        size: How many there are.
        leader: Device of the first.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    class Started(LightningEnvironment):
        """All processes are there: Fabric is to start none, and to read no variable of the environment."""

        @property
        def creates_processes_externally(self) -> bool:
            return True

        def local_rank(self) -> int:
            return rank

    device, options = device_of(leader, rank), dict[str, Any]()
    if device.type == "cuda":
        options["device_id"] = device
        # A lost process is then an error here, and not the end of this process.
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    # Fabric takes the group that it finds. Its own would need a port, which another program can take meanwhile.
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.FileStore(str(folder / "store"), size),  # type: ignore[attr-defined]  # public, not listed
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
        **options,
    )
    fabric = Fabric(
        accelerator=device.type,
        devices=[device_of(leader, one).index for one in range(size)] if device.type == "cuda" else size,
        strategy=DDPStrategy(cluster_environment=Started()),
    )
    fabric.launch()
    return Team(rank, size, fabric)


def device_of(leader: torch.device, rank: int) -> torch.device:
    """The device of a process: `rank` GPUs after the first, or the CPU."""
    return torch.device("cuda", (leader.index or 0) + rank) if leader.type == "cuda" else leader


def _hand_over(task: Mapping[str, object], file: Path) -> None:
    try:
        torch.save(dict(task), file)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise _not_for_others(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def _start(folder: Path, rank: int, size: int, leader: torch.device) -> subprocess.Popen[bytes]:
    options = (folder, rank, size, leader, torch.get_num_threads())
    with (folder / f"log-{rank}").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "interpretgan.gan.follower", *map(str, options)],
            stdin=subprocess.PIPE,  # closed when this process ends, however it ends: the follower then ends too
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            start_new_session=True,  # Ctrl-C is for this process, which ends the others by itself
        )


def _await(folder: Path, followers: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait until all followers have read their task."""
    until = time.monotonic() + PATIENCE.total_seconds()
    while not all((folder / f"ready-{rank}").exists() for rank in range(1, len(followers) + 1)):
        lost = _ended(folder, followers)
        if lost is not None:
            raise _not_for_others(lost)
        if time.monotonic() > until:
            raise TrainingError(
                expected=f"{len(followers)} more processes within {PATIENCE}", got="fewer", do="use fewer devices"
            )
        time.sleep(0.05)


def _ended(folder: Path, followers: Sequence[subprocess.Popen[bytes]], seconds: float = 0.0) -> str | None:
    """How the first follower ended that did, within so many seconds; `None` where all are alive."""
    until = time.monotonic() + seconds
    while True:
        for rank, follower in enumerate(followers, start=1):
            if follower.poll() is not None:
                return how_it_ended(follower.returncode, folder / f"log-{rank}")
        if time.monotonic() >= until:
            return None
        time.sleep(0.05)


def _not_for_others(why: str) -> ConfigError:
    return ConfigError(
        expected="a classifier and images that can be brought to the process of another device",
        got=why,
        do="define their classes and functions at the top of a module that can be imported, or use 1 device",
    )
