"""Diagnoses with realistic figures: a LeNet, and a network of 25 layers with long names; and pictures for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from interpretgan.baselines.layer_scores import LAYER_SCORES, MeasuredScore
from interpretgan.diagnosis.controls import CONTROLS
from interpretgan.diagnosis.let_in import LetIn
from interpretgan.diagnosis.reliability import layer_flags
from interpretgan.diagnosis.result import BranchResult, Diagnosis, LayerResult
from interpretgan.statistics import Interval

Place = tuple[str, str, tuple[int, ...], float, float]
LENET: tuple[Place, ...] = (  # name, kind, shape, natural, adversarial
    ("image", "Image", (1, 28, 28), 0.975, 0.935),
    ("relu1", "ReLU", (6, 28, 28), 0.970, 0.863),
    ("pool1", "MaxPool2d", (6, 14, 14), 0.970, 0.843),
    ("relu2", "ReLU", (16, 10, 10), 0.961, 0.702),
    ("pool2", "MaxPool2d", (16, 5, 5), 0.957, 0.605),
    ("fc1", "ReLU", (120,), 0.967, 0.050),
    ("fc2", "ReLU", (84,), 0.968, 0.034),
    ("logits", "Linear", (10,), 0.965, 0.029),
)
INFORMATION = (
    "unexplained", "information_loss", "information_control", "class_information", "class_information_loss",
    "class_accuracy",
)  # fmt: skip


def around(value: float, half: float) -> Interval:
    return Interval(value, value - half, value + half)


def counted(table: npt.NDArray[np.int_]) -> dict[str, dict[str, int]]:
    """The counts of a table, as a diagnosis keeps them."""
    rows = [{str(shown): int(count) for shown, count in enumerate(row) if count} for row in table]
    return {str(true): row for true, row in enumerate(rows) if row}


def _deep() -> tuple[Place, ...]:
    rng = np.random.default_rng(4)
    places: list[Place] = [("image", "Image", (3, 32, 32), 0.685, 0.655)]
    adversarial = 0.655
    for index in range(25):
        stage, block = divmod(index, 7)
        name = f"backbone.stages.{stage}.blocks.{block}.residual.activation:{index % 3}"
        natural = float(0.67 + 0.004 * rng.standard_normal()) if index < 23 else 0.5 - 0.1 * (index - 23)
        adversarial *= float(1 - 0.55 * np.exp(-((index - 17) ** 2) / 6) - 0.02 * rng.random())
        places.append((name, "WideBasicBlock", (32 * 2**stage, 32 >> stage, 32 >> stage), natural, adversarial))
    return tuple(places)


def diagnosis_of(places: tuple[Place, ...], classes: list[str], examples: int) -> Diagnosis:
    """A diagnosis with intervals of a plausible width, its unreliable layers flagged."""
    rng = np.random.default_rng(0)
    width = 1.96 * 0.5 / examples**0.5
    layers: list[LayerResult] = []
    unexplained, count = 0.0, len(classes)
    for place, (name, kind, shape, natural, adversarial) in enumerate(places):
        before = layers[-1] if layers else None
        survival, noise = adversarial / natural, natural - 0.004
        drop = before.survival - survival if before else 0.0
        lost = 0.012 + 0.5 * max(drop, 0.0) - 0.03 * (place == 2) if before else 0.0
        unexplained += lost
        bits = float(max(0.02, np.log2(count) * adversarial**1.3))
        chances = [
            [adversarial if a == b else (1 - adversarial) * ((b - a) % 10 in (3, 5)) / 2 for b in range(count)]
            for a in range(count)
        ]
        accuracies = {"natural": natural, "adversarial": adversarial, "noise": noise}
        layers.append(
            LayerResult(
                name, kind, shape, natural, adversarial, noise,
                survival=survival, bits=bits,
                vulnerability=around(drop, width * (0.6 + drop) if before else 0.0),
                share=around(drop / (places[0][4] / places[0][3] - places[-1][4] / places[-1][3]), 0.03),
                vulnerability_bits=around(before.bits - bits if before else 0.0, 0.06),
                **{  # type: ignore[arg-type]  # intervals
                    f"vulnerability_{control}": around(0.008 * float(rng.standard_normal()), width * 0.6)
                    for control in CONTROLS
                },
                positive=1 - 0.01 * place / len(places) if before else None,
                intervals={
                    **{key: around(v, 2 * width * max(v * (1 - v), 0.002) ** 0.5) for key, v in accuracies.items()},
                    "survival": around(survival, width * 0.8),
                },
                transitions=counted(rng.multinomial(examples // count, chances)),
                unexplained=around(unexplained, 0.01 if before else 0.0),
                information_loss=around(lost, 0.006 if before else 0.0),
                information_control=around(0.4 * lost, 0.005) if place % 2 else None,
                class_information=around(3.0 + 0.02 * place, 0.04),
                class_information_loss=around(-0.02 if before else 0.0, 0.03),
                class_accuracy=around(0.97 - 0.002 * place, 0.01),
            )
        )  # fmt: skip
    accuracy = {
        "natural": 0.984, "adversarial": 0.014, "noise": 0.981, "smooth": 0.98, "foreign": 0.979,
        "judge_natural": places[0][3], "judge_adversarial": places[0][4],
    }  # fmt: skip
    return Diagnosis(
        classifier={"name": "lenet5", "weights_sha256": "3f9a" * 16, "parameters": 61706, "pool": "max"},
        data={"name": "mnist", "split": "test", "examples": examples, "sha256": "b1c7" * 16, "classes": classes},
        threat_model={"norm": "linf", "eps": 0.2, "attack": "pgd", "steps": 20, "restarts": 1, "step_size": 0.025},
        accuracy=accuracy,
        layers=tuple(
            replace(row, flags=flags) for row, flags in zip(layers, layer_flags(layers, accuracy), strict=True)
        ),
        controls={
            "eps0_max_abs_vulnerability": 0.0, "noise_max_abs_vulnerability": 0.021,
            "smooth_max_abs_vulnerability": 0.018, "foreign_max_abs_vulnerability": 0.009, "positive_least": 0.99,
        },
        judge={"name": "small CNN", "natural": 0.975, "adversarial": 0.872},
        provenance={
            "version": "0.1.0", "seed": 0, "versions": {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6"},
            "device": "cpu", "created": "2026-01-01T00:00:00+00:00", "threads": 2, "bootstrap": 2000,
            "confidence": 0.95, "seconds": {"attack": 8.1, "judge": 41.7, "generators": 152.3, "diagnosis": 6.4},
        },
    )  # fmt: skip


def changed(diagnosis: Diagnosis, layer: str, **changes: Any) -> Diagnosis:
    """The diagnosis with other figures at one layer."""
    assert layer in [row.name for row in diagnosis.layers]
    return replace(
        diagnosis, layers=tuple(replace(row, **changes) if row.name == layer else row for row in diagnosis.layers)
    )


def with_let_in(diagnosis: Diagnosis, layer: str, *, sure: bool = True) -> Diagnosis:
    """The diagnosis where mending this layer brings back most, for sure or nearly as much as the first one does."""
    names = [row.name for row in diagnosis.layers[1:]]
    values = dict.fromkeys(names, 0.02) | {names[0]: 0.3 if sure else 0.8, layer: 0.83}
    scores = {name: around(value, 0.04) for name, value in values.items()}
    found = LetIn(tuple(names), *3 * (tuple(scores.values()),), around(0.53 if sure else 0.03, 0.05), 0.94, 200)
    rows = tuple(replace(row, let_in=scores.get(row.name)) for row in diagnosis.layers)
    return replace(diagnosis, layers=rows, let_in=found)


def with_branches(diagnosis: Diagnosis, layer: str) -> Diagnosis:
    """The diagnosis where this layer is a block, of whose vulnerability a branch with a hostile name has most."""
    (row,) = [found for found in diagnosis.layers if found.name == layer]
    parts = {"skip": 0.1, "<b>mlp</b>": 0.85, "attention": 0.05}
    branches = tuple(
        BranchResult(
            name, () if name == "skip" else (f"{layer}.{name}",),
            vulnerability=around(part * row.vulnerability.value, 0.02), share=around(part * row.share.value, 0.03),
            carried=around(part * (1 - row.survival), 0.02), alone=around(1 - part, 0.03), others=around(part, 0.03),
        )
        for name, part in parts.items()
    )  # fmt: skip
    return changed(diagnosis, layer, branches=branches)


def with_heads(diagnosis: Diagnosis, layer: str) -> Diagnosis:
    """The same, with two heads of the last branch."""
    found = with_branches(diagnosis, layer)
    (row,) = [each for each in found.layers if each.name == layer]
    attention = row.branches[-1]
    heads = tuple(
        replace(attention, name=f"head {place}", channels=(4 * place, 4 * place + 4), vulnerability=around(part, 0.02))
        for place, part in enumerate((0.01, 0.33))
    )
    return changed(found, layer, branches=(*row.branches[:-1], replace(attention, parts=heads)))


def without_information(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis as it is where information was not measured."""
    return replace(
        diagnosis,
        layers=tuple(
            replace(
                row, unexplained=None, information_loss=None, information_control=None, class_information=None,
                class_information_loss=None, class_accuracy=None,
            )
            for row in diagnosis.layers
        ),
    )  # fmt: skip


def with_baselines(diagnosis: Diagnosis) -> Diagnosis:
    """The diagnosis with all other scores of the layers; one could not be measured, one has no value at a layer."""
    rng, count, scores = np.random.default_rng(2), len(diagnosis.layers) - 1, []
    for number, score in enumerate(LAYER_SCORES.values()):
        values = [
            float(value) for value in 10.0 ** rng.uniform(-2, 1, count) * rng.choice([-1, 1], count, p=[0.2, 0.8])
        ]
        about = (score.name, score.what, score.source, score.direction, score.cost)
        scores.append(
            MeasuredScore(*about, seconds=0.3 * number, values=(None, *values[1:]) if number == 3 else tuple(values))
        )
    error = "expected an image that the attack turns, got none; attack harder, or more images"
    return replace(diagnosis, baselines=(replace(scores[0], values=(), error=error), *scores[1:]))


def explanation_of(diagnosis: Diagnosis, *, count: int = 5, channels: int = 1) -> dict[str, Any]:
    """The arrays of an explanation: digits that fade into another digit along the network, but for the last one."""
    from sklearn.datasets import load_digits

    source = load_digits()
    rng = np.random.default_rng(1)
    layers = diagnosis.layers[1:]
    labels = np.array([7, 1, 4, 0, 9, 2, 3, 5][:count])
    targets = (labels + 3) % 10

    def digit(label: int, which: int) -> npt.NDArray[np.float64]:
        tile = source.images[source.target == label][which] / 16.0
        large = np.kron(tile, np.ones((3, 3)))
        return np.asarray(large[None] * np.linspace(1.0, 0.6, channels)[:, None, None], dtype=np.float64)

    images = np.stack([digit(int(label), index) for index, label in enumerate(labels)])
    drawn_targets = np.stack([digit(int(target), 2) for target in targets])
    stays = np.arange(count) == count - 1
    natural = np.stack([np.clip(images + 0.05 * rng.standard_normal(images.shape), 0, 1) for _ in layers])
    attacked = natural.copy()
    predictions = np.tile(labels, (len(layers) + 1, 1))
    attacked_predictions = predictions.copy()
    for index, layer in enumerate(layers):
        fade = np.where(stays, 0.15, 1.0)[:, None, None, None] * (1 - layer.survival)
        noise = 0.05 * rng.standard_normal(images.shape)
        attacked[index] = np.clip((1 - fade) * images + fade * drawn_targets + noise, 0, 1)
        if layer.survival < 0.5:
            attacked_predictions[index + 1] = np.where(stays, labels, targets)
    return {
        "layers": [layer.name for layer in layers],
        "images": images.astype(np.float32),
        "adversarial": np.clip(images + 0.2 * rng.choice([-1, 1], images.shape), 0, 1).astype(np.float32),
        "natural_explanations": natural.astype(np.float32),
        "adversarial_explanations": attacked.astype(np.float32),
        "bounds": (0.0, 1.0),
        "labels": labels,
        "natural_predictions": predictions,
        "adversarial_predictions": attacked_predictions,
    }


def finished(folder: Path, diagnosis: Diagnosis, wrong_from: int, *, images: int = 200) -> Path:
    """A run whose judge is wrong on half of the attacked images from one row on."""
    labels = np.arange(images) % 10
    natural = np.tile(labels, (len(diagnosis.layers), 1))
    adversarial = natural.copy()
    adversarial[wrong_from:, ::2] += 1
    diagnosis.save(folder)
    np.savez(folder / "predictions.npz", labels=labels, natural=natural, adversarial=adversarial)
    return folder


def lenet_diagnosis() -> Diagnosis:
    """Seven layers, the figures of the trial on MNIST."""
    return diagnosis_of(LENET, [str(digit) for digit in range(10)], 2000)


def deep_diagnosis() -> Diagnosis:
    """Twenty-five layers with names of more than forty characters, the last two unreliable."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    found = diagnosis_of(_deep(), names, 1000)
    return replace(
        found,
        classifier={**found.classifier, "name": "wide_resnet_28_4"},
        data={**found.data, "name": "cifar10"},
        threat_model={**found.threat_model, "eps": 4 / 255},
    )
