"""What it is worth that layers wait whose linear start shows nothing: an ablation on shapes of 128 pixels.

A generator for a VGG-11 that tells textured shapes by their outlines, with layers waiting or, with `--no-waiting`,
none: how many natural explanations a judge predicts right, and how far their latents are from the images'.
The images and networks are made by

    python -m examples.textured_shapes shapes --side 128 --train 1000 --test 100
    interpretgan train --data shapes --model vgg11 --width 0.25 --epochs 10 --batch-size 128 --lr 2e-3 --out classifier
    interpretgan train --data shapes --model examples.textured_shapes:make_judge --objective fast --eps 4/255 \\
        --epochs 12 --batch-size 128 --lr 2e-3 --seed 1 --out judge

and the recognition network as the judge, with `--seed 2`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from matplotlib.figure import Figure

from examples.textured_shapes import make_judge
from interpretgan import Classifier, GANConfig, InterpretGAN, capture, load_data
from interpretgan.gan import train, waiting
from interpretgan.gan.losses import latent_consistency
from interpretgan.layers import examine
from interpretgan.models import build_model, load_weights
from interpretgan.pipeline.layer_choice import choose_layers
from interpretgan.store.files import read_json, write_json
from interpretgan.store.machine import describe

RESULT = Path("results/benchmarks/waiting.json")
BATCH = 50  # images that are explained at a time
SHOWN = 8  # images whose explanations are drawn


@contextmanager
def layers_wait(wait: bool) -> Iterator[None]:
    """Trainings inside have layers wait, or none."""
    if wait:
        yield
        return
    with mock.patch.object(train, "layers_that_wait", lambda made, *_: torch.zeros(len(made.names), dtype=torch.bool)):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder that holds train/ and test/")
    parser.add_argument("--classifier", type=Path, required=True, help="weights of a vgg11 of a quarter's width")
    parser.add_argument("--judge", type=Path, required=True, help="weights of a make_judge")
    parser.add_argument("--recognition-network", type=Path, required=True, help="weights of another make_judge")
    parser.add_argument("--steps", type=int, default=600, help="of the generators")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--all-from", type=float, default=waiting.ALL, help="error from which a layer is asked everything"
    )
    parser.add_argument("--no-waiting", action="store_true", help="no layer waits")
    parser.add_argument("--every", type=int, default=5, help="every so many of the test images are explained")
    parser.add_argument("--out", type=Path, default=RESULT, help="record that the run is added to")
    options = parser.parse_args()

    images, test = (load_data(str(options.images), split) for split in ("train", "test"))
    classes, side = len(images.classes), images.shape[1]
    model = build_model("vgg11", in_channels=3, num_classes=classes, image_size=side, width=0.25)
    networks = [model, make_judge(3, classes), make_judge(3, classes)]
    files = (options.classifier, options.judge, options.recognition_network)
    for network, weights in zip(networks, files, strict=True):
        load_weights(network, weights)
    classifier, judge, recognition = (Classifier(network) for network in networks)
    x, labels = test.batch(range(0, len(test), options.every))
    layers = choose_layers(examine(classifier, x[:2]))
    with layers_wait(not options.no_waiting), mock.patch.object(waiting, "ALL", options.all_from):
        interpreter = InterpretGAN(classifier, layers, config=GANConfig(steps=options.steps), seed=options.seed)
        interpreter.fit(images, recognition_network=recognition)
    noise = interpreter.noise(len(x), generator=torch.Generator().manual_seed(0))
    parts = [
        interpreter.draw(some, n) for some, n in zip(torch.split(x, BATCH), torch.split(noise, BATCH), strict=True)
    ]
    explained = list(torch.cat(parts, dim=1))

    def right(network: Classifier, pictures: torch.Tensor) -> float:
        predictions = torch.cat([network.logits(some).argmax(dim=1) for some in torch.split(pictures, BATCH)])
        return float((predictions == labels).float().mean())

    rows: list[dict[str, Any]] = []
    for layer, pictures in zip(layers, explained, strict=True):
        natural, again = (
            torch.cat([capture(classifier, some, [layer])[1][layer.name] for some in torch.split(shown, BATCH)])
            for shown in (x, pictures)
        )
        rows.append({
            "name": layer.name, "judge": right(judge, pictures), "classifier": right(classifier, pictures),
            "latent": float(latent_consistency(natural, again)),
        })  # fmt: skip
    run = {
        "waiting": not options.no_waiting, "errors": [waiting.NONE, options.all_from],
        "seed": options.seed, "steps": options.steps, "images": len(x),
        "judge_of_images": right(judge, x), "classifier_of_images": right(classifier, x), "layers": rows,
        "machine": describe(fp32="float32"),
    }  # fmt: skip
    runs = read_json(options.out)["runs"] if options.out.exists() else []
    write_json(options.out, {"runs": [*runs, run]})
    shown = torch.cat([torch.cat(list(some[:SHOWN]), dim=2) for some in (x, *explained)], dim=1)
    picture = options.out.with_suffix(".jpg")
    draw(shown, ["image", *(layer.name for layer in layers)], picture)
    print(f"result: {options.out}; explanations of {SHOWN} images: {picture}")


def draw(rows: torch.Tensor, names: list[str], file: Path) -> None:
    """Rows of images `[3, H, W]`, each under its name, as a picture."""
    figure = Figure(figsize=(8.0, 7.0 * rows.shape[1] / rows.shape[2] + 0.2), layout="constrained")
    axes = figure.subplots()
    axes.imshow(rows.permute(1, 2, 0))
    height = rows.shape[1] / len(names)
    axes.set_yticks([height * (index + 0.5) for index in range(len(names))], names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.savefig(file, dpi=100, pil_kwargs={"quality": 85})


if __name__ == "__main__":
    main()
