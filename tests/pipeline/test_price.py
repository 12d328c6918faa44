"""What a run will cost, and what fits into a time budget."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from interpretgan import Classifier, Diagnosis, ImageSet, InterpretGAN, Judge, ThreatModel, run_diagnosis
from interpretgan.cli import run_command
from interpretgan.errors import ConfigError
from interpretgan.models import build_model, save_weights
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.options import DataOptions, GeneratorOptions, JudgeOptions
from interpretgan.pipeline.price import (
    TRIED,
    StagePrice,
    Stamps,
    _diagnosis,
    _judge,
    _let_in,
    _line,
    _recognition_network,
    is_long,
    options_of,
    price,
    table,
    timed_steps,
)
from interpretgan.pipeline.settings import Settings
from interpretgan.pipeline.time_budget import _kept, fitted
from interpretgan.store.progress import Progress
from interpretgan.training.steps import read_now

SHORT: dict[str, Any] = {
    "judge_epochs": 1, "generator_steps": 8, "images_per_layer": 2, "information_steps": 6, "bootstrap": 20,
    "examples": 30, "let_in_steps": 2, "layers": "pool1,fc1",
}  # fmt: skip
PRICES = [
    StagePrice("judge", 5.0, {"judge_epochs": 10.0}),
    StagePrice("generator-0", 2.0, {"generator_steps": 0.1}),
    StagePrice("information", 1.0, {"information_steps": 0.1, "examples": 0.01}, 0, ("information_steps", 0)),
    StagePrice("diagnosis", 1.0, {"examples": 0.02}),
]
DEFAULTS = {"judge_epochs": 1, "generator_steps": 300, "generator_seeds": 1, "information_steps": 400,
            "let_in_steps": 60, "examples": 2000}  # fmt: skip


def lenet5() -> Classifier:
    return Classifier(build_model("lenet5", in_channels=1, num_classes=10, image_size=28))


def seconds(values: dict[str, int]) -> float:
    return sum(each.seconds(values) for each in PRICES)


def test_a_budget_gives_up_no_more_than_it_must() -> None:
    assert fitted(PRICES, DEFAULTS, 1000) == DEFAULTS
    for budget in (140.0, 110.0, 80.0, 50.0):
        chosen = fitted(PRICES, DEFAULTS, budget)
        assert 0.75 * budget < seconds(chosen) <= budget
        assert all(chosen[name] <= DEFAULTS[name] for name in DEFAULTS)
    assert fitted(PRICES, DEFAULTS, 140)["generator_steps"] == 300  # examples come first
    assert fitted(PRICES, DEFAULTS, 45)["information_steps"] == 0
    with pytest.raises(ConfigError, match="a time budget of at least 4"):
        fitted(PRICES, DEFAULTS, 20)


def test_generators_that_are_given_up_cost_nothing() -> None:
    prices = [
        *(StagePrice(f"generator-{k}", 2.0, {"generator_steps": 0.1}, 0, ("generator_seeds", k)) for k in range(5)),
        StagePrice("diagnosis", 1.0, {"examples": 0.02}, times="generator_seeds"),
    ]
    values = DEFAULTS | {"generator_seeds": 5}
    one = fitted(prices, values, 60)
    assert one["generator_seeds"] == 1
    assert one["generator_steps"] == 300  # what four generators cost is free for the one
    assert sum(each.seconds(one) for each in prices) <= 60
    assert fitted(prices, values, 1000) == values


@pytest.mark.parametrize(
    "record", [5, {}, {"seconds": 4200.0, "given_up": 3}, {"seconds": 4200.0, "given_up": {"examples": 1}}]
)
def test_a_damaged_record_of_a_budget_is_none(record: object) -> None:
    assert _kept(record, 4200.0, DEFAULTS) is None
    assert _kept({"seconds": 4200.0, "given_up": {"examples": [2000, 500]}}, 4200.0, DEFAULTS) == {"examples": 500}


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_steps_between_two_that_are_told_are_timed(kind: str) -> None:
    device, stamps = torch.device(kind), Stamps()
    steps = timed_steps(device)
    for step in range(steps):
        if read_now(step, steps, device):
            stamps(Progress("generator", step + 1, steps))
    assert stamps.step > 0


def test_the_price_is_near_what_the_stages_take(
    digits: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = list[bool]()

    def explained(given: Inputs, interpreter: InterpretGAN, judge: Judge, test: ImageSet) -> StagePrice:
        for each in (interpreter.classifier, judge.classifier):
            weights = [weight for weight in each.model.parameters() if weight.ndim == 4]
            quick.append(all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights))
        return _diagnosis(given, interpreter, judge, test)

    monkeypatch.setattr("interpretgan.pipeline.price._diagnosis", explained)
    settings = Settings.of(**{**SHORT, "generator_steps": 30})
    inputs = Inputs(settings, classifier=lenet5(), train=digits[0], test=digits[1],
                    threat_model=ThreatModel("linf", 0.2, steps=2))  # fmt: skip
    before = inputs.classifier.state_sha256()
    prices, told = price(inputs), list[Progress]()
    assert [each.stage for each in prices] == ["judge", "generator-0", "information", "let in", "diagnosis"]
    assert quick == [True, True]  # as in a run
    assert inputs.classifier.state_sha256() == before
    values = options_of(inputs)
    lines = table(prices, values)
    assert lines[-1].startswith("in all")
    assert any(line.startswith("generator-0") and line.endswith("--generator-steps") for line in lines)
    assert all(each.memory_mib > 0 for each in prices)
    found = run_diagnosis(inputs.classifier, *digits, inputs.threat_model, say=lambda _: None,
                          on_progress=told.append, **{**SHORT, "generator_steps": 30})  # fmt: skip
    took = found.provenance["seconds"]["generator-0"]
    assert took / 10 < next(each for each in prices if each.stage == "generator-0").seconds(values) < 10 * took
    assert not is_long(inputs)
    assert {at.stage for at in told} == {each.stage for each in prices}


def test_with_diversity_decoders_come_before_generators_and_the_price_says_so(
    digits: tuple[ImageSet, ImageSet],
) -> None:
    settings = Settings.of(**SHORT, generator_seeds=2, diversity=5.0)
    inputs = Inputs(settings, classifier=lenet5(), train=digits[0], test=digits[1],
                    threat_model=ThreatModel("linf", 0.2, steps=2))  # fmt: skip
    stages = ["judge", "information", "generator-0", "generator-1", "let in", "diagnosis"]
    assert [each.stage for each in price(inputs)] == stages
    found = run_diagnosis(inputs.classifier, *digits, inputs.threat_model, say=lambda _: None, on_progress=False,
                          generator_seeds=2, diversity=5.0, **SHORT)  # fmt: skip
    assert [stage for stage in found.provenance["seconds"] if stage in stages] == stages


def test_the_first_pass_of_a_judge_is_not_taken_for_what_all_take(
    digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    train, test = digits
    file = tmp_path / "judge.safetensors"
    save_weights(build_model("judge", in_channels=1, num_classes=10, image_size=28), file)
    settings = Settings(data=DataOptions("digits"), judge=JudgeOptions(judge_weights=file))
    inputs = Inputs(settings, train=train, test=test, threat_model=ThreatModel("linf", 0.1, steps=1))
    passes = list[int]()

    def hook(_module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        passes.append(len(given[0]))
        if len(passes) == 1:
            time.sleep(1)

    inputs.judge_network.model.register_forward_pre_hook(hook)
    _, stage = _judge(inputs, train, 200, *test.batch(range(60)))
    assert passes[0] == 60
    assert 0 < stage.fixed < 200 / 60


def test_weights_are_mended_at_the_layers_that_own_them_and_cost_what_they_do(
    digits: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("interpretgan.pipeline.price.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def mended(*_: object, steps: int, **__: object) -> None:
        clock[0] += 3 + 0.5 * steps

    monkeypatch.setattr("interpretgan.pipeline.price.let_in", mended)
    # Those with weights are mended alone, and four of them two by two.
    for layers, mendings in (("relu1,relu3", 3), ("pool1,relu1", 1), ("conv1,relu1,fc3", 3), ("all", 5 + 6)):
        inputs = Inputs(Settings.of(**{**SHORT, "layers": layers}), classifier=lenet5(), train=digits[0],
                        test=digits[1], threat_model=ThreatModel("linf", 0.2, steps=2))  # fmt: skip
        stage = _let_in(inputs, inputs.classifier, *digits)
        assert stage is not None
        assert stage.per["let_in_steps"] == 0.5 * mendings


def test_what_is_taken_once_is_told_from_what_each_image_takes(
    digits: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr("interpretgan.pipeline.price.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def work(some: ImageSet) -> None:
        clock[0] += 5 + 0.5 * len(some)
        np.ones(len(some) * 2**20)  # 8 MiB an image

    cpu = torch.device("cpu")
    once, each, _, memory = _line(work, digits[1].head(TRIED), cpu)
    assert (once, each) == (5, 0.5)
    if sys.platform == "linux":  # elsewhere an earlier peak may hide it
        assert memory == pytest.approx(8, abs=1)
    assert _line(work, digits[1].head(1), cpu)[:2] == (5.5, 0)


def test_a_run_within_a_budget_says_what_it_gave_up_and_goes_on_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = [StagePrice("generator-0", 0.0, {"generator_steps": 1000.0}), StagePrice("diagnosis", 0.0)]
    monkeypatch.setattr("interpretgan.pipeline.time_budget.price", lambda *_: prices)
    monkeypatch.setattr("interpretgan.pipeline.time_budget.RUNGS", (("generator_steps", 2), ("examples", 20)))
    flags = [part for name, value in SHORT.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = ["diagnose", "--steps", "2", *flags, "--epochs", "1", "--time-budget", "1h10m", "--out", str(tmp_path)]
    assert run_command(command) == 0
    found = Diagnosis.load(tmp_path)
    assert found.provenance["time_budget"] == {"seconds": 4200, "given_up": {"generator_steps": [8, 3]}}
    assert found.provenance["generator"]["steps"] == 3
    (flag,) = (flag for flag in found.flags if flag.code == "time_budget")
    assert flag.message == "to fit into 1 h 10 min this was lowered: generator steps 8 → 3"
    assert flag.message in capsys.readouterr().err
    assert flag.message in (tmp_path / "report.html").read_text("utf-8")
    assert json.loads((tmp_path / "config.json").read_text())["generator"]["steps"] == 3
    (tmp_path / "diagnosis.json").unlink()
    assert run_command([*command[: command.index("--time-budget")], "--out", str(tmp_path)]) == 2
    assert "use the old settings, --time-budget 4200s among them, to resume it" in capsys.readouterr().err
    monkeypatch.setattr("interpretgan.pipeline.time_budget.price", lambda *_: pytest.fail("it is measured again"))
    assert run_command(command) == 0
    assert Diagnosis.load(tmp_path).layers == found.layers


def test_stages_that_were_given_up_are_not_counted_and_a_judge_that_comes_trained_is_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = [
        StagePrice("judge", 1.0), StagePrice("generator-0", 1.0),
        StagePrice("information", 1.0, {"information_steps": 100.0}, 0, ("information_steps", 0)),
        StagePrice("diagnosis", 1.0),
    ]  # fmt: skip
    monkeypatch.setattr("interpretgan.pipeline.time_budget.price", lambda *_: prices)
    file = tmp_path / "judge.safetensors"
    save_weights(build_model("judge", in_channels=1, num_classes=10, image_size=28), file)
    short = {**SHORT, "let_in_steps": 0, "epochs": 1, "steps": 2, "judge_weights": file, "time_budget": "10s"}
    flags = [part for name, value in short.items() if name != "judge_epochs"
             for part in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
    assert run_command(["diagnose", *flags, "--out", str(tmp_path / "run")]) == 0
    found, told = Diagnosis.load(tmp_path / "run"), capsys.readouterr().err
    assert found.provenance["time_budget"]["given_up"] == {"information_steps": [6, 0]}
    assert found.provenance["seconds"]["judge"] > 0
    assert "[2/3] generator-0: 8/8" in told
    assert "[3/3] diagnosis: 30/30" in told
    assert "\ninformation  " not in told  # as a row of the prices


@pytest.mark.parametrize("text", ["soon", "3x", "", "-1m", "0", "1h30"])
def test_a_budget_that_is_no_time_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["diagnose", f"--time-budget={text}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run_command(["attack", "--time-budget", "3m", "--dry-run"]) == 2
    assert "--time-budget with a command that diagnoses" in capsys.readouterr().err


def test_a_recognition_network_is_priced_beside_a_judge_that_comes_trained(
    digits: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    train = digits[0].head(100)
    save_weights(build_model("judge", in_channels=1, num_classes=10, image_size=28), tmp_path / "judge.safetensors")
    settings = Settings(
        data=DataOptions("digits"), generator=GeneratorOptions(recognition_network="robust"),
        judge=JudgeOptions(judge_weights=tmp_path / "judge.safetensors"),
    )  # fmt: skip
    inputs = Inputs(settings, train=train, test=digits[1], threat_model=ThreatModel("linf", 0.1))
    stage = _recognition_network(inputs, train, StagePrice("judge", 0.0))
    assert stage.stage == "recognition_network"
    assert stage.fixed > 0
    assert not stage.per  # no option of the judge's lowers it
