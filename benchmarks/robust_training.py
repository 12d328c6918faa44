"""What a training step and an attack cost beyond the forward and backward passes that they must do.

A step of `train_classifier` is measured against those passes alone: the inner iterations with frozen parameters in
eval mode, then the passes that train, on one batch that is already there; no data, augmentation, optimiser, averaging,
clipping or checks. `attack` is measured against a PGD loop written by hand. Both sides run in turns in one process,
and the best of several counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan import Classifier, ImageSet, ThreatModel, attack
from interpretgan.models import MODELS, build_model
from interpretgan.speed.flops import Flops
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe
from interpretgan.training import Recipe, build_objective, train_classifier
from interpretgan.training.precision import has_fast_bf16

BATCH = 128
STEPS = 4
"""Training steps per epoch."""
LEAST_SECONDS = 0.8
"""A measurement has as many epochs as take about so long: setting a training up is not a step."""
ROUNDS, ROUNDS_SECONDS = 3, 12.0
"""At least so many, and for as long: short measurements need more of them."""
EPS = 8 / 255
ATTACKED = 256
"""Images of the attack, its own batch size."""
OBJECTIVES: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    "natural": ({}, (0, 0, 1)),
    "fast": ({"eps": EPS}, (0, 1, 1)),
    "pgd": ({"eps": EPS, "steps": 7}, (0, 7, 1)),
    "trades": ({"eps": EPS, "steps": 10}, (1, 10, 2)),
}
"""Parameters, and the passes that a step must do: forward alone (TRADES' reference, once a step), forward and backward
to the images, forward and backward to the weights."""
RESULT = Path("results/benchmarks/robust_training.json")


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def best(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each side, the best of several rounds in which they take turns, after one that warms up."""
    rounds: list[dict[str, float]] = []
    began = time.perf_counter()
    while len(rounds) <= ROUNDS or time.perf_counter() - began < ROUNDS_SECONDS:
        rounds.append({name: timed(work) for name, work in sides.items()})
    return {name: min(found[name] for found in rounds[1:]) for name in sides}


def passes(classifier: Classifier, x: Tensor, y: Tensor, counts: tuple[int, int, int], *, bf16: bool) -> None:
    """The forward and backward passes of one training step, and nothing else."""
    model, (forward, inner, outer) = classifier.model, counts
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        model.eval().requires_grad_(False)
        for _ in range(forward):
            model(x)
        for _ in range(inner):
            z = x.detach().clone().requires_grad_()
            torch.autograd.grad(F.cross_entropy(model(z).float(), y), z)
        model.train().requires_grad_(True)
        loss = torch.stack([F.cross_entropy(model(x).float(), y) for _ in range(outer)]).sum()
    loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
    model.zero_grad(set_to_none=True)


def pgd_by_hand(model: torch.nn.Module, x: Tensor, y: Tensor, threat_model: ThreatModel) -> Tensor:
    eps, step = threat_model.eps, threat_model.resolved_step_size
    z = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    for _ in range(threat_model.steps):
        z.requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(z), y, reduction="sum"), z)
        z = torch.min(torch.max(z.detach() + step * gradient.sign(), x - eps), x + eps).clamp(0, 1)
    return z


def training_step(name: str, images: ImageSet, objective: str) -> dict[str, Any]:
    settings, counts = OBJECTIVES[objective]
    bf16 = has_fast_bf16(torch.device("cpu"))
    ours, theirs = build(name, images), build(name, images)
    theirs.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    x, y = images.batch(slice(0, BATCH))
    x = x.to(memory_format=torch.channels_last)
    passes(theirs, x, y, counts, bf16=bf16)
    epochs = max(1, round(LEAST_SECONDS / STEPS / timed(lambda: passes(theirs, x, y, counts, bf16=bf16))))
    steps = epochs * STEPS
    recipe = Recipe(epochs, BATCH, 1e-3, augmentation="shift-flip" if x.shape[1] > 1 else "none", averaging=0.99)

    def loop() -> None:
        train_classifier(ours, images, objective=build_objective(objective, **settings), recipe=recipe, seed=0)

    def bare() -> None:
        for _ in range(steps):
            passes(theirs, x, y, counts, bf16=bf16)

    seconds = best({"step": loop, "passes": bare})
    with Flops() as counter:  # type: ignore[no-untyped-call]  # torch has no types here
        passes(theirs, x, y, counts, bf16=bf16)
    return {
        "model": name, "objective": objective, "steps": steps, "step_ms": 1e3 * seconds["step"] / steps,
        "passes_ms": 1e3 * seconds["passes"] / steps, "ratio": seconds["step"] / seconds["passes"],
        "gflops": counter.total * steps / seconds["step"] / 1e9,
    }  # fmt: skip


def pgd_batch(name: str, images: ImageSet) -> dict[str, Any]:
    classifier = build(name, images)
    model = classifier.model.eval().requires_grad_(False)
    x, y = images.batch(slice(0, ATTACKED))
    threat_model = ThreatModel("linf", EPS, steps=20)
    seconds = best(
        {
            "attack": lambda: attack(classifier, x, y, threat_model, seed=0),
            "by_hand": lambda: pgd_by_hand(model, x, y, threat_model),
        }
    )
    with Flops() as counter:  # type: ignore[no-untyped-call]  # likewise
        pgd_by_hand(model, x, y, threat_model)
    return {
        "model": name, "attack_s": seconds["attack"], "by_hand_s": seconds["by_hand"],
        "ratio": seconds["attack"] / seconds["by_hand"], "gflops": counter.total / seconds["attack"] / 1e9,
    }  # fmt: skip


def build(name: str, images: ImageSet) -> Classifier:
    torch.manual_seed(0)
    channels, *size = images.shape
    return Classifier(build_model(name, in_channels=channels, num_classes=10, image_size=(size[0], size[1])))


def random_images(name: str) -> ImageSet:
    """Random images of the model's published shape: speed does not depend on what they show."""
    import numpy as np

    draw = np.random.default_rng(0)
    count = max(BATCH * STEPS, ATTACKED)
    pixels = draw.integers(256, size=(count, *MODELS[name].input_shape), dtype=np.uint8)
    classes = tuple(str(label) for label in range(10))
    return ImageSet("random", "train", pixels, draw.integers(10, size=count), classes, sha256="random")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["lenet5", "vgg-small"], choices=list(MODELS))
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    machine = describe(fp32="float32", bf16="bfloat16")
    peak = machine["matmul_gflops"]
    training, attacks = [], []
    for name in options.models:
        images = random_images(name)
        for objective in OBJECTIVES:
            found = training_step(name, images, objective)
            found["share_of_bf16_peak"] = found["gflops"] / peak["bf16"]
            training.append(found)
            print(
                f"{name} {objective}: a step {found['step_ms']:.1f} ms, its passes {found['passes_ms']:.1f} ms, "
                f"{found['ratio']:.2f}x, {found['share_of_bf16_peak']:.0%} of the bf16 peak", flush=True,
            )  # fmt: skip
        found = pgd_batch(name, images)
        found["share_of_fp32_peak"] = found["gflops"] / peak["fp32"]
        attacks.append(found)
        print(
            f"{name} PGD-20 on {ATTACKED} images: {found['attack_s']:.2f} s, by hand {found['by_hand_s']:.2f} s, "
            f"{found['ratio']:.2f}x, {found['share_of_fp32_peak']:.0%} of the fp32 peak", flush=True,
        )  # fmt: skip
    result = {
        "machine": machine,
        "batch": BATCH,
        "least_rounds": ROUNDS,
        "training_step": training,
        "pgd_batch": attacks,
    }
    write_json(options.out, result)
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
