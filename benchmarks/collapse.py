"""What keeps the training of the generator from collapsing: an ablation, on a planted gate and on a plain network.

A gate at `pool2` of a robust LeNet-5 answers to grey images with a large gradient. Each variant trains InterpretGAN for
all layers, with or without its linear start, its limit of the gradients and noise before recognition, and a judge
predicts the class of natural explanations of held-out images.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from interpretgan import GANConfig, InterpretGAN, Judge, ThreatModel, diagnose, load_classifier, load_data
from interpretgan.classifier import Classifier
from interpretgan.errors import TrainingError
from interpretgan.models import build_model
from interpretgan.planted.kinds import plant
from interpretgan.store.files import write_json
from interpretgan.store.machine import describe
from interpretgan.store.progress import Progress

NETWORK, PLANT, THREAT = "lenet5-max-pgd", "pool2", ThreatModel("linf", 0.2, steps=20)
JUDGE = Path("results/mnist-lenet5-max/judge.safetensors")
NO_LIMIT = 1e12
NEITHER: dict[str, Any] = {"linear_start": False, "gradient_limit": NO_LIMIT}
VARIANTS: dict[str, dict[str, Any]] = {
    "as in 0.1": {**NEITHER, "images_per_layer": 16, "learning_rate": 2e-3, "information": 1.0},
    "neither start nor limit": NEITHER,
    "limit alone": {"linear_start": False},
    "start alone": {"gradient_limit": NO_LIMIT},
    "both, the default": {},
    "both, little noise": {"recognition_noise": 0.05},
}
RESULT = Path("results/benchmarks/collapse.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that holds mnist/ as parquet")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()

    train, test = (load_data("mnist", split, data_dir=options.data_dir) for split in ("train", "test"))
    judge = Judge.load(JUDGE, Classifier(build_model("judge", in_channels=1, num_classes=10, image_size=28)))
    robust = load_classifier(NETWORK)
    networks = {
        f"a gate at {PLANT}": plant("gate", robust, PLANT, train, THREAT, seed=options.seed).classifier,
        "plain": load_classifier("lenet5-max"),
    }
    result: dict[str, Any] = {"machine": describe(fp32="float32"), **vars(options), "variants": []}
    for name in ("data_dir", "out"):
        del result[name]
    for network, classifier in networks.items():
        for variant, settings in VARIANTS.items():
            config = GANConfig(steps=options.steps, **settings)
            began = time.process_time()
            row: dict[str, Any] = {"network": network, "variant": variant, "config": asdict(config)}
            losses = row["discriminator_losses"] = list[list[float]]()  # of each attempt, step by step

            def keep(progress: Progress, losses: list[list[float]] = losses) -> None:
                if progress.done == 1:
                    losses.append([])
                losses[-1].append(round(progress.values["loss_d"], 4))

            try:
                interpreter = InterpretGAN(classifier, config=config, seed=options.seed).fit(train, on_progress=keep)
            except TrainingError as error:
                row["error"] = str(error)
            else:
                row["processor_seconds"] = time.process_time() - began
                found = diagnose(interpreter, judge, test, threat_model=THREAT, examples=options.examples)
                row["layers"] = [
                    {
                        "name": layer.name, "natural": asdict(layer.intervals["natural"]),
                        "vulnerability": asdict(layer.vulnerability),
                    }
                    for layer in found.layers
                ]  # fmt: skip
                row["controls"] = dict(found.controls)
            result["variants"].append(row)
            worst = min((layer["natural"]["value"] for layer in row.get("layers", [])), default=None)
            print(f"{network}, {variant}: worst layer {worst} {row.get('error', '')}", flush=True)
    write_json(options.out, result)
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
