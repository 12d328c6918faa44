"""How fast the discriminator should learn from images with colour: an ablation on CIFAR-10.

At the generator's rate its hinge loss is 2 for long, that of one that knows nothing, and realism has no part in the
training so far. The classifier is the pretrained `vgg-small-max`; a judge that takes no other part predicts the class
of natural explanations of held-out images. *Sharpness* is the mean difference of neighbouring pixels.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.deep_layers import accuracy, parsed
from interpretgan import GANConfig, InterpretGAN, find_layers, load_classifier, load_data
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe
from interpretgan.store.progress import Progress

CLASSIFIER, RECOGNITION_NETWORK, JUDGE = "vgg-small-max", "vgg-small-avg-pgd", "vgg-small-avg-trades"
LAYERS = ("relu1_1", "pool1", "relu2_2", "pool2", "relu3_1", "pool3", "relu4_1", "mean", "fc")
VARIANTS = {"the generator's rate": (4e-3, 0.0), "a twentieth": (2e-4, 0.0), "a twentieth, momentum": (2e-4, 0.5)}
"""Peak of the discriminator's rate, and the momentum of both."""
PART = 25  # steps whose losses are averaged
RESULT = Path("results/benchmarks/discriminator.json")


def sharpness(images: Tensor) -> float:
    """Mean absolute difference of neighbours along both axes, of images `[N, C, H, W]`."""
    return float(torch.stack([images.diff(dim=axis).abs().mean() for axis in (2, 3)]).mean())


def main() -> None:
    options = parsed(__doc__, RESULT)

    classifier, recognition_network, judge = map(load_classifier, (CLASSIFIER, RECOGNITION_NETWORK, JUDGE))
    train, test = (load_data("cifar10", split, data_dir=options.data_dir) for split in ("train", "test"))
    images, labels = test.batch(range(options.examples))
    layers = [layer for layer in find_layers(classifier, images[:4]) if layer.name in LAYERS]
    result: dict[str, Any] = {
        "benchmark": "discriminator", "machine": describe(fp32="float32", bf16="bfloat16"), "classifier": CLASSIFIER,
        "recognition_network": RECOGNITION_NETWORK, "judge": JUDGE, "seed": options.seed, "steps": options.steps,
        "layers": LAYERS, "image": {"judge": accuracy(judge, images, labels), "sharpness": sharpness(images)},
        "variants": {},
    }  # fmt: skip
    for name, (rate, momentum) in VARIANTS.items():
        losses: list[tuple[float, float]] = []

        def keep(progress: Progress, losses: list[tuple[float, float]] = losses) -> None:
            losses.append((progress.values["loss_d"], progress.values["information"]))

        config = GANConfig(steps=options.steps, discriminator_rate=rate, momentum=momentum)
        interpreter = InterpretGAN(classifier, layers, config=config, seed=options.seed)
        interpreter.fit(train, recognition_network=recognition_network, on_progress=keep)
        noise = interpreter.noise(len(images), generator=torch.Generator().manual_seed(options.seed))
        parts = [interpreter.draw(x, n) for x, n in zip(torch.split(images, 250), torch.split(noise, 250), strict=True)]
        drawn = torch.cat(parts, dim=1)
        means = [
            torch.tensor(part).mean(dim=0).tolist()
            for part in (losses[i : i + PART] for i in range(0, len(losses), PART))
        ]
        result["variants"][name] = {
            "config": asdict(interpreter.resolved_config),
            "discriminator_loss": [loss for loss, _ in means], "information": [bound for _, bound in means],
            "judge": [accuracy(judge, pictures, labels) for pictures in drawn],
            "sharpness": [sharpness(pictures) for pictures in drawn],
        }  # fmt: skip
        write_json(options.out, result)
        print(name, [f"{found['value']:.3f}" for found in result["variants"][name]["judge"]], means[-1], flush=True)
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
