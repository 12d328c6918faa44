"""The two front doors: the command line and `run_diagnosis` are one method."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from interpretgan import Classifier, Diagnosis, ImageSet, InterpretGAN, Judge, ThreatModel, diagnose, run_diagnosis
from interpretgan.attacks import attack
from interpretgan.baselines.layer_scores import LAYER_SCORES
from interpretgan.cli import run_command
from interpretgan.errors import ConfigError, ModelError, RunFolderError, ThreatModelError
from interpretgan.layers import capture, find_layers
from interpretgan.models import build_model, load_weights, save_weights
from interpretgan.pipeline.settings import KEYWORD_GROUPS, DiagnosisKeywords, Settings
from tests.networks import Tiny

SMALL: dict[str, Any] = {
    "judge_epochs": 2, "generator_steps": 12, "images_per_layer": 2, "information_steps": 4, "bootstrap": 20,
    "examples": 40,
}  # fmt: skip
THREAT_MODEL = ThreatModel("linf", 0.2, steps=2)
FLAGS = [part for name, value in SMALL.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of an untrained LeNet-5: what is compared are two ways to the same numbers."""
    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "lenet5.safetensors"
    save_weights(build_model("lenet5", in_channels=1, num_classes=10, image_size=28), file)
    return file


def lenet5(weights: Path) -> Classifier:
    model = build_model("lenet5", in_channels=1, num_classes=10, image_size=28)
    load_weights(model, weights)
    return Classifier(model)


@pytest.fixture(scope="module")
def by_command(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    folder = tmp_path_factory.mktemp("run")
    attack = shlex.split("--eps 0.2 --steps 2 --device cpu")
    assert run_command(["diagnose", "--weights", str(weights), *attack, *FLAGS, "--out", str(folder / "out")]) == 0
    return Diagnosis.load(folder / "out")


def test_both_doors_give_the_same_numbers(
    by_command: Diagnosis, weights: Path, digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    by_call = run_diagnosis(lenet5(weights), *digits, THREAT_MODEL, out=tmp_path / "out", **SMALL)
    assert by_call.layers == by_command.layers
    assert by_call.accuracy == by_command.accuracy
    assert by_call.controls == by_command.controls
    assert by_call.judge == by_command.judge
    assert Diagnosis.load(tmp_path / "out").layers == by_call.layers
    assert (tmp_path / "out" / "report.html").exists()


def test_tensors_give_the_same_numbers_and_nothing_is_written_without_a_folder(
    by_command: Diagnosis,
    weights: Path,
    digits: tuple[ImageSet, ImageSet],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    train, test = (part.batch(slice(None)) for part in digits)
    found = run_diagnosis(lenet5(weights), TensorDataset(*train), test, THREAT_MODEL, **SMALL)
    assert [layer.vulnerability for layer in found.layers] == [layer.vulnerability for layer in by_command.layers]
    assert not list(tmp_path.iterdir())


def test_the_same_call_goes_on_and_another_one_is_refused(
    weights: Path, digits: tuple[ImageSet, ImageSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {**SMALL, "layers": ["fc1", "pool1"], "groups": {"fc1": 4}}
    first = run_diagnosis(lenet5(weights), *digits, THREAT_MODEL, out=tmp_path / "out", **chosen)
    assert [layer.name for layer in first.layers] == ["image", "pool1", "fc1"]
    groups = first.layers[2].branches
    assert [group.name for group in groups] == ["fc1[0:30]", "fc1[30:60]", "fc1[60:90]", "fc1[90:120]"]
    assert sum(group.vulnerability.value for group in groups) == pytest.approx(first.layers[2].vulnerability.value)
    (tmp_path / "out" / "diagnosis.json").unlink()
    capsys.readouterr()
    assert run_diagnosis(lenet5(weights), *digits, THREAT_MODEL, out=tmp_path / "out", **chosen).layers == first.layers
    assert "training" not in capsys.readouterr().err
    with pytest.raises(RunFolderError, match=r"attack\.eps \(0\.2 there, 0\.1 here\)"):
        run_diagnosis(lenet5(weights), *digits, ThreatModel("linf", 0.1, steps=2), out=tmp_path / "out", **chosen)
    other = Classifier(Tiny())
    with pytest.raises(RunFolderError, match=r"model\.state_sha256"):
        run_diagnosis(other, *digits, THREAT_MODEL, out=tmp_path / "out", **{**SMALL, "layers": ["fc1"]})


def test_baselines_are_added_to_a_finished_run_and_change_nothing_else(
    weights: Path, digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    chosen: Any = {**SMALL, "layers": ["pool1", "fc1", "fc3"]}
    plain = run_diagnosis(lenet5(weights), *digits, THREAT_MODEL, out=tmp_path / "out", **chosen)
    assert plain.baselines == ()
    found = run_diagnosis(lenet5(weights), *digits, THREAT_MODEL, out=tmp_path / "out", baselines=True, **chosen)
    assert [score.name for score in found.baselines] == list(LAYER_SCORES)
    assert found.layers == plain.layers
    assert Diagnosis.load(tmp_path / "out").baselines == found.baselines
    scores = {score.name: score for score in found.baselines}
    for score in scores.values():
        assert (score.error is None) == (len(score.values) == 3), score.error
    losses = [row.information_loss for row in found.layers[1:]]
    assert scores["information_loss"].values == tuple(loss.value for loss in losses if loss is not None)
    # By hand, on the same images, attacked from the same starts.
    classifier = lenet5(weights)
    images, labels = digits[1].batch(range(40))
    attacked = attack(classifier, images, labels, THREAT_MODEL, seed=0)
    layers = [layer for layer in find_layers(classifier, images) if layer.name in chosen["layers"]]
    for layer, value in zip(layers, scores["relative_error"].values, strict=True):
        before, after = (capture(classifier, x, [layer])[1][layer.name].flatten(1) for x in (images, attacked))
        assert value == pytest.approx(float(((after - before).norm(dim=1) / before.norm(dim=1)).mean()), rel=1e-5)
    assert "What other scores say" in (tmp_path / "out" / "report.html").read_text("utf-8")


class Uncopied(nn.Module):
    """A network that cannot be copied, as those with weights that are computed cannot."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def __deepcopy__(self, _memo: object) -> Uncopied:
        raise RuntimeError("only leaf tensors can be copied")

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images)
        return logits


def test_a_network_that_cannot_be_mended_is_diagnosed_without_that(
    weights: Path, digits: tuple[ImageSet, ImageSet], capsys: pytest.CaptureFixture[str]
) -> None:
    network = Classifier(Uncopied(lenet5(weights).model))
    options: dict[str, Any] = {**SMALL, "let_in_steps": 1, "layers": ["net.fc1"], "time_budget": 7200.0}
    found = run_diagnosis(network, *digits, THREAT_MODEL, **options)
    assert found.let_in is None
    (flag,) = [flag for flag in found.flags if flag.code == "let_in_unknown"]
    assert "only leaf tensors can be copied" in flag.message
    assert "mending is left out" in capsys.readouterr().err


def test_baselines_belong_to_a_diagnosis(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command(["attack", "--baselines", "--out", str(tmp_path / "out")]) == 2
    assert "expected --baselines with a command that diagnoses" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_misspelt_option_is_told_its_nearest(digits: tuple[ImageSet, ImageSet]) -> None:
    misspelt: Any = {"generator_step": 3}
    with pytest.raises(ConfigError, match="did you mean generator_steps"):
        run_diagnosis(Classifier(Tiny()), *digits, THREAT_MODEL, **misspelt)


def test_options_may_be_numbers_of_numpy() -> None:
    found = Settings.of(examples=np.int64(10), latent=np.float32(0.5), baselines=np.bool_(True))
    assert found == Settings.of(examples=10, latent=0.5, baselines=True)
    assert type(found.diagnosis.examples) is int


def test_the_keywords_are_the_options_of_the_command() -> None:
    options = {item.name for group in KEYWORD_GROUPS.values() for item in dataclasses.fields(group)}
    elsewhere = {"judge", "judge_weights", "out", "device"}  # parameters of their own, or those of the classifier given
    assert set(DiagnosisKeywords.__annotations__) == options - elsewhere


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": 1.5}, "expected seed of type int"),
        ({"seed": True}, "expected seed of type int"),
        ({"examples": "10"}, "expected examples of type int"),
        ({"layers": 7}, "expected layers of type str"),
        ({"recognition_network": Classifier(Tiny())}, "expected recognition_network of type str"),
        ({"device": "cuda"}, "did you mean devices"),
        ({"baselines": 1}, "expected baselines of type bool, got an int; pass True or False"),
        ({"judge": 7}, "expected a Judge, or the name of its architecture, got an int"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_of_a_wrong_type_are_refused_before_anything_is_made(
    wrong: dict[str, Any], message: str, digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_diagnosis(Classifier(Tiny()), *digits, THREAT_MODEL, out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_a_bare_module_and_a_missing_threat_model_are_told(digits: tuple[ImageSet, ImageSet]) -> None:
    bare: Any = Tiny()
    with pytest.raises(ModelError, match="expected a Classifier, got a Tiny; wrap the model"):
        run_diagnosis(bare, *digits, THREAT_MODEL)
    with pytest.raises(ModelError, match="expected a Classifier"):
        InterpretGAN(bare)
    nothing: Any = ("linf", 0.1)
    with pytest.raises(ThreatModelError, match="a stated threat model, got"):
        run_diagnosis(Classifier(bare), *digits, nothing)


def test_a_judge_of_other_classes_or_that_is_the_classifier_is_refused(
    digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    classifier, few = Classifier(Tiny()), Tiny()
    few.fc2 = nn.Linear(few.fc2.in_features, 5)
    for network, message in ((Classifier(few), "the 10 classes of digits, got one of 5"), (classifier, "for both")):
        with pytest.raises(ConfigError, match=message):
            run_diagnosis(classifier, *digits, THREAT_MODEL, out=tmp_path / "out", judge=Judge(network, 0.9, 0.5, "x"))
    assert not (tmp_path / "out").exists()


def test_an_interpreter_that_is_not_fitted_is_told(digits: tuple[ImageSet, ImageSet]) -> None:
    images, labels = digits[1].batch(range(4))
    classifier = Classifier(Tiny())
    with pytest.raises(ConfigError, match="fit"):
        InterpretGAN(classifier).explain(images)
    judge = Judge(Classifier(Tiny()), 1.0, 1.0, "tiny")
    with pytest.raises(ConfigError, match="fit"):
        diagnose(InterpretGAN(classifier), judge, images, labels, threat_model=THREAT_MODEL)


def test_adversarial_images_from_elsewhere_are_the_ones_that_are_diagnosed(
    weights: Path, digits: tuple[ImageSet, ImageSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = digits[1].batch(range(40))
    given = (images + 0.05 * (labels % 2)[:, None, None, None]).clamp(0, 1)  # half of them as they were
    np.save(tmp_path / "given.npy", given.numpy())
    chosen: Any = {**SMALL, "layers": ["fc1"], "let_in_steps": 0}
    by_tensor = run_diagnosis(lenet5(weights), *digits, THREAT_MODEL, adversarial=given, **chosen)
    command = ["diagnose", "--weights", str(weights), "--eps", "0.2", "--steps", "2", "--device", "cpu", *FLAGS]
    command += ["--layers", "fc1", "--let-in-steps", "0", "--adversarial", str(tmp_path / "given.npy")]
    assert run_command([*command, "--out", str(tmp_path / "out")]) == 0
    assert Diagnosis.load(tmp_path / "out").layers == by_tensor.layers
    right = (lenet5(weights).logits(given).argmax(dim=1) == labels).float().mean()
    assert by_tensor.accuracy["adversarial"] == pytest.approx(float(right))
    capsys.readouterr()
    for wrong, message in {
        "too few": (given[:39], "adversarial images of the first 40"),
        "too large": (given + 0.3 * (given < 0.5), "a linf perturbation <= 0.2"),
        "out of bounds": (given + 1, "pixels within the bounds"),
        "natural": (images, "40 that equal the natural ones"),
    }.values():
        np.save(tmp_path / "wrong.npy", wrong.numpy())
        command[-1] = str(tmp_path / "wrong.npy")
        assert run_command([*command, "--out", str(tmp_path / "none")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_test_images_of_other_classes_are_refused(weights: Path, digits: tuple[ImageSet, ImageSet]) -> None:
    other = dataclasses.replace(digits[1], classes=tuple("abcdefghij"))
    with pytest.raises(ConfigError, match="test images of the classes 0, 1"):
        run_diagnosis(lenet5(weights), digits[0], other, THREAT_MODEL)


def test_that_there_is_no_noise_in_the_images_is_said_where_nobody_asked_for_that(
    weights: Path,
    digits: tuple[ImageSet, ImageSet],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr("interpretgan.gan.image_noise.MOVED", -1.0)  # no network withstands that little
    for noise in ({}, {"image_noise": 0.0}):
        small = {**SMALL, **noise, "layers": "fc3", "information_steps": 0, "let_in_steps": 0}
        found = run_diagnosis(lenet5(weights), *digits, THREAT_MODEL, **small)
        assert found.provenance["generator"]["image_noise"] == 0
        told.append("without noise in its images, which changes more than a tenth" in capsys.readouterr().err)
    assert told == [True, False]
