"""AutoAttack: two parameter-free gradient attacks, one that minimises the perturbation, and a black-box one.

Croce and Hein 2020, Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks.
The attacks are those of the reference package, in its standard version, with its batches and seeds.
"""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpretgan.attacks.gradient import Logits, ready
from interpretgan.attacks.threat_model import ThreatModel, check_perturbation, require_eps_within_range
from interpretgan.classifier import Classifier
from interpretgan.data import content_hash
from interpretgan.errors import ConfigError, ImageError
from interpretgan.store.progress import OnProgress, Progress
from interpretgan.store.training_checkpoint import Checkpoint, fingerprint_of
from interpretgan.torch_state import as_seed

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")  #: Each attacks what those before left, the last as a black box.
TARGETS = 9  #: Classes that each image is driven to, as far as there are as many.
LEAST_CLASSES = 4  #: The targeted DLR loss compares four logits.
LEAST_SIDE = 5  #: Pixels a side that the L2 Square attack needs for its first tiles.
BATCH = 250  #: Images at a time in the reference package; its random starts depend on it.


@dataclass(frozen=True, eq=False)
class AutoAttacked:
    """What AutoAttack left."""

    images: Tensor  #: Adversarial where it found one, else natural: float32 `[N, C, H, W]`.
    right: Tensor  #: Which are still classified right: `[N]`.
    #: All that it depends on, for the record, and `accuracy_after`: the share of right ones after each stage.
    settings: dict[str, Any]
    seconds: float  #: What it took, in all processes that worked on it.


@dataclass(eq=False)
class _State:
    """What is found in pixels of [0, 1], what is still right, what the stage under way attacks, and how far it is."""

    found: Tensor
    right: Tensor
    left: Tensor
    done: int = 0
    after: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def autoattack(
    classifier: Classifier,
    images: Tensor,
    labels: Tensor,
    threat_model: ThreatModel,
    *,
    seed: int,
    batch_size: int = BATCH,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_progress: OnProgress | None = None,
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
        checkpoint_seconds: At least between two writes.
        on_progress: Told, stage by stage, how many of its images are done.

    Raises:
        ConfigError, ImageError: See `require_autoattack`, and `attack` for this and other errors of the input.
        RunFolderError: The checkpoint is damaged, of another attack, model or images, or cannot be written.
    """
    from pyautoattack import AutoAttack

    low, high = classifier.bounds
    unit_bounds, report = (low, high) == (0.0, 1.0), on_progress or (lambda _: None)
    began, seed = time.monotonic(), as_seed(seed)
    with ready(classifier, images, labels, seed=seed) as (natural, true):
        classes = require_autoattack(classifier, natural[:1], threat_model)
        require_eps_within_range(threat_model, classifier.bounds, natural.shape[1:])

        def in_bounds(unit: Tensor) -> Tensor:  # the reference package knows pixels in [0, 1] only
            return unit if unit_bounds else (low + (high - low) * unit).clamp(low, high)

        # Pixels within [0, 1] are passed on as they are, so that no rounding moves them.
        unit = natural if unit_bounds else (natural - low) / (high - low)
        norm, eps = {"linf": "Linf", "l2": "L2"}[threat_model.norm], threat_model.eps / (high - low)
        model = Logits(lambda batch: classifier.run(in_bounds(batch)))
        with _surroundings_kept():
            adversary = AutoAttack(model, norm=norm, eps=eps, seed=seed, device=natural.device)
        adversary.verbose = False
        adversary.apgd_targeted.n_target_classes = adversary.fab.n_target_classes = min(TARGETS, classes - 1)
        right = torch.ones_like(true, dtype=torch.bool)
        with torch.no_grad():
            for part in torch.split(torch.arange(len(unit), device=unit.device), batch_size):
                right[part] = adversary.get_logits(unit[part]).argmax(dim=1) == true[part]
        state = _State(unit.clone(), right, right.nonzero().flatten())
        known = classifier.identity(), classifier.state_sha256()
        content = content_hash(natural.cpu().numpy(), true.cpu().numpy())
        fingerprint = fingerprint_of(threat_model, seed, batch_size, *known, content)
        file = Checkpoint(checkpoint, fingerprint, every=checkpoint_seconds)
        state = _State(**(file.load(natural.device) or vars(state)))
        earlier = state.seconds
        for stage in STAGES[len(state.after) :]:
            adversary.attacks_to_run, start = [stage], state.done
            if len(state.left):
                report(Progress(stage, state.done, len(state.left), "image", start))
            while state.done < len(state.left):
                part = state.left[state.done : state.done + batch_size]
                with _surroundings_kept():
                    x, y = adversary.run_standard_evaluation(unit[part], true[part], batch_size=batch_size)
                state.found[part], state.right[part] = x, y == true[part]
                state.done += len(part)
                if file.due():
                    state.seconds = earlier + time.monotonic() - began
                    file.save(vars(state))
                report(Progress(stage, state.done, len(state.left), "image", start))
            state.after[stage] = int(state.right.sum()) / len(true)
            state.left, state.done = state.right.nonzero().flatten(), 0
        changed = (state.found != unit).flatten(1).any(dim=1).view(-1, 1, 1, 1)
        adversarial = torch.where(changed, in_bounds(state.found), natural)
    check_perturbation(natural, adversarial, threat_model, classifier.bounds)
    settings = {"version": "standard", "stages": list(STAGES), "target_classes": adversary.fab.n_target_classes}
    settings |= {"batch_size": batch_size, "accuracy_after": state.after}
    return AutoAttacked(adversarial, state.right, settings, earlier + time.monotonic() - began)


def require_autoattack(classifier: Classifier, image: Tensor, threat_model: ThreatModel) -> int:
    """The number of classes, where the standard AutoAttack can run on a classifier of images like the checked one.

    It needs four classes (`ConfigError`), and in L2 five pixels a side (`ImageError`).
    """
    with classifier.borrowed(), torch.no_grad():
        classes = classifier.run(image).shape[1]
    if classes < LEAST_CLASSES:
        expected = f"at least {LEAST_CLASSES} classes for the targeted DLR loss of autoattack"
        do = "use pgd, cw and deepfool instead (--attacks pgd,cw,deepfool)"
        raise ConfigError(expected=expected, got=f"a classifier of {classes}", do=do)
    if threat_model.norm == "l2" and min(image.shape[2:]) < LEAST_SIDE:
        expected, sides = f"images of {LEAST_SIDE} pixels a side or more for autoattack in L2", image.shape[2:]
        raise ImageError(expected=expected, got="x".join(map(str, sides)), do="leave autoattack out, or use linf")
    return classes


@contextmanager
def _surroundings_kept() -> Iterator[None]:
    """Nothing is logged, and the interpreter's tracing is put back: the package switches off debuggers and coverage.

    What the package logs are its own checks of the model; ours stand in `robustness`.
    """
    logger, tracing = logging.getLogger("auto-attack"), sys.gettrace()
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
        sys.settrace(tracing)
