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
import math
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from examples.textured_shapes import make_judge
from interpretgan import Classifier, GANConfig, InterpretGAN, Judge, capture, load_data
from interpretgan.gan import waiting
from interpretgan.gan.losses import latent_consistency
from interpretgan.layers import examine
from interpretgan.models import build_model, load_weights
from interpretgan.pipeline.layer_choice import choose_layers
from interpretgan.store.files import read_json, write_json
from interpretgan.store.machine import describe

RESULT = Path("results/benchmarks/waiting.json")
BATCH = 50  # images that are explained at a time
SHOWN = 8  # images whose explanations are drawn


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
    sure = -math.inf if options.no_waiting else waiting.SURE
    with mock.patch.multiple(waiting, ALL=options.all_from, SURE=sure):
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
    picture = options.out.with_suffix(".jpg")
    judged = Judge(judge, right(judge, x), math.nan, "make_judge")
    shown = interpreter.explain(x[:SHOWN], labels=labels[:SHOWN], judge=judged)
    shown.plot(images.classes).savefig(picture, dpi=70, pil_kwargs={"quality": 85})
    print(f"result: {options.out}; explanations of {SHOWN} images: {picture}")


if __name__ == "__main__":
    main()
