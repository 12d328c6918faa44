"""All layers on one shared trunk, against generators of the same architecture trained one by one in fp32.

All variants explain the same LeNet-5 at all its layers, with as many images per layer and step. The shared variant
trains all layers in one generator, in the default precision. The other variants train one generator per layer in fp32:
once with the same objective, once with the plain one of the paper (no latent consistency, no noise before the
recognition network). Each takes the smallest of its budgets that reaches the shared variant's quality at that layer:
the judge predicts as many natural explanations right (within `TOLERANCE`), and the image error is no larger (within
`ERROR_TOLERANCE`). Failed budgets are not charged; where no budget gets there, the largest is charged, so the ratio is
a lower bound.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from benchmarks.machine import Flops, describe
from interpretgan import (
    Classifier,
    GANConfig,
    ImageSet,
    InterpretGAN,
    Judge,
    Layer,
    ThreatModel,
    attack,
    find_layers,
    load_data,
    train_judge,
)
from interpretgan.models import build_model
from interpretgan.store.files import write_json
from interpretgan.training import Natural, default_recipe, train_classifier

STEPS = 500
OBJECTIVES: dict[str, tuple[tuple[int, ...], dict[str, float]]] = {
    "same_objective": ((250, 500, 1000), {}),
    "plain_objective": ((500, 1000), {"latent": 0.0, "recognition_noise": 0.0}),
}
"""Budgets in steps, and what differs from the shared variant's settings."""
TOLERANCE = 0.005
ERROR_TOLERANCE = 1.1
EXAMPLES = 1000
THREAT = ThreatModel("linf", 0.2)
RESULT = Path("results/benchmarks/shared_trunk.json")


@dataclasses.dataclass
class Variant:
    """What one training gave at its layers."""

    seconds: float
    step_seconds: float
    natural: list[float]
    error: list[float]
    predictions: Tensor  # adversarial, [L, N]


def quality(interpreter: InterpretGAN, judge: Judge, x: Tensor, adversarial: Tensor, y: Tensor) -> tuple[Any, ...]:
    """What the judge predicts of natural and adversarial explanations, and how far the natural ones are off."""
    noise = interpreter.noise(len(x), generator=torch.Generator().manual_seed(1))
    parts = [slice(first, first + 250) for first in range(0, len(x), 250)]
    natural, turned = (
        torch.cat([interpreter.draw(images[part], noise[part]) for part in parts], dim=1) for images in (x, adversarial)
    )
    right = [float((judge.predict(images) == y).float().mean()) for images in natural]
    error = [float((images - x).square().mean() / x.var()) for images in natural]
    return right, error, torch.stack([judge.predict(images) for images in turned])


def train(
    classifier: Classifier, layers: list[Layer], images: ImageSet, config: GANConfig, seed: int
) -> tuple[InterpretGAN, float, float]:
    stamps = [time.perf_counter()]
    interpreter = InterpretGAN(classifier, layers, config=config, seed=seed)
    interpreter.fit(images, on_progress=lambda _: stamps.append(time.perf_counter()))
    steps = [b - a for a, b in itertools.pairwise(stamps[1:])] or [stamps[-1] - stamps[0]]
    return interpreter, stamps[-1] - stamps[0], statistics.median(steps)


def step_flops(classifier: Classifier, layers: list[Layer], images: ImageSet, config: GANConfig) -> float:
    """Floating point operations of one training step: those of three steps less those of two."""
    counts = []
    for steps in (2, 3):
        with Flops() as counter:  # type: ignore[no-untyped-call]  # likewise
            InterpretGAN(classifier, layers, config=dataclasses.replace(config, steps=steps)).fit(images)
        counts.append(counter.total)
    return float(counts[1] - counts[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist" if os.environ.get("INTERPRETGAN_DATA") else "digits")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the shared variant")
    parser.add_argument("--objectives", nargs="*", default=list(OBJECTIVES), choices=list(OBJECTIVES))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    machine = describe()
    images, test = load_data(options.data, "train"), load_data(options.data, "test")
    torch.manual_seed(0)
    network = build_model(
        "lenet5", in_channels=images.shape[0], num_classes=len(images.classes), image_size=images.shape[1:]
    )
    classifier = Classifier(network)
    train_classifier(classifier, images, objective=Natural(), recipe=default_recipe(images, "natural"), seed=0)
    judge = train_judge(images, test, threat_model=THREAT, seed=1)
    x, y = test.batch(slice(0, EXAMPLES))
    adversarial = attack(classifier, x, y, THREAT, seed=0)
    layers = find_layers(classifier, x[:4])

    config = GANConfig(steps=options.steps)
    together, seconds, step = train(classifier, layers, images, config, seed=0)
    shared = Variant(seconds, step, *quality(together, judge, x, adversarial, y))
    print(f"shared: {seconds:.0f} s, natural {min(shared.natural):.3f} and more", flush=True)
    flops = step_flops(classifier, layers, images, config)
    fp32_step = train(classifier, layers, images, dataclasses.replace(config, steps=12, precision="fp32"), seed=0)[2]

    def profile(natural: list[float], predictions: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
        of_image = float((judge.predict(adversarial) == y).float().mean()) / float(
            (judge.predict(x) == y).float().mean()
        )
        kept = [of_image, *((predictions == y).float().mean(dim=1).numpy() / np.array(natural))]
        return -np.diff(np.array(kept, dtype=np.float64))

    together_profile = profile(shared.natural, shared.predictions)
    peak = {name: 1e9 * gflops for name, gflops in machine["matmul_gflops"].items()}
    variants: dict[str, Any] = {}
    result: dict[str, Any] = {
        "benchmark": "shared_trunk",
        "machine": machine,
        "data": {"name": test.name, "sha256": test.sha256, "examples": EXAMPLES},
        "shared": {
            "steps": config.steps, "seconds": shared.seconds, "step_seconds": shared.step_seconds,
            "step_gflop": flops / 1e9, "share_of_bf16_peak": flops / shared.step_seconds / peak["bf16"],
            "fp32_step_seconds": fp32_step, "share_of_fp32_peak": flops / fp32_step / peak["fp32"],
            "natural": shared.natural, "error": shared.error, "profile": together_profile.tolist(),
        },
        "one_by_one": variants,
    }  # fmt: skip
    for objective in options.objectives:
        budgets, changes = OBJECTIVES[objective]
        rows: list[dict[str, Any]] = []
        predictions = []
        for index, layer in enumerate(layers):
            for budget in budgets:
                own = dataclasses.replace(config, steps=budget, precision="fp32", **changes)  # type: ignore[arg-type]  # floats
                single, seconds, step = train(classifier, [layer], images, own, seed=0)
                variant = Variant(seconds, step, *quality(single, judge, x, adversarial, y))
                reached = (
                    variant.natural[0] >= shared.natural[index] - TOLERANCE
                    and variant.error[0] <= ERROR_TOLERANCE * shared.error[index]
                )
                print(f"{objective} {layer.name}: {budget} steps, {seconds:.0f} s, reached {reached}", flush=True)
                if reached:
                    break
            predictions.append(variant.predictions[0])
            rows.append(
                {
                    "layer": layer.name, "steps": budget, "seconds": seconds, "reached": reached,
                    "natural": variant.natural[0], "shared_natural": shared.natural[index],
                    "error": variant.error[0], "shared_error": shared.error[index],
                    "predictions_agree": float((variant.predictions[0] == shared.predictions[index]).float().mean()),
                }
            )  # fmt: skip
        alone = profile([row["natural"] for row in rows], torch.stack(predictions))
        total = sum(row["seconds"] for row in rows)
        variants[objective] = {
            "seconds": total, "speedup": total / shared.seconds, "layers_reached": sum(row["reached"] for row in rows),
            "profile": alone.tolist(), "spearman": float(spearmanr(together_profile, alone).statistic),
            "same_top": layers[int(together_profile.argmax())].name == layers[int(alone.argmax())].name,
            "predictions_agree": statistics.mean(row["predictions_agree"] for row in rows), "layers": rows,
        }  # fmt: skip
        write_json(options.out, result)  # a variant takes minutes: each is kept as soon as it is done

    share = result["shared"]["share_of_bf16_peak"]
    print(f"{len(layers)} layers: shared {shared.seconds:.0f} s, a step at {share:.0%} of the bf16 matmul peak")
    for objective, found in variants.items():
        print(
            f"one by one in fp32, {objective}: {found['seconds']:.0f} s, {found['speedup']:.1f}x at equal quality "
            f"({found['layers_reached']} of {len(layers)} layers reached it)\n"
            f"  predictions agree on {found['predictions_agree']:.1%}, Spearman of V {found['spearman']:.2f}"
        )
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
