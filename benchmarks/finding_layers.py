"""What it costs to find the layers of networks of 224 pixels: passes, seconds, memory.

`python -m benchmarks.finding_layers` needs the package transformers, and no weights: they are drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

import interpretgan as ig
from interpretgan.layers import examine
from interpretgan.store.files import write_json
from interpretgan.store.machine import PeakMemory, describe, fastest

RESULT = Path("results/benchmarks/finding_layers.json")
SIDE, CLASSES, REPEATS = 224, 1000, 3


def networks() -> dict[str, nn.Module]:
    """The classifiers as their hub has them, ResNet-50 with `nn.Identity` for shortcuts."""
    from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

    return {
        "ResNet-50": ResNetForImageClassification(ResNetConfig(num_labels=CLASSES)),
        "ViT-B/16": ViTForImageClassification(ViTConfig(num_labels=CLASSES)),
    }


def measured(model: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """Best of several; a pass of the same images and the memory that is held before are beside it."""
    classifier, passes, cpu = ig.Classifier(model), list[int](), torch.device("cpu")
    with PeakMemory(cpu) as before:
        pass
    with PeakMemory(cpu) as memory:
        seconds = fastest(lambda: examine(classifier, images), repeats=REPEATS - 1)
    handle = model.register_forward_pre_hook(lambda _, given: passes.append(len(given[0])))
    found = examine(classifier, images)
    handle.remove()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "calls": len(found.order), "layers": len(found.layers), "distinct": len(found.distinct),
        "passes": len(passes), "images": sum(passes), "seconds": seconds,
        "seconds_of_one_pass": fastest(lambda: classifier.logits(images), repeats=REPEATS - 1),
        "memory_mib": memory.mib - before.mib,
    }  # fmt: skip


def main() -> None:
    """Measure and write."""
    images = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    machine, rows = describe(fp32="float32"), dict[str, Any]()
    for name, model in networks().items():
        rows[name] = measured(model.eval(), images)
        print(name, rows[name])
    write_json(RESULT, {"machine": machine, "image": [3, SIDE, SIDE], "repeats": REPEATS, "networks": rows})


if __name__ == "__main__":
    main()
