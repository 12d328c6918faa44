"""The evaluation: a model's accuracy under several attacks and in the worst case, with reasons to distrust it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, equal_norm_noise, iterated, largest_eps, require_eps_within_range
from interpretgan.attacks.autoattack import autoattack, require_autoattack
from interpretgan.attacks.gradient import at_a_time, require_gradient
from interpretgan.attacks.named_attacks import AUTOATTACK, NAMED_ATTACKS, check_names, predicted_right, survivors
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_source, describe
from interpretgan.errors import ConfigError, Flag
from interpretgan.robustness import attack_checks as checks
from interpretgan.robustness.curves import Point, Sample, curves
from interpretgan.statistics import Interval, wilson
from interpretgan.store.progress import OnProgress, duration, reporting, stage_seconds
from interpretgan.store.provenance import provenance
from interpretgan.store.records import Record
from interpretgan.torch_state import as_seed, plain_torch

CURVE_EXAMPLES = 500
CHECKED = 250  #: Examples on which the checks of the model and of the search run.
DEFAULT_ATTACKS = ("fgsm", "pgd", "autoattack")


@dataclass(frozen=True)
class Evaluation(Record):
    """How robust a model is under a threat model, kept in `evaluation.json`."""

    file_name: ClassVar[str] = "evaluation.json"

    #: Name, number of parameters, and what else is known of the model: its weights, which checkpoint.
    classifier: Mapping[str, Any]
    data: Mapping[str, Any]  #: Name, split, number of examples and of those behind the curves.
    threat_model: Mapping[str, Any]  #: Norm, eps, and that the true labels are attacked.
    attacks: Mapping[str, Mapping[str, Any]]  #: Every setting of each attack that was run.
    #: `natural`, one for each attack, and `worst_case`: an example counts where no attack misled the model. Shares of
    #: examples, 0 to 1, with Wilson intervals over the examples.
    accuracy: Mapping[str, Interval]
    controls: Mapping[str, Interval]  #: `noise`, the accuracy under random noise of the same size.
    curves: Mapping[str, tuple[Point, ...]]  #: Accuracy over `eps` and over `steps`, under PGD of one restart.
    flags: tuple[Flag, ...] = ()  #: Reasons to distrust the whole.
    #: Seed, versions, device, precision, level and kind of the intervals, date, seconds of each attack.
    provenance: Mapping[str, Any] = field(default_factory=dict)


@plain_torch()
def evaluate(
    classifier: Classifier,
    images: ImageData,
    labels: Tensor | None = None,
    *,
    threat_model: ThreatModel,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    examples: int | None = None,
    curve_examples: int = CURVE_EXAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
    classifier_info: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    on_progress: OnProgress | bool = True,
    on_examples: Callable[[dict[str, Tensor]], None] | None = None,
    on_autoattacked: Callable[[Tensor], None] | None = None,
) -> Evaluation:
    """Measure how robust a classifier is: natural and adversarial accuracy, curves, controls and flags.

    Args:
        classifier: Given back as it was.
        images: Held-out natural images within the bounds, with their true classes: what `as_source` takes.
        labels: True classes `[N]`, with a tensor of images. They are what is attacked, not the predictions.
        threat_model: Norm and eps of every attack; steps, restarts and step size are those of PGD (and of CW in
            L-infinity).
        attacks: Of `fgsm`, `pgd`, `cw`, `deepfool` and `autoattack`.
        examples: How many images, from the first. `None`: all. They are held in memory.
        curve_examples: How many of these the curves are drawn from.
        seed: Of every attack and of the noise.
        confidence: Of the intervals.
        classifier_info: Kept in the record, beside the model's class and size.
        checkpoint: File for the state of AutoAttack, which takes longest; see there.
        say: Called with a line about what was found.
        on_progress: Told how far AutoAttack is; see `interpretgan.store.progress.OnProgress`.
        on_examples: Called with the `labels`, and for `natural` and each attack which examples are right, bool `[N]`.
        on_autoattacked: Called with the images `[N, C, H, W]` that AutoAttack found, natural where it found none.

    Raises:
        InputError: No threat model, an eps beyond the range of the pixels, a model that cannot be attacked or stays in
            train mode, images, labels or settings that do not fit, or a checkpoint of another attack.
    """
    tm, names, report = checks.require_threat_model(threat_model), check_names(attacks), say or (lambda _: None)
    source, seed = as_source(images, labels, classifier.bounds, labelled=True), as_seed(seed)
    count = len(source) if examples is None else min(examples, len(source))
    if count < 1 or curve_examples < 1 or not 0 < confidence < 1:
        got = f"{count} examples, curve_examples={curve_examples}, confidence={confidence}"
        expected = "at least one example, curve_examples >= 1 and 0 < confidence < 1"
        raise ConfigError(expected=expected, got=got, do="check the settings")
    x, y = source.batch(torch.arange(count))
    x = classifier.check_images(x).to(torch.float32)
    require_attackable(classifier, x, tm, names)
    y = classifier.check_labels(y, x)

    seconds: dict[str, float] = {}
    predicted = torch.cat([classifier.logits(part).argmax(dim=1) for part in torch.split(x, at_a_time(x))])
    right = {"natural": predicted == y}
    noisy = predicted_right(classifier, equal_norm_noise(x, tm, classifier.bounds, seed=seed), y)
    report(f"natural: {_share(right['natural'])} right, {_share(noisy)} under random noise of the same size")
    settings: dict[str, dict[str, Any]] = {}
    black_box: list[Flag] = []
    for name in names:
        if name == AUTOATTACK:
            with reporting(on_progress, "autoattack") as told:
                found = autoattack(classifier, x, y, tm, seed=seed, checkpoint=checkpoint, on_progress=told)
            right[name], settings[name], seconds[name] = found.right, found.settings, found.seconds
            after = found.settings["accuracy_after"]
            black_box = checks.black_box_flags(after["fab-t"], after["square"])
            if on_autoattacked is not None:
                on_autoattacked(found.images)
        else:
            method = NAMED_ATTACKS[name](tm, classifier.bounds)
            settings[name] = method.settings
            with stage_seconds(seconds, name):
                right[name] = survivors(classifier, x, y, method.threat_model, seed=seed, method=method.search)
        report(f"{name}: {_share(right[name])} right, took {duration(seconds[name])}")
    right["worst_case"] = torch.stack(list(right.values())).all(dim=0)
    accuracy = {name: wilson(int(ok.sum()), count, confidence) for name, ok in right.items()}
    noise = wilson(int(noisy.sum()), count, confidence)
    natural, worst = accuracy["natural"].value, accuracy["worst_case"].value

    pgd, drawn, checked = iterated(tm), min(count, curve_examples), min(count, CHECKED)
    largest = largest_eps(pgd.norm, classifier.bounds, x.shape[1:])
    with stage_seconds(seconds, "curves"):
        sample = Sample(classifier, x[:drawn], y[:drawn], seed=seed)
        lines = curves(sample, pgd, confidence)
    with stage_seconds(seconds, "checks"):
        if checked != drawn:
            sample = Sample(classifier, x[:checked], y[:checked], seed=seed)
        flags = checks.model_flags(classifier, x[:checked], y[:checked])
        flags += checks.search_flags(sample.accuracy, checked, pgd, largest) + black_box
    flags += checks.curve_flags([point.value for point in lines["eps"]], drawn)
    flags += checks.figure_flags(natural=natural, adversarial=worst, noise=noise.value, attacks=names, examples=count)
    classes = describe(images).get("classes", ())
    flags = checks.class_flags(predicted.cpu().numpy(), y.cpu().numpy(), classes, confidence) + flags
    if on_examples is not None:
        on_examples({**right, "labels": y})
    parameters = sum(p.numel() for p in classifier.model.parameters())
    return Evaluation(
        classifier={"name": classifier.name, "parameters": parameters, **(classifier_info or {})},
        data={"examples": count, "curve_examples": drawn, **describe(images)},
        threat_model={"norm": tm.norm, "eps": tm.eps, "bounds": list(classifier.bounds), "labels": "true classes"},
        attacks=settings, accuracy=accuracy, controls={"noise": noise}, curves=lines, flags=tuple(flags),
        provenance={
            **provenance(seed, device=str(classifier.device)),
            "precision": "float32", "parameters_dtype": str(classifier.dtype).removeprefix("torch."),
            "confidence": confidence, "interval": "Wilson, over the examples; a single training of the classifier",
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        },
    )  # fmt: skip


def require_attackable(
    classifier: Classifier, images: Tensor, threat_model: ThreatModel, attacks: Sequence[str]
) -> None:
    """Raise as `evaluate` would, before any training: on at least one image `[N, C, H, W]`."""
    require_eps_within_range(threat_model, classifier.bounds, images.shape[1:])
    checks.require_eval_mode(classifier)
    require_gradient(classifier, images)
    if AUTOATTACK in attacks:
        require_autoattack(classifier, classifier.check_images(images[:1]), threat_model)


def _share(right: Tensor) -> str:
    return f"{float(right.float().mean()):.1%}"
