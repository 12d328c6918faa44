"""What it is worth that the generator starts at patches of the image: an ablation.

For textured shapes of 32 to 224 pixels a side, the error of the explanations of a first convolution with random
weights. For a network of digits and one of photographs, the share of natural explanations that a judge predicts right,
at each layer. Each is measured with patches and without.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from examples.textured_shapes import SHAPES, draw
from interpretgan import Classifier, GANConfig, InterpretGAN, find_layers, load_classifier, load_data
from interpretgan.gan.linear_start import PatchDecoder
from interpretgan.statistics import wilson
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe

SIZES, TRAINED, TESTED = (32, 64, 128, 224), 160, 40
NETWORKS = {
    # Data: classifier, recognition network, judge, layers.
    "mnist": ("lenet5-max", None, "lenet5-avg-trades", None),
    "cifar10": (
        "vgg-small-max", "vgg-small-max-pgd", "vgg-small-avg-trades",
        ("relu1_1", "pool1", "relu2_2", "pool2", "relu3_2", "pool3", "relu4_1", "mean", "fc"),
    ),
}  # fmt: skip
RESULT = Path("results/benchmarks/patches.json")


@contextmanager
def patches(wanted: bool) -> Iterator[None]:
    """Generators that are made inside have patches, or none."""
    if wanted:
        yield
        return
    with mock.patch.object(PatchDecoder, "of", return_value=None):
        yield


def textured(count: int) -> Tensor:
    """Images `[count, 3, 224, 224]` of all classes."""
    shapes = list(SHAPES.values())
    drawn = [draw(shapes[index % len(shapes)], np.random.default_rng(index), 224) for index in range(count)]
    return torch.tensor(np.stack(drawn)).permute(0, 3, 1, 2) / 255


def error_of_first_layer(images: Tensor, config: GANConfig, *, seed: int) -> float:
    """Mean absolute difference of held-out images `[N, 3, H, W]` and the explanations of a strided convolution."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )
    classifier = Classifier(network)
    first = find_layers(classifier, images[:4])[:1]
    interpreter = InterpretGAN(classifier, first, config=config, seed=seed).fit(images[:TRAINED], on_progress=False)
    held_out = images[TRAINED:]
    return float((interpreter.explain(held_out).natural_explanations[0] - held_out).abs().mean())


def predicted_right(data: str, config: GANConfig, options: argparse.Namespace) -> list[dict[str, Any]]:
    """For the image and each layer, how many natural explanations the judge predicts right."""
    model, recognition, judge_name, names = NETWORKS[data]
    train, test = (load_data(data, split, data_dir=options.data_dir) for split in ("train", "test"))
    classifier, judge = load_classifier(model), load_classifier(judge_name)
    robust = None if recognition is None else load_classifier(recognition)
    layers = [layer for layer in find_layers(classifier, train.batch(range(4))[0]) if not names or layer.name in names]
    interpreter = InterpretGAN(classifier, layers, config=config, seed=options.seeds[0])
    interpreter.fit(train, recognition_network=robust)
    images, labels = test.batch(range(options.examples))
    found = interpreter.explain(images)
    rows = []
    for name, pictures in zip(("image", *found.layers), (images, *found.natural_explanations), strict=True):
        shown = torch.cat([judge.logits(part).argmax(dim=1) for part in torch.split(pictures, 250)])
        right = asdict(wilson(int((shown == labels).sum()), len(labels), 0.95))
        rows.append({"name": name, "natural": right, "error": float((pictures - images).abs().mean())})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that holds mnist/ and cifar10/ as parquet")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the sizes; networks have the first")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    result: dict[str, Any] = {"machine": describe(fp32="float32"), **vars(options), "sizes": [], "networks": []}
    for name in ("data_dir", "out"):
        del result[name]
    whole, small = textured(TRAINED + TESTED), GANConfig(steps=options.steps, images_per_layer=4)
    for size in SIZES:
        images = F.interpolate(whole, size=(size, size), mode="area")
        for wanted in (True, False):
            with patches(wanted):
                errors = [error_of_first_layer(images, small, seed=seed) for seed in options.seeds]
            result["sizes"].append({"pixels": size, "patches": wanted, "errors": errors})
            print(f"{size} pixels, patches {wanted}: {errors}", flush=True)
    for data in NETWORKS:
        for wanted in (True, False):
            with patches(wanted):
                rows = predicted_right(data, GANConfig(steps=options.steps), options)
            result["networks"].append({"data": data, "patches": wanted, "layers": rows})
            print(data, wanted, [round(row["natural"]["value"], 3) for row in rows], flush=True)
    write_json(options.out, result)
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
