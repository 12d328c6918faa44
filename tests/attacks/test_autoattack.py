"""AutoAttack is the reference package's, and gives back what it borrows."""

from __future__ import annotations

import copy
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pyautoattack import AutoAttack
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, check_perturbation
from interpretgan.attacks.autoattack import STAGES, autoattack
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError, ImageError, LabelError, ModelError, RunFolderError
from interpretgan.store.progress import Progress
from tests.networks import Tiny, detached

Examples = tuple[Tensor, Tensor]


class Brief(AutoAttack):  # type: ignore[misc]  # the package ships no types
    """The reference package's, with fewer queries of its black-box attack, which takes most of the time."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.square.n_queries = 300


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyautoattack.AutoAttack", Brief)


def test_every_image_is_the_reference_packages(net: Tiny, digits: Examples) -> None:
    """In several batches, with examples that fall to every kind of stage and some that withstand all."""
    images, labels = digits[0][:20], digits[1][:20]
    eps, seed, batch_size = 0.124, 3, 10
    net.train()
    found = autoattack(Classifier(net), images, labels, ThreatModel("linf", eps), seed=seed, batch_size=batch_size)
    net.eval()
    reference = Brief(net, norm="Linf", eps=eps, seed=seed)
    reference.logger.disabled = True
    tracing = sys.gettrace()
    with torch.random.fork_rng():
        expected, predicted = reference.run_standard_evaluation(images, labels, batch_size=batch_size)
    sys.settrace(tracing)
    reference.logger.disabled = False
    assert torch.equal(found.images, expected)
    assert torch.equal(found.right, predicted == labels)
    assert 0 < int(found.right.sum()) < 12
    after = found.settings["accuracy_after"]
    assert list(after) == list(STAGES)
    assert after["square"] == int(found.right.sum()) / len(labels)
    assert sorted(after.values(), reverse=True) == list(after.values())


def few_classes(classes: int, bounds: tuple[float, float] = (0, 1)) -> tuple[Classifier, Tensor, Tensor]:
    """A linear model that small perturbations cannot fool, on small images that are not square."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 7, classes))
    low, high = bounds
    classifier = Classifier(model, bounds, mean=(low, low), std=(high - low, high - low))
    images = low + (high - low) * torch.rand(6, 2, 6, 7)
    return classifier, images, classifier.logits(images).argmax(dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_four_classes_are_enough_and_three_are_not(norm: str) -> None:
    classifier, images, labels = few_classes(4)
    found = autoattack(classifier, images[:2], labels[:2], ThreatModel(norm, 1e-3), seed=0)
    assert found.right.any()
    for classes in (2, 3):
        classifier, images, labels = few_classes(classes)
        with pytest.raises(ConfigError, match=f"at least 4 classes .* got a classifier of {classes}"):
            autoattack(classifier, images, labels, ThreatModel(norm, 1e-3), seed=0)


def test_other_bounds_are_the_users() -> None:
    """Pixels of 0 to 255 are attacked as those of 0 to 1 are, and images that withstand come back as they were."""
    unit, unit_images, labels = few_classes(5)
    wide, images, _ = few_classes(5, (-55.0, 200.0))
    threat_model = ThreatModel("linf", 0.06 * 255)
    found = autoattack(wide, images, labels, threat_model, seed=0)
    expected = autoattack(unit, unit_images, labels, ThreatModel("linf", 0.06), seed=0)
    check_perturbation(images, found.images, threat_model, wide.bounds)
    assert torch.equal(found.right, expected.right)
    assert 0 < int(found.right.sum()) < 6
    assert torch.equal(wide.logits(found.images).argmax(dim=1) == labels, found.right)
    assert torch.equal(found.images[found.right], images[found.right])


def test_everything_is_given_back_and_nothing_is_printed(
    net: Tiny, digits: Examples, capfd: pytest.CaptureFixture[str]
) -> None:
    model = copy.deepcopy(net).train()
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tracer = sys.gettrace()
    told: list[tuple[str, int, int]] = []
    images, labels, threat_model = digits[0][:8], digits[1][:8], ThreatModel("linf", 0.4)
    autoattack(
        Classifier(model),
        images,
        labels,
        threat_model,
        seed=0,
        on_progress=lambda at: told.append((at.stage, at.done, at.total)),
    )
    assert torch.equal(torch.rand(3), expected)
    assert sys.gettrace() is tracer
    assert not logging.getLogger("auto-attack").disabled
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert told[:2] == [("apgd-ce", 0, 8), ("apgd-ce", 8, 8)]
    assert capfd.readouterr() == ("", "")


def test_an_interruption_gives_everything_back(net: Tiny, digits: Examples) -> None:
    model = copy.deepcopy(net).train()

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        autoattack(Classifier(model), *digits, ThreatModel("linf", 0.1), seed=0, on_progress=interrupt)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not logging.getLogger("auto-attack").disabled


def test_an_attack_that_goes_on_finds_what_it_would_have_found(
    net: Tiny, digits: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before the first batch, inside a stage and at the end of one: no batch is attacked twice."""
    images, labels, threat_model = digits[0][:20], digits[1][:20], ThreatModel("linf", 0.124)
    settings: dict[str, Any] = {"seed": 3, "batch_size": 10, "checkpoint_seconds": 0.0}
    told: list[tuple[str, int, int]] = []

    def tell(at: Progress) -> None:
        told.append((at.stage, at.done, at.total))

    whole = autoattack(Classifier(net), images, labels, threat_model, on_progress=tell, **settings)

    attacked: list[str] = []
    run = AutoAttack.run_standard_evaluation

    def counted(self: AutoAttack, *arguments: Any, **options: Any) -> Any:
        attacked.extend(self.attacks_to_run)
        return run(self, *arguments, **options)

    monkeypatch.setattr(AutoAttack, "run_standard_evaluation", counted)
    again: dict[str, Any] = {**settings, "checkpoint": tmp_path / "checkpoint.pt"}
    for halt in (told[0], told[1], next(at for at in told if at[0] == "apgd-t" and at[1] == at[2])):

        def stop(at: Progress, halt: tuple[str, int, int] = halt) -> None:
            if (at.stage, at.done, at.total) == halt:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            autoattack(Classifier(net), images, labels, threat_model, on_progress=stop, **again)
    found = autoattack(Classifier(net), images, labels, threat_model, **again)
    assert torch.equal(found.images, whole.images)
    assert torch.equal(found.right, whole.right)
    assert found.settings["accuracy_after"] == whole.settings["accuracy_after"]
    assert attacked == [stage for stage, done, _ in told if done]
    assert found.seconds > whole.seconds / 2  # of all four processes, not of the last alone


def test_a_checkpoint_of_another_attack_is_refused(net: Tiny, digits: Examples, tmp_path: Path) -> None:
    images, labels, threat_model = digits[0][:8], digits[1][:8], ThreatModel("linf", 0.3)
    checkpoint = tmp_path / "checkpoint.pt"
    settings: dict[str, Any] = {"checkpoint": checkpoint, "checkpoint_seconds": 0.0}
    autoattack(Classifier(net), images, labels, threat_model, seed=0, **settings)
    kept = checkpoint.read_bytes()
    other = copy.deepcopy(net)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    for changed in (
        (Classifier(net), images, labels, ThreatModel("linf", 0.2), 0),
        (Classifier(net), images, labels, threat_model, 1),
        (Classifier(net), images.flip(0), labels.flip(0), threat_model, 0),
        (Classifier(other), images, labels, threat_model, 0),
        (Classifier(net, mean=(0.1,), std=(1.0,)), images, labels, threat_model, 0),
    ):
        *arguments, seed = changed
        with pytest.raises(RunFolderError, match=r"a checkpoint of the same work, got .*checkpoint\.pt"):
            autoattack(*arguments, seed=seed, **settings)  # type: ignore[arg-type]  # four of them
    assert checkpoint.read_bytes() == kept
    checkpoint.write_bytes(b"half a file")
    with pytest.raises(RunFolderError, match="a complete checkpoint"):
        autoattack(Classifier(net), images, labels, threat_model, seed=0, **settings)
    assert checkpoint.read_bytes() == b"half a file"


def test_refused_inputs(sound: Classifier, digits: Examples) -> None:
    images, labels = digits
    with pytest.raises(LabelError):
        autoattack(sound, images, labels + 5, ThreatModel("linf", 0.1), seed=0)
    with pytest.raises(ImageError):
        autoattack(sound, images + 1, labels, ThreatModel("linf", 0.1), seed=0)
    with pytest.raises(ModelError, match="gradients"):
        autoattack(Classifier(detached()), images, labels, ThreatModel("linf", 0.1), seed=0)
    small = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
    with pytest.raises(ImageError, match="5 pixels a side"):
        autoattack(small, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]), ThreatModel("l2", 0.1), seed=0)
