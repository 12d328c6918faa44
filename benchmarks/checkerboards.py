"""What it is worth that what the generator adds is smoothed: checkerboards, error and readability at each layer.

A network of photographs is explained by generators that smooth after each doubling and by such that do not, all else
equal. A checkerboard is a pattern of two pixels' period: its power is compared with that of the next lower frequencies.
In photographs it is a little less.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from interpretgan import Classifier, GANConfig, InterpretGAN, Judge, load_classifier, load_data
from interpretgan.gan import generator
from interpretgan.models import build_model
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe

CLASSIFIER, RECOGNITION = "vgg-small-max", "vgg-small-avg-trades"
JUDGE = Path("results/cifar10-vgg-small-max/judge.safetensors")
RESULT = Path("results/benchmarks/checkerboards.json")


def checkerboard(images: Tensor) -> float:
    """Power at two pixels' period over the mean power at the two frequencies below it, of images `[N, C, H, W]`."""
    grey = images.double().mean(dim=1)
    power = sum(torch.fft.rfft(each, dim=-1).abs().square().mean(dim=(0, 1)) for each in (grey, grey.mT))
    assert isinstance(power, Tensor)
    return float(power[-1] / power[-3:-1].mean())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--images-per-layer", type=int, default=12)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    train, test = load_data("cifar10", "train"), load_data("cifar10", "test")
    classifier, recognition = (load_classifier(name, device=options.device) for name in (CLASSIFIER, RECOGNITION))
    built = build_model("judge", num_classes=10, in_channels=3, image_size=(32, 32)).to(options.device)
    judge = Judge.load(JUDGE, Classifier(built))
    images, labels = (part.to(options.device) for part in test.batch(range(options.examples)))
    config = GANConfig(steps=options.steps, images_per_layer=options.images_per_layer)

    def looked_at(pictures: Tensor) -> dict[str, float]:
        predicted = torch.cat([judge.predict(part) for part in torch.split(pictures, 200)])
        right, error = float((predicted == labels).float().mean()), float((pictures - images).abs().mean())
        return {"right": right, "error": error, "checkerboard": checkerboard(pictures)}

    variants: dict[str, dict[str, Any]] = {}
    for name, upsampling in (("smoothed", generator.SmoothShuffle), ("plain", nn.PixelShuffle)):
        with mock.patch.object(generator, "SmoothShuffle", upsampling):
            interpreter = InterpretGAN(classifier, config=config)
            interpreter.fit(train, recognition_network=recognition, on_progress=False)
        explained = interpreter.explain(images)
        variants[name] = {
            layer: looked_at(pictures)
            for layer, pictures in zip(explained.layers, explained.natural_explanations, strict=True)
        }
        machine = describe(device=options.device)
        record = {
            "benchmark": "checkerboards", "classifier": CLASSIFIER, "recognition_network": RECOGNITION,
            "steps": config.steps, "images_per_layer": config.images_per_layer, "examples": len(images),
            "machine": machine, "image": looked_at(images), "variants": variants,
        }  # fmt: skip
        write_json(options.out, record)


if __name__ == "__main__":
    main()
