from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from interpretgan.classifier import Classifier
from interpretgan.cli.app import run_command
from interpretgan.data import load_data
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.models import MODELS, build_model, load_weights
from interpretgan.pipeline.settings import Settings
from interpretgan.training import TrainingResult, evaluate_accuracy

SMALL = shlex.split(
    "--epochs 2 --steps 3 --judge-epochs 1 --generator-steps 12 --images-per-layer 4 --bootstrap 50 --examples 60 "
    "--device cpu --information-steps 8"
)
FULL = "/dev/full"  # a disk without room


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole diagnosis of the digits, small in everything."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert run_command(["diagnose", *SMALL, "--out", str(folder)]) == 0
    return folder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that bad input is answered with."""
    assert run_command(arguments) == 2
    out, err = capsys.readouterr()
    said = err.strip().split("\n")
    assert out == ""
    assert said[-1].startswith("interpretgan: ")
    return said[-1]


# --- the main job


@pytest.mark.xdist_group("one-run")
def test_a_run_folder_holds_all_that_the_answer_rests_on(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "config.json", "classifier.safetensors", "judge.safetensors", "judge.json", "generator-0.safetensors",
        "metrics-classifier.jsonl", "metrics-judge.jsonl", "metrics-generator-0.jsonl", "predictions.npz",
        "information.safetensors", "information.npz", "metrics-information.jsonl",
        "diagnosis.json", "explanations.npz", "report.html", "figures/vulnerability.svg", "figures/explanations.png",
    } <= names  # fmt: skip
    assert not [name for name in names if "checkpoint" in name or name.endswith(".tmp")]
    config = json.loads((run / "config.json").read_text())
    step = 2.5 * 0.2 / 3
    assert config["attack"] == {
        "norm": "linf", "eps": 0.2, "attack": "pgd", "steps": 3, "restarts": 1, "step_size": step
    }  # fmt: skip
    diagnosis = Diagnosis.load(run)
    layers = [layer.name for layer in diagnosis.layers]
    assert layers == [
        "image",
        "conv1",
        "relu1",
        "pool1",
        "conv2",
        "relu2",
        "pool2",
        "fc1",
        "relu3",
        "fc2",
        "relu4",
        "fc3",
    ]
    assert abs(sum(layer.vulnerability.value for layer in diagnosis.layers) - diagnosis.loss) < 1e-9
    assert diagnosis.controls["eps0_max_abs_vulnerability"] == 0.0
    assert diagnosis.data["name"] == "digits"
    assert len(diagnosis.data["classes"]) == 10
    steps = [json.loads(line)["step"] for line in (run / "metrics-generator-0.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))
    with np.load(run / "predictions.npz", allow_pickle=False) as predictions:
        assert predictions["adversarial"].shape == (12, 60)
    assert config["information"]["steps"] == 8
    assert all(layer.information_loss and layer.class_information for layer in diagnosis.layers)
    with np.load(run / "information.npz", allow_pickle=False) as information:
        assert information["layers"].tolist() == layers
        assert information["errors"].shape == information["bits"].shape == (12, 60)


@pytest.mark.xdist_group("one-run")
def test_running_again_makes_nothing_again_and_gives_the_same_answer(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (run / "diagnosis.json").read_bytes()
    assert run_command(["diagnose", *SMALL, "--out", str(run)]) == 0
    out, err = capsys.readouterr()
    assert "training" not in err
    assert out.rstrip().endswith(f"report: {run / 'report.html'}")
    assert "retained %" in out
    assert (run / "diagnosis.json").read_bytes() == before


@pytest.mark.xdist_group("one-run")
def test_what_is_missing_is_made_again_to_the_same_result(run: Path) -> None:
    before = Diagnosis.load(run)
    for name in ("generator-0.safetensors", "information.safetensors", "diagnosis.json", "explanations.npz"):
        (run / name).unlink()
    assert run_command(["diagnose", *SMALL, "--out", str(run)]) == 0
    assert Diagnosis.load(run).layers == before.layers


@pytest.mark.xdist_group("one-run")
def test_damaged_predictions_are_told_where_examples_are_chosen_by_them(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "explanations.npz").rename(run / "aside")
    content = (run / "predictions.npz").read_bytes()
    (run / "predictions.npz").write_bytes(content[:100])
    try:
        assert "predictions.npz, got a missing or damaged" in refused(["diagnose", *SMALL, "--out", str(run)], capsys)
    finally:
        (run / "predictions.npz").write_bytes(content)
        (run / "aside").rename(run / "explanations.npz")


@pytest.mark.xdist_group("one-run")
def test_report_needs_the_folder_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "report.html").unlink()
    assert run_command(["report", str(run)]) == 0
    assert "contribut" in capsys.readouterr().out
    assert "<html" in (run / "report.html").read_text()


@pytest.mark.xdist_group("one-run")
def test_report_with_out_is_written_there_and_leaves_the_run_alone(run: Path, tmp_path: Path) -> None:
    (run / "report.html").unlink(missing_ok=True)
    assert run_command(["report", str(run), "--out", str(tmp_path / "copy")]) == 0
    assert "<html" in (tmp_path / "copy" / "report.html").read_text()
    assert not (run / "report.html").exists()


@pytest.mark.xdist_group("one-run")
def test_explain_says_where_each_image_turns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [
        part for part in SMALL if part not in ("--bootstrap", "50", "--examples", "60", "--information-steps", "8")
    ]
    assert run_command(["explain", *settings, "--out", str(run), "--images", "3,1", "--towards", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all("; towards 2 at " in line for line in lines[:2])
    assert [line.split(":")[0] for line in lines] == ["image 3", "image 1", "explanation"]
    assert (run / "figures" / "explained.png").read_bytes().startswith(b"\x89PNG")
    assert {"explanation.html", "explanation.npz", "explanation.csv"} <= {path.name for path in run.iterdir()}
    own = run.parent / "own.png"
    Image.fromarray((255 * load_data("digits", "test").batch([0])[0][0, 0]).byte().numpy()).save(own)
    assert run_command(["explain", *settings, "--out", str(run), "--images", str(own), "--label", "7"]) == 0
    line, _ = capsys.readouterr().out.splitlines()
    assert re.match("own.png: .*7 ", line)


def test_commands_share_a_folder_as_long_as_they_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "run"), "--epochs", "2", "--device", "cpu"]
    assert run_command(["train", *out]) == 0
    weights = (tmp_path / "run" / "classifier.safetensors").read_bytes()
    assert run_command(["attack", *out, "--steps", "2", "--examples", "20", "--eps", "8/255"]) == 0
    assert "random noise of the same size" in capsys.readouterr().out
    adversarial = np.load(tmp_path / "run" / "adversarial.npy", allow_pickle=False)
    assert adversarial.dtype == np.float32
    assert adversarial.shape == (20, 1, 28, 28)
    assert json.loads((tmp_path / "run" / "attack.json").read_text())["threat_model"]["eps"] == pytest.approx(8 / 255)
    line = refused(["attack", *out, "--steps", "3", "--examples", "20", "--eps", "8/255"], capsys)
    assert "attack.steps (2 there, 3 here)" in line
    assert "--weights" not in line
    assert (tmp_path / "run" / "classifier.safetensors").read_bytes() == weights


def test_a_classifier_in_a_run_folder_can_be_taken_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, weights = tmp_path / "robust", tmp_path / "robust" / "classifier.safetensors"
    robust = shlex.split("--objective fast --eps 0.1 --epochs 1 --device cpu")
    assert run_command(["train", *robust, "--out", str(run)]) == 0
    assert capsys.readouterr().out == f"weights: {weights}\n"
    attack = shlex.split("attack --steps 2 --examples 20 --device cpu")
    line = refused([*attack, "--out", str(run)], capsys)
    assert 'model.training.objective.name ("fast" there, "natural" here)' in line
    assert line.endswith(f"take its classifier to a new folder with --weights {weights}")
    assert run_command([*attack, "--weights", str(weights), "--out", str(tmp_path / "attacked")]) == 0
    capsys.readouterr()
    line = refused([*attack, "--pool", "avg", "--out", str(run)], capsys)
    assert "model.pool" in line
    assert "--weights" not in line  # they would load into another network


def test_a_robust_training_says_how_it_was_done(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = shlex.split(
        "--pool avg --width 0.5 --objective trades --eps 8/255 --beta 2 --inner-steps 1 --averaging 0.9 "
        "--validation 64 --epochs 2 --device cpu"
    )
    assert run_command(["train", *options, "--out", str(out)]) == 0
    record = json.loads((out / "classifier.json").read_text())
    assert (record["model"], record["pool"], record["width"], record["image_size"]) == ("lenet5", "avg", 0.5, [28, 28])
    assert record["objective"]["name"] == "trades"
    assert record["objective"]["beta"] == 2
    assert record["objective"]["threat_model"]["eps"] == pytest.approx(8 / 255)
    assert record["objective"]["threat_model"]["steps"] == 1
    assert {key: record["recipe"][key] for key in ("epochs", "averaging", "validation")} == {
        "epochs": 2, "averaging": 0.9, "validation": 64
    }  # fmt: skip
    assert [epoch["epoch"] for epoch in record["history"]] == [1, 2]
    best = record["training"]["best"]["epoch"]
    assert (out / "classifier-last.safetensors").exists() == (best == 1)
    assert record["training"]["checkpoint"] == ("best" if best == 1 else "last")
    config = json.loads((out / "config.json").read_text())["model"]["training"]
    assert config == {"objective": record["objective"], **record["recipe"]}
    model = build_model("lenet5", in_channels=1, num_classes=10, image_size=(28, 28), pool="avg", width=0.5)
    load_weights(model, out / "classifier.safetensors")
    assert evaluate_accuracy(Classifier(model), load_data("digits", "test")) == record["accuracy"]


def test_best_and_last_weights_are_both_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(classifier: Classifier, *_: object, **__: object) -> TrainingResult:
        last = {key: torch.zeros_like(value) for key, value in classifier.model.state_dict().items()}
        return TrainingResult(steps=1, loss=1.0, seconds=1.0, images_per_second=1.0, best={"epoch": 1}, last=last)

    monkeypatch.setattr("interpretgan.pipeline.networks.train_classifier", train)
    assert run_command(["train", "--device", "cpu", "--out", str(tmp_path)]) == 0
    best, last = (load_file(tmp_path / f"classifier{name}.safetensors") for name in ("", "-last"))
    assert best["fc3.weight"].abs().sum() > 0
    assert last["fc3.weight"].abs().sum() == 0
    assert json.loads((tmp_path / "classifier.json").read_text())["training"]["checkpoint"] == "best"


def test_weights_of_a_factory_are_asked_for_in_two_ways(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    arguments = ["attack", "--model", "examples.residual_digits:make_net", "--dry-run"]
    for more in (["--pretrained"], ["--weights", "pretrained"]):
        assert run_command([*arguments, *more]) == 0
    first, second = capsys.readouterr().out.split("\n}\n{\n")
    assert first.lstrip("{\n") == second.removesuffix("\n}\n")
    assert '"pretrained": true' in first
    assert "state_sha256" in first


def test_models_lists_every_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line} > set(MODELS)
    (row,) = [line for line in lines if line.startswith("lenet5 ")]
    assert "61,706" in row
    assert "max, avg" in row
    assert "LeCun" in row


def test_fit_explains_the_chosen_layers_of_given_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    model = build_model("lenet5", in_channels=1, num_classes=10, image_size=(28, 28), pool="avg")
    save_file(model.state_dict(), weights)
    arguments = ["fit", "--pool", "avg", "--weights", str(weights), "--layers", "fc1,pool1", "--device", "cpu"]
    out = tmp_path / "run"
    assert run_command([*arguments, "--generator-steps", "2", "--images-per-layer", "2", "--out", str(out)]) == 0
    assert (out / "generator-0.safetensors").exists()
    assert not (out / "classifier.safetensors").exists()


def test_two_devices_share_the_generator_and_one_may_go_on(tmp_path: Path) -> None:
    arguments = shlex.split("fit --layers fc1,pool1 --epochs 1 --generator-steps 2 --images-per-layer 2 --device cpu")
    out = tmp_path / "run"
    assert run_command([*arguments, "--devices", "2", "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["devices"] == 2
    before = (out / "generator-0.safetensors").read_bytes()
    assert run_command([*arguments, "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["devices"] == 1
    assert (out / "generator-0.safetensors").read_bytes() == before


def test_a_robust_recognition_network_is_trained_once_and_is_part_of_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = [
        "explain",
        *SMALL[: SMALL.index("--bootstrap")],
        "--recognition-network",
        "robust",
        "--layers",
        "fc1",
        "--device",
        "cpu",
    ]
    assert run_command([*arguments, "--out", str(out)]) == 0
    found = json.loads((out / "config.json").read_text())["generator"]
    assert (found["recognition_network"], found["latent"], found["recognition_noise"]) == ("robust", 2.0, 0.05)
    recognition_network, judge = (
        load_file(out / "recognition_network.safetensors"),
        load_file(out / "judge.safetensors"),
    )
    assert recognition_network.keys() == judge.keys()
    assert any(
        not torch.equal(recognition_network[name], judge[name]) for name in judge
    )  # the judge is not asked beforehand
    before = {name: (out / f"{name}.safetensors").read_bytes() for name in ("recognition_network", "generator-0")}
    (out / "generator-0.safetensors").unlink()
    assert run_command([*arguments, "--out", str(out)]) == 0
    assert {name: (out / f"{name}.safetensors").read_bytes() for name in before} == before

    # The same network from its file is the same recognition network; one for judge and recognition is refused.
    given, file = tmp_path / "given", out / "recognition_network.safetensors"
    arguments[arguments.index("robust")] = str(file)
    assert run_command([*arguments, "--out", str(given)]) == 0
    assert not (given / "recognition_network.safetensors").exists()
    assert (given / "generator-0.safetensors").read_bytes() == before["generator-0"]
    assert json.loads((given / "config.json").read_text())["generator"]["recognition_network"] == file.name
    assert Settings.load(given).generator.recognition_network == str(file)
    capsys.readouterr()
    both = ["--judge-weights", str(file), "--out", str(tmp_path / "both")]
    command = [*arguments, *both]
    place = command.index("--judge-epochs")
    assert run_command(command[:place] + command[place + 2 :]) == 2
    assert "expected a recognition network that is not the judge" in capsys.readouterr().err
    own = [str(out / "judge.safetensors") if part == str(file) else part for part in arguments]
    assert run_command([*own, "--out", str(tmp_path / "own")]) == 2  # the judge is trained as that one was
    assert "expected a recognition network that is not the judge" in capsys.readouterr().err
    assert not (tmp_path / "own" / "explanations.npz").exists()
    broken = tmp_path / "broken.safetensors"
    weights = {name: tensor for name, tensor in recognition_network.items() if tensor.is_floating_point()}
    save_file(recognition_network | {name: tensor * torch.nan for name, tensor in weights.items()}, broken)
    own = [str(broken) if part == str(file) else part for part in arguments]
    assert run_command([*own, "--out", str(tmp_path / "nan")]) == 2
    assert f"NaN or infinite with {broken}" in capsys.readouterr().err
    arguments[arguments.index(str(file))] = "nowhere.safetensors"
    assert run_command([*arguments, "--out", str(tmp_path / "none")]) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--data", "--weights", "--judge-weights", "--adversarial", "--recognition-network"])
def test_a_text_that_no_path_is_as_long_as_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected" in refused(["diagnose", option, 300 * "a" + ".safetensors", "--eps", "0.1"], capsys)


def test_layers_lists_layers_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    try:
        assert run_command(["layers", "--model", "tests.networks:Residual", "--out", str(tmp_path)]) == 0
    finally:
        sys.path.pop(0)
    out = capsys.readouterr().out
    assert "blocks.0" in out
    assert "information flows around it" in out
    assert "branches: bn2, shortcut" in out
    assert "without --layers" not in out
    record = json.loads((tmp_path / "layers.json").read_text())
    assert record["layers"][-1]["name"] == "fc"
    assert record["branches"] == {f"blocks.{block}": ["bn2", "shortcut"] for block in (0, 1)}
    assert run_command(["layers", "--data", "digits", "--model", "vgg-small", "--width", "0.1"]) == 0
    out = capsys.readouterr().out
    assert "26 layers to diagnose" in out
    assert "without --layers 12 of them are explained: relu1_1, relu1_2, pool1, " in out


def test_the_example_of_an_own_model_works(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert run_command(["layers", "--model", "examples.residual_digits:make_net"]) == 0
    assert "5 layers to diagnose, 6 module calls that are none" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["demo", "train", "attack", "fit", "explain", "diagnose"])
def test_a_dry_run_prints_the_settings_and_writes_nothing(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("interpretgan.pipeline.networks.is_long", lambda _: False)  # see test_price.py
    assert run_command([command, "--dry-run", "--seed", "7", "--out", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 7
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["demo", "layers", "train", "attack", "fit", "explain", "diagnose"])
def test_every_command_has_help_and_the_common_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--seed", "--device", "--out"):
        assert option in text


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from interpretgan.cli.app import run_command; run_command(['--help']); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "pandas", "matplotlib", "sklearn", "foolbox", "pyarrow"} & set(modules)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diagnose", "--eps", "0"], "expected a finite eps > 0, got 0.0"),
        (["diagnose", "--eps", "8/0"], "fraction like 8/255"),
        (["diagnose", "--epz", "1"], "Did you mean --eps?"),
        (["diagnoze"], 'Unknown command "diagnoze"'),
        (["diagnose", "--norm", "l7"], "linf"),
        (["diagnose", "--data", "mnits"], "mnist"),
        (["diagnose", "--model", "lenet"], "lenet5"),
        (["diagnose", "--model", "nowhere:make"], "nowhere"),
        (["diagnose", "--model", "tests.networks:probabilities", "--pretrained"], "remove the final softmax"),
        (["layers", "--model", "tests.networks:probabilities"], "got probabilities"),
        (["layers", "--model", "tests.networks:pair"], "got a tuple"),
        (["layers", "--model", "tests.networks:one_number"], "expected logits of shape [8, K]"),
        (["diagnose", "--model", "tests.networks:detached", "--pretrained"], "remove no_grad, detach or numpy"),
        (["layers", "--model", "tests.networks:integers"], "expected floating point logits, got torch.int64"),
        (["layers", "--model", "tests.networks:complex_numbers"], "floating point logits, got torch.complex64"),
        (["evaluate", "--model", "tests.networks:integers", "--pretrained"], "expected floating point logits"),
        (["layers", "--model", "tests.networks:without_values"], "got some on the meta device"),
        (["train", "--model", "tests.networks:without_values"], "got some on the meta device"),
        pytest.param(
            ["train", "--model", "tests.networks:lazy_and_wrong"],
            "expected a model that takes images [2, 1, 28, 28], got 'tests.networks:lazy_and_wrong', which fails",
            marks=pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning"),
        ),
        (["diagnose", "--image-size", "0"], "expected an image size >= 1, got 0x0"),
        (["diagnose", "--image-size", "28x"], "pixels a side like 128, or height and width like 96x128, got '28x'"),
        (["layers", "--image-size", "24x32", "--model", "tests.networks:Tiny"], "bring the images to the size"),
        (["diagnose", "--mean", ".1,.2"], "images of 2 channels, as mean has, got 1 channels; pass one mean per image"),
        (["diagnose", "--image-size", "20", "--model", "tests.networks:Tiny"], "bring the images to the size"),
        (["diagnose", "--model", "examples.residual_digits:make_net", "--layers", "block1.conv1"], "use 'block1'"),
        (["diagnose", "--layers", ","], "names of layers a,b,c"),
        (["diagnose", "--epochs", "1", "--groups", "relu3=7"], "divide the 120 channels of relu3, got 7; try relu3=8"),
        (["diagnose", "--epochs", "1", "--groups", "relu3"], "NAME=NUMBER"),
        (["diagnose", "--seed", "-1"], "0 <= seed < 2^31"),
        (["diagnose", "--seed", "1.5"], "--seed: expected a whole number, got 1.5"),
        (["fit", "--generator-steps=2.5"], "--generator-steps: expected a whole number, got 2.5"),
        (["benchmark", "planted", "--held-out", "0.5"], "--held-out: expected a whole number, got 0.5"),
        (["diagnose", "--weights", "missing.safetensors"], "missing.safetensors"),
        (["diagnose", "--examples", "0"], "examples >= 1"),
        (["diagnose", "--generator-steps", "0"], "raise --generator-steps"),
        (["diagnose", "--information-steps", "-1"], "information_steps >= 0"),
        (["diagnose", "--device", "cuda:99"], "--device cpu or auto"),
        (["diagnose", "--devices", "0"], "devices >= 1"),
        (["fit", "--devices", "3"], "images_per_layer that 3 devices can share equally, got 8; try 9"),
        (["train", "--devices", "2"], "--devices with a command that trains a generator, got 2"),
        (["diagnose", "--judge", "lenet5"], "another architecture"),
        (["diagnose", "--pretrained"], "a factory of your own"),
        (["diagnose", "--std", "0"], "std > 0"),
        (["diagnose", "--mean", "0.1;0.2"], "numbers like 0.48,0.45,0.41"),
        (["fit", "--layers", "fc9", "--epochs", "1"], "did you mean 'fc"),
        (
            ["fit", "--recognition-network", "vgg-small-max-pgd", "--epochs", "1"],
            "a recognition network of the classes of digits",
        ),
        (["fit", "--recognition-network", "lenet5-max", "--epochs", "1"], "a recognition network that is robust"),
        (
            ["fit", "--recognition-network", "robust", "--epochs", "1"],
            "a threat model to train a robust recognition network against",
        ),
        (["diagnose", "--recognition-network", "lenet5-avg-pdg"], "lenet5-avg-pgd"),
        (["diagnose", "--recognition-network", "runs/weights"], "a weights file, got no file at runs/weights"),
        (["explain", "--images", "1,a.png"], "numbers of test images, or image files"),
        (["explain", "--images", "3.5"], "numbers of test images, or image files"),
        (["explain", "--images", "1e3"], "numbers of test images, or image files"),
        (["explain", "--images", "a.png"], "the true class of 1 file, got 0"),
        (["explain", "--images", "1", "--label", "7"], "leave --label out"),
        (["explain", "--images", "450"], "0 to 449, got 450"),
        (["explain", "--towards", "nine"], "a class among 0, 1"),
        (
            ["explain", "--images", "1,0", "--towards", "2"],
            "another class than the images have, got '2', which is that of image 0",
        ),
        (["explain", "--images", "a.png", "--label", "seven"], "a class among 0, 1"),
        (["explain", "--images", "a.png", "--label", "7"], "a missing or damaged one, a.png"),
        (["explain", "--at", "fc9", "--epochs", "1"], "did you mean 'fc"),
        (["explain", "--at", "fc1", "--layers", "conv[12]"], "that are explained, conv1, conv2, got 'fc1'; choose one"),
        (["explain", "--model", "vgg11", "--image-size", "32", "--at", "conv1_1"], "that are explained, relu1_1"),
        (["explain", "--epochs", "1", "--weights", "pretrained", "--model", "lenet5-max"], "leave --epochs out"),
        (["report", "nowhere"], "run `interpretgan diagnose` first"),
        (["report"], "--folder requires an argument"),
        (["diagnose", "--weights", "pretrained"], "the name of a pretrained classifier"),
        (["diagnose", "--width", "0"], "width above 0"),
        (["diagnose", "--pool", "min"], "stride"),
        (["train", "--epochs", "0"], "epochs >= 1"),
        (["train", "--objective", "trades"], "an eps for the objective trades"),
        (["train", "--objective", "pgd", "--eps", "8"], "in the units of the pixels"),
        (["train", "--objective", "pgd", "--eps", "8/255", "--beta", "6"], "got beta"),
        (["train", "--eps", "8/255"], "no setting for natural"),
        (["train", "--objective", "madry"], "trades"),
        (["train", "--lr", "0"], "lr > 0"),
        (["train", "--averaging", "1"], "averaging"),
        (["train", "--validation", "1347"], "at most 1346 of the 1347 training images held out"),
        (["train", "--weights", "x.pt"], "a model to train"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_answered_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    assert message in refused(arguments, capsys)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "command", ["report locked/run", "diagnose --weights locked/w.pt", "layers --model locked/a.pt2"]
)
def test_a_folder_that_may_not_be_entered_is_told(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stat = Path.stat

    def forbidden(path: Path, **options: bool) -> os.stat_result:  # whoever runs the tests may enter any
        if path.parts[0] == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", forbidden)
    assert "permission denied; choose another one" in refused(command.split(), capsys)


@pytest.mark.parametrize("out", ["images/run", "images/a/run", "link/run"])
def test_a_run_folder_among_the_images_is_refused(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("images/a", "images/b"):
        Path(name).mkdir(parents=True)
    Path("link").symlink_to("images/b")
    line = refused(["train", "--data", "images", "--out", out], capsys)
    assert f"a run folder outside that of the images, images, got {out}; choose another one" in line
    assert not Path(out).exists()
    for name in ("sorted/train/a", "sorted/train/b", "sorted/test/a", "sorted/test/b"):
        Path(name).mkdir(parents=True)
    beside, inside = (
        refused(["train", "--data", "sorted", "--out", f"sorted/{at}"], capsys) for at in ("r", "train/r")
    )
    assert "a run folder outside" not in beside
    assert "a run folder outside that of the images, sorted/train, got sorted/train/r" in inside


def test_a_truncated_data_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        file = tmp_path / "data" / "mnist" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"PAR1 and then nothing")
    assert "train-00000-of-00001.parquet" in refused(["diagnose", "--data", "mnist", "--data-dir", "data"], capsys)
    assert not (tmp_path / "runs").exists()


def test_layers_and_a_diagnosis_share_a_folder(tmp_path: Path) -> None:
    assert run_command(["layers", "--out", str(tmp_path)]) == 0
    assert run_command(["train", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path)]) == 0


def test_a_truncated_weights_file_is_refused_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half.safetensors").write_bytes(b"\x40\x00\x00")
    out = tmp_path / "run"
    line = refused(["diagnose", "--weights", str(tmp_path / "half.safetensors"), "--out", str(out)], capsys)
    assert "half.safetensors" in line
    assert not out.exists()


def test_a_model_of_too_few_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    try:
        arguments = ["attack", "--model", "tests.networks:Residual", "--pretrained", "--out", str(tmp_path / "run")]
        assert "10 classes" in refused(arguments, capsys)
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("arguments", ["models", "train --dry-run"])
@pytest.mark.parametrize(
    ("stdout", "code", "said"), [("-", 0, ""), *[(FULL, 2, "got a full disk")] * Path(FULL).exists()]
)
def test_output_that_nobody_takes(arguments: str, stdout: str, code: int, said: str) -> None:
    redirected = ">&-" if stdout == "-" else f">{stdout}"
    command = f"{shlex.quote(sys.executable)} -m interpretgan {arguments} {redirected}"
    ended = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == code
    assert ended.stderr.count("\n") == (code and 1)
    assert said in ended.stderr


def test_ctrl_c_ends_with_130_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small = shlex.split("--epochs 1 --generator-steps 400 --images-per-layer 2 --layers pool1,fc1 --device cpu")
    command = [sys.executable, "-m", "interpretgan", "fit", *small, "--out", str(out)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        metrics = out / "metrics-generator-0.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.rstrip().endswith("interpretgan: interrupted; run the same command again to go on from there")
    assert not (out / "generator-0.safetensors").exists()
    assert run_command(["fit", *small, "--out", str(out)]) == 0
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, 401))


@pytest.mark.xdist_group("one-run")
def test_a_finished_run_is_explained_without_its_options(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # paths are kept as they are from anywhere
    attacked = {}
    for images in ("3", "17,3,3"):  # an image is attacked alike whatever is beside it
        assert run_command(["explain", str(run), "--images", images]) == 0
        out, err = capsys.readouterr()
        assert out.count("image 3: ") == 1
        assert "training" not in err
        with np.load(run / "explanation.npz") as arrays:
            attacked[images] = arrays["adversarial"]
    assert len(attacked["17,3,3"]) == 2
    np.testing.assert_allclose(attacked["17,3,3"][1], attacked["3"][0], atol=1e-6)
    assert "numbers of test images, 0 to" in refused(["explain", str(run), "--images=-1"], capsys)
    assert "expected a finished run, or the options of one" in refused(["explain", str(run), "--eps", "0.1"], capsys)
    (run / "options.json").rename(run / "moved.json")
    assert "options.json" in refused(["explain", str(run)], capsys)
    (run / "moved.json").rename(run / "options.json")
