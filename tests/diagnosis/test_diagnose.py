from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.diagnose import _rows, diagnose
from interpretgan.diagnosis.predictions import Predictions
from interpretgan.diagnosis.result import INFORMATION, Diagnosis
from interpretgan.errors import ConfigError, LabelError, RunFolderError
from interpretgan.gan.train import GANConfig
from interpretgan.information import Decoders, InformationConfig
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge
from interpretgan.layers import examine
from interpretgan.statistics import Interval, bootstrap_weights
from interpretgan.training import Natural, Recipe, train_classifier
from tests import reference
from tests.networks import Tiny

THREAT = ThreatModel("linf", 0.15, steps=4)
CONFIG = GANConfig(steps=40, images_per_layer=8, width=24, blocks=1, noise=4, precision="fp32")


def trained(train: ImageSet, seed: int, bounds: tuple[float, float] = (0.0, 1.0)) -> Classifier:
    torch.manual_seed(seed)
    classifier = Classifier(Tiny(), bounds=bounds, mean=(bounds[1] / 4,), std=(bounds[1] / 3,))
    train_classifier(classifier, train, objective=Natural(), recipe=Recipe(epochs=6, batch_size=64, lr=4e-3), seed=seed)
    return classifier


@pytest.fixture(scope="module")
def job(digits: tuple[ImageSet, ImageSet]) -> tuple[InterpretGAN, Judge]:
    train, test = digits
    classifier = trained(train, 0)
    layers = examine(classifier, test.batch([0, 1, 2])[0]).distinct
    return InterpretGAN(classifier, layers, config=CONFIG).fit(train), Judge(trained(train, 1), 0.95, 0.5, "tiny")


@pytest.fixture(scope="module")
def found(job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]) -> tuple[Diagnosis, list[Predictions]]:
    kept: list[Predictions] = []
    diagnosis = diagnose(
        *job, digits[1], threat_model=THREAT, examples=120, bootstrap=200, seed=4, on_predictions=kept.extend
    )
    return diagnosis, kept


def test_the_split_is_exact_and_the_formulas_of_its_predictions(found: tuple[Diagnosis, list[Predictions]]) -> None:
    diagnosis, (predictions,) = found
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
    assert sum(map(sum, diagnosis.layers[3].transitions)) == 120


def test_controls_and_accuracies(found: tuple[Diagnosis, list[Predictions]], job: tuple[InterpretGAN, Judge]) -> None:
    diagnosis, (predictions,) = found
    assert diagnosis.controls["eps0_max_abs_vulnerability"] == 0.0
    assert set(diagnosis.accuracy) == {"natural", "adversarial", "noise", "judge_natural", "judge_adversarial"}
    right = (predictions.model == predictions.labels).mean(axis=1)
    assert [diagnosis.accuracy[name] for name in ("natural", "adversarial", "noise")] == right.tolist()
    assert right[0] > 0.8
    assert right[1] < 0.5 * right[0]
    assert right[2] > 0.8 * right[0]  # noise of the same size does little
    for layer in diagnosis.layers:
        for interval in (
            layer.vulnerability,
            layer.share,
            layer.vulnerability_bits,
            layer.vulnerability_noise,
            *layer.intervals.values(),
        ):
            assert interval.low <= interval.value <= interval.high


def test_the_same_seed_gives_the_same_diagnosis_and_a_tensor_the_same_as_a_set(
    found: tuple[Diagnosis, list[Predictions]], job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]
) -> None:
    images, labels = digits[1].batch(slice(0, 120))
    again = diagnose(*job, images, labels, threat_model=THREAT, bootstrap=200, seed=4)
    assert again.layers == found[0].layers
    assert again.accuracy == found[0].accuracy


def test_no_layer_is_blamed_when_nothing_was_perturbed(
    job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]
) -> None:
    still = diagnose(*job, digits[1], threat_model=THREAT, examples=60, bootstrap=50, adversarial=lambda x, *_: x)
    assert [layer.vulnerability for layer in still.layers] == [Interval(0.0, 0.0, 0.0)] * len(still.layers)


def test_several_generators_widen_the_intervals(
    found: tuple[Diagnosis, list[Predictions]], job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]
) -> None:
    first, judge = job
    other = InterpretGAN(first.classifier, first.layers, config=CONFIG, seed=9).fit(digits[0])
    kept: list[Predictions] = []
    both = diagnose(
        [first, other],
        judge,
        digits[1],
        threat_model=THREAT,
        examples=120,
        bootstrap=200,
        seed=4,
        on_predictions=kept.extend,
    )
    assert both.provenance["generator_seeds"] == [0, 9]
    np.testing.assert_array_equal(kept[0].adversarial, found[1][0].adversarial)
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


def test_saving_and_loading_is_an_identity(found: tuple[Diagnosis, list[Predictions]], tmp_path: Path) -> None:
    file = found[0].save(tmp_path)
    assert file == tmp_path / "diagnosis.json"
    assert Diagnosis.load(tmp_path) == found[0]
    record = json.loads(file.read_text())
    assert record["schema"] == 1
    assert record["layers"][1]["vulnerability"].keys() == {"value", "low", "high"}
    assert isinstance(record["layers"][1]["survival"], float)


def test_information_stands_beside_the_vulnerabilities(
    found: tuple[Diagnosis, list[Predictions]], job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet],
    tmp_path: Path,
) -> None:  # fmt: skip
    interpreter, judge = job
    config = InformationConfig(steps=15, batch=24, images_per_layer=4, width=16, blocks=1, precision="fp32")
    decoders = Decoders(interpreter.classifier, interpreter.layers, config=config, seed=3).fit(digits[0])
    measured = decoders.measure(digits[1], examples=60)
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
    record = json.loads((tmp_path / "diagnosis.json").read_text())["layers"][2]
    assert record["information_loss"].keys() == record["class_information"].keys() == {"value", "low", "high"}
    assert {"unexplained_low", "information_loss", "class_information_high"} <= set(both.to_frame())
    assert alone.layers[1].information_loss is None
    assert "information_loss" not in set(alone.to_frame())
    with pytest.raises(ConfigError, match="on 60 images"):
        diagnose(interpreter, judge, digits[1], information=decoders.measure(digits[1], examples=59), **settings)  # type: ignore[arg-type]


def test_a_diagnosis_of_an_older_version_has_no_information(
    found: tuple[Diagnosis, list[Predictions]], tmp_path: Path
) -> None:
    file = found[0].save(tmp_path)
    record = json.loads(file.read_text())
    for layer in record["layers"]:
        for name in INFORMATION:
            del layer[name]
    file.write_text(json.dumps(record))
    assert Diagnosis.load(file) == found[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "readable JSON"), ("{", "truncated"), ('{"schema": 7}', "schema 7"), ('{"schema": 1}', "whole diagnosis")],
)
def test_a_damaged_diagnosis_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "diagnosis.json").write_text(content)
    with pytest.raises(RunFolderError, match=message):
        Diagnosis.load(tmp_path)


def test_the_frame_has_a_row_per_layer(found: tuple[Diagnosis, list[Predictions]]) -> None:
    frame = found[0].to_frame()
    assert frame["name"].tolist() == [layer.name for layer in found[0].layers]
    assert (frame["vulnerability_low"] <= frame["vulnerability"]).all()
    assert frame["vulnerability"].sum() == pytest.approx(found[0].loss, abs=1e-9)


@pytest.mark.parametrize("fooled", [0, 1, 40])
def test_shares_are_of_the_loss_where_something_is_lost_for_sure(fooled: int) -> None:
    labels = np.arange(100) % 10
    attacked = np.where(np.arange(100) < fooled, (labels + 1) % 10, labels)
    right = np.stack([labels] * 3)
    predictions = Predictions(labels, right, np.stack([labels, labels, attacked]), right, right)
    rows = _rows(predictions, bootstrap_weights(1, 100, 200, seed=0), 0.95, 1)
    assert [row["vulnerability"].value for row in rows] == pytest.approx([0, 0, fooled / 100])
    assert [row["share"].value for row in rows] == pytest.approx([0, 0, 1 if fooled == 40 else 0])


def test_of_a_loss_that_is_not_sure_there_are_no_shares(
    job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]
) -> None:
    faint = ThreatModel("linf", 1e-4, steps=2)
    found = diagnose(*job, digits[1], threat_model=faint, examples=60, bootstrap=50)
    assert abs(found.loss) < 0.05
    assert {(layer.share.value, layer.share.low, layer.share.high) for layer in found.layers} == {(0.0, 0.0, 0.0)}


def test_unreadable_layers_and_a_weak_judge_are_flagged(
    job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]
) -> None:
    torch.manual_seed(6)
    other = Classifier(Tiny())
    config = dataclasses.replace(CONFIG, steps=1)
    fresh = InterpretGAN(job[0].classifier, job[0].layers, config=config).fit(digits[0], recognition_network=other)
    torch.manual_seed(5)
    guess = Judge(Classifier(Tiny()), 0.1, 0.1, "untrained")
    poor = diagnose(fresh, job[1], digits[1], threat_model=THREAT, examples=60, bootstrap=50)
    assert all("unreliable" in " ".join(layer.flags) for layer in poor.layers[2:])
    assert any("cannot be read at" in flag and "--recognition-network robust" in flag for flag in poor.flags)
    assert poor.provenance["recognition_network_sha256"] == other.state_sha256()  # who read while it was drawn
    blind = diagnose(fresh, guess, digits[1], threat_model=THREAT, examples=60, bootstrap=50)
    assert any("weak judge" in flag for flag in blind.flags)


def test_other_bounds_are_the_classifiers_from_end_to_end(digits: tuple[ImageSet, ImageSet]) -> None:
    train, test = digits
    classifier, judge = trained(train, 0, (0.0, 255.0)), Judge(trained(train, 1, (0.0, 255.0)), 0.9, 0.5, "tiny")
    layers = examine(classifier, test.scaled((0.0, 255.0)).batch([0, 1])[0]).distinct
    interpreter = InterpretGAN(classifier, layers, config=CONFIG).fit(train)
    strong = ThreatModel("linf", 0.15 * 255, steps=4)
    found = diagnose(interpreter, judge, test, threat_model=strong, examples=60, bootstrap=50)
    assert found.accuracy["natural"] > 0.8
    assert found.layers[2].natural > 0.5
    assert found.accuracy["adversarial"] < 0.5


def test_misuse_is_answered_with_what_to_do(job: tuple[InterpretGAN, Judge], digits: tuple[ImageSet, ImageSet]) -> None:
    images, labels = digits[1].batch(slice(0, 5))
    with pytest.raises(LabelError, match="with a tensor of images, got none"):
        diagnose(*job, images, threat_model=THREAT)
    with pytest.raises(LabelError):
        diagnose(*job, images, labels + 90, threat_model=THREAT)
    with pytest.raises(ConfigError, match="at least one example"):
        diagnose(*job, images, labels, threat_model=THREAT, examples=0)
