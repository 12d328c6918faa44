"""AutoAttack: two parameter-free gradient attacks, one that minimises the perturbation, and a black-box one.

Croce and Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks.
The attacks are those of the reference package, in its standard version, with its batches and seeds.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from interpretgan.attacks import Logits, ThreatModel, check_labels, check_perturbation, input_gradient, seeded
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError, ImageError

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The standard version: each attacks what the ones before left."""
BLACK_BOX = "square"
TARGETS = 9
"""Classes that each image is driven to, as far as there are as many."""
LEAST_CLASSES = 4
"""The targeted DLR loss compares four logits."""
LEAST_SIDE = 5
"""Pixels a side that the L2 Square attack needs for its first tiles."""
BATCH = 250
"""Images at a time in the reference package; its random starts depend on it."""


@dataclass(frozen=True, eq=False)
class AutoAttacked:
    """What AutoAttack left.

    Attributes:
        images: Adversarial where it found one, else natural: float32 `[N, C, H, W]`.
        right: Which are still classified right: `[N]`.
        accuracy_after: Share of right ones after each stage.
    """

    images: Tensor
    right: Tensor
    accuracy_after: Mapping[str, float]


def autoattack(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    batch_size: int = BATCH,
    on_batch: Callable[[str, int, int], None] | None = None,
) -> AutoAttacked:
    """The standard AutoAttack: example by example what the reference package finds with this seed and batch size.

    Args:
        classifier: Attacked in eval mode with frozen parameters, in full precision, and given back as it was.
        images: Floating point `[N, C, H, W]` within the classifier's bounds.
        labels: True classes, int64 `[N]`.
        threat_model: Its norm and eps; AutoAttack has no other setting.
        seed: Of each attack on each batch. The global random state is left alone.
        batch_size: Images at a time; the random starts depend on it.
        on_batch: Told the stage, how many of its images are done, and how many it has.

    Raises:
        ConfigError: Too few classes for its loss.
        ImageError: See `Classifier`; L2 with fewer than 5 pixels a side.
        LabelError, ModelError, ThreatModelError: See `attack`.
    """
    from pyautoattack import AutoAttack

    images = classifier.check_images(images).detach().to(torch.float32)
    low, high = classifier.bounds
    plain = (low, high) == (0.0, 1.0)
    tell = on_batch or (lambda *_: None)
    with (
        torch.inference_mode(False),
        classifier.borrowed(),
        torch.autocast(images.device.type, enabled=False),
        seeded(images.device, seed),
        _quiet(),
    ):
        images = images.clone()
        labels = check_labels(labels, len(images), classifier, images[:1])
        with torch.enable_grad():
            input_gradient(classifier, images[:1], labels[:1])  # raises if there is none
        require_autoattack(classifier, images[:1], threat_model)
        classes = classifier.run(images[:1]).shape[1]

        def in_bounds(unit: Tensor) -> Tensor:  # the reference package knows pixels in [0, 1] only
            return unit if plain else (low + (high - low) * unit).clamp(low, high)

        # It takes them for what they are: nothing that moves the pixels by a rounding stands between where it can.
        unit = images if plain else (images - low) / (high - low)
        adversary = AutoAttack(
            Logits(lambda batch: classifier.run(in_bounds(batch))),
            norm={"linf": "Linf", "l2": "L2"}[threat_model.norm],
            eps=threat_model.eps / (high - low),
            seed=seed,
            device=images.device,
        )
        adversary.verbose = False
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(TARGETS, classes - 1)
        found, found_right = unit.clone(), torch.ones_like(labels, dtype=torch.bool)
        with torch.no_grad():
            for part in torch.split(torch.arange(len(unit), device=unit.device), batch_size):
                found_right[part] = adversary.get_logits(unit[part]).argmax(dim=1) == labels[part]
        after = {}
        for stage in STAGES:
            adversary.attacks_to_run = [stage]
            left = found_right.nonzero().flatten()
            if len(left):
                tell(stage, 0, len(left))
            for number, part in enumerate(torch.split(left, batch_size) if len(left) else ()):
                with _tracing_kept():
                    x, y = adversary.run_standard_evaluation(unit[part], labels[part], batch_size=batch_size)
                found[part], found_right[part] = x, y == labels[part]
                tell(stage, number * batch_size + len(part), len(left))
            after[stage] = int(found_right.sum()) / len(labels)
        changed = (found != unit).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        adversarial = torch.where(changed, in_bounds(found), images)
    check_perturbation(images, adversarial, threat_model, classifier.bounds)
    return AutoAttacked(adversarial, found_right, after)


def require_autoattack(classifier: Classifier, image: Tensor, threat_model: ThreatModel) -> None:
    """Raise where the standard AutoAttack cannot run.

    Args:
        classifier: Its number of classes is read from its output.
        image: One checked image `[1, C, H, W]`.
        threat_model: Its norm.

    Raises:
        ConfigError: Fewer than four classes.
        ImageError: L2 on images with fewer than five pixels a side.
    """
    with classifier.borrowed(), torch.no_grad():
        classes = classifier.run(image).shape[1]
    if classes < LEAST_CLASSES:
        raise ConfigError(
            expected=f"at least {LEAST_CLASSES} classes for the targeted DLR loss of autoattack",
            got=f"a classifier of {classes}",
            do="leave autoattack out and use pgd, cw and deepfool",
        )
    if threat_model.norm == "l2" and min(image.shape[2:]) < LEAST_SIDE:
        raise ImageError(
            expected=f"images of {LEAST_SIDE} pixels a side or more for autoattack in L2",
            got="×".join(map(str, image.shape[2:])),
            do="leave autoattack out, or use linf",
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """What the package logs are its own checks of the model; ours stand in `trust`."""
    logger = logging.getLogger("auto-attack")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def _tracing_kept() -> Iterator[None]:
    """The package switches the interpreter's tracing off: debuggers and coverage would end there."""
    before = sys.gettrace()
    try:
        yield
    finally:
        sys.settrace(before)
