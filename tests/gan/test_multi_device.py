from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from joblib.externals import loky
from torch import Tensor, distributed, nn

from interpretgan.classifier import Classifier
from interpretgan.data import load_data
from interpretgan.errors import ConfigError, TrainingError
from interpretgan.gan.generator import Generator
from interpretgan.gan.multi_device import Team, check_team, gathered
from interpretgan.gan.train import GANConfig, train_generator
from interpretgan.layers import examine
from tests.networks import Tiny

CONFIG = GANConfig(steps=6, images_per_layer=4, width=16, blocks=1, noise=4, precision="fp32")
Losses = list[dict[str, float]]


class WithLambda(nn.Module):
    """Something that plain pickle does not take, as in a notebook."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Tiny()
        self.last: Callable[[Tensor], Tensor] = lambda logits: logits

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.net(x))
        return logits


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(WithLambda().train(), mean=(0.2,), std=(0.3,))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The processes that were started, which must be gone at the end."""
    processes: list[Any] = []

    class Recorded(loky.ProcessPoolExecutor):  # type: ignore[misc]  # it ships no types
        def submit(self, *arguments: Any) -> Any:
            future = super().submit(*arguments)
            processes.extend(self._processes.values())
            return future

    monkeypatch.setattr(loky, "ProcessPoolExecutor", Recorded)
    yield processes
    assert processes
    assert not any(process.is_alive() for process in processes)
    assert not distributed.is_initialized()


def train(classifier: Classifier, config: GANConfig = CONFIG, **more: Any) -> tuple[Generator, Losses]:
    digits = load_data("digits", "train")
    # A power of two: the gradient of the score's bias is then zero, and not rounding that Adam divides by rounding.
    layers = examine(classifier, digits.batch([0, 1, 2])[0]).distinct[:4]
    losses: Losses = []
    on_step = more.pop("on_step", lambda _, values: losses.append(values))
    return train_generator(classifier, layers, digits, config, seed=1, on_step=on_step, **more), losses


def test_two_processes_go_on_to_the_generator_that_one_trains(
    classifier: Classifier, started: list[Any], tmp_path: Path
) -> None:
    """The first steps by one process, the rest by two: the same losses and weights, up to rounding."""

    def interrupt(step: int, _losses: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    torch.manual_seed(1)
    recognition_network, state = Classifier(Tiny(), mean=(0.2,), std=(0.3,)), torch.get_rng_state()
    alone, losses = train(classifier, recognition_network=recognition_network)
    checkpoint = tmp_path / "checkpoint.pt"
    settings: dict[str, Any] = {"recognition_network": recognition_network, "checkpoint": checkpoint}
    with pytest.raises(KeyboardInterrupt):
        train(classifier, checkpoint_seconds=0.0, on_step=interrupt, **settings)
    together, shared = train(classifier, devices=2, **settings)
    for name, value in alone.state_dict().items():
        # Where a gradient is next to nothing Adam divides rounding by rounding; one step is 4e-3.
        torch.testing.assert_close(together.state_dict()[name], value, rtol=1e-5, atol=1e-4, msg=name)
    assert len(losses) == CONFIG.steps
    assert len(shared) == CONFIG.steps - 2  # the third had not been saved
    for one, other in zip(losses[2:], shared, strict=True):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-6)
    assert len(started) == 1
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in classifier.model.parameters())


def test_two_processes_hold_explanations_to_what_one_would(classifier: Classifier, started: list[Any]) -> None:
    config = replace(CONFIG, steps=2, diversity=10.0)
    alone, shared = (train(classifier, config, devices=devices, left_open=[5.0] * 4)[1] for devices in (1, 2))
    for one, other in zip(alone, shared, strict=True):
        assert other["energy_score"] == pytest.approx(one["energy_score"], rel=1e-4)


def test_two_processes_share_the_noise_in_the_images(classifier: Classifier, started: list[Any]) -> None:
    config = replace(CONFIG, steps=1, image_noise=0.2)
    (alone,), (shared,), (without,) = (
        train(classifier, given, devices=devices)[1]
        for given, devices in ((config, 1), (config, 2), (replace(config, image_noise=0.0), 1))
    )
    for name in ("loss_d", "information", "latent"):  # before the discriminator's first step
        assert shared[name] == pytest.approx(alone[name], rel=1e-5)
    assert without["latent"] != pytest.approx(alone["latent"], rel=1e-2)
    assert len(started) == 1


def test_a_process_that_dies_ends_the_training_and_is_named(classifier: Classifier, started: list[Any]) -> None:
    def kill(step: int, _losses: dict[str, float]) -> None:
        if step == 2:
            os.kill(started[0].pid, signal.SIGKILL)

    with pytest.raises(TrainingError, match=r"got one that died: .*SIGKILL.*; run it again"):
        train(classifier, devices=2, on_step=kill)


def test_an_interruption_leaves_no_process_behind(classifier: Classifier, started: list[Any]) -> None:
    def interrupt(step: int, _losses: dict[str, float]) -> None:
        if step == 2:
            assert started[0].is_alive()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(classifier, devices=2, on_step=interrupt)


class Unwelcome:
    """What can be packed, and not be unpacked."""

    def __setstate__(self, state: object) -> None:
        raise ValueError("not here")

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}


def test_what_cannot_be_brought_to_another_process_is_refused(started: list[Any]) -> None:
    for brought, reason in ((threading.Lock(), "cannot pickle"), (Unwelcome(), "ValueError: not here")):
        with (
            pytest.raises(ConfigError, match=f"got .*{reason}.*; leave out what cannot be pickled"),
            gathered(2, print, {"classifier": Classifier(Tiny()), "brought": brought}),
        ):
            pytest.fail("a team without its second process")


def test_alone_everything_stays_what_it_is() -> None:
    rows = torch.arange(6.0)
    with gathered(1, print, {}) as team:
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
    check_team(1, 15, torch.device("cuda", 7))


def test_a_process_of_another_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    with pytest.raises(ConfigError, match="without torchrun"):
        check_team(2, 16)
