"""Distances of explanations to natural images: right where they can be worked out, and blind to nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import interpretgan as ig
from interpretgan.data import ImageSet, load_data
from interpretgan.diagnosis.realism import Realism, independent_network, kernel_distance, measure_realism
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.report import write_report
from interpretgan.statistics import Floats, Interval
from tests.report.samples import lenet_diagnosis


def slowly(a: Floats, b: Floats) -> float:
    """The unbiased squared discrepancy, by its definition."""
    n, m, d = len(a), len(b), a.shape[1]

    def k(x: Floats, y: Floats) -> float:
        return float((sum(p * q for p, q in zip(x, y, strict=True)) / d + 1) ** 3)

    within_a: float = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b: float = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * float(sum(k(x, y) for x in a for y in b)) / (n * m)


def test_a_distance_is_its_definition_on_each_subset() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(8, 3)), random.normal(0.5, 1, (6, 3))
    again, each = np.random.default_rng(4), []
    rows = [[again.permutation(count)[:3] for _ in range(5)] for count in (8, 6)]
    each = [slowly(a[first], b[second]) for first, second in zip(*rows, strict=True)]
    found = kernel_distance(a, b, seed=4, subsets=5)
    assert found.value == pytest.approx(np.mean(each), abs=1e-9)
    low, high = np.percentile(each, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)


def test_it_is_zero_on_average_and_only_for_the_same_distribution() -> None:
    random = np.random.default_rng(1)
    same = [kernel_distance(*random.normal(size=(2, 60, 4)), seed=n, subsets=20).value for n in range(40)]
    assert abs(np.mean(same)) < 3 * np.std(same) / 40**0.5
    wider = kernel_distance(random.normal(0, 1.5, (200, 4)), random.normal(size=(200, 4)), seed=0)
    assert wider.low > np.max(same)  # the same mean, another variance
    with pytest.raises(ConfigError, match="at least 4 rows"):
        kernel_distance(np.zeros((3, 4)), np.zeros((30, 4)), seed=0)


@pytest.fixture(scope="module")
def fitted() -> tuple[ig.InterpretGAN, ig.Classifier]:
    """A generator of two steps, on the digits, which the features of a network of MNIST tell well enough."""
    classifier = ig.load_classifier("lenet5-max")
    config = ig.GANConfig(steps=2, images_per_layer=2)
    interpreter = ig.InterpretGAN(classifier, config=config).fit(load_data("digits", "train").head(200))
    return interpreter, ig.load_classifier("lenet5-avg-pgd")


def test_realism_tells_the_controls_and_a_generator_that_draws_noise(
    fitted: tuple[ig.InterpretGAN, ig.Classifier], digits: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter, network = fitted
    found = measure_realism(interpreter, digits[1], network, name="lenet5-avg-pgd")
    assert found.images == 225
    assert len(found.layers) == len(interpreter.layers)
    assert found.natural.low <= 0 <= found.natural.high
    assert found.controls["noisy"].low > found.natural.high
    assert not found.tells  # blurred digits look like digits, which are enlarged from 8 × 8 pixels
    # Two steps give the linear start, which draws early layers well and the last ones badly.
    assert found.layers[0].value < found.layers[-1].value
    drawn = torch.rand(len(interpreter.layers), 225, 1, 28, 28)
    monkeypatch.setattr(type(interpreter), "draw", lambda self, images, noise: drawn[:, : len(images)])
    noise = measure_realism(interpreter, digits[1], network, name="lenet5-avg-pgd")
    assert min(layer.low for layer in noise.layers) > found.layers[0].high
    with pytest.raises(ConfigError, match="at least 200 images"):
        measure_realism(interpreter, digits[1].head(60), network, name="few")


def test_a_network_of_one_layer_has_features_too(
    fitted: tuple[ig.InterpretGAN, ig.Classifier], digits: tuple[ImageSet, ImageSet]
) -> None:
    network = ig.Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(28 * 28, 10)))
    found = measure_realism(fitted[0], digits[1].head(200), network, name="one")
    assert len(found.layers) == len(fitted[0].layers)


def test_the_network_is_one_that_took_no_part(digits: tuple[ImageSet, ImageSet]) -> None:
    explained, judge = ig.load_classifier("lenet5-max"), ig.load_classifier("lenet5-max-pgd")
    sha256 = ig.models.read_card("lenet5-max").data["sha256"]
    mnist = replace(digits[0], sha256=sha256)
    found = independent_network(mnist, [explained, judge, None])
    assert found is not None
    assert found[0] not in ("lenet5-max", "lenet5-max-pgd")
    assert found[0].endswith(("pgd", "trades"))
    assert independent_network(digits[0], [explained]) is None
    other = ig.Classifier(explained.model, bounds=(0.0, 255.0))
    assert independent_network(mnist, [other]) is None


def test_a_report_has_the_distances_and_the_control(tmp_path: Path) -> None:
    lenet, floor = lenet_diagnosis(), Interval(0.001, -0.02, 0.03)
    layers = tuple(Interval(0.01 * n, 0.01 * n - 0.005, 0.01 * n + 0.005) for n in range(1, 8))
    controls = {"blurred": Interval(0.4, 0.3, 0.5), "noisy": Interval(0.02, 0.01, 0.05)}
    real = Realism("other-net", 500, floor, layers, controls)
    rows = tuple(replace(row, realism=each) for row, each in zip(lenet.layers, (floor, *layers), strict=True))
    diagnosis = replace(lenet, layers=rows, realism=real)
    page = write_report(diagnosis, tmp_path).read_text()
    assert "0.070<small>[0.065, 0.075]</small>" in page
    assert "other-net" in page
    assert "✗ does not hold" in page.split("Blurred and noisy")[1].split("</div>")[0]  # noise as near as natural images
    diagnosis.save(tmp_path)
    assert Diagnosis.load(tmp_path) == diagnosis
    assert diagnosis.to_frame()["realism"].tolist() == [each.value for each in (floor, *layers)]
    replace(diagnosis, layers=(*rows[:-1], replace(rows[-1], realism=None))).save(tmp_path)
    with pytest.raises(RunFolderError, match=r"layers\.realism"):
        Diagnosis.load(tmp_path)
