"""Training: it learns, it resumes bit for bit, it is the same whatever surrounds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack, perturbation_size
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet, load_data
from interpretgan.errors import ConfigError, DataError, ModelError, RunFolderError
from interpretgan.models import build_model
from interpretgan.training import (
    AdversarialTraining,
    Natural,
    Objective,
    Recipe,
    adversarial_objective,
    default_recipe,
    evaluate_accuracy,
    train_classifier,
)

PGD2 = ThreatModel("linf", 0.1, steps=2)
OBJECTIVES: list[Objective] = [Natural(), AdversarialTraining(PGD2, warmup=0.5)]


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


def run(classifier: Classifier, data: ImageSet, objective: Objective, **changes: Any) -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 50, "lr": 0.01, "seed": 3}
    train_classifier(classifier, data, objective=objective, **(settings | changes))


def state(classifier: Classifier) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in classifier.model.state_dict().items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(value, two[key]) for key, value in one.items())


class Interrupted(Exception):
    """Stands for a killed process."""


def stop_after(step: int) -> Any:
    def report(progress: dict[str, Any]) -> None:
        if progress["step"] >= step:
            raise Interrupted

    return report


class StopInside:
    """An objective that dies in the middle of an epoch, under the name of the one that it wraps."""

    def __init__(self, objective: Objective, calls: int) -> None:
        self.objective, self.calls = objective, calls

    def __repr__(self) -> str:
        return repr(self.objective)

    def loss(self, *args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        self.calls -= 1
        if self.calls < 0:
            raise Interrupted
        return self.objective.loss(*args, **settings)


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
        return float((classifier(found).argmax(dim=1) == y).float().mean())

    natural, adversarial = robust(Natural()), robust(AdversarialTraining(ThreatModel("linf", 0.15, steps=3)))
    assert adversarial > natural + 0.2


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES, ids=["natural", "adversarial"])
@pytest.mark.parametrize("when", [0, 7, 31])
def test_resume_equals_uninterrupted(
    tmp_path: Path, train: ImageSet, objective: Objective, when: int, bf16: bool
) -> None:
    data = train.head(1000)
    whole = fresh()
    run(whole, data, objective, bf16=bf16)
    part, path = fresh(), tmp_path / "checkpoint.pt"
    with pytest.raises(Interrupted):
        run(part, data, StopInside(objective, when), bf16=bf16, checkpoint=path, checkpoint_seconds=0)
    resumed = fresh(seed=9)  # other weights: everything must come from the file
    if not when:
        resumed = fresh()
    torch.manual_seed(77)  # and another global state
    run(resumed, data, objective, bf16=bf16, checkpoint=path)
    assert equal(state(resumed), state(whole))
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_finished_checkpoint_is_read_and_not_trained_again(tmp_path: Path, train: ImageSet) -> None:
    path, one, two = tmp_path / "c.pt", fresh(), fresh(seed=4)
    run(one, train, Natural(), checkpoint=path)
    run(two, train, Natural(), checkpoint=path, on_progress=stop_after(0))
    assert equal(state(one), state(two))


def test_foreign_and_damaged_checkpoints(tmp_path: Path, train: ImageSet) -> None:
    path = tmp_path / "c.pt"
    run(fresh(), train, Natural(), checkpoint=path)
    for changes in ({"seed": 4}, {"lr": 0.02}, {"epochs": 3}, {"weight_decay": 0.0}):
        with pytest.raises(RunFolderError, match="another model"):
            run(fresh(), train, Natural(), checkpoint=path, **changes)
    with pytest.raises(RunFolderError, match="another model"):
        run(fresh(), train, OBJECTIVES[1], checkpoint=path)
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
    run(one, train, OBJECTIVES[1])
    torch.manual_seed(99)
    run(two, train, OBJECTIVES[1])
    run(three, train, OBJECTIVES[1], seed=4)
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


def test_progress_reports_every_epoch(train: ImageSet) -> None:
    seen: list[dict[str, Any]] = []
    run(fresh(), train, Natural(), on_progress=seen.append)
    assert [report["epoch"] for report in seen if report["step"] % 26 == 0] == [1, 2]
    last = seen[-1]
    assert last["step"] == last["steps"] == 52
    assert last["images_per_second"] > 0
    assert 0 <= last["accuracy"] <= 1


def test_refused_settings(train: ImageSet) -> None:
    for changes in (
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"weight_decay": -1.0},
    ):
        with pytest.raises(ConfigError):
            run(fresh(), train, Natural(), **changes)
    with pytest.raises(DataError, match="10 in digits"):
        run(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(144, 7))), train, Natural())
    broken = fresh()
    with torch.no_grad():
        next(broken.model.parameters()).fill_(1e38)
    with pytest.raises(ModelError):
        run(broken, train, Natural(), epochs=1)


def test_bounds_other_than_the_unit_interval(train: ImageSet, test: ImageSet) -> None:
    torch.manual_seed(0)
    classifier = Classifier(fresh().model, bounds=(0, 255), mean=[60.0], std=[80.0])
    run(classifier, train, AdversarialTraining(ThreatModel("linf", 10, steps=2)), epochs=4)
    assert evaluate_accuracy(classifier, test) > 0.8


def test_warmup_grows_to_the_full_size() -> None:
    objective = AdversarialTraining(ThreatModel("linf", 0.4, steps=3, step_size=0.1), warmup=0.5)
    sizes = [objective.at(done) for done in (0.0, 0.1, 0.3, 0.5, 1.0)]
    assert [tm.eps for tm in sizes] == sorted(tm.eps for tm in sizes)
    assert sizes[0].eps == pytest.approx(0.02)
    assert sizes[-1] == sizes[-2] == objective.threat_model
    assert all(tm.resolved_step_size / tm.eps == pytest.approx(0.25) for tm in sizes)
    with pytest.raises(ConfigError):
        AdversarialTraining(PGD2, warmup=1.5)


def test_inner_attack_respects_eps_and_leaves_statistics_alone(train: ImageSet) -> None:
    classifier = fresh()
    classifier.model.train()
    x, y = train.batch(slice(0, 20))
    seen: list[Tensor] = []
    handle = classifier.model.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    before = state(classifier)["1.running_mean"]
    generator = torch.Generator().manual_seed(1)
    AdversarialTraining(PGD2).loss(classifier, x, y, progress=0, generator=generator)
    handle.remove()
    assert len(seen) == 3, "two inner passes and the one that trains"
    assert perturbation_size(seen[-1] - x, "linf").max() <= 0.1 + 1e-6
    expected = fresh()
    expected.model.train()
    expected.run(seen[-1])
    after, wanted = state(classifier)["1.running_mean"], state(expected)["1.running_mean"]
    assert torch.equal(after, wanted)
    assert not torch.equal(after, before)


def test_recipes_follow_the_size_of_the_data(train: ImageSet) -> None:
    for kind in ("natural", "adversarial"):
        recipe = default_recipe(train, kind)
        steps = recipe.epochs * (len(train) // recipe.batch_size)
        assert isinstance(recipe, Recipe)
        assert 300 < steps < 700
        assert default_recipe(train.head(10), kind).batch_size == 10
    with pytest.raises(ConfigError):
        default_recipe(train, "trades")
    small, large = (adversarial_objective(ThreatModel("linf", eps, steps=20)) for eps in (0.2, 0.4))
    assert small.warmup < large.warmup == 1
    assert small.natural_share == 0 < large.natural_share
    assert (small.threat_model.eps, small.threat_model.steps) == (0.2, 3)
