"""The evaluation as a whole: worst case, intervals, flags, record, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.data import load_data
from interpretgan.errors import ConfigError, Flag, ImageError, LabelError, ModelError, RunFolderError, ThreatModelError
from interpretgan.robustness import Evaluation, evaluate
from interpretgan.statistics import wilson
from tests.networks import Tiny, detached, probabilities
from tests.robustness.test_attack_checks import (
    AlwaysTraining,
    Purifying,
    centred,
    quantised,
    randomised,
    saturated,
    sigmoid,
)

Examples = tuple[Tensor, Tensor]
THREAT = ThreatModel("linf", 0.2, steps=10)
INTERVAL = {"value", "low", "high", "spread"}


@pytest.fixture(scope="module")
def found(sound: Classifier) -> tuple[Evaluation, dict[str, Tensor], list[str]]:
    kept: dict[str, Tensor] = {}
    told: list[str] = []
    result = evaluate(
        sound, load_data("digits", "test"), threat_model=ThreatModel("linf", 0.07, steps=10, restarts=2),
        attacks=("fgsm", "pgd", "cw", "deepfool"), examples=60, curve_examples=30, seed=3,
        say=told.append, on_examples=kept.update, classifier_info={"checkpoint": "last"},
    )  # fmt: skip
    return result, kept, told


def test_the_worst_case_is_per_example(found: tuple[Evaluation, dict[str, Tensor], list[str]]) -> None:
    result, kept, _ = found
    attacks = ["fgsm", "pgd", "cw", "deepfool"]
    assert list(result.accuracy) == ["natural", *attacks, "worst_case"]
    right = torch.stack([kept[name] for name in ["natural", *attacks]])
    assert torch.equal(kept["worst_case"], right.all(dim=0))
    for name in [*attacks, "natural", "worst_case"]:
        share = result.accuracy[name]
        assert share == wilson(int(kept[name].sum()), 60, 0.95)
        assert share.low < share.value < share.high
    assert not (right[1:] & ~right[0]).any(), "what is wrong without an attack stays wrong"
    assert result.accuracy["worst_case"].value <= min(result.accuracy[name].value for name in attacks)
    assert result.accuracy["worst_case"].value < result.accuracy["natural"].value - 0.2


def test_a_wilson_interval() -> None:
    """The textbook's: 8 of 10 at 95 %."""
    share = wilson(8, 10, 0.95)
    assert (share.value, share.low, share.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)
    assert wilson(10, 10, 0.95).high == 1
    assert wilson(0, 10, 0.95).low == 0


def test_curves(found: tuple[Evaluation, dict[str, Tensor], list[str]]) -> None:
    result, kept, _ = found
    eps, steps = result.curves["eps"], result.curves["steps"]
    assert [point.at for point in eps] == pytest.approx([0, 0.0175, 0.035, 0.0525, 0.07, 0.105, 0.14, 0.5])
    assert [point.at for point in steps] == [0, 1, 2, 5, 10, 20, 50, 100]
    assert eps[0].value == steps[0].value == float(kept["natural"][:30].float().mean())
    assert eps[4] == steps[4].__class__(0.07, steps[4].value, steps[4].low, steps[4].high), "the same attack"
    assert eps[-1].value == 0
    for points in (eps, steps):
        assert all(point.low <= point.value <= point.high for point in points)


def test_the_record_states_everything(found: tuple[Evaluation, dict[str, Tensor], list[str]], tmp_path: Path) -> None:
    result, _, told = found
    file = result.save(tmp_path)
    assert file == tmp_path / "evaluation.json"
    assert Evaluation.load(tmp_path) == result
    record = json.loads(file.read_text())
    assert record["schema"] == 2
    assert [Flag(**flag) for flag in record["flags"]] == list(result.flags)
    assert {flag["code"]: flag["severity"] for flag in record["flags"]}["few_examples"] == "note"
    assert all(share.keys() == INTERVAL for share in [*record["accuracy"].values(), record["controls"]["noise"]])
    assert record["threat_model"] == {"norm": "linf", "eps": 0.07, "bounds": [0.0, 1.0], "labels": "true classes"}
    assert record["attacks"]["pgd"] == {
        "steps": 10, "restarts": 2, "step_size": 0.0175, "loss": "cross-entropy", "random_start": True,
    }  # fmt: skip
    assert record["classifier"]["checkpoint"] == "last"
    assert record["data"]["split"] == "test"
    assert record["data"]["examples"] == 60
    assert record["provenance"]["seed"] == 3
    assert record["provenance"]["device"] == "cpu"
    assert record["provenance"]["precision"] == "float32"
    assert record["provenance"]["versions"]["pyautoattack"] == "0.2.0"
    assert record["provenance"]["confidence"] == 0.95
    assert len(told) == 5
    assert told[0].startswith("natural: ")


def test_the_same_seed_gives_the_same_figures_and_a_tensor_the_same_as_a_set(
    found: tuple[Evaluation, dict[str, Tensor], list[str]], sound: Classifier, digits: Examples
) -> None:
    again = evaluate(
        sound, digits[0][:60], digits[1][:60], threat_model=ThreatModel("linf", 0.07, steps=10, restarts=2),
        attacks=("fgsm", "pgd", "cw", "deepfool"), curve_examples=30, seed=3,
    )  # fmt: skip
    assert again.accuracy == found[0].accuracy
    assert again.curves == found[0].curves
    assert again.flags == found[0].flags


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "readable JSON"),
        ("{", "truncated"),
        ('{"schema": 1}', "schema 1"),
        ('{"schema": 2, "flags": "none"}', "classifier: Field"),
    ],
)
def test_a_damaged_evaluation_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(RunFolderError, match=message):
        Evaluation.load(tmp_path)


# --- self-test: masked and planted models ------------------------------------------------------------------------


def flags_of(classifier: Classifier, digits: Examples, threat_model: ThreatModel = THREAT) -> set[str]:
    result = evaluate(classifier, *digits, threat_model=threat_model, attacks=("fgsm", "pgd"), curve_examples=80)
    return {flag.code for flag in result.flags}


def test_a_sound_model_is_flagged_for_the_few_examples_alone(sound: Classifier, digits: Examples) -> None:
    assert flags_of(sound, digits) == {"few_examples"}


SEARCH = {"unusable_gradients", "noise_as_good", "one_step_as_good", "robust_at_any_size", "gradient_attacks_only"}


@pytest.mark.parametrize(
    ("model", "codes"),
    [
        (saturated, SEARCH),
        (quantised, SEARCH),
        (randomised, {"passes_differ"}),
        (sigmoid, {"probabilities"}),
        (lambda net: Classifier(Purifying(net)), {"dynamic_model"}),
        (centred, {"dynamic_model"}),
    ],
)
def test_a_masked_model_is_flagged(
    model: Callable[[nn.Module], Classifier], codes: set[str], net: Tiny, digits: Examples
) -> None:
    few = digits[0][:40], digits[1][:40]
    assert codes <= flags_of(model(net), few, ThreatModel("linf", 0.05, steps=10))


def test_square_breaks_what_quantisation_masks(net: Tiny, digits: Examples) -> None:
    few = digits[0][:6], digits[1][:6]
    result = evaluate(
        quantised(net), *few, threat_model=ThreatModel("linf", 0.4, steps=2), attacks=("pgd", "autoattack")
    )
    codes = {flag.code for flag in result.flags}
    assert "black_box_wins" in codes
    assert "gradient_attacks_only" not in codes
    assert result.accuracy["autoattack"].value < result.accuracy["pgd"].value
    stages = result.attacks["autoattack"]
    assert stages["target_classes"] == 9
    assert stages["accuracy_after"]["square"] == result.accuracy["autoattack"].value


class Planted(nn.Module):
    """Right on natural images, and every class is one tiny change of the first pixel away."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        trigger = (x[:, 0, 0, 0] - 0.004).clamp_min(0)
        return logits + 1e5 * trigger[:, None] * logits.roll(1, dims=1)


def test_planted_adversarial_examples_are_found(net: Tiny, sound: Classifier, digits: Examples) -> None:
    dark = digits[0][:, 0, 0, 0] == 0
    images, labels = digits[0][dark][:40], digits[1][dark][:40]
    tiny = ThreatModel("linf", 0.01, steps=10, restarts=12)
    honest = evaluate(sound, images, labels, threat_model=tiny, attacks=("pgd",))
    planted = evaluate(Classifier(Planted(net)), images, labels, threat_model=tiny, attacks=("pgd",))
    assert planted.accuracy["natural"] == honest.accuracy["natural"]
    assert honest.accuracy["worst_case"].value > 0.85
    assert planted.accuracy["worst_case"].value < 0.05


# --- what is refused ---------------------------------------------------------------------------------------------


def test_misuse_is_answered_with_what_to_do(net: Tiny, sound: Classifier, digits: Examples) -> None:
    images, labels = digits
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (ThreatModelError, "stated threat model", lambda: evaluate(sound, images, labels, threat_model=None)),  # type: ignore[arg-type]  # on purpose
        (ThreatModelError, "eps <= 1,", lambda: evaluate(sound, images, labels, threat_model=ThreatModel("linf", 8.0))),
        (ConfigError, "'apgd'", lambda: evaluate(sound, images, labels, threat_model=THREAT, attacks=("apgd",))),
        (ConfigError, "one example", lambda: evaluate(sound, images, labels, threat_model=THREAT, examples=0)),
        (ImageError, "N >= 1", lambda: evaluate(sound, images[:0], labels[:0], threat_model=THREAT)),
        (LabelError, "with a tensor of images, got none", lambda: evaluate(sound, images, threat_model=THREAT)),
        (LabelError, "labels from 0 to 9", lambda: evaluate(sound, images, labels + 9, threat_model=THREAT)),
        (ModelError, "softmax", lambda: evaluate(Classifier(probabilities()), images, labels, threat_model=THREAT)),
        (ModelError, "gradients", lambda: evaluate(Classifier(detached()), images, labels, threat_model=THREAT)),
        (
            ModelError,
            "AlwaysTraining in train mode",
            lambda: evaluate(Classifier(AlwaysTraining(net)), images, labels, threat_model=THREAT),
        ),
        (
            ConfigError,
            "at least 4 classes",
            lambda: evaluate(Classifier(Tiny(classes=3)), images, labels % 3, threat_model=THREAT),
        ),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind, match=message):
            call()
