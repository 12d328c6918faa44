"""The process of every device but the first: `python -m interpretgan.gan.follower`, started by `parallel.gathered`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import distributed

from interpretgan.gan.multi_device import TASK, device_of, join
from interpretgan.gan.train import train_share
from interpretgan.store.processes import end_with_parent


def main(folder: Path, rank: int, size: int, leader: torch.device, threads: int) -> None:
    """Take this process's share of a training; the first process keeps the result.

    Args:
        folder: Where the team meets and the task lies.
        rank: Number of this process, from 1.
        size: How many there are.
        leader: Device of the first.
        threads: Of this process, as many as the first has.
    """
    torch.set_num_threads(threads)
    where = {str(leader): str(device_of(leader, rank))}
    task = torch.load(folder / TASK, map_location=where, weights_only=False)  # our own file, of a moment ago
    (folder / f"ready-{rank}").touch()
    train_share(join(folder, rank, size, leader), **task)
    distributed.destroy_process_group()


if __name__ == "__main__":
    end_with_parent()
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), torch.device(sys.argv[4]), int(sys.argv[5]))
