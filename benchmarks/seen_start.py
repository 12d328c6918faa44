"""What it is worth that the trunk sees the picture that it adds to: an ablation on digits and on photographs.

Decoders and generators of the same settings and seeds, with the trunk seeing what the linear decoders draw at every
size that it draws at, on its coarse grid alone, and not at all:
what decoders leave unexplained; how many natural explanations a judge predicts right, and how many adversarial ones of
these are still right; how far natural explanations are from their images, and their latents from those of the images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from interpretgan import (
    Classifier,
    Decoders,
    GANConfig,
    ImageSet,
    InterpretGAN,
    Layer,
    ThreatModel,
    attack,
    capture,
    find_layers,
    load_classifier,
    load_data,
)
from interpretgan.gan.generator import Generator
from interpretgan.gan.losses import latent_consistency
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe

NETWORKS = {
    # Data: classifier, recognition network, judge, threat model, layers.
    "mnist": ("lenet5-max", None, "lenet5-avg-pgd", ThreatModel("linf", 0.2), None),
    "cifar10": (
        "vgg-small-max", "vgg-small-max-pgd", "vgg-small-avg-pgd", ThreatModel("linf", 2 / 255),
        ("relu1_1", "pool1", "relu2_2", "pool2", "relu3_1", "pool3", "relu4_1", "mean", "fc"),
    ),
}  # fmt: skip
SEEN = ("every size", "the grid", "nothing")
RESULT = Path("results/benchmarks/seen_start.json")


@contextmanager
def trunk(sees: str) -> Iterator[None]:
    """Generators and decoders made inside see so much of the picture that they add to; where it is nothing, grey."""
    usual = Generator.__init__

    def blind(self: Generator, *given: Any, **options: Any) -> None:
        usual(self, *given, **options | {"look_again": sees == "every size"})
        for look in self.looks if sees == "nothing" else []:
            look.register_forward_pre_hook(lambda _, inputs: (torch.zeros_like(inputs[0]),))

    with mock.patch.object(Generator, "__init__", blind):
        yield


def unexplained(classifier: Classifier, layers: list[Layer], train: ImageSet, test: ImageSet, seed: int) -> list[float]:
    """The share of the images' variance that the decoder of each layer leaves."""
    found = Decoders(classifier, layers, seed=seed).fit(train).measure(test)
    return list((found.errors[1:].sum(axis=1) / found.variance.sum()).tolist())


@torch.no_grad()
def explained(
    interpreter: InterpretGAN, judge: Classifier, images: Tensor, labels: Tensor, adversarial: Tensor
) -> list[dict[str, Any]]:
    """For each layer what the judge predicts, and how far explanations are from the images."""
    found, rows = interpreter.explain(images, adversarial, labels=labels), list[dict[str, Any]]()
    assert found.adversarial_explanations is not None
    variance = (images - images.mean(dim=0)).square().mean()
    for index, layer in enumerate(interpreter.layers):
        natural, attacked = found.natural_explanations[index], found.adversarial_explanations[index]
        right, still = (judge.logits(pictures).argmax(dim=1) == labels for pictures in (natural, attacked))
        latents, again = (capture(interpreter.classifier, x, [layer])[1][layer.name] for x in (images, natural))
        rows.append({
            "name": layer.name, "natural": float(right.float().mean()),
            "retained": float((right & still).sum() / right.sum().clamp_min(1)),
            "error": float((natural - images).square().mean() / variance),
            "latent": float(latent_consistency(latents, again)),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=NETWORKS, default="mnist")
    parser.add_argument("--data-dir", type=Path, help="folder that holds mnist/ and cifar10/ as parquet")
    parser.add_argument("--sees", choices=SEEN, nargs="+", default=list(SEEN))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=200, help="of the generators")
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    name, recognised_by, judged_by, threat_model, names = NETWORKS[options.data]
    train, test = (load_data(options.data, split, data_dir=options.data_dir) for split in ("train", "test"))
    test = test.head(options.examples)
    classifier, judge = load_classifier(name), load_classifier(judged_by)
    recognition = None if recognised_by is None else load_classifier(recognised_by)
    images, labels = test.batch(range(len(test)))
    layers = [layer for layer in find_layers(classifier, images[:4]) if not names or layer.name in names]
    adversarial = attack(classifier, images, labels, threat_model, seed=0)
    right = float((judge.logits(images).argmax(dim=1) == labels).float().mean())
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        for sees in options.sees:
            with trunk(sees):
                left = unexplained(classifier, layers, train, test, seed)
                interpreter = InterpretGAN(classifier, layers, config=GANConfig(steps=options.steps), seed=seed).fit(
                    train, recognition_network=recognition
                )
                rows = explained(interpreter, judge, images, labels, adversarial)
            rows = [row | {"unexplained": share} for row, share in zip(rows, left, strict=True)]
            runs.append({"seed": seed, "sees": sees, "image": right, "layers": rows})
            print(seed, sees, [(row["name"], round(row["natural"], 3)) for row in rows], flush=True)
    settings = {"data": options.data, "steps": options.steps, "examples": options.examples}
    write_json(options.out, {"machine": describe(fp32="float32"), **settings, "runs": runs})
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
