"""All that needs a GPU, in one call of at most eight minutes: agreement with the CPU, speed, and whole diagnoses.

    python -m benchmarks.gpu                          # on a card; writes results/benchmarks/gpu.json
    python -m benchmarks.gpu --device cpu --small     # tries the script where there is none

Each check runs in a process of its own, within its share of the time, and a check that fails or takes too long says so
in the record; the others run all the same. Without MNIST or CIFAR-10 (`INTERPRETGAN_DATA`) images of the same shape are
drawn by chance: what is measured then is speed alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch

from interpretgan import Classifier, GANConfig, ImageSet, InterpretGAN, ThreatModel, attack, find_layers, load_data
from interpretgan.errors import DataError, in_a_line
from interpretgan.models import build_model, load_classifier
from interpretgan.pipeline.price import Stamps
from interpretgan.pipeline.run_diagnosis import run_diagnosis
from interpretgan.speed.benchmark import step_flops
from interpretgan.store.files import write_json
from interpretgan.store.machine import PeakMemory, describe, wait_for
from interpretgan.training.precision import uses_bf16

RESULT = Path("results/benchmarks/gpu.json")
SECONDS = 480.0  # for all checks together
THREAT = ThreatModel("linf", 8 / 255, steps=10)
TINY: dict[str, Any] = {
    "generator_steps": 3, "images_per_layer": 2, "information_steps": 2, "let_in_steps": 1, "examples": 20,
    "bootstrap": 10, "judge_epochs": 1,
}  # fmt: skip
"""Options of the diagnoses of a trial."""


def image_set(name: str, split: str, *, small: bool) -> ImageSet:
    """MNIST or CIFAR-10, or where they are not, images by chance with their shape and classes."""
    shape = (1, 28, 28) if name == "mnist" else (3, 32, 32)
    try:
        if os.environ.get("INTERPRETGAN_DATA"):
            found = load_data(name, split)
            return found.head(100) if small else found
    except DataError:
        pass
    random, count = np.random.default_rng(split == "test"), 100 if small else 10_000
    images = random.integers(0, 256, (count, *shape), dtype=np.uint8)
    labels = random.integers(0, 10, count)
    return ImageSet(f"chance {name}", split, images, labels, tuple(map(str, range(10))), note="drawn by chance")


def network(name: str, images: ImageSet, device: str, *, width: float = 1.0, seed: int = 0) -> Classifier:
    """An architecture with random weights: they hardly decide what anything costs."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape: dict[str, Any] = {"in_channels": images.shape[0], "image_size": images.shape[1:], "width": width}
        return Classifier(build_model(name, num_classes=len(images.classes), **shape).to(device))


# --- the checks --------------------------------------------------------------------------------------------------


def agreement(device: str, small: bool) -> dict[str, Any]:
    """The same training in fp32, the same explanations and the same attack as on the CPU, up to rounding.

    Without noise before recognition and in the images, which a GPU draws itself: other noise, other explanations.
    """
    images = image_set("mnist", "train", small=True)
    x, y = images.batch(range(32))
    steps = 3 if small else 20
    found: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = {}
    for place in ("cpu", device):
        classifier = load_classifier("lenet5-max", device=place)
        config = GANConfig(steps=steps, precision="fp32", recognition_noise=0.0, image_noise=0.0)
        interpreter = InterpretGAN(classifier, find_layers(classifier, x[:4].to(place)), config=config)
        interpreter.fit(images, on_progress=False)
        noise = interpreter.noise(len(x), generator=torch.Generator().manual_seed(0)).to(place)
        adversarial = attack(classifier, x.to(place), y.to(place), THREAT, seed=0)
        drawn = interpreter.draw(x.to(place), noise)
        found[place] = classifier.logits(x.to(place)).cpu(), drawn.cpu(), adversarial.cpu()
    names = ("logits", "explanations", "adversarial")
    errors = {
        name: float((one - other).abs().mean())
        for name, one, other in zip(names, found["cpu"], found[device], strict=True)
    }
    agrees = errors["logits"] < 1e-3 and errors["explanations"] < 0.02 and errors["adversarial"] < THREAT.eps / 10
    return {"training_steps": steps, "mean_differences": errors, "agrees": agrees}


def throughput(device: str, small: bool) -> dict[str, Any]:
    """A step of the generator against the measured peak: VGG-16 on images of CIFAR-10's shape, all layers."""
    machine = describe(device=device, repeats=3, convolutions=True, fp32="float32", bf16="bfloat16")
    images = image_set("cifar10", "train", small=True)
    name, width = ("vgg-small", 0.25) if small else ("vgg16", 1.0)
    rows = []
    for per_layer in (2,) if small else (8, 32, 96):
        classifier = network(name, images, device, width=width)
        config = GANConfig(steps=4 if small else 20, images_per_layer=per_layer)
        interpreter, stamps = InterpretGAN(classifier, config=config), Stamps()
        with PeakMemory(torch.device(device)) as memory:
            interpreter.fit(images, on_progress=stamps)
            wait_for(device)
        kind = "bf16" if uses_bf16(torch.device(device), "auto") else "fp32"
        gflops = step_flops(classifier, interpreter.layers, images, config) / 1e9
        rows.append(
            {
                "network": name, "width": width, "layers": len(interpreter.distinct_layers),
                "images_per_layer": per_layer, "step_seconds": stamps.step, "before_seconds": stamps.before,
                "step_gflop": gflops, "memory_mib": memory.mib,
                "share_of_matmul_peak": gflops / stamps.step / machine["matmul_gflops"][kind],
                "share_of_conv_peak": gflops / stamps.step / machine["conv_gflops"][kind],
            }
        )  # fmt: skip
    return {"machine": machine, "rows": rows}


def diagnosed(data: str, classifier: Classifier, device: str, small: bool, **options: Any) -> dict[str, Any]:
    """A whole diagnosis, judge included, with the seconds of its stages."""
    train, test = (image_set(data, split, small=small) for split in ("train", "test"))
    threat = ThreatModel("linf", 0.2) if data == "mnist" else THREAT
    if small:
        options = TINY | options
    began = time.perf_counter()
    found = run_diagnosis(classifier, train, test, threat, say=lambda _: None, on_progress=False, **options)
    return {
        "data": train.name, "seconds": time.perf_counter() - began, "stages": found.provenance["seconds"],
        "layers": len(found.layers) - 1, "natural": [row.natural for row in found.layers],
        "survival": [row.survival for row in found.layers], "flags": [flag.code for flag in found.flags],
    }  # fmt: skip


def lenet(device: str, small: bool) -> dict[str, Any]:
    """LeNet-5 on MNIST, whole."""
    return diagnosed("mnist", load_classifier("lenet5-max", device=device), device, small)


def vgg(device: str, small: bool) -> dict[str, Any]:
    """VGG-16 on CIFAR-10, all layers, with random weights; a small one in a trial."""
    images = image_set("cifar10", "train", small=small)
    classifier = network("vgg-small" if small else "vgg16", images, device, width=0.25 if small else 1.0)
    few: dict[str, Any] = {} if small else {"judge_epochs": 2, "layers": ["all"]}
    return diagnosed("cifar10", classifier, device, small, **few)


def wide(device: str, small: bool) -> dict[str, Any]:
    """WRN-28-10 with random weights, some of its layers and few steps; WRN-10-1 in a trial."""
    images = image_set("cifar10", "train", small=small)
    classifier = network("wrn-10-1" if small else "wrn-28-10", images, device)
    found = find_layers(classifier, images.batch(range(4))[0].to(device))
    chosen = [layer.name for layer in found[:: max(1, len(found) // 5)]]
    few = {"generator_steps": 60, "information_steps": 60, "let_in_steps": 5, "examples": 250, "judge_epochs": 1}
    return diagnosed("cifar10", classifier, device, small, layers=chosen, **({} if small else few))


CHECKS: dict[str, tuple[Callable[[str, bool], dict[str, Any]], float]] = {
    "agreement": (agreement, 45), "lenet5_mnist": (lenet, 65), "throughput": (throughput, 110),
    "vgg16_cifar10": (vgg, 190), "wrn_28_10": (wide, 70),
}  # fmt: skip
"""Each check with the seconds that it may take."""


# --- running them ------------------------------------------------------------------------------------------------


def _in_a_process(name: str, device: str, small: bool, answers: Any) -> None:
    try:
        answers.put({**CHECKS[name][0](device, small), "done": True})
    except Exception as error:  # noqa: BLE001  # whatever it is, the record says so and the other checks run
        answers.put({"done": False, "error": in_a_line(error)})


def checked(name: str, device: str, small: bool, seconds: float) -> dict[str, Any]:
    """What a check found, or why it did not."""
    context = multiprocessing.get_context("spawn")
    answers, began = context.Queue(), time.monotonic()
    process = context.Process(target=_in_a_process, args=(name, device, small, answers), daemon=True)
    process.start()
    found: dict[str, Any] = {}
    while not found and time.monotonic() - began < seconds:
        try:
            found = answers.get(timeout=0.5)
        except Empty:
            if not process.is_alive():
                found = {"done": False, "error": f"the process ended with exit code {process.exitcode}"}
    if not found:
        found = {"done": False, "error": f"not done within {seconds:.0f} s"}
    process.kill()
    process.join()
    return {**found, "took": time.monotonic() - began}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--checks", nargs="*", default=list(CHECKS), choices=list(CHECKS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all checks together")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("expected a GPU, got none; try --device cpu --small", file=sys.stderr)
        return 2
    on_gpu = options.device.startswith("cuda")
    card = torch.cuda.get_device_name(options.device) if on_gpu else None
    began, results = time.monotonic(), dict[str, Any]()
    for name in options.checks:
        left = options.seconds - (time.monotonic() - began)
        results[name] = checked(name, options.device, options.small, min(CHECKS[name][1], max(1.0, left)))
        print(f"{name}: {json.dumps(results[name])[:200]}", flush=True)
        record = {
            "benchmark": "gpu", "card": card, "device": options.device, "small": options.small,
            "seconds": time.monotonic() - began, "checks": results,
        }  # fmt: skip
        write_json(options.out, record)  # a call may be cut off: what is known is kept
    return 0 if all(each["done"] and each.get("agrees", True) for each in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
