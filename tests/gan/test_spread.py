from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interpretgan import GANConfig, ImageSet, InterpretGAN
from interpretgan.classifier import Classifier
from interpretgan.data import load_data
from interpretgan.errors import ConfigError
from interpretgan.gan.spread import Spread
from interpretgan.gan.train import train_generator
from interpretgan.information import Decoders, Measurement
from interpretgan.layers import examine
from interpretgan.pipeline.inputs import Inputs
from interpretgan.pipeline.networks import Networks
from interpretgan.pipeline.options import GeneratorOptions, InformationOptions, ModelOptions, RunOptions
from interpretgan.pipeline.settings import Settings
from tests.networks import Tiny

CONFIG = GANConfig(steps=60, images_per_layer=4, width=16, blocks=1, noise=4, precision="fp32", diversity=100.0)


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(Tiny())


def test_draws_as_far_apart_as_two_images_with_one_latent_are_left_to_the_score() -> None:
    weights = Spread(torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0, 0.0]))
    assert weights(torch.tensor([4.0, 0.0, 2.0, 8.0, 100.0, 0.0])).tolist() == [1, 3, 2, -1, -1, 3]
    assert weights(torch.tensor([4.0] * 5 + [1e-3])).tolist() == [1, 1, 1, 1, 1, -1]


def test_explanations_vary_by_what_they_are_held_to(classifier: Classifier) -> None:
    digits = load_data("digits", "train")
    x, _ = digits.batch(range(40))
    layers = examine(classifier, x).distinct
    torch.manual_seed(1)
    varies = []
    for much in (0.5, 20.0):
        left_open = {layer.name: much for layer in layers}
        fitted = InterpretGAN(classifier, layers, config=CONFIG, seed=1).fit(digits, left_open=left_open)
        draws = torch.stack([fitted.explain(x, seed=seed).natural_explanations for seed in range(5)])
        varies.append(draws.var(dim=0).sum(dim=(2, 3, 4)).mean(dim=1))
    assert (varies[1] > 3 * varies[0]).all()


def test_a_resumed_training_goes_on_with_what_it_was_held_to(classifier: Classifier, tmp_path: Path) -> None:
    digits, config = load_data("digits", "train"), replace(CONFIG, steps=5)
    layers = examine(classifier, digits.batch([0, 1])[0]).distinct

    def stop(step: int, _losses: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole = train_generator(classifier, layers, digits, config, seed=1, left_open=[9.0] * len(layers))
    file = tmp_path / "checkpoint.pt"
    for left_open, on_step in ((9.0, stop), (9.1, None)):  # measured again, on another machine
        try:
            resumed = train_generator(
                classifier, layers, digits, config, seed=1, left_open=[left_open] * len(layers),
                checkpoint=file, checkpoint_seconds=0.0, on_step=on_step,
            )  # fmt: skip
        except KeyboardInterrupt:
            assert on_step is stop
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("diversity", "left_open", "message"),
    [
        (0.0, {"conv": 1.0}, "a diversity above 0"),
        (1.0, {"conv": 1.0}, "got none of relu"),
        (
            1.0,
            dict.fromkeys(("conv", "relu", "pool", "fc1", "relu2", "fc2"), -1.0),
            "mean squared errors >= 0, got -1.0 at conv",
        ),
        (1.0, dict.fromkeys(("conv", "relu", "pool", "fc1", "relu2", "fc2"), float("nan")), "got nan at conv"),
    ],
)
def test_what_cannot_be_held_to_is_refused(
    classifier: Classifier, diversity: float, left_open: dict[str, float], message: str
) -> None:
    interpreter = InterpretGAN(classifier, config=replace(CONFIG, diversity=diversity))
    with pytest.raises(ConfigError, match=message):
        interpreter.fit(load_data("digits", "train"), left_open=left_open)


@pytest.mark.parametrize("steps", [3, 0])
def test_a_run_measures_what_layers_leave_open_before_its_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    settings = Settings(
        model=ModelOptions("tests.networks:Tiny", pretrained=True),
        generator=GeneratorOptions(generator_steps=2, images_per_layer=2, diversity=5.0),
        information=InformationOptions(information_steps=steps),
        run=RunOptions(device="cpu"),
    )
    measured, measure, said = list[set[int]](), Decoders.measure, list[str]()

    def watched(self: Decoders, images: ImageSet, **options: Any) -> Measurement:
        measured.append(set(images.labels[: options.get("examples")].tolist()))
        return measure(self, images, **options)

    monkeypatch.setattr(Decoders, "measure", watched)
    monkeypatch.setattr("interpretgan.pipeline.networks.MEASURED", 100)
    train, test = (load_data("digits", split) for split in ("train", "test"))
    order = np.argsort(train.labels, kind="stable")  # one class after another
    by_class = replace(train, images=train.images[order], labels=train.labels[order], sha256="")
    for _ in range(2):  # the second time there is nothing to train
        inputs = Inputs(settings, train=by_class, test=test)
        with Networks(inputs, ("data", "model", "generator"), tmp_path, say=said.append) as run:
            assert run.config["information"]["steps"] == steps
            _ = run.interpreters
    assert measured == ([set(range(10))] if steps else [])
    assert sum("not held" in line for line in said) == (not steps)
    made = [name for name in ("information.safetensors", "generator-0.safetensors") if (tmp_path / name).exists()]
    assert made == ["information.safetensors", "generator-0.safetensors"][steps == 0 :]
