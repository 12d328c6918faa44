"""Training: it learns, it resumes bit for bit, it is the same whatever surrounds it."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet, load_data
from interpretgan.errors import ConfigError, DataError, ModelError, RunFolderError, TrainingError
from interpretgan.models import build_model, load_weights
from interpretgan.store.progress import Progress
from interpretgan.training import (
    AdversarialTraining,
    Batch,
    Natural,
    Objective,
    Recipe,
    Trades,
    TrainingResult,
    evaluate_accuracy,
    fast_training,
    train_classifier,
)
from tests.networks import detached

PGD2 = ThreatModel("linf", 0.1, steps=2)
PGD = AdversarialTraining(PGD2, warmup=0.5)
RECIPE = Recipe(epochs=2, batch_size=50, lr=0.01)


class FreeTraining(Objective):
    """Every batch several times, the perturbation carried on by the gradient of the step itself [23]: for the seam."""

    replays = 3

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self.delta = torch.empty(0)

    def __repr__(self) -> str:
        return f"FreeTraining({self.eps})"

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.replay and self.delta.grad is not None:
            self.delta = (self.delta + self.eps * self.delta.grad.sign()).detach().clamp(-self.eps, self.eps)
        elif not batch.replay:
            self.delta = torch.zeros_like(batch.images)
        self.delta.requires_grad_()
        logits = classifier.run((batch.images + self.delta).clamp(*classifier.bounds)).float()
        return nn.functional.cross_entropy(logits, batch.labels), logits

    def state_dict(self) -> dict[str, Any]:
        return {"delta": self.delta.detach(), "gradient": self.delta.grad}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.delta = state["delta"].requires_grad_()
        self.delta.grad = state["gradient"]


class CarriedPerturbations(Objective):
    """A perturbation per image that is carried from epoch to epoch [10]: for the seam."""

    def __init__(self, count: int) -> None:
        self.deltas = torch.zeros(count, 1, 12, 12)

    def __repr__(self) -> str:
        return "CarriedPerturbations()"

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        x = (batch.images + self.deltas[batch.indices]).requires_grad_()
        (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(classifier.run(x).float(), batch.labels), x)
        delta = (self.deltas[batch.indices] + 0.05 * gradient.sign()).clamp(-0.1, 0.1)
        self.deltas[batch.indices] = delta
        logits = classifier.run((batch.images + delta).clamp(*classifier.bounds)).float()
        return nn.functional.cross_entropy(logits, batch.labels), logits

    def state_dict(self) -> dict[str, Any]:
        return {"deltas": self.deltas}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.deltas = state["deltas"].clone()


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "natural": Natural,
    "fast": lambda: fast_training("linf", 0.1),
    "pgd": lambda: PGD,
    "trades": lambda: Trades(PGD2, beta=3.0),
    "free": lambda: FreeTraining(0.1),
    "carried": lambda: CarriedPerturbations(500),
}


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return load_data("digits", "train", image_size=12)


@pytest.fixture(scope="module")
def test() -> ImageSet:
    return load_data("digits", "test", image_size=12)


def fresh(seed: int = 0) -> Classifier:
    """A net with BatchNorm and dropout: both have state that a resume must bring back."""
    torch.manual_seed(seed)
    return Classifier(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(200, 10),
        )
    )


def run(classifier: Classifier, data: ImageSet, objective: Objective, **changes: Any) -> TrainingResult:
    """Train by `RECIPE`, except for the named changes of it or of the call."""
    fields = {field.name for field in dataclasses.fields(Recipe)}
    recipe = dataclasses.replace(RECIPE, **{name: changes.pop(name) for name in fields & changes.keys()})
    return train_classifier(classifier, data, objective=objective, recipe=recipe, **({"seed": 3} | changes))


def state(classifier: Classifier) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in classifier.model.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())


class Interrupted(Exception):
    """Stands for a killed process."""


def stop_after(step: int) -> Any:
    def report(progress: Progress) -> None:
        if progress.done >= step:
            raise Interrupted

    return report


class StopInside(Objective):
    """An objective that dies in the middle of an epoch, under the name of the one that it wraps."""

    def __init__(self, objective: Objective, calls: int) -> None:
        self.objective, self.calls, self.replays = objective, calls, objective.replays

    def __repr__(self) -> str:
        return repr(self.objective)

    @property
    def selection(self) -> ThreatModel | None:
        return self.objective.selection

    def state_dict(self) -> dict[str, Any]:
        return self.objective.state_dict()

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        self.calls -= 1
        if self.calls < 0:
            raise Interrupted
        return self.objective.loss(classifier, batch)


def test_digits_are_learned(train: ImageSet, test: ImageSet) -> None:
    torch.manual_seed(0)
    classifier = Classifier(build_model("lenet5", in_channels=1, num_classes=10, image_size=12))
    chance = evaluate_accuracy(classifier, test)
    run(classifier, train, Natural(), epochs=12, lr=0.004)
    assert chance < 0.3
    assert evaluate_accuracy(classifier, test) > 0.93


def test_adversarial_training_makes_robust(train: ImageSet, test: ImageSet) -> None:
    x, y = test.batch(slice(0, 200))
    threat_model = ThreatModel("linf", 0.15, steps=10)

    def robust(objective: Objective) -> float:
        classifier = fresh()
        run(classifier, train, objective, epochs=8)
        found = attack(classifier, x, y, threat_model, seed=0)
        return float((classifier.logits(found).argmax(dim=1) == y).float().mean())

    natural, adversarial = robust(Natural()), robust(AdversarialTraining(ThreatModel("linf", 0.15, steps=3)))
    assert adversarial > natural + 0.2


@pytest.mark.parametrize(
    ("name", "when", "bf16"), [*((name, 7, False) for name in OBJECTIVES), ("pgd", 0, False), ("pgd", 28, True)]
)
def test_resume_equals_uninterrupted(tmp_path: Path, train: ImageSet, name: str, when: int, bf16: bool) -> None:
    data, make = train.head(500), OBJECTIVES[name]
    settings = {"bf16": bf16, "augmentation": "shift", "averaging": 0.9, "validation": 50, "batch_size": 30}
    whole = fresh()
    expected = run(whole, data, make(), **settings)
    part, path = fresh(), tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        run(part, data, StopInside(make(), when), checkpoint=path, checkpoint_seconds=0, **settings)
    resumed = fresh(seed=9 if when else 0)  # other weights: everything must come from the file
    torch.manual_seed(77)  # and another global state
    found = run(resumed, data, make(), checkpoint=path, **settings)
    assert equal(state(resumed), state(whole))
    assert found.steps == expected.steps
    for one, two in zip(found.history, expected.history, strict=True):
        assert one | {"seconds": 0.0} == two | {"seconds": 0.0}
    assert found.best == found.history[expected.history.index(expected.best or {})]
    assert (found.last is None) == (expected.last is None)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_finished_checkpoint_is_read_and_not_trained_again(tmp_path: Path, train: ImageSet) -> None:
    path, one, two = tmp_path / "c.pt", fresh(), fresh(seed=4)
    run(one, train, Natural(), checkpoint=path)
    run(two, train, Natural(), checkpoint=path, on_progress=stop_after(0))
    assert equal(state(one), state(two))


def test_foreign_and_damaged_checkpoints(tmp_path: Path, train: ImageSet) -> None:
    path = tmp_path / "c.pt"
    run(fresh(), train, Natural(), checkpoint=path)
    for changes in ({"seed": 4}, {"lr": 0.02}, {"averaging": 0.5}):
        with pytest.raises(RunFolderError, match="another model"):
            run(fresh(), train, Natural(), checkpoint=path, **changes)
    with pytest.raises(RunFolderError, match="another model"):
        run(fresh(), train, PGD, checkpoint=path)
    with pytest.raises(RunFolderError, match="another model"):
        run(fresh(), train.head(500), Natural(), checkpoint=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunFolderError, match="cannot be read"):
        run(fresh(), train, Natural(), checkpoint=path)


@pytest.mark.parametrize("fails", [False, True])
def test_global_state_and_flags_are_given_back(train: ImageSet, fails: bool) -> None:
    classifier = fresh()
    classifier.model[1].eval()  # type: ignore[index]  # a Sequential
    flags = [module.training for module in classifier.model.modules()]
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    if fails:
        with pytest.raises(Interrupted):
            run(classifier, train, Natural(), on_progress=stop_after(1))
    else:
        with torch.no_grad():
            run(classifier, train, Natural())
    assert torch.equal(torch.rand(2), expected)
    assert [module.training for module in classifier.model.modules()] == flags
    assert all(p.requires_grad for p in classifier.model.parameters())
    if not fails:
        assert all(p.grad is None for p in classifier.model.parameters())
    assert all(p.is_contiguous() for p in classifier.model.parameters())


def test_seed_decides(train: ImageSet) -> None:
    one, two, three = fresh(), fresh(), fresh()
    run(one, train, PGD)
    torch.manual_seed(99)
    run(two, train, PGD)
    run(three, train, PGD, seed=4)
    assert equal(state(one), state(two))
    assert not equal(state(one), state(three))


def test_frozen_parameters_stay(train: ImageSet) -> None:
    classifier = fresh()
    frozen = next(classifier.model.parameters())
    before = frozen.detach().clone()
    frozen.requires_grad_(False)
    run(classifier, train, Natural(), epochs=1)
    assert torch.equal(frozen, before)
    assert not frozen.requires_grad
    for parameter in classifier.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ModelError, match="parameters to train"):
        run(classifier, train, Natural())


class Viewing(nn.Sequential):
    """A network that lays its maps out by `view`, which channels last do not allow, or does so in training alone."""

    always = True

    def forward(self, images: Tensor) -> Tensor:
        maps = self[0](images)
        views = self.always or self.training
        logits: Tensor = self[1](maps.view(len(maps), -1) if views else maps.flatten(1))
        return logits


@pytest.mark.parametrize("always", [True, False])
def test_a_network_that_calls_view_is_trained(train: ImageSet, always: bool) -> None:
    torch.manual_seed(0)
    size = train.shape[1] * train.shape[2]
    network = Viewing(nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2 * size, 10))
    network.always = always
    classifier = Classifier(network, train.bounds)
    before = evaluate_accuracy(classifier, train)
    run(classifier, train, Natural(), epochs=2)
    assert evaluate_accuracy(classifier, train) > before + 0.2


def test_progress_reports_every_epoch(train: ImageSet) -> None:
    seen: list[Progress] = []
    run(fresh(), train, Natural(), on_progress=seen.append)
    assert [progress.values["epoch"] for progress in seen if progress.done % 26 == 0] == [1, 2]
    last = seen[-1]
    assert last.done == last.total == 52
    assert last.values["images_per_second"] > 0
    assert 0 <= last.values["accuracy"] <= 1


def test_refused_settings(train: ImageSet) -> None:
    with pytest.raises(ConfigError, match="fewer images held out"):
        run(fresh(), train, Natural(), validation=len(train))
    with pytest.raises(DataError, match="10 in digits"):
        run(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(144, 7))), train, Natural())
    with pytest.raises(ModelError, match="gradients reach its parameters, got a loss that depends on none"):
        run(Classifier(detached()), load_data("digits", "test").head(64), Natural(), epochs=1)
    broken = fresh()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(1e38)
    with pytest.raises(ModelError, match="finite logits"):
        run(broken, train, Natural(), epochs=1)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        run(fresh(), train, Natural(), lr=1e30)


def test_bounds_other_than_the_unit_interval(train: ImageSet, test: ImageSet) -> None:
    torch.manual_seed(0)
    classifier = Classifier(fresh().model, bounds=(0, 255), mean=[60.0], std=[80.0])
    run(classifier, train, AdversarialTraining(ThreatModel("linf", 10, steps=2)), epochs=4)
    assert evaluate_accuracy(classifier, test) > 0.8


class Recorder(Objective):
    """Natural training that remembers what it was shown."""

    replays = 1

    def __init__(self) -> None:
        self.indices: list[int] = []
        self.images: list[Tensor] = []

    def __repr__(self) -> str:
        return "Recorder()"

    def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
        self.indices += batch.indices.tolist()
        self.images.append(batch.images.clone())
        return Natural().loss(classifier, batch)


def test_images_held_out_are_never_trained_on(train: ImageSet) -> None:
    data, seen = train.head(1000), Recorder()
    run(fresh(), data, seen, validation=200, epochs=3)
    assert len(set(seen.indices)) == 800
    assert len(seen.indices) == 3 * 800


def test_indices_are_those_of_the_images(train: ImageSet) -> None:
    seen = Recorder()
    run(fresh(), train.head(200), seen, epochs=1)
    assert torch.equal(torch.cat(seen.images), train.batch(seen.indices)[0])


def test_a_replayed_batch_is_the_same_batch(train: ImageSet) -> None:
    seen = Recorder()
    seen.replays = 2
    result = run(fresh(), train.head(200), seen, epochs=2, augmentation="shift")
    assert result.steps == 2 * 4, "two batches of fifty, each twice: an epoch costs as many steps as before"
    assert all(torch.equal(*pair) for pair in zip(seen.images[::2], seen.images[1::2], strict=True))
    assert not torch.equal(seen.images[0], seen.images[2])


def test_the_best_epoch_is_kept_and_the_last_as_well(train: ImageSet) -> None:
    """At a learning rate that grows ruinous for the last epochs, the best is an earlier one."""

    class Ruin(Objective):
        def __repr__(self) -> str:
            return "Ruin()"

        def loss(self, classifier: Classifier, batch: Batch) -> tuple[Tensor, Tensor]:
            loss, logits = Natural().loss(classifier, batch)
            return (loss if batch.progress < 0.6 else -loss), logits

    data, classifier = train.head(1000), fresh()
    result = run(classifier, data, Ruin(), epochs=5, validation=200)
    assert result.best is not None
    assert result.last is not None
    merits = [epoch["validation_natural"] for epoch in result.history]
    assert result.best["validation_natural"] == max(merits)
    assert result.best["epoch"] == merits.index(max(merits)) + 1 < 5
    best = evaluate_accuracy(classifier, data)
    classifier.model.load_state_dict(result.last)
    assert evaluate_accuracy(classifier, data) < best - 0.2


class Counting(nn.Linear):
    """A layer with state that is no tensor."""

    passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return super().forward(x)

    def get_extra_state(self) -> int:
        return self.passes

    def set_extra_state(self, state: int) -> None:
        self.passes = state


@pytest.mark.parametrize("changes", [{}, {"averaging": 0.9, "validation": 50}])
def test_state_that_is_no_tensor_is_kept(train: ImageSet, changes: dict[str, Any]) -> None:
    counting = Counting(144, 10)
    run(Classifier(nn.Sequential(nn.Flatten(), counting)), train.head(200), Natural(), epochs=1, **changes)
    assert counting.passes > 2


def test_selection_is_by_robust_accuracy(train: ImageSet) -> None:
    result = run(fresh(), train, PGD, epochs=3, validation=100)
    assert result.best is not None
    assert all(0 <= epoch["validation_robust"] <= epoch["validation_natural"] <= 1 for epoch in result.history)
    assert result.best["validation_robust"] == max(epoch["validation_robust"] for epoch in result.history)


def test_averaged_weights_are_what_is_kept(train: ImageSet) -> None:
    """One step by hand: the average keeps two elevenths of the start, BatchNorm statistics included."""
    data, plain, averaged = train.head(100), fresh(), fresh()
    start = state(plain)
    run(plain, data, Natural(), epochs=1, batch_size=100)
    run(averaged, data, Natural(), epochs=1, batch_size=100, averaging=0.999)
    for key in ("0.weight", "1.running_var", "5.bias"):
        expected = start[key].lerp(state(plain)[key], 9 / 11)
        torch.testing.assert_close(state(averaged)[key], expected)
    assert state(averaged)["1.num_batches_tracked"] == 1


SCRIPT = """
import sys, torch
from pathlib import Path
sys.path.insert(0, {root!r})
from interpretgan.data import load_data
from interpretgan.models import save_weights
from tests.training.test_loop import PGD, fresh, run

classifier = fresh()
run(classifier, load_data("digits", "train", image_size=12), PGD, epochs=4, averaging=0.9, validation=100,
    checkpoint=Path({checkpoint!r}), checkpoint_seconds=0)
save_weights(classifier.model, Path({weights!r}))
"""


def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, train: ImageSet) -> None:
    """Kill -9 at a moment that nobody chose."""
    file, weights = tmp_path / "killed.pt", tmp_path / "killed.safetensors"
    script = SCRIPT.format(root=str(Path(__file__).parents[2]), checkpoint=str(file), weights=str(weights))

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})

    process = start()
    while process.poll() is None and not file.exists():
        time.sleep(0.005)
    time.sleep(0.07)
    process.send_signal(signal.SIGKILL)
    assert process.wait() in (-signal.SIGKILL, 0)
    assert start().wait() == 0
    threads, whole = torch.get_num_threads(), fresh()
    torch.set_num_threads(1)
    try:
        run(whole, train, PGD, epochs=4, averaging=0.9, validation=100)
    finally:
        torch.set_num_threads(threads)
    killed = fresh(seed=9)
    load_weights(killed.model, weights)
    assert equal(state(killed), state(whole))
