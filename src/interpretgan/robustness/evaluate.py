"""The evaluation: a model's accuracy under several attacks and in the worst case, with reasons to doubt it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpretgan.attacks import (
    ThreatModel,
    attack,
    equal_norm_noise,
    iterated,
    largest_eps,
    require_eps_within_range,
    require_gradient,
)
from interpretgan.attacks.autoattack import BATCH, BLACK_BOX, STAGES, TARGETS, autoattack, require_autoattack
from interpretgan.attacks.methods import AUTOATTACK, METHODS, check_names, predicted_right, survivors
from interpretgan.classifier import Classifier, check_labels
from interpretgan.data import ImageSource, describe, labelled_source
from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.robustness import attack_checks as trust
from interpretgan.robustness.curves import Point, Sample, over_eps, over_steps
from interpretgan.statistics import Interval, wilson
from interpretgan.store.files import read_json, write_json
from interpretgan.store.progress import duration
from interpretgan.store.provenance import provenance

SCHEMA = 1
CURVE_EXAMPLES = 500
CHECKED = 250
"""Examples on which the checks of the model and of the search run."""
DEFAULT_ATTACKS = ("fgsm", "pgd", "autoattack")


@dataclass(frozen=True)
class Evaluation:
    """How robust a model is under a threat model. Immutable; `save` and `load` are inverse.

    Attributes:
        classifier: Name, number of parameters, and what else is known of the model: its weights, which checkpoint.
        data: Name, split, number of examples and of those behind the curves.
        threat_model: Norm, eps, and that the true labels are attacked.
        attacks: Every setting of each attack that was run.
        accuracy: `natural`, one for each attack, and `worst_case`: an example counts where no attack misled the model.
            Shares of examples, 0 to 1, with Wilson intervals over the examples.
        controls: `noise`, the accuracy under random noise of the same size.
        curves: Accuracy over `eps` and over `steps`, under PGD of one restart.
        flags: Reasons to distrust the whole.
        provenance: Seed, versions, device, precision, level and kind of the intervals, date, seconds of each attack.
    """

    classifier: Mapping[str, Any]
    data: Mapping[str, Any]
    threat_model: Mapping[str, Any]
    attacks: Mapping[str, Mapping[str, Any]]
    accuracy: Mapping[str, Interval]
    controls: Mapping[str, Interval]
    curves: Mapping[str, tuple[Point, ...]]
    flags: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in `evaluation.json`."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def save(self, path: str | Path) -> Path:
        """Write `evaluation.json`, atomically.

        Args:
            path: The file, or the folder that it goes to.

        Raises:
            RunFolderError: The file cannot be written.
        """
        file = _file(path)
        write_json(file, self.to_dict())
        return file

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read an evaluation from its file, or from the folder that holds `evaluation.json`.

        Raises:
            RunFolderError: The file is missing, damaged, or of another schema.
        """
        file = _file(path)
        value = read_json(file)
        found = value.get("schema") if isinstance(value, dict) else None
        if found != SCHEMA:
            raise RunFolderError(
                expected=f"an evaluation of schema {SCHEMA} in {file}", got=f"schema {found}", do="evaluate again"
            )
        try:
            fields = {item.name: value[item.name] for item in dataclasses.fields(cls)}
            fields |= {
                "accuracy": {name: Interval(**share) for name, share in value["accuracy"].items()},
                "controls": {name: Interval(**share) for name, share in value["controls"].items()},
                "curves": {name: tuple(Point(**one) for one in points) for name, points in value["curves"].items()},
                "flags": tuple(value["flags"]),
            }
        except (KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                expected=f"a whole evaluation in {file}", got=f"one without {error}", do="evaluate again"
            ) from error
        return cls(**fields)


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / "evaluation.json"


def evaluate(
    classifier: Classifier,
    images: Tensor | ImageSource,
    labels: Tensor | None = None,
    *,
    threat_model: ThreatModel,
    attacks: Sequence[str] = DEFAULT_ATTACKS,
    examples: int | None = None,
    curve_examples: int = CURVE_EXAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
    classifier_info: Mapping[str, Any] | None = None,
    data_info: Mapping[str, Any] | None = None,
    checkpoint: Path | None = None,
    say: Callable[[str], None] | None = None,
    on_batch: Callable[[str, int, int], None] | None = None,
    on_examples: Callable[[dict[str, Tensor]], None] | None = None,
) -> Evaluation:
    """Measure how robust a classifier is: natural and adversarial accuracy, curves, controls and flags.

    Args:
        classifier: Given back as it was.
        images: Held-out natural images, `[N, C, H, W]` within the bounds or a source.
        labels: True classes `[N]`, with a tensor of images. They are what is attacked, not the predictions.
        threat_model: Norm and eps of every attack; steps, restarts and step size are those of PGD (and of CW in
            L-infinity).
        attacks: Of `fgsm`, `pgd`, `cw`, `deepfool` and `autoattack`.
        examples: How many images, from the first. `None`: all. They are held in memory.
        curve_examples: How many of these the curves are drawn from.
        seed: Of every attack and of the noise.
        confidence: Of the intervals.
        classifier_info: Kept in the record, beside the model's class and size.
        data_info: Likewise, beside the numbers of examples.
        checkpoint: File for the state of AutoAttack, which takes longest; see there.
        say: Told in a line what was found.
        on_batch: Told the stage of AutoAttack, how many of its images are done, and how many it has.
        on_examples: Given for `natural` and each attack which examples are right, bool `[N]`, and the `labels`.

    Returns:
        The evaluation.

    Raises:
        ThreatModelError: None is stated, or its eps is larger than the range of the pixels.
        ConfigError: Settings out of range, unknown attacks, or too few classes for one.
        ImageError, LabelError: Images or labels that do not fit.
        ModelError: A model that cannot be attacked, or that stays in train mode.
        RunFolderError: The checkpoint is damaged or of another attack, or cannot be written.
    """
    tm, names, tell = trust.require_threat_model(threat_model), check_names(attacks), say or (lambda _: None)
    source = labelled_source(images, labels, classifier.bounds)
    count = len(source) if examples is None else min(examples, len(source))
    if count < 1 or curve_examples < 1 or not 0 < confidence < 1:
        raise ConfigError(
            expected="at least one example, curve_examples >= 1 and 0 < confidence < 1",
            got=f"{count} examples, curve_examples={curve_examples}, confidence={confidence}",
            do="check the settings",
        )
    x, y = source.batch(torch.arange(count))
    x = classifier.check_images(x).to(torch.float32)
    require_attackable(classifier, x, tm, names)
    y = check_labels(y, count, classifier, x[:1])

    seconds: dict[str, float] = {}
    right = {"natural": predicted_right(classifier, x, y)}
    generator = torch.Generator().manual_seed(seed)
    noisy = predicted_right(classifier, equal_norm_noise(x, tm, classifier.bounds, generator=generator), y)
    tell(f"natural: {_share(right['natural'])} right, {_share(noisy)} under random noise of the same size")
    settings: dict[str, dict[str, Any]] = {}
    for name in names:
        began = time.perf_counter()
        if name == AUTOATTACK:
            found = autoattack(classifier, x, y, tm, seed=seed, checkpoint=checkpoint, on_batch=on_batch)
            right[name], settings[name] = found.right, _autoattack_settings(classifier, x, found.accuracy_after)
            seconds[name] = found.seconds
        else:
            method = METHODS[name](tm, classifier.bounds)
            settings[name] = method.settings
            right[name] = survivors(classifier, x, y, method.threat_model, seed=seed, method=method.search)
            seconds[name] = time.perf_counter() - began
        tell(f"{name}: {_share(right[name])} right, took {duration(seconds[name])}")
    worst = torch.stack(list(right.values())).all(dim=0)

    began = time.perf_counter()
    pgd, some = iterated(tm), min(count, curve_examples)
    sample = Sample(classifier, x[:some], y[:some], seed=seed)
    curves = {"eps": over_eps(sample, pgd, x.shape[1:], confidence), "steps": over_steps(sample, pgd, confidence)}
    seconds["curves"] = time.perf_counter() - began
    accuracy = {name: wilson(int(ok.sum()), count, confidence) for name, ok in (right | {"worst_case": worst}).items()}
    noise = wilson(int(noisy.sum()), count, confidence)
    began = time.perf_counter()
    few = x[:CHECKED], y[:CHECKED]
    checked = sample if some == len(few[0]) else Sample(classifier, *few, seed=seed)

    def perturb(model: Classifier, images: Tensor, labels: Tensor) -> Tensor:
        return attack(model, images, labels, replace(pgd, restarts=1), seed=seed)

    largest = largest_eps(pgd.norm, classifier.bounds, x.shape[1:])
    flags = [
        *trust.model_flags(classifier, *few),
        *trust.search_flags(checked.accuracy, checked.examples, pgd, largest),
        *trust.raised(
            _black_box(right, settings),
            trust.noise_as_good(noise.value, accuracy["worst_case"].value, accuracy["natural"].value),
            trust.not_growing([point.value for point in curves["eps"]], some),
            trust.lost_iterates(classifier, *few, perturb),
            trust.gradient_attacks_only(names, accuracy["worst_case"].value),
            trust.few_examples(count),
        ),
    ]
    seconds["checks"] = time.perf_counter() - began
    if on_examples is not None:
        on_examples({**right, "worst_case": worst, "labels": y})
    return Evaluation(
        classifier={
            "name": classifier.name,
            "parameters": sum(p.numel() for p in classifier.model.parameters()),
            **(classifier_info or {}),
        },
        data={"examples": count, "curve_examples": some, **describe(images), **(data_info or {})},
        threat_model={"norm": tm.norm, "eps": tm.eps, "bounds": list(classifier.bounds), "labels": "true classes"},
        attacks=settings,
        accuracy=accuracy,
        controls={"noise": noise},
        curves=curves,
        flags=tuple(flags),
        provenance={
            **provenance(seed, device=str(classifier.device)),
            "precision": "float32",
            "parameters_dtype": str(classifier.dtype).removeprefix("torch."),
            "confidence": confidence,
            "interval": "Wilson, over the examples; a single training of the classifier",
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
        },
    )


def require_attackable(
    classifier: Classifier, images: Tensor, threat_model: ThreatModel, attacks: Sequence[str]
) -> None:
    """Raise where an evaluation would fail or mean nothing; quick, so that it can be asked before anything is made.

    Args:
        classifier: The classifier, trained or not.
        images: At least one image `[N, C, H, W]` within the bounds.
        threat_model: Norm and eps.
        attacks: Names of attacks.

    Raises:
        ThreatModelError, ConfigError, ImageError, ModelError: See `evaluate`.
    """
    require_eps_within_range(threat_model, classifier.bounds, images.shape[1:])
    trust.require_eval_mode(classifier)
    require_gradient(classifier, images)
    if AUTOATTACK in attacks:
        require_autoattack(classifier, classifier.check_images(images[:1]), threat_model)


def _share(right: Tensor) -> str:
    return f"{float(right.float().mean()):.1%}"


def _autoattack_settings(classifier: Classifier, images: Tensor, after: Mapping[str, float]) -> dict[str, Any]:
    classes = classifier.logits(images[:1]).shape[1]
    return {
        "version": "standard",
        "stages": list(STAGES),
        "target_classes": min(TARGETS, classes - 1),
        "batch_size": BATCH,
        "accuracy_after": dict(after),
    }


def _black_box(right: Mapping[str, Tensor], settings: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What the black-box stage of AutoAttack took from all that the gradient attacks left."""
    if AUTOATTACK not in settings:
        return None
    after = settings[AUTOATTACK]["accuracy_after"]
    return trust.black_box_wins(after[STAGES[STAGES.index(BLACK_BOX) - 1]], after[BLACK_BOX])
