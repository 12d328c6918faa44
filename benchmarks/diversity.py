"""How much explanations of one latent vary with their noise, against what the latent leaves open: an ablation.

LeNet-5 on MNIST, with each weight of the energy score in turn. What a layer leaves open is the share of the image's
variance that its decoder does not explain; variants that are *held* to it are told that of training images. Its
explanations vary by their variance over several draws for one latent, as a share of the same. The two are equal where
explanations are distributed as the images that have this latent. What the mean of the draws does not explain says how
near to the image they are.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from interpretgan import Decoders, GANConfig, InterpretGAN, load_classifier, load_data
from interpretgan.statistics import mean_interval
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe

CLASSIFIER, JUDGE = "lenet5-max", "lenet5-avg-trades"
VARIANTS: dict[str, dict[str, Any]] = {
    "0, the default": {},
    "10": {"diversity": 10.0},
    "100": {"diversity": 100.0},
    "300": {"diversity": 300.0},
    "100, 1,000 steps": {"diversity": 100.0, "steps": 1000},
    "100, 1,500 steps, held": {"diversity": 100.0, "steps": 1500, "held": True},
    "50, 1,500 steps, held": {"diversity": 50.0, "steps": 1500, "held": True},
    "the same, another seed": {"diversity": 50.0, "steps": 1500, "held": True, "seed": 1},
}
RESULT, PICTURE = Path("results/benchmarks/diversity.json"), Path("docs/diversity.png")
SHOWN, TIMES = 3, 3  # images, of four draws each, and pixels a side that a pixel is enlarged to


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that holds mnist/ as parquet")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--picture", type=Path, default=PICTURE, help="of the last variant")
    options = parser.parse_args()

    train, test = (load_data("mnist", split, data_dir=options.data_dir) for split in ("train", "test"))
    classifier, judge = load_classifier(CLASSIFIER), load_classifier(JUDGE)
    decoders = Decoders(classifier, seed=0).fit(train)
    found = decoders.measure(test, examples=options.examples)
    held_to = decoders.measure(train, examples=options.examples).left_open
    left_open = (found.errors.sum(axis=1) / found.variance.sum())[1:].tolist()
    images, labels = test.batch(torch.arange(options.examples))

    def right(*pictures: torch.Tensor) -> dict[str, float]:
        """The share that is predicted right, in the mean over draws; its interval covers the choice of images."""
        predicted = [
            torch.cat([judge.logits(part).argmax(dim=1) for part in torch.split(draw, 250)]) for draw in pictures
        ]
        shares = torch.stack([(each == labels).double() for each in predicted]).mean(dim=0)
        found = mean_interval(shares.numpy(), 0.95, replicates=2000, seed=0)
        return {name: getattr(found, name) for name in ("value", "low", "high")}

    result: dict[str, Any] = {
        "machine": describe(fp32="float32"), "classifier": CLASSIFIER, "judge": JUDGE,
        "draws": options.draws, "examples": options.examples, "image": right(images), "variants": {},
    }  # fmt: skip
    for name in options.variants:
        chosen = dict(VARIANTS[name])
        seed, held = chosen.pop("seed", 0), held_to if chosen.pop("held", False) else None
        interpreter = InterpretGAN(classifier, config=GANConfig(**chosen), seed=seed).fit(train, left_open=held)
        draws = [interpreter.explain(images, seed=number) for number in range(options.draws)]
        pictures = torch.stack([draw.natural_explanations for draw in draws])
        varies, misses = (
            (each.flatten(2).sum(dim=(1, 2)) / found.variance.sum()).tolist()
            for each in (pictures.var(dim=0), (pictures.mean(dim=0) - images).square())
        )
        rows = zip(draws[0].layers, left_open, varies, misses, pictures.unbind(dim=1), strict=True)
        result["variants"][name] = [
            {"layer": layer, "left_open": open_, "varies": by, "misses": missed, "natural": right(*drawn)}
            for layer, open_, by, missed, drawn in rows
        ]
        print(name, [f"{by / open_:.2f}" for open_, by in zip(left_open, varies, strict=True)], flush=True)
        write_json(options.out, result)
    lines = [
        torch.cat([images[image, 0], *draw.natural_explanations[:, image, 0]], dim=1)
        for image in range(SHOWN)
        for draw in draws[:4]
    ]
    sheet = Image.fromarray((255 * torch.cat(lines)).round().byte().numpy())
    sheet.resize((TIMES * sheet.width, TIMES * sheet.height), Image.Resampling.NEAREST).save(options.picture)
    print(f"result: {options.out}, {options.picture}")


if __name__ == "__main__":
    main()
