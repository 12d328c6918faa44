from __future__ import annotations

from dataclasses import replace

import pytest

from interpretgan.diagnosis.result import Diagnosis
from interpretgan.report import figures
from interpretgan.statistics import Interval
from tests.report.samples import around, changed


def test_bars_are_true_to_scale_and_hold_their_intervals(lenet: Diagnosis) -> None:
    panel = figures.panels(lenet)["vulnerability"]
    assert panel.marks[0] is None
    assert panel.controls[0] is None
    zero, per_point = panel.zero, (panel.ticks[1][0] - panel.ticks[0][0]) / 20
    assert [label for _, label in panel.ticks] == ["0", "20", "40", "60"]
    assert panel.ticks[0][0] == zero
    for layer, mark, control in zip(lenet.layers[1:], panel.marks[1:], panel.controls[1:], strict=True):
        assert mark is not None
        assert control is not None
        assert mark.x - zero == pytest.approx(100 * layer.vulnerability.value * per_point, abs=0.01)
        assert control.x - zero == pytest.approx(100 * layer.vulnerability_noise.value * per_point, abs=0.01)
        assert 0 <= mark.low < mark.x < mark.high <= 100


def test_negative_values_lie_left_of_zero(lenet: Diagnosis) -> None:
    panel = figures.panels(changed(lenet, "pool1", vulnerability=around(-0.1, 0.02)))["vulnerability"]
    mark = panel.marks[2]
    assert mark is not None
    assert (mark.value, mark.span) == ("−10.0", "[−12.0, −8.0]")
    assert 0 <= mark.low < mark.x < mark.high < panel.zero


def test_class_information_is_in_bits_the_image_included(lenet: Diagnosis) -> None:
    bits = [2.0 + 0.1 * place for place in range(len(lenet.layers))]
    told = [replace(layer, class_information=around(value, 0.05))
            for layer, value in zip(lenet.layers, bits, strict=True)]  # fmt: skip
    drawn = figures.panels(replace(lenet, layers=tuple(told)))
    assert drawn.keys() == {"vulnerability", "information", "bits"}
    panel = drawn["bits"]
    assert panel.zero == 0
    places = [mark.x for mark in panel.marks if mark is not None]
    assert [x / places[0] for x in places] == pytest.approx([value / bits[0] for value in bits], rel=1e-3)
    assert panel.marks[1] is not None
    assert (panel.marks[1].value, panel.marks[1].span) == ("2.10", "[2.05, 2.15]")
    alone = [replace(layer, information_loss=None, class_information=None) for layer in lenet.layers]
    assert figures.panels(replace(lenet, layers=tuple(alone))).keys() == {"vulnerability"}


def test_curves_go_through_the_accuracies_of_every_row(lenet: Diagnosis) -> None:
    lenet = changed(lenet, "image", intervals={**lenet.layers[0].intervals, "adversarial": Interval(0.935, 0.9, 0.95)})
    curve = figures.curves(lenet)["adversarial"]
    assert curve.values == pytest.approx([100 * layer.adversarial for layer in lenet.layers])
    assert curve.line.split()[0] == "93.50,5"
    assert (curve.band.split()[0], curve.band.split()[-1]) == ("90.00,5", "95.00,5")
    assert len(curve.line.split()) * 2 == len(curve.band.split()) == 2 * len(lenet.layers)
