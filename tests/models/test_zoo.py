from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interpretgan import load_classifier
from interpretgan.classifier import Classifier
from interpretgan.cli.app import run_command
from interpretgan.data import load_data
from interpretgan.errors import ConfigError, Flag, ModelError, RunFolderError, WeightsError
from interpretgan.models import Card, build_model, card_names, load_weights, read_card, save_weights
from interpretgan.models.zoo import cards as shelf
from interpretgan.models.zoo.cards import PRETRAINED_EXPECTED, build, proper_name, weights_file
from interpretgan.robustness import Evaluation
from interpretgan.statistics import Interval
from interpretgan.store.files import file_sha256, write_json
from interpretgan.training import evaluate_accuracy
from tools.pack_zoo import add_figures, main, pack

SHIPPED = card_names()
MOST_BYTES = 8 * 2**20


# --- the classifiers that come with the package


def test_the_shipped_classifiers_fit_into_eight_mebibytes() -> None:
    assert set(SHIPPED) == set(PRETRAINED_EXPECTED)
    files = [file for file in shelf.ZOO.iterdir() if file.suffix in (".json", ".safetensors")]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    assert {file.name for file in files} == {
        f"{name}.{suffix}" for name in SHIPPED for suffix in ("json", "safetensors")
    }


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_card_is_true_of_its_weights(name: str) -> None:
    card, classifier = read_card(name), load_classifier(name)
    assert card.sha256 == file_sha256(weights_file(name))
    assert card.state_sha256 == classifier.state_sha256()
    assert card.parameters == sum(p.numel() for p in classifier.model.parameters())
    assert card.data["name"] == {"lenet5": "mnist", "vgg-small": "cifar10"}[card.architecture]
    eps = {"lenet5": 0.3, "vgg-small": 8 / 255}[card.architecture]
    assert card.eps == (None if card.objective["name"] == "natural" else pytest.approx(eps))
    assert card.figures is not None
    for kind in ("natural", "fgsm", "pgd", "autoattack", "worst_case"):
        figure = card.figure(kind)
        if figure is None:  # only AutoAttack may be, and then the card says so
            assert kind == "autoattack", f"{kind} is not measured"
            assert "gradient_attacks_only" in [flag["code"] for flag in card.figures["flags"]]
        else:
            assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    torch.manual_seed(0)
    logits = classifier.logits(torch.rand(2, card.in_channels, *card.image_size))
    assert logits.shape == (2, card.num_classes)


@pytest.mark.needs_data
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_classifier_is_as_accurate_as_its_card_says(name: str, data_dir: Path) -> None:
    card = read_card(name)
    test = load_data(card.data["name"], "test", data_dir=data_dir).head(500)
    natural = card.figure("natural")
    assert natural is not None
    value = natural["value"]
    slack = 4 * (value * (1 - value) / len(test)) ** 0.5 + 0.005
    assert abs(evaluate_accuracy(load_classifier(name), test) - value) < slack


# --- a small one, packed here


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a short robust training."""
    folder = tmp_path_factory.mktemp("train") / "run"
    options = "--pool avg --objective trades --eps 1/10 --inner-steps 1 --epochs 2 --validation 50 --device cpu"
    assert run_command(["train", *options.split(), "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of pretrained classifiers."""
    folder = tmp_path / "zoo"
    monkeypatch.setattr(shelf, "ZOO", folder)
    return folder


@pytest.fixture
def card(zoo: Path, run: Path) -> Card:
    """The card of the only pretrained classifier."""
    assert card_names() == ()
    return pack(run, "lenet5-avg-trades")


def test_packing_keeps_weights_and_record(card: Card, run: Path) -> None:
    record = json.loads((run / "classifier.json").read_text())
    assert card_names() == ("lenet5-avg-trades",)
    assert (card.pool, card.width, card.image_size, card.bounds) == ("avg", 1.0, (28, 28), (0.0, 1.0))
    assert card.objective["name"] == "trades"
    assert card.eps == pytest.approx(0.1)
    assert card.recipe["epochs"] == 2
    assert card.data == record["data"]
    assert card.precision == "float32"
    assert card.figures is None
    model = build(card)
    load_weights(model, run / "classifier.safetensors")
    classifier = load_classifier(card.name)
    assert Classifier(model).state_sha256() == card.state_sha256 == classifier.state_sha256()
    test = load_data("digits", "test")
    assert evaluate_accuracy(classifier, test) == record["accuracy"]


def test_a_card_comes_back_as_it_was_saved(card: Card) -> None:
    changed = replace(card, mean=(0.5,), figures={"natural": {"value": 0.5, "low": 0.4, "high": 0.6, "examples": 9}})
    changed.save()
    assert read_card(card.name) == changed


def test_large_networks_are_stored_in_half_precision_and_loaded_in_single(zoo: Path, run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "classifier.json").read_text())
    shape = {"in_channels": 1, "num_classes": 10, "image_size": (28, 28), "pool": "max", "width": 1.0}
    torch.manual_seed(0)
    model = build_model("vgg-small", in_channels=1, num_classes=10, image_size=(28, 28), pool="max")
    save_weights(model, tmp_path / "run" / "classifier.safetensors")
    write_json(tmp_path / "run" / "classifier.json", record | shape | {"model": "vgg-small"})
    card = pack(tmp_path / "run", "vgg-small-max-trades")
    assert card.precision == "float16"
    stored = load_file(weights_file(card.name))
    assert stored["conv1_1.weight"].dtype == torch.float16
    assert stored["norm1_1.running_var"].dtype == torch.float32
    assert weights_file(card.name).stat().st_size < 2.2 * card.parameters
    loaded = load_classifier(card.name).model.state_dict()
    for key, value in model.state_dict().items():
        assert loaded[key].dtype == value.dtype
        torch.testing.assert_close(loaded[key], value, rtol=2**-11, atol=2**-24)
    assert not torch.equal(loaded["conv1_1.weight"], model.state_dict()["conv1_1.weight"])


def test_weights_that_half_precision_cannot_hold_are_refused(zoo: Path, run: Path, tmp_path: Path) -> None:
    record = json.loads((run / "classifier.json").read_text())
    model = build_model("vgg-small", in_channels=1, num_classes=10, image_size=(28, 28), pool="avg")
    with torch.no_grad():
        model.get_parameter("fc.weight").fill_(1e6)
    save_weights(model, tmp_path / "classifier.safetensors")
    write_json(tmp_path / "classifier.json", record | {"model": "vgg-small"})
    with pytest.raises(WeightsError, match=r"larger ones in fc\.weight"):
        pack(tmp_path, "vgg-small-avg-trades")
    assert not zoo.exists()


def test_only_the_proper_name_is_taken(zoo: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="the name lenet5-avg-trades"):
        pack(run, "lenet5-max-trades")
    assert not zoo.exists()
    assert proper_name("lenet5", "max", "natural") == "lenet5-max"


def test_a_folder_without_a_training_is_refused(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"classifier\.json"):
        pack(tmp_path, "lenet5-avg-trades")
    (tmp_path / "classifier.json").write_text('{"model": "lenet5"}')
    with pytest.raises(RunFolderError, match="expected pool, width"):
        pack(tmp_path, "lenet5-avg-trades")


# --- loading


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lenet5", "choose lenet5-avg-trades"),
        ("lenet5-avg-trade", "choose lenet5-avg-trades"),
        ("x", "see `interpretgan models` for the list"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(card: Card, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_classifier(name)


def test_weights_that_were_tampered_with_are_refused(card: Card) -> None:
    file = weights_file(card.name)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=card.sha256[:12]):
        load_classifier(card.name)
    file.unlink()
    with pytest.raises(WeightsError, match="no file at"):
        load_classifier(card.name)


def test_a_damaged_card_is_refused(card: Card, zoo: Path) -> None:
    file = zoo / f"{card.name}.json"
    good = json.loads(file.read_text())
    for bad in ({"schema": 1}, {"stranger": 1}, {"name": "lenet5-max"}, {"pool": "max"}):
        write_json(file, good | bad)
        with pytest.raises(WeightsError, match="install the package again"):
            read_card(card.name)


def test_loading_leaves_the_random_state_alone(card: Card) -> None:
    before = torch.get_rng_state()
    load_classifier(card.name)
    assert torch.equal(torch.get_rng_state(), before)


# --- figures


@pytest.fixture
def evaluation(card: Card, tmp_path: Path) -> Path:
    """What `interpretgan evaluate` leaves of that classifier."""
    folder = tmp_path / "evaluation"
    kinds = ("natural", "pgd", "autoattack", "worst_case")
    Evaluation(
        classifier={"state_sha256": card.state_sha256},
        data={"examples": 100},
        threat_model={"eps": 0.1},
        attacks={"pgd": {"steps": 20}},
        accuracy={kind: Interval(0.5 + place / 100, 0.4, 0.7) for place, kind in enumerate(kinds)},
        controls={},
        curves={},
        flags=(Flag("few_examples", "only 100 examples", "note", value=100.0),),
        provenance={"seed": 1},
    ).save(folder)
    return folder


def test_figures_go_on_the_card_of_what_was_evaluated(
    card: Card, evaluation: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["models"]) == 0
    before = capsys.readouterr().out
    assert [line.split() for line in before.splitlines()][-1] == [
        "lenet5-avg-trades", "digits", "trades", "0.1", "-", "-", "-", "-", "-", "-"
    ]  # fmt: skip
    add_figures(evaluation, card.name)
    assert run_command(["models"]) == 0
    after = capsys.readouterr().out
    assert after.splitlines()[-1].split()[-6:] == ["50.0%", "51.0%", "52.0%", "0.1", "100", "1"]
    assert "61,706" in after
    known = read_card(card.name)
    assert known.figures is not None
    assert known.figures["threat_model"] == {"eps": 0.1}
    assert [Flag(**flag) for flag in known.figures["flags"]] == list(Evaluation.load(evaluation).flags)
    assert known.figure("worst_case") == {"value": 0.53, "low": 0.4, "high": 0.7, "spread": None, "examples": 100}
    assert known.figure("fgsm") is None
    assert known.sha256 == card.sha256


def test_figures_of_other_weights_are_refused(card: Card, evaluation: Path) -> None:
    replace(Evaluation.load(evaluation), classifier={"state_sha256": "0" * 64}).save(evaluation)
    with pytest.raises(WeightsError, match="000000000000"):
        add_figures(evaluation, card.name)
    assert read_card(card.name) == card


# --- on the command line


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that bad input is answered with; nothing is written for it."""
    assert run_command([*arguments, "--out", "run"]) == 2
    out, err = capsys.readouterr()
    (line,) = err.strip().split("\n")
    assert out == ""
    assert not Path("run").exists()
    return str(line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--model lenet5-avg-trades", "add --weights pretrained"),
        ("--model lenet5-avg-trades --weights mine.pt", "--model lenet5 --pool avg"),
        ("--model lenet5-avg-trades --pretrained", "--weights pretrained"),
        ("--model lenet5 --weights pretrained", "choose lenet5-avg-trades"),
        ("--model lenet5-max-trades --weights pretrained", "choose lenet5-avg-trades"),
        ("--model lenet5-avg-trades --weights pretrained --pool max", "--pool avg, as lenet5-avg-trades was trained"),
        ("--model lenet5-avg-trades --weights pretrained --width 2", "expected --width 1.0"),
        ("--model lenet5-avg-trades --weights pretrained --mean 0.5", "normalisation that it was trained with"),
        ("--model lenet5-avg-trades --weights pretrained --image-size 20", "expected images 1x28x28 of 10 classes"),
    ],
)
def test_what_does_not_fit_a_pretrained_classifier_is_refused(
    arguments: str,
    message: str,
    *,
    card: Card,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(["attack", *arguments.split()], capsys)


def test_the_judge_is_of_another_architecture_than_the_pretrained_classifier(
    card: Card, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["diagnose", "--model", card.name, "--weights", "pretrained", "--judge", "lenet5"]
    assert "another architecture" in refused(arguments, capsys)


def test_a_pretrained_classifier_is_attacked_by_its_name(
    card: Card, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    arguments = ["attack", "--model", card.name, "--weights", "pretrained", "--steps", "2", "--examples", "450"]
    assert run_command([*arguments, "--device", "cpu", "--out", str(out)]) == 0
    natural = json.loads((out / "attack.json").read_text())["accuracy"]["natural"]
    assert natural == pytest.approx(evaluate_accuracy(load_classifier(card.name), load_data("digits", "test")))
    model = json.loads((out / "config.json").read_text())["model"]
    assert model["model"] == card.name
    assert (model["weights"], model["pool"], model["state_sha256"]) == ("pretrained", "avg", card.state_sha256)
    assert not (out / "classifier.safetensors").exists()


def test_packing_is_a_command(zoo: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", str(run), "lenet5-avg-trades"]) == 0
    assert "61,706 parameters in float32" in capsys.readouterr().out
    assert main(["weights", str(run), "lenet5"]) == 2
    assert main(["wieghts"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "weights RUN NAME, or figures DIR NAME" in lines[1]
