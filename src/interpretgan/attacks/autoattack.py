"""AutoAttack: two parameter-free gradient attacks, one that minimises the perturbation, and a black-box one.

Croce and Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks.
The attacks are those of the reference package, in its standard version, with its batches and seeds.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from interpretgan.attacks import Logits, ThreatModel, check_perturbation, input_gradient, seeded
from interpretgan.classifier import Classifier, check_labels
from interpretgan.data import content_hash
from interpretgan.errors import ConfigError, ImageError
from interpretgan.store.checkpoints import Checkpoint, fingerprint_of

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
CHECKPOINT_SECONDS = 60.0
"""Time between two checkpoints."""


@dataclass(frozen=True, eq=False)
class AutoAttacked:
    """What AutoAttack left.

    Attributes:
        images: Adversarial where it found one, else natural: float32 `[N, C, H, W]`.
        right: Which are still classified right: `[N]`.
        accuracy_after: Share of right ones after each stage.
        seconds: What it took, in all processes that worked on it.
    """

    images: Tensor
    right: Tensor
    accuracy_after: Mapping[str, float]
    seconds: float


def autoattack(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    batch_size: int = BATCH,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
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
        checkpoint: File for what is done, written between batches. Where it exists the attack goes on from there, and
            finds what it would have found without an interruption.
        checkpoint_seconds: Least time between two of them.
        on_batch: Told the stage, how many of its images are done, and how many it has.

    Raises:
        ConfigError: Too few classes for its loss.
        ImageError: See `Classifier`; L2 with fewer than 5 pixels a side.
        LabelError, ModelError, ThreatModelError: See `attack`.
        RunFolderError: The checkpoint is damaged, of another attack, model or images, or cannot be written.
    """
    from pyautoattack import AutoAttack

    images = classifier.check_images(images).detach().to(torch.float32)
    low, high = classifier.bounds
    plain = (low, high) == (0.0, 1.0)
    tell = on_batch or (lambda *_: None)
    began = time.monotonic()
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
        right = torch.ones_like(labels, dtype=torch.bool)
        with torch.no_grad():
            for part in torch.split(torch.arange(len(unit), device=unit.device), batch_size):
                right[part] = adversary.get_logits(unit[part]).argmax(dim=1) == labels[part]
        state = _State(unit.clone(), right, right.nonzero().flatten())
        content = content_hash(images.cpu().numpy(), labels.cpu().numpy())
        fingerprint = fingerprint_of(
            threat_model, seed, batch_size, classifier.identity(), classifier.state_sha256(), content
        )
        file = Checkpoint(checkpoint, fingerprint, every=checkpoint_seconds)
        saved = file.load(images.device)
        if saved is not None:
            state = _State(**saved)
        earlier = state.seconds
        for stage in STAGES[len(state.after) :]:
            adversary.attacks_to_run = [stage]
            if len(state.left):
                tell(stage, state.done, len(state.left))
            while state.done < len(state.left):
                part = state.left[state.done : state.done + batch_size]
                with _tracing_kept():
                    x, y = adversary.run_standard_evaluation(unit[part], labels[part], batch_size=batch_size)
                state.found[part], state.right[part] = x, y == labels[part]
                state.done += len(part)
                if file.due():
                    state.seconds = earlier + time.monotonic() - began
                    file.save(vars(state))
                tell(stage, state.done, len(state.left))
            state.after[stage] = int(state.right.sum()) / len(labels)
            state.left, state.done = state.right.nonzero().flatten(), 0
        changed = (state.found != unit).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        adversarial = torch.where(changed, in_bounds(state.found), images)
    check_perturbation(images, adversarial, threat_model, classifier.bounds)
    return AutoAttacked(adversarial, state.right, state.after, earlier + time.monotonic() - began)


@dataclass(eq=False)
class _State:
    """What is found in pixels of [0, 1], what is still right, what the stage under way attacks, and how far it is."""

    found: Tensor
    right: Tensor
    left: Tensor
    done: int = 0
    after: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


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
