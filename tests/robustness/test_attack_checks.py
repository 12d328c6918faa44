"""Each refusal and each warning fires on a model, or a figure, built to trip it, and is silent on a sound one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack, check_perturbation, require_eps_within_range, require_gradient
from interpretgan.classifier import Classifier
from interpretgan.errors import Flag, ImageError, LayerError, ModelError, ThreatModelError
from interpretgan.layers import Layer, find_layers
from interpretgan.robustness import Sample, attack_checks as checks
from tests.networks import Answers, Residual, Tiny, detached

Examples = tuple[Tensor, Tensor]
THREAT = ThreatModel("linf", 0.15, steps=10)


class Around(nn.Module):
    """A network with something before it and something after it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x if self.before is None else self.before(x))
        return logits if self.after is None else self.after(logits)


class Counting(nn.Module):
    """Its logits grow with each call."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.net(x)
        return logits * self.calls


class Purifying(nn.Module):
    """A dynamic defence: it moves each image by a gradient of its own before it answers."""

    def __init__(self, net: nn.Module, *, backward: bool = False) -> None:
        super().__init__()
        self.net, self.backward = net, backward

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = x.detach().clone().requires_grad_()
            confidence = self.net(moved).logsumexp(dim=1).sum()
            if self.backward:
                confidence.backward()
                assert moved.grad is not None
                gradient = moved.grad
            else:
                (gradient,) = torch.autograd.grad(confidence, moved)
        logits: Tensor = self.net(x + 0.01 * gradient.sign())
        return logits


class AlwaysTraining(nn.Module):
    """Dropout that train(False) does not reach."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.drop = net, nn.Dropout(0.1)

    def train(self, mode: bool = True) -> AlwaysTraining:
        self.net.train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.drop(self.net(x))
        return logits


def saturated(net: nn.Module) -> Classifier:
    return Classifier(Around(net, after=lambda logits: 1e4 * logits))


def quantised(net: nn.Module) -> Classifier:
    return Classifier(Around(net, before=lambda x: (4 * x).round() / 4))


def randomised(net: nn.Module) -> Classifier:
    return Classifier(Around(net, after=lambda logits: logits + 3 * torch.randn_like(logits)))


def centred(net: nn.Module) -> Classifier:
    return Classifier(Around(net, before=lambda x: x - x.mean(dim=0)))


def centred_and_masked(net: nn.Module) -> Classifier:
    return Classifier(Around(centred(net).model, after=lambda logits: logits - 1e6 * (torch.arange(10) > 5)))


def sigmoid(net: nn.Module) -> Classifier:
    return Classifier(Around(net, after=torch.sigmoid))


def codes(flags: list[Flag]) -> list[str]:
    return [flag.code for flag in flags]


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_threat_model_must_be_stated() -> None:
    assert checks.require_threat_model(THREAT) is THREAT
    for nothing in (None, 0.3, {"norm": "linf", "eps": 0.3}):
        with pytest.raises(ThreatModelError, match="a stated threat model, got"):
            checks.require_threat_model(nothing)


def test_pixels_outside_the_bounds_and_perturbations_over_eps_are_refused(sound: Classifier, digits: Examples) -> None:
    images, labels = digits
    with pytest.raises(ImageError, match="within the bounds"):
        attack(sound, images * 2, labels, THREAT, seed=0)
    check_perturbation(images, (images + 0.15).clamp(0, 1), THREAT, (0, 1))
    for wrong in ((images + 0.16).clamp(0, 1), images + 0.15, images * torch.nan):
        with pytest.raises(ThreatModelError, match=r"perturbation <= 0\.15"):
            check_perturbation(images, wrong, THREAT, (0, 1))


@pytest.mark.parametrize(("norm", "most"), [("linf", 1.0), ("l2", 28.0)])
def test_an_eps_beyond_the_range_of_the_pixels_is_refused(norm: str, most: float) -> None:
    require_eps_within_range(ThreatModel(norm, most), (0, 1), (1, 28, 28))
    require_eps_within_range(ThreatModel(norm, 8.0), (0, 255), (1, 28, 28))
    with pytest.raises(ThreatModelError, match=f"eps <= {most:g}"):
        require_eps_within_range(ThreatModel(norm, 1.01 * most), (0, 1), (1, 28, 28))


def test_a_model_that_stays_in_train_mode_is_refused(net: Tiny) -> None:
    model = Tiny().train()
    checks.require_eval_mode(Classifier(model))
    assert model.training, "the flags are given back"
    with pytest.raises(ModelError, match="AlwaysTraining in train mode"):
        checks.require_eval_mode(Classifier(AlwaysTraining(net)))


def test_no_gradient_is_refused(sound: Classifier, digits: Examples) -> None:
    require_gradient(sound, digits[0])
    with pytest.raises(ModelError, match="gradients reach the images"):
        require_gradient(Classifier(detached()), digits[0])


def test_a_layer_that_does_not_reproduce_the_logits_is_refused() -> None:
    torch.manual_seed(0)
    classifier, images = Classifier(Residual()), torch.rand(4, 1, 12, 12)
    layers = find_layers(classifier, images)
    checks.require_replay(classifier, layers, images)
    checks.require_replay(classifier, layers, images[:1])
    around = Layer("blocks.0.conv2", "blocks.0.conv2", 1, "Conv2d", (4, 10, 10), None)
    with pytest.raises(LayerError, match=r"replayed from blocks\.0\.conv2"):
        checks.require_replay(classifier, [*layers, around], images)
    with pytest.raises(LayerError, match=r"call 2 of the module stem\.0"):
        checks.require_replay(classifier, [dataclasses.replace(layers[0], call=2)], images)


# --- warnings about the model ------------------------------------------------------------------------------------


def test_a_sound_model_raises_no_flag(sound: Classifier, digits: Examples) -> None:
    images, labels = digits
    assert checks.model_flags(sound, images, labels) == []
    assert checks.model_flags(sound, images[:1], labels[:1]) == []
    sample = Sample(sound, images, labels, seed=0)
    assert checks.search_flags(sample.accuracy, len(images), THREAT, 1.0) == []


@pytest.mark.parametrize(
    ("model", "code", "word"),
    [
        (randomised, "passes_differ", ""),
        (lambda net: Classifier(Counting(net)), "passes_differ", ""),
        (centred, "dynamic_model", "batch"),
        (centred_and_masked, "dynamic_model", "batch"),
        (lambda net: Classifier(Purifying(net)), "dynamic_model", "gradients"),
        (lambda net: Classifier(Purifying(net, backward=True)), "dynamic_model", "gradients"),
        (sigmoid, "probabilities", ""),
        (lambda net: Classifier(Answers(lambda logits: logits.softmax(dim=1))), "probabilities", ""),
    ],
)
def test_a_model_that_looks_robust_is_told_by_what_it_does(
    model: Callable[[nn.Module], Classifier], code: str, word: str, *, net: Tiny, digits: Examples
) -> None:
    (flag,) = checks.model_flags(model(net), *digits)
    assert (flag.code, flag.severity) == (code, "warning")
    assert word in str(flag.details.get("why", ""))


def test_gradients_that_cannot_be_used_are_counted(net: Tiny, digits: Examples) -> None:
    images, labels = digits
    dark = images.clone()
    dark[:3, 0, 0, 0], dark[3:, 0, 0, 0] = 0, 1
    cases: list[tuple[Classifier, Tensor, dict[str, int]]] = [
        (quantised(net), images, {"zero": 80, "nan": 0, "infinite": 0}),
        (saturated(net), images, {"nan": 0, "infinite": 0}),
        (Classifier(Around(net, before=lambda x: x + 0 * x[:, :, :1, :1].sqrt())), dark, {"zero": 0, "nan": 3}),
        (Classifier(Around(net, before=lambda x: x + 1e-9 * x[:, :, :1, :1].sqrt())), dark, {"nan": 0, "infinite": 3}),
    ]
    for classifier, x, counts in cases:
        (flag,) = checks.model_flags(classifier, x, labels, batch_size=30)
        assert flag.code == "unusable_gradients"
        assert flag.value is not None
        assert flag.value > 0
        assert flag.details.items() >= (counts | {"examples": 80}).items()


# --- warnings about the attack -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [saturated, quantised])
def test_a_masked_model_raises_the_flags_of_the_search(
    mask: Callable[[nn.Module], Classifier], net: Tiny, digits: Examples
) -> None:
    sample = Sample(mask(net), *digits, seed=0)
    flags = checks.search_flags(sample.accuracy, 80, ThreatModel("linf", 0.05, steps=10), 1.0)
    assert {"one_step_as_good", "robust_at_any_size"} <= {*codes(flags)}


def test_too_few_steps_are_told(sound: Classifier, digits: Examples) -> None:
    weak = ThreatModel("linf", 0.1, steps=2, step_size=0.02)
    flags = checks.search_flags(Sample(sound, *digits, seed=0).accuracy, 80, weak, 1.0)
    (flag,) = (flag for flag in flags if flag.code == "not_converged" and flag.details["what"] == "steps")
    assert flag.value is not None
    assert flag.threshold is not None
    assert flag.value < flag.threshold


@pytest.mark.parametrize(
    ("one_step", "pgd", "steps", "restarts", "anywhere", "examples", "expected"),
    [
        (0.5, 0.4, 0.4, 0.4, 0.04, 100, []),
        (0.5, 0.5, 0.5, 0.5, 0.0, 100, ["one_step_as_good"]),
        (0.0, 0.02, 0.0, 0.0, 0.0, 100, []),  # nothing is left to attack
        (0.9, 0.5, 0.47, 0.5, 0.0, 100, ["not_converged"]),
        (0.9, 0.5, 0.5, 0.47, 0.0, 100, ["not_converged"]),
        (0.9, 0.5, 0.496, 0.496, 0.0, 1000, []),
        (0.9, 0.5, 0.49, 0.49, 0.0, 100, []),  # one example of a hundred may be luck
        (0.9, 0.5, 0.5, 0.5, 0.3, 100, ["robust_at_any_size"]),
    ],
)
def test_the_same_attack_with_other_settings_tells_of_the_search(
    *, one_step: float, pgd: float, steps: float, restarts: float, anywhere: float, examples: int, expected: list[str]
) -> None:
    def accuracy(threat_model: ThreatModel) -> float:
        if threat_model.attack == "fgsm":
            return one_step
        if threat_model.eps > THREAT.eps:
            return anywhere
        return steps if threat_model.steps > THREAT.steps else restarts if threat_model.restarts > 1 else pgd

    flags = checks.search_flags(accuracy, examples, THREAT, 1.0)
    assert codes(flags) == expected
    assert all(flag.severity == ("warning" if flag.code == "robust_at_any_size" else "note") for flag in flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (checks.black_box_flags(0.5, 0.498), []),
        (checks.black_box_flags(0.5, 0.497), [("black_box_wins", 0.497, 0.5)]),
        (checks.curve_flags([0.98, 0.7, 0.7, 0.705, 0.0], 1000), []),
        (checks.curve_flags([0.9, 0.6, 0.7], 10), []),  # one example of ten may be luck
        (checks.curve_flags([0.98, 0.5, 0.75, 0.6], 1000), [("not_growing", 0.25, 0.01)]),
    ],
)
def test_a_figure_that_an_attack_should_not_leave_is_told(
    flags: list[Flag], expected: list[tuple[str, float, float]]
) -> None:
    assert [(flag.code, flag.value, flag.threshold) for flag in flags] == expected


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, []),
        ({"noise": 0.4}, ["noise_as_good"]),
        ({"natural": 0.0, "adversarial": 0.0, "noise": 0.0}, []),  # the model is always wrong
        ({"attacks": ("fgsm", "pgd")}, ["gradient_attacks_only"]),
        ({"attacks": ("pgd",), "adversarial": 0.02}, []),  # nothing is left that a black box could take
        ({"examples": 999}, ["few_examples"]),
    ],
)
def test_the_figures_need_a_black_box_examples_and_more_than_noise(
    changed: dict[str, Any], expected: list[str]
) -> None:
    good: dict[str, Any] = {
        "natural": 0.95,
        "adversarial": 0.4,
        "noise": 0.9,
        "attacks": ("pgd", "autoattack"),
        "examples": 1000,
    }
    flags = checks.figure_flags(**(good | changed))
    assert codes(flags) == expected
    assert all(flag.severity == ("warning" if flag.code == "noise_as_good" else "note") for flag in flags)


def test_a_network_at_chance_is_flagged_with_the_order_of_the_classes() -> None:
    labels = np.arange(200) % 4
    guessed = np.random.default_rng(0).integers(0, 4, 200)
    assert codes(checks.class_flags(guessed, labels, ("a", "b", "c", "d"))) == ["at_chance"]
    assert "0 a, 1 b, 2 c, 3 d" in checks.class_flags(guessed, labels, ("a", "b", "c", "d"))[0].message
    assert codes(checks.class_flags(labels, labels)) == []
    mostly = np.where(labels == 0, labels, 0)  # always the same answer, on a set where that is often right
    assert codes(checks.class_flags(mostly, np.where(labels > 2, labels, 0))) == ["at_chance"]


def test_classes_in_another_order_are_told_apart_from_a_poor_network() -> None:
    labels = np.arange(200) % 4
    swapped = np.array([1, 0, 2, 3])[labels]
    (flag,) = checks.class_flags(swapped, labels, ("cat", "dog", "fox", "hen"))
    assert (flag.code, flag.value, flag.threshold) == ("class_order", 1.0, 0.5)
    assert "0 dog, 1 cat in the order of its logits, not 0 cat, 1 dog" in flag.message
