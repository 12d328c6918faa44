"""What it is worth that what the generator adds is smoothed: checkerboards, error and readability at each layer.

A network of photographs, or of the embedded digits, is explained by generators that smooth after each doubling and by
such that do not, all else equal. A checkerboard is a pattern of two pixels' period: its power is compared with that of
the next lower frequencies. In photographs it is a little less.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from interpretgan import (
    Classifier,
    GANConfig,
    ImageSet,
    InterpretGAN,
    Judge,
    ThreatModel,
    load_classifier,
    load_data,
    train_judge,
)
from interpretgan.gan import train as training
from interpretgan.models import build_model
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe
from interpretgan.training import Natural, default_recipe, train_classifier

CLASSIFIERS = {"cifar10": "vgg-small-max", "digits": "lenet5"}
RECOGNITION = "vgg-small-avg-trades"
JUDGE = Path("results/cifar10-vgg-small-max/judge.safetensors")
RESULTS = {"cifar10": "checkerboards.json", "digits": "checkerboards_digits.json"}


def checkerboard(images: Tensor) -> float:
    """Power at two pixels' period over the mean power at the two frequencies below it, of images `[N, C, H, W]`."""
    grey = images.double().mean(dim=1)
    power = sum(torch.fft.rfft(each, dim=-1).abs().square().mean(dim=(0, 1)) for each in (grey, grey.mT))
    assert isinstance(power, Tensor)
    return float(power[-1] / power[-3:-1].mean())


def networks(data: str, train: ImageSet, test: ImageSet, device: str) -> tuple[Classifier, Judge, Classifier | None]:
    """The classifier that is explained, the judge, and a recognition network for photographs."""
    if data == "cifar10":
        classifier, recognition = (load_classifier(name, device=device) for name in (CLASSIFIERS[data], RECOGNITION))
        built = build_model("judge", num_classes=10, in_channels=3, image_size=(32, 32)).to(device)
        return classifier, Judge.load(JUDGE, Classifier(built)), recognition
    torch.manual_seed(0)
    classifier = Classifier(build_model("lenet5", num_classes=10, in_channels=1, image_size=(28, 28)).to(device))
    train_classifier(classifier, train, objective=Natural(), recipe=default_recipe(train, "natural"), seed=0)
    return classifier, train_judge(train, test, threat_model=ThreatModel("linf", 0.2), seed=1, device=device), None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=CLASSIFIERS, default="cifar10")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--images-per-layer", type=int, default=12)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    train, test = load_data(options.data, "train"), load_data(options.data, "test")
    classifier, judge, recognition = networks(options.data, train, test, options.device)
    images, labels = (part.to(options.device) for part in test.batch(range(min(options.examples, len(test)))))
    config = GANConfig(steps=options.steps, images_per_layer=options.images_per_layer)

    def looked_at(pictures: Tensor) -> dict[str, float]:
        predicted = torch.cat([judge.predict(part) for part in torch.split(pictures, 200)])
        right, error = float((predicted == labels).float().mean()), float((pictures - images).abs().mean())
        return {"right": right, "error": error, "checkerboard": checkerboard(pictures)}

    variants: dict[str, dict[str, Any]] = {}
    for name in ("smoothed", "plain"):
        with mock.patch.object(training, "should_be_smooth", return_value=name == "smoothed"):
            interpreter = InterpretGAN(classifier, config=config)
            interpreter.fit(train, recognition_network=recognition, on_progress=False)
        explained = interpreter.explain(images)
        variants[name] = {
            layer: looked_at(pictures)
            for layer, pictures in zip(explained.layers, explained.natural_explanations, strict=True)
        }
        machine = describe(device=options.device)
        record = {
            "benchmark": "checkerboards", "data": options.data, "classifier": CLASSIFIERS[options.data],
            "recognition_network": recognition and RECOGNITION,
            "steps": config.steps, "images_per_layer": config.images_per_layer, "examples": len(images),
            "machine": machine, "image": looked_at(images), "variants": variants,
        }  # fmt: skip
        write_json(options.out or Path("results/benchmarks") / RESULTS[options.data], record)


if __name__ == "__main__":
    main()
