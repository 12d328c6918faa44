"""What explanations cost: each contender on a tiny network, and the training that stops at equal quality."""

from __future__ import annotations

import dataclasses
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from interpretgan import Classifier, ImageSet
from interpretgan.cli.text import print_table
from interpretgan.errors import ConfigError
from interpretgan.gan.train import GREY_STEPS
from interpretgan.judge import Judge
from interpretgan.layers import capture, find_layers
from interpretgan.speed import benchmark, invertible
from interpretgan.speed.benchmark import (
    ALONE,
    CONTENDERS,
    GRADIENTS,
    INVERTIBLE,
    LSA,
    OURS,
    SMALL,
    at_equal_quality,
    costs,
)
from interpretgan.speed.invertible import train_invertible
from interpretgan.speed.one_by_one import train_alone
from interpretgan.speed.page import rows_of, write_chart
from interpretgan.speed.per_image import integrated_gradients
from interpretgan.store.machine import describe
from tests.networks import Tiny

CPU = torch.device("cpu")
TINY = dataclasses.replace(SMALL, rounds=1, steps=3, most=2, trained=2, judged=30)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Tiny())


def test_one_generator_a_layer_stops_when_it_is_good_enough(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interpretgan.speed.one_by_one.CHECKED_EVERY", 2)
    seen = list[Tensor]()
    few = digits[1].batch(slice(0, 3))[0]

    def good(draw: Any) -> bool:
        seen.append(draw(few))
        return len(seen) == 2

    layer = find_layers(classifier, few)[1]
    found = train_alone(classifier, layer, digits[0], steps=9, seed=0, good=good)
    assert (found.steps, found.reached, found.layer) == (4, True, layer.name)
    assert 0 < found.step_seconds <= found.seconds / 4
    assert seen[0].shape == few.shape
    assert not torch.equal(seen[0], seen[1])
    again = train_alone(classifier, layer, digits[0], steps=3, seed=0, good=lambda _: False)
    assert (again.steps, again.reached) == (3, False)


def test_integrated_gradients_of_a_latent_add_up_to_what_it_does(
    classifier: Classifier, digits: tuple[ImageSet, ImageSet]
) -> None:
    pytest.importorskip("captum")
    images, labels = digits[1].batch(slice(0, 3))
    layer = find_layers(classifier, images)[-1]  # the logits themselves
    found = integrated_gradients(classifier, layer, images, labels)
    logits = capture(classifier, images, [layer])[1][layer.name]
    chosen = torch.nn.functional.one_hot(labels, logits.shape[1]) * logits
    assert torch.allclose(found.float(), chosen, atol=1e-4)


def test_an_invertible_network_learns_and_is_inverted(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    framework = pytest.importorskip("FrEIA.framework")
    losses, codes = list[float](), list[Tensor]()
    plain = framework.SequenceINN.forward

    def remembered(network: Any, given: Tensor, **more: Any) -> Any:
        found, volume = plain(network, given, **more)
        losses.append((found.square().sum(dim=1) / 2 - volume).mean().item())
        if more.get("rev"):
            codes.extend((given, plain(network, found, c=more["c"])[0]))
        return found, volume

    monkeypatch.setattr(framework.SequenceINN, "forward", remembered)
    monkeypatch.setattr(invertible, "BLOCKS", 3)
    monkeypatch.setattr(invertible, "HIDDEN", (32, 32))
    images = torch.rand(5, 1, 28, 28)
    found = train_invertible(classifier, find_layers(classifier, images)[1], images, steps=6, seed=0)
    assert found["step_seconds"] > found["image_seconds"] > 0
    *trained, _ = losses
    assert len(trained) == 6
    assert trained[-1] < trained[0]
    drawn, again = codes
    assert torch.allclose(drawn, again, atol=1e-4)


def test_a_contender_whose_extra_is_missing_is_left_out(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "FrEIA.framework", None)
    images = torch.rand(2, 1, 28, 28)
    with pytest.raises(ConfigError, match=r"expected FrEIA.*\[freia\]"):
        train_invertible(classifier, find_layers(classifier, images)[1], images, steps=1, seed=0)


def test_every_contender_has_its_cost_and_the_chart_shows_it(
    digits: tuple[ImageSet, ImageSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = digits[0].head(200), digits[1].head(60)
    monkeypatch.setattr(benchmark, "load_data", lambda _, split: few[split == "test"])
    monkeypatch.setattr(invertible, "HIDDEN", (32,))
    monkeypatch.setattr(benchmark, "train_judge", lambda *_, **__: Judge(Classifier(Tiny()), 0.0, 0.0, "tiny"))
    machine = describe(repeats=1, convolutions=True, fp32="float32", bf16="bfloat16")
    equal = at_equal_quality(TINY, machine, device=CPU, say=lambda _: None, seed=0)
    assert len(equal["layers"]) == len(equal[OURS]["right"]) == 11
    assert equal[OURS]["share_of_conv_peak"] > 0
    assert [row["layer"] for row in equal[ALONE]["trained"]] == ["conv1", "fc3"]
    case = costs(layers=3, pixels=16, width=4, size=TINY, equal=equal, device=CPU, seed=0)
    assert set(case["cost"]) == set(CONTENDERS) - set(case["errors"])
    assert set(case["errors"]) <= {GRADIENTS, INVERTIBLE}  # what an extra is needed for
    assert all(row["seconds"] > 0 and row["memory_mib"] > 0 for row in case["cost"].values())
    assert case["cost"][OURS]["training_seconds"] == GREY_STEPS * case["cost"][OURS]["step_seconds"]
    assert case["cost"][LSA]["seconds"] < case["cost"][OURS]["seconds"]
    described = {"layers": 3, "pixels": 16, "width": 4, **case}
    result = {"contenders": CONTENDERS, "explained": 1000,
              "cases": [{"axis": axis, **described} for axis in ("layers", "pixels", "width")]}  # fmt: skip
    chart = write_chart(result, tmp_path / "speed.svg")
    assert ET.parse(chart).getroot().tag.endswith("svg")  # our own file
    print_table(("network", *CONTENDERS, "training"), rows_of(result))


def test_a_run_that_was_stopped_goes_on_after_the_parts_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, asked = dataclasses.replace(TINY, layers=(2, 3), pixels=(28,), widths=(16,)), list[int]()
    alone, cost = {"seconds": 3.0}, {"seconds": 1.0}

    def costs(*, layers: int, **_: Any) -> dict[str, Any]:
        asked.append(layers)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return {"parameters": 9, "cost": {OURS: cost, ALONE: alone}, "errors": {}, "training_speedup": 3.0}

    def at_equal_quality(*_: Any, **__: Any) -> dict[str, Any]:
        asked.append(0)
        return {"speedup": 2.0}

    monkeypatch.setattr(benchmark, "at_equal_quality", at_equal_quality)
    monkeypatch.setattr(benchmark, "costs", costs)
    with pytest.raises(KeyboardInterrupt):
        benchmark.run_speed(size, tmp_path, device=CPU, say=lambda _: None)
    assert not (tmp_path / benchmark.SUMMARY_FILE).exists()
    result = benchmark.run_speed(size, tmp_path, device=CPU, say=lambda _: None)
    assert asked == [0, 2, 3, 3, 11]  # the case that two axes share once
    assert [case["axis"] for case in result["cases"]] == ["layers", "layers", "pixels", "width"]
    assert result["machine"]["matmul_gflops"]["fp32"] > 0
    assert result["equal_quality"] == {"speedup": 2.0}
    benchmark.run_speed(size, tmp_path, device=CPU, say=lambda _: None, seed=1)
    assert asked[5:] == [0, 2, 3, 11]  # of another seed: all of it
    assert benchmark.run_speed(size, tmp_path, device=CPU, say=lambda _: None) == result
    for file in tmp_path.glob("parts/*/equal-quality.json"):
        file.write_text("{")  # damaged
    for file in tmp_path.glob("parts/*/3-28-16.json"):
        file.write_text(file.read_text().replace('"part"', '"parts"'))
    assert benchmark.run_speed(size, tmp_path, device=CPU, say=lambda _: None, seed=1)["cases"] == result["cases"]
    assert asked[9:] == [0, 3]
