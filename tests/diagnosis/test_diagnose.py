from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.controls import CONTROLS, perturbing_controls
from interpretgan.diagnosis.diagnose import diagnose
from interpretgan.diagnosis.let_in import let_in
from interpretgan.diagnosis.predictions import Predictions
from interpretgan.diagnosis.reliability import CONTROL_WORDS, is_unreliable
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import ConfigError, ImageError, LabelError, LayerError, ModelError, ThreatModelError
from interpretgan.information import Decoders, InformationConfig
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge
from interpretgan.layers import examine
from interpretgan.report import write_report
from interpretgan.report.wording import answer
from interpretgan.statistics import Interval
from tests import reference
from tests.diagnosis.conftest import CONFIG, THREAT, Diagnosed, trained
from tests.networks import Tiny

Fitted = tuple[InterpretGAN, Judge]
Digits = tuple[ImageSet, ImageSet]


def codes(diagnosis: Diagnosis) -> set[str]:
    return {flag.code for flag in diagnosis.flags}


def test_the_split_is_exact_and_the_formulas_of_its_predictions(diagnosed: Diagnosed) -> None:
    diagnosis, predictions = diagnosed.diagnosis, diagnosed.predictions
    values = [layer.vulnerability.value for layer in diagnosis.layers]
    assert abs(sum(values) - diagnosis.loss) < 1e-9
    assert diagnosis.loss > 0.05
    y = predictions.labels.tolist()
    kept = reference.survival(y, predictions.natural.tolist(), predictions.adversarial.tolist())
    np.testing.assert_allclose(values, reference.vulnerability(kept), atol=1e-12)
    bits = [reference.information_bits(y, row) for row in predictions.adversarial.tolist()]
    np.testing.assert_allclose([layer.bits for layer in diagnosis.layers], bits, atol=1e-9)
    assert diagnosis.layers[0].name == "image"
    assert diagnosis.layers[0].shape == (1, 28, 28)
    assert [layer.name for layer in diagnosis.layers[1:]] == ["conv", "relu", "pool", "fc1", "relu2", "fc2"]
    assert sum(sum(row.values()) for row in diagnosis.layers[3].transitions.values()) == 120


def test_accuracies_are_those_of_model_and_judge(diagnosed: Diagnosed) -> None:
    accuracy, predictions = diagnosed.diagnosis.accuracy, diagnosed.predictions
    right = {name: float((shown == predictions.labels).mean()) for name, shown in predictions.model.items()}
    assert set(right) == {"natural", "adversarial", *CONTROLS}
    assert accuracy == {**right, **{name: accuracy[name] for name in ("judge_natural", "judge_adversarial")}}
    assert right["natural"] > 0.8
    assert right["adversarial"] < 0.5 * right["natural"]
    for name in CONTROLS:  # what aims at nothing does little
        assert right[name] > 0.7 * right["natural"], name
    judged = [(shown[0] == predictions.labels).mean() for shown in (predictions.natural, predictions.adversarial)]
    assert [accuracy["judge_natural"], accuracy["judge_adversarial"]] == pytest.approx(judged)


def test_the_same_seed_gives_the_same_diagnosis_whichever_way_images_and_attack_are_given(
    diagnosed: Diagnosed, fitted: Fitted, digits: Digits
) -> None:
    images, labels = digits[1].batch(slice(0, 120))
    adversarial = attack(fitted[0].classifier, images, labels, THREAT, seed=4)
    for given in (None, adversarial, lambda x, _y, first: adversarial[first : first + len(x)]):
        again = diagnose(*fitted, images, labels, threat_model=THREAT, bootstrap=200, seed=4, adversarial=given)
        assert again.layers == diagnosed.diagnosis.layers
        assert again.accuracy == diagnosed.diagnosis.accuracy
        assert ("adversarial" in again.provenance) == (given is not None)


def test_adversarial_images_that_do_not_fit_are_refused(fitted: Fitted, digits: Digits) -> None:
    images, labels = digits[1].batch(slice(0, 12))
    images = images * 0.9

    def refused(adversarial: object) -> None:
        diagnose(*fitted, images, labels, threat_model=THREAT, bootstrap=0, adversarial=adversarial)  # type: ignore[arg-type]  # on purpose

    with pytest.raises(ThreatModelError, match="state the threat model that they were made under"):
        refused(images + 0.1 + 0.1 * (images < 0.5))
    with pytest.raises(ThreatModelError, match="in the order of the images"):
        refused(images.flip(0))
    with pytest.raises(ImageError, match="one for each image"):
        refused(images[:5])
    with pytest.raises(ImageError, match="one for each image"):
        refused(lambda x, *_: x[:, :, :14])
    with pytest.raises(ImageError, match="a floating point tensor"):
        refused(images.numpy())
    with pytest.raises(ImageError, match="some of which are perturbed, got 12 that equal the natural ones"):
        refused(images + 1e-7 * (images < 0.5))


def test_no_layer_is_blamed_when_nothing_was_perturbed(fitted: Fitted, digits: Digits) -> None:
    still = diagnose(*fitted, digits[1], threat_model=THREAT, examples=60, bootstrap=50, adversarial=lambda x, *_: x)
    assert [layer.vulnerability for layer in still.layers] == [Interval(0.0, 0.0, 0.0)] * len(still.layers)


class Fickle(nn.Module):
    """Another order of the classes in every third pass."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.net(x)
        return logits.roll(int(self.calls % 3 == 0), dims=1)


def test_the_control_without_a_perturbation_holds_and_a_judge_that_changes_its_mind_fails_it(
    diagnosed: Diagnosed, fitted: Fitted, digits: Digits
) -> None:
    assert diagnosed.diagnosis.controls["eps0_max_abs_vulnerability"] == 0.0
    assert "zero_eps_control" not in codes(diagnosed.diagnosis)
    judge = dataclasses.replace(fitted[1], classifier=Classifier(Fickle(fitted[1].classifier.model)))
    found = diagnose(fitted[0], judge, digits[1], threat_model=THREAT, examples=60, bootstrap=0)
    (flag,) = [flag for flag in found.flags if flag.code == "zero_eps_control"]
    assert flag.value == found.controls["eps0_max_abs_vulnerability"] > 0.1
    assert flag.severity == "failure"


def test_several_generators_are_pooled_and_compared(diagnosed: Diagnosed, fitted: Fitted, digits: Digits) -> None:
    first, judge = fitted
    other = InterpretGAN(first.classifier, first.layers, config=CONFIG, seed=9).fit(digits[0])
    kept: list[Predictions] = []
    both = diagnose(
        [first, other], judge, digits[1], threat_model=THREAT, examples=120, bootstrap=200, seed=4,
        on_predictions=kept.extend,
    )  # fmt: skip
    assert both.provenance["generator_seeds"] == [0, 9]
    np.testing.assert_array_equal(kept[0].adversarial, diagnosed.predictions.adversarial)
    assert (kept[0].adversarial != kept[1].adversarial).any()
    profiles = [
        reference.vulnerability(reference.survival(r.labels.tolist(), r.natural.tolist(), r.adversarial.tolist()))[1:]
        for r in kept
    ]
    assert both.controls["seeds_spearman"] == pytest.approx(spearmanr(profiles[0], profiles[1]).statistic)
    assert both.controls["seeds_same_top"] == (np.argmax(profiles[0]) == np.argmax(profiles[1]))
    single = [(r.natural == r.labels).mean(axis=1) for r in kept]
    np.testing.assert_allclose([layer.natural for layer in both.layers], np.mean(single, axis=0))
    with pytest.raises(ConfigError, match="same classifier and layers"):
        diagnose([first, InterpretGAN(first.classifier, first.layers[:2])], judge, digits[1], threat_model=THREAT)
    with pytest.raises(ConfigError, match="got 0 with"):
        diagnose([], judge, digits[1], threat_model=THREAT)


def test_information_stands_beside_the_vulnerabilities(fitted: Fitted, digits: Digits, tmp_path: Path) -> None:
    interpreter, judge = fitted
    config = InformationConfig(steps=15, batch=24, images_per_layer=4, width=16, blocks=1, precision="fp32")
    meter = Decoders(interpreter.classifier, interpreter.layers, config=config, seed=3).fit(digits[0])
    measured = meter.measure(digits[1], examples=60)
    settings = {"threat_model": THREAT, "examples": 60, "bootstrap": 50, "seed": 4}
    both = diagnose(interpreter, judge, digits[1], information=measured, **settings)  # type: ignore[arg-type]
    alone = diagnose(interpreter, judge, digits[1], **settings)  # type: ignore[arg-type]
    assert [layer.vulnerability for layer in both.layers] == [layer.vulnerability for layer in alone.layers]
    left = measured.errors.sum(axis=1) / measured.variance.sum()
    for row, layer in enumerate(both.layers):
        assert layer.unexplained is not None
        assert layer.information_loss is not None
        assert layer.class_information is not None
        assert layer.unexplained.value == pytest.approx(left[row], rel=1e-5)
        assert layer.class_information.value == pytest.approx(measured.bits[row].mean(), rel=1e-4)
        assert layer.class_accuracy is not None
        assert layer.class_accuracy.value == pytest.approx(measured.right[row].mean())
    smaller = [i for i in range(1, len(both.layers))
               if np.prod(both.layers[i].shape) < np.prod(both.layers[i - 1].shape)]  # fmt: skip
    assert [i for i, layer in enumerate(both.layers) if layer.information_control is not None] == smaller
    assert both.provenance["information"]["seed"] == 3
    assert both.provenance["information"]["steps"] == 15
    assert Diagnosis.load(both.save(tmp_path)) == both
    assert {"unexplained_low", "information_loss", "class_information_high"} <= set(both.to_frame())
    assert alone.layers[1].information_loss is None
    assert "information_loss" not in set(alone.to_frame())
    with pytest.raises(ConfigError, match="on 60 images"):
        diagnose(interpreter, judge, digits[1], information=meter.measure(digits[1], examples=59), **settings)  # type: ignore[arg-type]


def test_which_layer_lets_the_perturbation_in_stands_beside_where_the_class_turns(
    fitted: Fitted, digits: Digits, tmp_path: Path
) -> None:
    interpreter, judge = fitted
    images, labels = digits[1].batch(slice(0, 40))
    natural, _ = digits[0].batch(slice(0, 60))
    adversarial = attack(interpreter.classifier, images, labels, THREAT, seed=4)
    found = let_in(
        interpreter.classifier, interpreter.distinct_layers, images, labels, adversarial, natural=natural,
        threat_model=THREAT, seed=0, steps=3, bootstrap=50,
    )  # fmt: skip
    settings = {"threat_model": THREAT, "examples": 40, "bootstrap": 50}
    both = diagnose(interpreter, judge, digits[1], let_in=found, **settings)  # type: ignore[arg-type]
    assert [layer.let_in for layer in both.layers] == [None, *found.scores]
    assert both.let_in == found
    assert Diagnosis.load(both.save(tmp_path)) == both
    assert "let_in_low" in set(both.to_frame())
    other = dataclasses.replace(found, layers=found.layers[1:])
    with pytest.raises(ConfigError, match="what was found at conv, relu"):
        diagnose(interpreter, judge, digits[1], let_in=other, **settings)  # type: ignore[arg-type]


def test_a_loss_that_is_not_sure_is_not_shared_out(fitted: Fitted, digits: Digits) -> None:
    faint = ThreatModel("linf", 1e-4, steps=2)
    found = diagnose(*fitted, digits[1], threat_model=faint, examples=60, bootstrap=50)
    assert abs(found.loss) < 0.05
    assert {(layer.share.value, layer.share.low, layer.share.high) for layer in found.layers} == {(0.0, 0.0, 0.0)}


def test_of_a_single_image_there_is_no_other_whose_perturbation_could_be_a_control(
    fitted: Fitted, digits: Digits, tmp_path: Path
) -> None:
    found = diagnose(*fitted, digits[1], threat_model=THREAT, examples=1, bootstrap=0)
    assert {name for name in found.controls if name.endswith("_max_abs_vulnerability")} == {
        f"{name}_max_abs_vulnerability" for name in ("eps0", "noise", "smooth")
    }
    assert {layer.vulnerability_foreign for layer in found.layers} == {None}
    assert "Another image" not in write_report(found, tmp_path).read_text()


@pytest.mark.parametrize("control", CONTROLS)
def test_a_generator_that_draws_what_aims_at_nothing_badly_fails_that_control(
    control: str, fitted: Fitted, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter, judge = fitted
    images, labels = digits[1].batch(slice(0, 60))
    adversarial = attack(interpreter.classifier, images, labels, THREAT, seed=4)
    moved = perturbing_controls(interpreter.classifier, seed=4)[control](images, adversarial, 0)
    draw, place = interpreter.draw, [layer.name for layer in interpreter.layers].index("fc1")

    def badly(given: Tensor, *more: Any, **settings: Any) -> Tensor:
        drawn = draw(given, *more, **settings)
        if torch.equal(given, moved):  # from fc1 on the pictures are of other images
            drawn[place:] = drawn[place:].roll(1, dims=1)
        return drawn

    monkeypatch.setattr(interpreter, "draw", badly)
    found = diagnose(
        interpreter, judge, images, labels, threat_model=THREAT, bootstrap=50, seed=4, adversarial=adversarial
    )
    flags = [flag for layer in found.layers for flag in layer.flags if flag.code == "noise_control"]
    assert ("fc1", CONTROL_WORDS[control]) in {(flag.layer, flag.details["control"]) for flag in flags}
    assert found.controls[f"{control}_max_abs_vulnerability"] > 0.5
    assert "noise_control_failed" in codes(found)
    assert answer(found).layers == ()


def test_profiles_without_ranks_have_no_rank_correlation(
    fitted: Fitted, digits: Digits, recwarn: pytest.WarningsRecorder
) -> None:
    still = diagnose(
        [fitted[0]] * 2,
        fitted[1],
        digits[1],
        threat_model=THREAT,
        examples=20,
        bootstrap=0,
        adversarial=lambda x, *_: x,
    )
    assert "seeds_spearman" not in still.controls
    assert still.controls["seeds_same_top"] == 1.0
    assert not [warning for warning in recwarn if "constant" in str(warning.message)]


def test_unreadable_layers_and_a_weak_judge_are_flagged(fitted: Fitted, digits: Digits) -> None:
    torch.manual_seed(6)
    other = Classifier(Tiny())
    config = dataclasses.replace(CONFIG, steps=1, linear_start=False)
    fresh = InterpretGAN(fitted[0].classifier, fitted[0].layers, config=config).fit(
        digits[0], recognition_network=other
    )
    torch.manual_seed(5)
    guess = Judge(Classifier(Tiny()), 0.1, 0.1, "untrained")
    poor = diagnose(fresh, fitted[1], digits[1], threat_model=THREAT, examples=60, bootstrap=50)
    assert all(is_unreliable(layer) for layer in poor.layers[2:])
    assert "unreadable_layers" in codes(poor)
    assert poor.provenance["recognition_network_sha256"] == other.state_sha256()  # who read while it was drawn
    blind = diagnose(fresh, guess, digits[1], threat_model=THREAT, examples=60, bootstrap=50)
    assert "weak_judge" in codes(blind)


def test_other_bounds_are_the_classifiers_from_end_to_end(digits: Digits) -> None:
    train, test = digits
    classifier, judge = trained(train, 0, (0.0, 255.0)), Judge(trained(train, 1, (0.0, 255.0)), 0.9, 0.5, "tiny")
    layers = examine(classifier, test.scaled((0.0, 255.0)).batch([0, 1])[0]).distinct
    interpreter = InterpretGAN(classifier, layers, config=CONFIG).fit(train)
    strong = ThreatModel("linf", 0.15 * 255, steps=4)
    found = diagnose(interpreter, judge, test, threat_model=strong, examples=60, bootstrap=50)
    assert found.accuracy["natural"] > 0.8
    assert found.layers[2].natural > 0.5
    assert found.accuracy["adversarial"] < 0.5


def test_misuse_is_answered_with_what_to_do(fitted: Fitted, digits: Digits) -> None:
    images, labels = digits[1].batch(slice(0, 5))
    with pytest.raises(LabelError, match="with a tensor of images, got none"):
        diagnose(*fitted, images, threat_model=THREAT)
    with pytest.raises(LabelError):
        diagnose(*fitted, images, labels + 90, threat_model=THREAT)
    with pytest.raises(ConfigError, match="at least one example"):
        diagnose(*fitted, images, labels, threat_model=THREAT, examples=0)


class AlwaysTraining(nn.Module):
    """A module that no call puts in eval mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def train(self, mode: bool = True) -> AlwaysTraining:
        del mode
        self.training = True
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        return logits


def test_a_diagnosis_refuses_what_cannot_be_diagnosed(fitted: Fitted, digits: Digits) -> None:
    interpreter, judge = fitted
    images, labels = digits[1].batch(slice(0, 8))
    with pytest.raises(ThreatModelError, match="a stated threat model"):
        diagnose(interpreter, judge, images, labels, threat_model=None)  # type: ignore[arg-type]  # on purpose
    first, second, *_ = interpreter.layers
    other = InterpretGAN(interpreter.classifier, (first, dataclasses.replace(second, call=2)))
    with pytest.raises(LayerError, match="call 2 of the"):
        diagnose(other, judge, images, labels, threat_model=THREAT)
    stuck = InterpretGAN(Classifier(AlwaysTraining(Tiny())), (first,))
    with pytest.raises(ModelError, match="in train mode"):
        diagnose(stuck, judge, images, labels, threat_model=THREAT)


def test_the_warnings_of_the_attack_checks_are_in_the_record(fitted: Fitted, digits: Digits) -> None:
    """A network whose logits saturate looks robust: its gradients vanish."""
    interpreter, judge = fitted
    images, labels = digits[1].batch(slice(0, 40))
    honest = diagnose(interpreter, judge, images, labels, threat_model=THREAT, bootstrap=0)
    weight = interpreter.classifier.model.get_parameter("fc2.weight")
    with torch.no_grad():
        weight.mul_(1e4)
        try:
            # Its explanations are of other weights, which no check of the attack looks at.
            with mock.patch.object(InterpretGAN, "_require_its_classifier"):
                found = diagnose(interpreter, judge, images, labels, threat_model=THREAT, bootstrap=0)
        finally:
            weight.div_(1e4)
    assert "few_examples" in codes(found) & codes(honest)
    assert {"unusable_gradients", "one_step_as_good"} <= codes(found) - codes(honest)
