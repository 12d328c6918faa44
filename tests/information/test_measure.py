"""Decoders that are known exactly, so that what they leave unexplained is known too."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pytest

from interpretgan.information.measure import Measurement
from interpretgan.statistics import Weights, bootstrap_weights
from tests import reference

Floats = npt.NDArray[np.float64]
PIXELS, EXAMPLES = 12, 80


def measurement(
    images: Floats,
    decoded: list[Floats],
    mean: Floats,
    bits: Floats | None = None,
    controls: Mapping[int, Floats] = MappingProxyType({}),
    *,
    right: npt.NDArray[np.bool_] | None = None,
) -> Measurement:
    """What decoders leave of images `[N, pixels]`."""

    def errors(of: list[Floats]) -> Floats:
        return np.array([((images - each) ** 2).sum(axis=1) for each in of]).reshape(len(of), len(images))

    return Measurement(
        errors=errors([images, *decoded]),
        control_errors=errors(list(controls.values())),
        controls=np.array(list(controls), dtype=np.int64),
        variance=((images - mean) ** 2).sum(axis=1),
        bits=np.zeros((len(decoded) + 1, len(images))) if bits is None else bits,
        right=np.zeros((len(decoded) + 1, len(images)), dtype=bool) if right is None else right,
        layers=tuple(f"layer{n}" for n in range(len(decoded))),
        settings={},
    )


@pytest.fixture
def images() -> Floats:
    random = np.random.default_rng(0)
    return random.standard_normal((EXAMPLES, PIXELS)) * np.linspace(0.2, 2, PIXELS)


def weights(replicates: int = 200, seed: int = 0, examples: int = EXAMPLES) -> Weights:
    return bootstrap_weights(examples, replicates, seed=seed)


def test_an_invertible_layer_loses_nothing_and_a_constant_one_everything(images: Floats) -> None:
    matrix = np.random.default_rng(1).standard_normal((PIXELS, PIXELS))
    latent = images @ matrix
    restored, mean = latent @ np.linalg.inv(matrix), np.full(PIXELS, 0.1)
    rows = measurement(images, [restored, np.tile(mean, (EXAMPLES, 1))], mean).rows(weights(), 0.95)
    assert [row.unexplained.value for row in rows] == pytest.approx([0, 0, 1], abs=1e-6)
    assert [row.information_loss.value for row in rows] == pytest.approx([0, 0, 1], abs=1e-6)
    assert rows[2].unexplained.low == pytest.approx(1, abs=1e-6)  # each image loses all of its variance
    assert [row.flags for row in rows] == [()] * 3


def test_the_figures_are_the_formulas(images: Floats) -> None:
    random, mean = np.random.default_rng(2), np.full(PIXELS, 0.3)
    decoded = [images + size * random.standard_normal(images.shape) for size in (0.2, 0.5)]
    control = images + 0.1 * random.standard_normal(images.shape)
    labels, logits = random.integers(0, 3, EXAMPLES), random.standard_normal((3, EXAMPLES, 3))
    frequencies = [0.5, 0.2, 0.3]
    bits = np.array(
        [[reference.class_information([int(y)], [row], frequencies) for y, row in zip(labels, place, strict=True)]
         for place in logits]
    )  # fmt: skip
    right = logits.argmax(axis=2) == labels
    measured = measurement(images, decoded, mean, bits, {2: control}, right=right)
    rows = measured.rows(weights(), 0.95)
    left = [0.0, *(reference.unexplained(images.tolist(), each.tolist(), mean.tolist()) for each in decoded)]
    np.testing.assert_allclose([row.unexplained.value for row in rows], left, rtol=1e-5)
    whole = np.square(images - mean).sum() / EXAMPLES
    assert list(measured.left_open.values()) == pytest.approx([share * whole for share in left[1:]], rel=1e-5)
    np.testing.assert_allclose([row.information_loss.value for row in rows], [0, *np.diff(left)], rtol=1e-5)
    told = [reference.class_information(labels.tolist(), place.tolist(), frequencies) for place in logits]
    np.testing.assert_allclose([row.class_information.value for row in rows], told, rtol=1e-5)
    np.testing.assert_allclose([row.class_information_loss.value for row in rows], [0, *-np.diff(told)], atol=1e-6)
    assert [row.class_accuracy.value for row in rows] == pytest.approx([place.sum() / EXAMPLES for place in right])
    assert rows[1].information_control is None
    assert rows[2].information_control is not None
    expected = reference.unexplained(images.tolist(), control.tolist(), mean.tolist()) - left[1]
    assert rows[2].information_control.value == pytest.approx(expected, rel=1e-5)
    for row in rows:
        for found in (
            row.unexplained, row.information_loss, row.class_information, row.class_information_loss, row.class_accuracy
        ):  # fmt: skip
            assert found.low <= found.value <= found.high


def test_a_chain_of_layers_that_each_keep_less_loses_something_at_every_step(images: Floats) -> None:
    kept = [images * (np.arange(PIXELS) < count) for count in (12, 9, 9, 4, 0)]  # E[x|z] of independent pixels
    rows = measurement(images, kept, np.zeros(PIXELS)).rows(weights(), 0.95)
    losses = np.array([row.information_loss.value for row in rows[1:]])
    assert (losses[[1, 3, 4]] > 0.01).all()
    assert losses[[0, 2]].tolist() == [0, 0]
    assert losses.sum() == pytest.approx(1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Independent pixels of equal variance, of which two layers keep 8 and 5 of 12."""
    covered = 0
    for trial in range(200):
        images = np.random.default_rng(trial).standard_normal((EXAMPLES, PIXELS))
        kept = [images * (np.arange(PIXELS) < count) for count in (8, 5)]
        rows = measurement(images, kept, np.zeros(PIXELS)).rows(weights(300, trial), 0.95)
        covered += rows[2].information_loss.low <= 3 / 12 <= rows[2].information_loss.high
    assert 176 <= covered <= 199


def test_negative_values_stay_and_are_flagged_beyond_their_interval(images: Floats) -> None:
    random = np.random.default_rng(3)
    poor, good = (images + size * random.standard_normal(images.shape) for size in (0.6, 0.3))
    same = good.copy()
    same[::2] = images[::2] + 0.3 * random.standard_normal(images[::2].shape)
    bits = np.zeros((4, EXAMPLES))
    bits[:2] = [[1.0], [-0.5]]
    bits[2] = random.standard_normal(EXAMPLES) / 2
    rows = measurement(images, [poor, good, same], np.zeros(PIXELS), bits, {3: images}).rows(weights(), 0.95)
    assert rows[2].information_loss.value < rows[2].information_loss.high < 0
    flags = [[(flag.code, flag.layer, flag.details["figure"]) for flag in row.flags] for row in rows]
    assert flags == [
        [],
        [("negative_information", "layer0", "class information")],
        [("negative_information", "layer1", "information loss")],
        [("negative_information", "layer2", "information loss of a random projection")],
    ]
    assert rows[2].flags[0].value == rows[2].information_loss.value
    assert rows[1].class_information_loss.value == pytest.approx(1.5)
    assert rows[3].class_information_loss.value < 0.5  # a class that becomes easier to read is no error
