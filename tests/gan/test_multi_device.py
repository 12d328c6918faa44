from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from interpretgan.classifier import Classifier
from interpretgan.data import load_data
from interpretgan.errors import ConfigError, TrainingError
from interpretgan.gan import multi_device
from interpretgan.gan.generator import Generator
from interpretgan.gan.multi_device import Team, check_team, gathered
from interpretgan.gan.train import GANConfig, train_generator
from interpretgan.layers import examine
from tests.networks import Tiny

CONFIG = GANConfig(steps=6, images_per_layer=4, width=16, blocks=1, noise=4, precision="fp32")
CPU = torch.device("cpu")
Losses = list[dict[str, float]]


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Tiny().train(), mean=(0.2,), std=(0.3,))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that were started, which must be gone at the end."""
    processes: list[subprocess.Popen[bytes]] = []
    start = multi_device._start

    def recorded(*arguments: Any) -> subprocess.Popen[bytes]:
        processes.append(start(*arguments))
        return processes[-1]

    monkeypatch.setattr(multi_device, "_start", recorded)
    yield processes
    assert processes
    assert all(process.returncode is not None for process in processes)
    assert not distributed.is_initialized()


def train(classifier: Classifier, **more: Any) -> tuple[Generator, Losses]:
    digits = load_data("digits", "train")
    layers = examine(classifier, digits.batch([0, 1, 2])[0]).distinct
    losses: Losses = []
    on_step = more.pop("on_step", lambda _, values: losses.append(values))
    return train_generator(classifier, layers, digits, CONFIG, seed=1, on_step=on_step, **more), losses


def assert_same_up_to_rounding(one: Generator, other: Generator) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_two_processes_train_the_generator_that_one_does(
    classifier: Classifier, started: list[subprocess.Popen[bytes]]
) -> None:
    torch.manual_seed(1)
    recognition_network, state = Classifier(Tiny(), mean=(0.2,), std=(0.3,)), torch.get_rng_state()
    alone, losses = train(classifier, recognition_network=recognition_network)
    together, shared = train(classifier, recognition_network=recognition_network, devices=2)
    assert_same_up_to_rounding(alone, together)
    assert len(shared) == len(losses) == CONFIG.steps
    for one, other in zip(losses, shared, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
    assert [process.returncode for process in started] == [0]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())


def test_a_training_goes_on_with_another_number_of_devices(
    classifier: Classifier, started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    def interrupt(step: int, _losses: dict[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(classifier, checkpoint=checkpoint, checkpoint_seconds=0.0, on_step=interrupt)
    resumed, losses = train(classifier, checkpoint=checkpoint, devices=2)
    assert len(losses) == 3  # the fourth had not been saved
    assert_same_up_to_rounding(train(classifier)[0], resumed)
    assert started


def test_a_process_that_dies_ends_the_training_and_is_named(
    classifier: Classifier, started: list[subprocess.Popen[bytes]]
) -> None:
    def kill(step: int, _losses: dict[str, float]) -> None:
        if step == 2:
            started[0].kill()

    began = time.monotonic()
    with pytest.raises(TrainingError, match="got one that died: killed by SIGKILL; run it again"):
        train(classifier, devices=2, on_step=kill)
    assert time.monotonic() - began < 120


def test_an_interruption_leaves_no_process_behind(
    classifier: Classifier, started: list[subprocess.Popen[bytes]]
) -> None:
    def interrupt(step: int, _losses: dict[str, float]) -> None:
        if step == 2:
            assert started[0].poll() is None
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(classifier, devices=2, on_step=interrupt)


def test_a_follower_ends_when_its_leader_is_gone(classifier: Classifier, tmp_path: Path) -> None:
    multi_device._hand_over({}, tmp_path / multi_device.TASK)
    follower = multi_device._start(tmp_path, 1, 2, CPU)
    multi_device._await(tmp_path, [follower])  # from here on it waits for its leader
    assert follower.stdin is not None
    follower.stdin.close()
    assert follower.wait(60) == 1


class Nameless(nn.Module):
    """Something that pickle does not take, in a network that is fine otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()
        self.last: Callable[[Tensor], Tensor] = lambda logits: logits

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.net(x))
        return logits


def test_what_cannot_be_brought_to_another_process_is_told_in_a_line(
    started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"top of a module that can be imported"):
        train(Classifier(Nameless()), devices=2)
    assert not started
    monkeypatch.setattr(Tiny, "__module__", "__main__")  # as in a script, which no other process imports
    monkeypatch.setattr("__main__.Tiny", Tiny, raising=False)
    with pytest.raises(ConfigError, match=r"Can't get attribute 'Tiny'.*top of a module that can be imported"):
        train(Classifier(Tiny()), devices=2)


def test_alone_everything_stays_what_it_is() -> None:
    rows = torch.arange(6.0)
    with gathered(1, CPU, {}) as team:
        assert torch.equal(team.share(rows), rows)
        assert torch.equal(team.mean(rows), rows)
    assert (team.rank, team.size) == (0, 1)


def test_shares_are_disjoint_and_equal_at_every_layer() -> None:
    layer = torch.arange(3).repeat_interleave(4)
    shares = [Team(rank, 2).share(torch.arange(12)) for rank in range(2)]
    assert sorted(torch.cat(shares).tolist()) == list(range(12))
    assert all(layer[share].bincount().tolist() == [2, 2, 2] for share in shares)


@pytest.mark.parametrize(
    ("devices", "leader", "message"),
    [
        (0, None, "expected devices >= 1, got 0"),
        (3, None, "images_per_layer that 3 devices can share equally, got 16; try 18"),
        (2, torch.device("mps"), "expected 2 GPUs from mps:0 on, got 1"),
        (4, torch.device("cuda", 1), "expected 4 GPUs from cuda:1 on, got 2"),
    ],
)
def test_devices_that_cannot_share_a_training_are_refused(
    monkeypatch: pytest.MonkeyPatch, devices: int, leader: torch.device | None, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    with pytest.raises(ConfigError, match=message):
        check_team(devices, 16, leader)


def test_without_the_extra_one_device_is_all(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # to import it is an error now
    assert train(classifier)
    check_team(1, 15, torch.device("cuda", 7))
    with pytest.raises(ConfigError, match=r"pip install 'interpretgan\[fabric\]'"):
        check_team(2, 16)


def test_a_process_of_another_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="without torchrun"):
        check_team(2, 16)
