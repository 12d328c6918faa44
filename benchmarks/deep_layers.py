"""What makes the explanations of a photograph's deep layers readable: an ablation on CIFAR-10.

The classifier is the pretrained `vgg-small-max`. Four variants train InterpretGAN for some of its layers up to the
last. They differ in the network that classifies explanations in the information bound (the classifier itself, as in
the paper, through the noise that is its default; or a robust recognition network, through little noise) and in the
weight of latent consistency. A judge that is neither of them, with another pooling and objective, predicts the class
of natural explanations of held-out images. A picture shows these explanations.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from interpretgan import Classifier, GANConfig, ImageSet, InterpretGAN, find_layers, load_classifier, load_data
from interpretgan.statistics import wilson
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe

CLASSIFIER, RECOGNITION_NETWORK, JUDGE = "vgg-small-max", "vgg-small-max-pgd", "vgg-small-avg-trades"
LAYERS = ("pool2", "relu4_1", "mean", "fc")
VARIANTS: dict[str, tuple[bool, float]] = {
    "the method, λ_z = 10": (False, 10.0),
    "the method, λ_z = 2": (False, 2.0),
    "robust recognition network, λ_z = 10": (True, 10.0),
    "robust recognition network, λ_z = 2": (True, 2.0),
}
"""Whether there is a robust recognition network, and the weight of latent consistency."""
SHOWN = 10
RESULT = Path("results/benchmarks/deep_layers.json")


def accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> dict[str, float]:
    right = torch.cat([classifier.logits(part).argmax(dim=1) for part in torch.split(images, 250)]) == labels
    return asdict(wilson(int(right.sum()), len(right), 0.95))


def fitted(
    classifier: Classifier, recognition_network: Classifier | None, train: ImageSet, config: GANConfig, *, seed: int
) -> InterpretGAN:
    layers = [layer for layer in find_layers(classifier, train.batch(range(4))[0]) if layer.name in LAYERS]
    return InterpretGAN(classifier, layers, config=config, seed=seed).fit(
        train, recognition_network=recognition_network
    )


def picture(images: Tensor, rows: dict[str, Tensor], path: Path) -> None:
    """A row of images, then a row for each variant and layer, `[N, C, H, W]` each."""
    shown = {"image": images, **rows}
    figure = Figure(figsize=(0.75 * SHOWN + 2.6, 0.75 * len(shown)))
    axes = figure.subplots(len(shown), SHOWN, squeeze=False)
    for line, (name, pictures) in zip(axes, shown.items(), strict=True):
        for axis, pixels in zip(line, pictures[:SHOWN], strict=True):
            axis.imshow(np.clip(pixels.permute(1, 2, 0).numpy(), 0, 1))
            axis.set_xticks([])
            axis.set_yticks([])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    figure.subplots_adjust(
        left=2.5 / (0.75 * SHOWN + 2.6), right=0.995, bottom=0.005, top=0.995, wspace=0.04, hspace=0.04
    )
    figure.savefig(path, dpi=110)


def parsed(description: str | None, result: Path) -> argparse.Namespace:
    """The options of a training on CIFAR-10 whose explanations are judged, `result` by default being its record."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that holds cifar10/ as parquet")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=result)
    return parser.parse_args()


def main() -> None:
    options = parsed(__doc__, RESULT)

    classifier, recognition_network, judge = (
        load_classifier(name) for name in (CLASSIFIER, RECOGNITION_NETWORK, JUDGE)
    )
    train, test = (load_data("cifar10", split, data_dir=options.data_dir) for split in ("train", "test"))
    images, labels = test.batch(range(options.examples))
    machine = describe(fp32="float32", bf16="bfloat16")
    result: dict[str, Any] = {
        "machine": machine, "classifier": CLASSIFIER, "recognition_network": RECOGNITION_NETWORK, "judge": JUDGE,
        "seed": options.seed, "steps": options.steps, "examples": len(images),
        "image": {"judge": accuracy(judge, images, labels), "classifier": accuracy(classifier, images, labels)},
        "variants": [],
    }  # fmt: skip
    print(f"natural images: the judge predicts {result['image']['judge']['value']:.3f} right")
    rows: dict[str, Tensor] = {}
    for name, (robust, latent) in VARIANTS.items():
        config = GANConfig(steps=options.steps, images_per_layer=12, width=128, latent=latent)
        config = config.resolved(robust, train.shape[0])
        began = time.perf_counter()
        interpreter = fitted(classifier, recognition_network if robust else None, train, config, seed=options.seed)
        seconds = time.perf_counter() - began
        noise = interpreter.noise(len(images), generator=torch.Generator().manual_seed(options.seed))
        parts = [interpreter.draw(x, n) for x, n in zip(torch.split(images, 250), torch.split(noise, 250), strict=True)]
        drawn = torch.cat(parts, dim=1)
        layers = {
            layer: {"judge": accuracy(judge, pictures, labels), "classifier": accuracy(classifier, pictures, labels)}
            for layer, pictures in zip(LAYERS, drawn, strict=True)
        }
        result["variants"].append({"name": name, "seconds": seconds, "config": asdict(config), "layers": layers})
        rows |= {f"{name}: {layer}": pictures[:SHOWN] for layer, pictures in zip(LAYERS, drawn, strict=True)}
        shares = "  ".join(f"{layer} {found['judge']['value']:.3f}" for layer, found in layers.items())
        print(f"{name}: {shares}  ({seconds:.0f} s)", flush=True)
    write_json(options.out, result)
    picture(images, rows, options.out.with_suffix(".png"))
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
