"""Each refusal and each warning fires on a model, or a figure, built to trip it, and is silent on a sound one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import (
    ThreatModel,
    attack,
    check_perturbation,
    require_eps_within_range,
    require_gradient,
    search,
    seeded,
)
from interpretgan.classifier import Classifier
from interpretgan.errors import ImageError, LayerError, ModelError, ThreatModelError
from interpretgan.layers import Layer, find_layers
from interpretgan.robustness import attack_checks as trust
from interpretgan.robustness.curves import Sample
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


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_threat_model_must_be_stated() -> None:
    assert trust.require_threat_model(THREAT) is THREAT
    for nothing in (None, 0.3, {"norm": "linf", "eps": 0.3}):
        with pytest.raises(ThreatModelError, match="a stated threat model, got"):
            trust.require_threat_model(nothing)


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
    trust.require_eval_mode(Classifier(model))
    assert model.training, "the flags are given back"
    with pytest.raises(ModelError, match="AlwaysTraining in train mode"):
        trust.require_eval_mode(Classifier(AlwaysTraining(net)))


def test_no_gradient_is_refused(sound: Classifier, digits: Examples) -> None:
    require_gradient(sound, digits[0])
    with pytest.raises(ModelError, match="gradients reach the images"):
        require_gradient(Classifier(detached()), digits[0])


def test_a_layer_that_does_not_reproduce_the_logits_is_refused() -> None:
    torch.manual_seed(0)
    classifier, images = Classifier(Residual()), torch.rand(4, 1, 12, 12)
    layers = find_layers(classifier, images)
    trust.require_replay(classifier, layers, images)
    trust.require_replay(classifier, layers, images[:1])
    around = Layer("blocks.0.conv2", "blocks.0.conv2", 1, "Conv2d", (4, 10, 10), None)
    with pytest.raises(LayerError, match=r"replayed from blocks\.0\.conv2"):
        trust.require_replay(classifier, [*layers, around], images)
    with pytest.raises(LayerError, match=r"call 2 of the layer stem\.0"):
        trust.require_replay(classifier, [dataclasses.replace(layers[0], call=2)], images)


# --- warnings about the model ------------------------------------------------------------------------------------


def test_a_sound_model_raises_no_flag(sound: Classifier, digits: Examples) -> None:
    images, labels = digits
    assert trust.model_flags(sound, images, labels) == []
    sample = Sample(sound, images, labels, seed=0)
    assert trust.search_flags(sample.accuracy, len(images), THREAT, 1.0) == []
    assert trust.lost_iterates(sound, images, labels, pgd) is None


def test_passes_that_differ(net: Tiny, digits: Examples) -> None:
    images, _ = digits
    for model in (randomised(net), Classifier(Counting(net))):
        assert "logits differ between two passes" in (trust.passes_differ(model, images) or "")


def test_dynamic_models(net: Tiny, digits: Examples) -> None:
    images, _ = digits
    centred = Classifier(Around(net, before=lambda x: x - x.mean(dim=0)))
    assert "other images of its batch" in (trust.dynamic(centred, images) or "")
    for backward in (False, True):
        flag = trust.dynamic(Classifier(Purifying(net, backward=backward)), images)
        assert "computes gradients" in (flag or "")
    assert trust.dynamic(Classifier(net), images[:1]) is None


def test_outputs_that_look_like_probabilities(net: Tiny, digits: Examples) -> None:
    images, _ = digits
    for squash in (torch.sigmoid, lambda logits: logits.softmax(dim=1)):
        assert "look like probabilities" in (trust.probabilities(Classifier(Around(net, after=squash)), images) or "")
    with pytest.raises(ModelError, match="remove the final softmax"):  # rows that sum to one are no logits at all
        Classifier(Answers(lambda logits: logits.softmax(dim=1))).logits(images)


def test_gradients_that_cannot_be_used_are_counted(net: Tiny, digits: Examples) -> None:
    images, labels = digits
    flag = trust.unusable_gradients(quantised(net), images, labels, batch_size=30)
    assert "some of 80 examples (80 zero, 0 NaN, 0 infinite)" in (flag or "")
    assert " zero, 0 NaN" in (trust.unusable_gradients(saturated(net), images, labels) or "")
    dark = images.clone()
    dark[:3, 0, 0, 0], dark[3:, 0, 0, 0] = 0, 1
    rooted = Classifier(Around(net, before=lambda x: x + 0 * x[:, :, :1, :1].sqrt()))
    assert "(0 zero, 3 NaN, 0 infinite)" in (trust.unusable_gradients(rooted, dark, labels) or "")
    steep = Classifier(Around(net, before=lambda x: x + 1e-9 * x[:, :, :1, :1].sqrt()))
    assert "(0 zero, 0 NaN, 3 infinite)" in (trust.unusable_gradients(steep, dark, labels) or "")


# --- warnings about the attack -----------------------------------------------------------------------------------


def pgd(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    return attack(classifier, images, labels, THREAT, seed=0)


@pytest.mark.parametrize("mask", [saturated, quantised])
def test_a_masked_model_raises_the_flags_of_the_search(
    mask: Callable[[nn.Module], Classifier], net: Tiny, digits: Examples
) -> None:
    images, labels = digits
    sample = Sample(mask(net), images, labels, seed=0)
    text = "\n".join(trust.search_flags(sample.accuracy, len(images), ThreatModel("linf", 0.05, steps=10), 1.0))
    assert "no better than one step" in text
    assert "every image can be made grey" in text


def test_too_few_steps_and_too_few_restarts_are_told(sound: Classifier, digits: Examples) -> None:
    sample = Sample(sound, *digits, seed=0)
    weak = ThreatModel("linf", 0.1, steps=2, step_size=0.02)
    assert any("twice the steps" in flag for flag in trust.search_flags(sample.accuracy, len(digits[1]), weak, 1.0))
    assert "twice the restarts still move" in (trust.not_converged("restarts", 0.5, 0.47, 100) or "")
    assert trust.not_converged("restarts", 0.5, 0.496, 1000) is None
    assert trust.not_converged("restarts", 0.5, 0.49, 100) is None, "one example of a hundred may be luck"


def test_an_attack_that_loses_what_it_found_is_told(sound: Classifier, digits: Examples) -> None:
    images, labels = digits

    def forgetful(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
        with classifier.borrowed(), torch.enable_grad(), seeded(x.device, 0):
            search(classifier.run, x, y, THREAT, classifier.bounds)
        return x

    flag = trust.lost_iterates(sound, images, labels, forgetful) or ""
    assert "keep the best iterate" in flag
    found = pgd(sound, images, labels)
    natural, misled = sound.logits(images).argmax(dim=1) == labels, sound.logits(found).argmax(dim=1) != labels
    (lost,) = re.findall(r"lost (\d+) of 80", flag)
    most = int((natural & misled).sum())
    assert most - 2 <= int(lost) <= most  # the last iterate is not shown to the model any more


def test_a_black_box_attack_that_wins_is_told() -> None:
    assert trust.black_box_wins(0.5, 0.498) is None
    assert "from 0.500 to 0.497" in (trust.black_box_wins(0.5, 0.497) or "")


def test_an_iterative_attack_must_beat_one_step() -> None:
    assert trust.no_better_than_one_step(0.5, 0.4) is None
    assert trust.no_better_than_one_step(0.0, 0.02) is None, "nothing is left to attack"
    for iterated in (0.5, 0.6):
        assert "no better than one step" in (trust.no_better_than_one_step(0.5, iterated) or "")


def test_the_attack_must_beat_noise() -> None:
    assert trust.noise_as_good(0.9, 0.4, 0.95) is None
    assert trust.noise_as_good(0.0, 0.0, 0.0) is None, "the model is always wrong"
    assert "0.400 against 0.400" in (trust.noise_as_good(0.4, 0.4, 0.95) or "")


def test_success_must_grow_with_eps() -> None:
    assert trust.not_growing([0.98, 0.7, 0.7, 0.705, 0.0], 1000) is None
    assert trust.not_growing([0.9, 0.6, 0.7], 10) is None, "one example of ten may be luck"
    assert "0.200 of accuracy is won back" in (trust.not_growing([0.98, 0.5, 0.7, 0.6], 1000) or "")


def test_nothing_is_robust_at_any_size() -> None:
    assert trust.robust_at_any_size(0.5, 0.04) is None
    assert "still 0.300 at eps 0.5" in (trust.robust_at_any_size(0.5, 0.3) or "")


def test_gradient_attacks_alone_are_no_evidence() -> None:
    assert trust.gradient_attacks_only(["fgsm", "pgd", "autoattack"], 0.6) is None
    assert trust.gradient_attacks_only(["pgd"], 0.02) is None, "nothing is left that a black box could take"
    assert (trust.gradient_attacks_only(["fgsm", "pgd"], 0.6) or "").startswith("fgsm, pgd only")


def test_few_examples_are_told() -> None:
    assert trust.few_examples(1000) is None
    assert trust.few_examples(999) == "only 999 examples: fewer than 1,000"
