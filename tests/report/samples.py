"""Synthetic diagnoses with realistic figures: a LeNet and a network of 25 layers with long names."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LENET = (  # name, kind, shape, natural, adversarial
    ("image", "Image", (1, 28, 28), 0.975, 0.935),
    ("relu1", "ReLU", (6, 28, 28), 0.970, 0.863),
    ("pool1", "MaxPool2d", (6, 14, 14), 0.970, 0.843),
    ("relu2", "ReLU", (16, 10, 10), 0.961, 0.702),
    ("pool2", "MaxPool2d", (16, 5, 5), 0.957, 0.605),
    ("fc1", "ReLU", (120,), 0.967, 0.050),
    ("fc2", "ReLU", (84,), 0.968, 0.034),
    ("logits", "Linear", (10,), 0.965, 0.029),
)


def _deep() -> tuple[tuple[str, str, tuple[int, ...], float, float], ...]:
    rng = np.random.default_rng(4)
    rows: list[tuple[str, str, tuple[int, ...], float, float]] = [("image", "Image", (3, 32, 32), 0.685, 0.655)]
    adversarial = 0.655
    for index in range(25):
        stage, block = divmod(index, 7)
        name = f"backbone.stages.{stage}.blocks.{block}.residual.activation:{index % 3}"
        natural = float(0.67 + 0.004 * rng.standard_normal()) if index < 23 else 0.5 - 0.1 * (index - 23)
        adversarial *= float(1 - 0.55 * np.exp(-((index - 17) ** 2) / 6) - 0.02 * rng.random())
        rows.append((name, "WideBasicBlock", (32 * 2**stage, 32 >> stage, 32 >> stage), natural, adversarial))
    return tuple(rows)


def diagnosis_of(
    rows: tuple[tuple[str, str, tuple[int, ...], float, float], ...], classes: list[str], examples: int
) -> dict[str, Any]:
    """A diagnosis as diagnosis.json holds it, with intervals of a plausible width."""
    rng = np.random.default_rng(0)
    width = 1.96 * 0.5 / examples**0.5

    def around(value: float, half: float) -> dict[str, float]:
        return {"value": value, "low": value - half, "high": value + half}

    def within(value: float) -> dict[str, float]:
        half = 2 * width * max(value * (1 - value), 0.002) ** 0.5
        return {"low": max(0.0, value - half), "high": min(1.0, value + half)}

    layers: list[dict[str, Any]] = []
    before, bits_before = None, None
    unexplained = 0.0
    for place, (name, kind, shape, natural, adversarial) in enumerate(rows):
        survival = adversarial / natural
        bits = max(0.02, np.log2(len(classes)) * adversarial**1.3)
        counts = rng.multinomial(
            examples // len(classes),
            [
                [
                    adversarial if a == b else (1 - adversarial) * ((b - a) % 10 in (3, 5)) / 2
                    for b in range(len(classes))
                ]
                for a in range(len(classes))
            ],
        )
        drop = 0.0 if before is None else before - survival
        noise = natural - 0.004
        forgets = 0.0 if before is None else 0.012 + 0.5 * max(drop, 0.0) - 0.03 * (place == 2)
        unexplained += forgets
        layers.append(
            {
                "name": name,
                "kind": kind,
                "shape": list(shape),
                "natural": natural,
                "adversarial": adversarial,
                "noise": noise,
                "survival": survival,
                "vulnerability": around(drop, 0.0 if before is None else width * (0.6 + drop)),
                "vulnerability_bits": around(0.0 if bits_before is None else bits_before - bits, 0.06),
                "vulnerability_noise": around(float(0.008 * rng.standard_normal()), width * 0.6),
                "intervals": {
                    "natural": within(natural),
                    "adversarial": within(adversarial),
                    "noise": within(noise),
                    "survival": {"low": survival - width * 0.8, "high": survival + width * 0.8},
                },
                "bits": float(bits),
                "transitions": counts.tolist(),
                "flags": [f"unreliable: natural explanations read right at {natural:.2f} < 0.60"]
                if natural < 0.6
                else [],
                "unexplained": around(unexplained, 0.0 if before is None else 0.01),
                "information_loss": around(forgets, 0.0 if before is None else 0.006),
                "information_control": around(0.4 * forgets, 0.005) if place % 2 else None,
                "class_information": around(3.0 + 0.02 * place, 0.04),
                "class_information_loss": around(-0.02 * (before is not None), 0.03),
                "class_accuracy": around(0.97 - 0.002 * place, 0.01),
            }
        )
        before, bits_before = survival, bits
    return {
        "schema": 1,
        "classifier": {"name": "lenet5", "weights_sha256": "3f9a" * 16, "parameters": 61706, "pool": "max"},
        "data": {"name": "mnist", "split": "test", "examples": examples, "sha256": "b1c7" * 16, "classes": classes},
        "threat_model": {"norm": "linf", "eps": 0.2, "attack": "pgd", "steps": 20, "restarts": 1, "step_size": 0.025},
        "accuracy": {
            "natural": 0.984,
            "adversarial": 0.014,
            "noise": 0.981,
            "judge_natural": rows[0][3],
            "judge_adversarial": rows[0][4],
        },
        "layers": layers,
        "controls": {"eps0_max_abs_vulnerability": 0.0, "noise_max_abs_vulnerability": 0.021},
        "judge": {"name": "small CNN", "natural": 0.975, "adversarial": 0.872, "epochs": 3},
        "flags": [],
        "provenance": {
            "version": "0.1.0",
            "seed": 0,
            "versions": {"python": "3.11.7", "torch": "2.13.0", "numpy": "2.4.6"},
            "device": "cpu",
            "created": "2026-01-01T00:00:00+00:00",
            "threads": 2,
            "seconds": {"attack": 8.1, "judge": 41.7, "generators": 152.3, "diagnosis": 6.4},
        },
    }


def examples_of(diagnosis: dict[str, Any], *, count: int = 5, channels: int = 1) -> dict[str, Any]:
    """Digits whose attacked explanations fade into another digit along the network."""
    from sklearn.datasets import load_digits

    source = load_digits()
    rng = np.random.default_rng(1)
    layers = [layer["name"] for layer in diagnosis["layers"][1:]]
    labels = np.array([7, 1, 4, 0, 9, 2, 3, 5][:count])
    targets = (labels + 3) % 10

    def digit(label: int, which: int) -> npt.NDArray[np.float64]:
        tile = source.images[source.target == label][which] / 16.0
        large = np.kron(tile, np.ones((3, 3)))
        tinted = large[None] * np.linspace(1.0, 0.6, channels)[:, None, None]
        return np.asarray(tinted, dtype=np.float64)

    images = np.stack([digit(int(label), index) for index, label in enumerate(labels)])
    adversarial = np.clip(images + 0.2 * rng.choice([-1, 1], images.shape), 0, 1)
    turned = [layer["adversarial"] / layer["natural"] < 0.5 for layer in diagnosis["layers"]]
    turns_at = [layer for layer, away in zip(layers, turned[1:], strict=True) if away]
    stay = np.arange(count) == count - 1
    natural = np.stack([np.clip(images + 0.05 * rng.standard_normal(images.shape), 0, 1) for _ in layers])
    attacked = natural.copy()
    predictions = np.tile(labels, (len(layers) + 1, 1))
    attacked_predictions = predictions.copy()
    targets_drawn = np.stack([digit(int(target), 2) for target in targets])
    for index, layer in enumerate(diagnosis["layers"][1:]):
        kept = layer["adversarial"] / layer["natural"]
        fade = np.where(stay, 0.15 * (1 - kept), 1 - kept)[:, None, None, None]
        noise = 0.05 * rng.standard_normal(images.shape)
        attacked[index] = np.clip((1 - fade) * images + fade * targets_drawn + noise, 0, 1)
        if turned[index + 1]:
            attacked_predictions[index + 1] = np.where(stay, labels, targets)
    return {
        "layers": layers,
        "images": images.astype(np.float32),
        "adversarial": adversarial.astype(np.float32),
        "natural_explanations": natural.astype(np.float32),
        "adversarial_explanations": attacked.astype(np.float32),
        "labels": labels,
        "natural_predictions": predictions,
        "adversarial_predictions": attacked_predictions,
        "turns": [None if still or not turns_at else turns_at[0] for still in stay],
        "bounds": (0.0, 1.0),
        "classes": diagnosis["data"]["classes"],
    }


def lenet_diagnosis() -> dict[str, Any]:
    """Seven layers, the figures of the trial on MNIST."""
    return diagnosis_of(LENET, [str(digit) for digit in range(10)], 2000)


def deep_diagnosis() -> dict[str, Any]:
    """Twenty-five layers with names of more than forty characters, the last two unreliable."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    diagnosis = diagnosis_of(_deep(), names, 1000)
    diagnosis["classifier"]["name"] = "wide_resnet_28_4"
    diagnosis["data"]["name"] = "cifar10"
    diagnosis["threat_model"]["eps"] = 4 / 255
    diagnosis["flags"] = ["few examples: intervals are wide"]
    return diagnosis
