"""What all trainings share, each against its formula."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from interpretgan.errors import TrainingError
from interpretgan.store.progress import Progress
from interpretgan.store.training_checkpoint import Checkpoint
from interpretgan.training.steps import MovingAverage, read_now, resumable, swapped, told, warm_up_and_cosine


def test_the_rate_rises_and_falls_to_its_floor() -> None:
    rates = [warm_up_and_cosine(step, 200, floor=0.1) for step in range(201)]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == rates[19]
    assert rates[100] == pytest.approx(0.55)
    assert rates[200] == pytest.approx(0.1)


def test_a_gpu_is_waited_for_at_every_tenth_step_and_the_last_and_only_these_are_told() -> None:
    gpu, read = torch.device("cuda"), list[Progress]()
    on_step = told(read.append, "generator", 24)
    for step in range(24):
        on_step(step + 1, {"loss": 0.5} if read_now(step, 24, gpu) else {})
    assert [(progress.done, progress.start) for progress in read] == [(10, 0), (20, 0), (24, 0)]
    assert all(read_now(step, 24, torch.device("cpu")) for step in range(24))


def test_a_moving_average_is_its_formula() -> None:
    network = nn.BatchNorm1d(2)
    average, by_hand = MovingAverage(network, 0.3), 0.0
    for t in range(1, 9):
        with torch.no_grad():
            network.running_mean.fill_(t)  # type: ignore[union-attr]  # it tracks its statistics
            network.num_batches_tracked.fill_(t)  # type: ignore[union-attr]  # as above
        average.update(network, t)
        decay = min(0.3, (1 + t) / (10 + t))
        by_hand = decay * by_hand + (1 - decay) * t
    assert average.state["running_mean"].tolist() == pytest.approx([by_hand] * 2)
    assert average.state["num_batches_tracked"] == 8  # a counter is no average
    average.update(network, 0)
    assert average.state["running_mean"].tolist() == [8.0, 8.0]


def test_a_swapped_network_gets_its_own_state_back_also_after_an_error() -> None:
    network = nn.Linear(2, 2)
    own = copy.deepcopy(network.state_dict())

    def fail_inside() -> None:
        with swapped(network, {name: 0 * value for name, value in own.items()}):
            assert not network.weight.any()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert torch.equal(network.weight, own["weight"])


class Killed(BaseException):
    pass


def train(checkpoint: Checkpoint, kill_at: int = 9) -> tuple[list[int], list[float]]:
    """A random walk of six steps, to which a network and a generator belong."""
    torch.manual_seed(0)
    network, random, told = nn.Linear(1, 1), torch.Generator().manual_seed(5), list[int]()

    def on_step(step: int, losses: dict[str, float]) -> None:
        assert set(losses) == {"loss"}
        if step == kill_at:
            raise Killed
        told.append(step)

    for _, losses in resumable(6, {"network": network}, checkpoint, random=random, on_step=on_step):
        with torch.no_grad():
            network.weight += torch.randn(1, generator=random)
        losses["loss"] = network.weight.item()
    return told, [network.weight.item(), torch.randn(1, generator=random).item()]


def test_steps_go_on_where_the_checkpoint_stands(tmp_path: Path) -> None:
    _, unbroken = train(Checkpoint(None, ""))
    with pytest.raises(Killed):
        train(Checkpoint(tmp_path / "c.pt", "", every=0.0), kill_at=4)
    told, resumed = train(Checkpoint(tmp_path / "c.pt", "", every=1e6))
    assert told == [4, 5, 6]  # the fourth had not been saved
    assert resumed == unbroken
    assert train(Checkpoint(tmp_path / "c.pt", "")) == ([], unbroken)  # the end is saved whatever the time


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    """As where the losses of a GPU were not read: the training can be gone on from the state before."""
    network, checkpoint = nn.Linear(1, 1), Checkpoint(tmp_path / "c.pt", "", every=0.0)
    steps = resumable(4, {"network": network}, checkpoint)
    assert [next(steps)[0] for _ in range(3)] == [0, 1, 2]
    network.weight.data.fill_(float("nan"))
    with pytest.raises(TrainingError, match="weights of the network, got NaN at step 3; lower the learning rate"):
        next(steps)
    assert [step for step, _ in resumable(4, {"network": network}, Checkpoint(tmp_path / "c.pt", ""))] == [2, 3]


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    steps = resumable(2, {}, Checkpoint(None, ""))
    _, losses = next(steps)
    losses.update({"loss": float("nan"), "other": 1.0})
    with pytest.raises(TrainingError, match="got loss nan, other 1 at step 1; lower the learning rate"):
        next(steps)
