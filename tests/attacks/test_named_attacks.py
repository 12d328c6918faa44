"""Each attack by name: within the threat model, against the true class, and as strong as it should be."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack, check_perturbation
from interpretgan.attacks.minimal_norm import CARLINI_WAGNER
from interpretgan.attacks.named_attacks import NAMED_ATTACKS, check_names, survivors
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError

Examples = tuple[Tensor, Tensor]


def right(classifier: Classifier, images: Tensor, labels: Tensor) -> int:
    return int((classifier.logits(images).argmax(dim=1) == labels).sum())


def run(name: str, threat_model: ThreatModel, classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    method = NAMED_ATTACKS[name](threat_model, classifier.bounds)
    return attack(classifier, images, labels, method.threat_model, seed=0, method=method.search)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 1.5)])
def test_every_attack_succeeds_within_the_threat_model(
    norm: str, eps: float, sound: Classifier, digits: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARLINI_WAGNER, "steps", 60)
    images, labels = digits[0][:40], digits[1][:40]
    threat_model = ThreatModel(norm, eps, steps=20)
    natural, left = right(sound, images, labels), {}
    for name, make in NAMED_ATTACKS.items():
        method = make(threat_model, sound.bounds)
        found = attack(sound, images, labels, method.threat_model, seed=0, method=method.search)
        check_perturbation(images, found, threat_model, sound.bounds)
        left[name] = right(sound, found, labels)
        assert left[name] < 0.8 * natural, name
        assert {"steps", "loss", "restarts"} <= method.settings.keys()
    assert left["pgd"] < left["fgsm"]
    assert left["cw"] < left["fgsm"]
    assert abs(left["cw"] - left["pgd"]) <= 4


@pytest.mark.parametrize("name", sorted(NAMED_ATTACKS))
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_found_of_an_image_does_not_depend_on_those_beside_it(
    name: str, norm: str, sound: Classifier, digits: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CARLINI_WAGNER, "steps", 60)
    monkeypatch.setitem(CARLINI_WAGNER, "binary_search_steps", 2)
    images, labels = digits[0][:12], digits[1][:12]
    method = NAMED_ATTACKS[name](ThreatModel(norm, 0.1 if norm == "linf" else 0.8, steps=5), sound.bounds)
    whole, parts = (
        attack(sound, images, labels, method.threat_model, seed=0, method=method.search, batch_size=size)
        for size in (12, 5)
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=2e-4)


def test_other_bounds_are_the_users(sound: Classifier, digits: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minimisation has constants with the units of the pixels."""
    monkeypatch.setitem(CARLINI_WAGNER, "steps", 60)
    images, labels = digits[0][:30], digits[1][:30]
    wide = Classifier(sound.model, (0, 255), std=(255,))
    for name in ("cw", "deepfool"):
        left = [
            right(model, run(name, tm, model, x, labels), labels)
            for model, x, tm in (
                (sound, images, ThreatModel("l2", 1.2)), (wide, 255 * images, ThreatModel("l2", 1.2 * 255)),
            )
        ]  # fmt: skip
        assert left[0] == left[1] < 25


def test_cw_in_linf_ascends_the_margin_where_the_cross_entropy_is_flat() -> None:
    """Logits so far apart that the softmax saturates: the cross-entropy has no gradient, the margin has one."""
    torch.manual_seed(0)
    linear = nn.Linear(30, 3, bias=False)
    with torch.no_grad():
        linear.weight.mul_(1e5)
    classifier, images = Classifier(nn.Sequential(nn.Flatten(), linear)), torch.rand(12, 1, 5, 6)
    labels, threat_model = classifier.logits(images).argmax(dim=1), ThreatModel("linf", 0.3, steps=10)
    cw, pgd = (run(name, threat_model, classifier, images, labels) for name in ("cw", "pgd"))
    assert right(classifier, cw, labels) == 0
    assert right(classifier, pgd, labels) > 6


def test_the_users_logging_is_left_alone(sound: Classifier, digits: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    for name in NAMED_ATTACKS:
        run(name, ThreatModel("linf", 0.1, steps=1), sound, digits[0][:2], digits[1][:2])
    assert logging.root.handlers == []


def test_restarts_go_on_with_the_survivors(sound: Classifier, digits: Examples) -> None:
    images, labels = digits
    counts = []
    previous = torch.ones_like(labels, dtype=torch.bool)
    for restarts in (1, 2, 6):
        tm = ThreatModel("linf", 0.08, steps=3, restarts=restarts)
        left = survivors(sound, images, labels, tm, seed=0)
        assert not (left & ~previous).any()
        previous = left
        counts.append(int(left.sum()))
    assert counts[0] > counts[-1] > 0
    once = attack(sound, images, labels, ThreatModel("linf", 0.08, steps=3), seed=0)
    assert abs(counts[0] - right(sound, once, labels)) <= 3


def test_names() -> None:
    assert check_names(["pgd", "autoattack"]) == ("pgd", "autoattack")
    for names, got in (([], "''"), (["pgd", "apgd"], "'apgd'"), (["pgd", "pgd"], "'pgd,pgd'")):
        with pytest.raises(ConfigError, match=f"fgsm, pgd, cw, deepfool, autoattack, each once, got {got}"):
            check_names(names)
