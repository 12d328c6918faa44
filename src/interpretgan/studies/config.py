"""What a study is: cases, variants, seeds and rules, and all that it compares."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from interpretgan.errors import ConfigError
from interpretgan.models import POOLS
from interpretgan.pipeline.config import Settings
from interpretgan.pipeline.options import TrainingOptions
from interpretgan.studies.rules import POOLED, Condition, Rule

ACTIONS = ("finetune-blamed", "finetune-cleared", "finetune-all", "swap-blamed", "swap-cleared")
"""What a repair study can do to a network."""
UNTOUCHED = "untouched"
"""The network that is repaired, as it was trained."""
ARMS = {"information": POOLS, "pooling": POOLS, "repair": ACTIONS}
"""The kinds of study, with the variants that each knows."""
DEFINITIONS = ("vulnerability", "vulnerability_bits", "vulnerability_probe", "relative_error")
"""Ways to say how vulnerable a layer is: from accuracy, in bits, from class probes, from activations."""
LOSSES = ("information_loss", "class_loss")
"""Ways to say what a layer loses: of the image, and of the class."""
TEST_ACCURACY = "test_accuracy"
"""Natural accuracy on all test images: not of repairs, whose networks are read on the attacked images alone."""
DEPTH = "depth"
"""The place of a layer in its network, which may explain both what it loses and what it contributes."""


@dataclass(frozen=True)
class Case:
    """One network, its data, its training and the size of the attack: what the variants are compared in.

    Attributes:
        name: Unique in the study.
        settings: Of each run, but for seed and variant.
        variants: The study's variants that are run here.
        diagnosed: Those of them whose layers are compared as well.
    """

    name: str
    settings: Settings
    variants: tuple[str, ...]
    diagnosed: tuple[str, ...]


@dataclass(frozen=True)
class Repair:
    """How a network is repaired.

    Attributes:
        layers: How many layers are fine-tuned, of those that have weights.
        pool: What a pooling is swapped for.
        epochs: Passes over the training images of the fine-tuning. `None`: by the recipe.
        training: Its objective and recipe; without an eps, that of the attack.
    """

    layers: int = 1
    pool: str = "avg"
    epochs: int | None = None
    training: TrainingOptions = field(default_factory=lambda: TrainingOptions(objective="pgd"))


@dataclass(frozen=True)
class StudyConfig:
    """A study, checked.

    Attributes:
        kind: `information`, `pooling` or `repair`.
        seeds: Of the trainings; runs of the same seed are compared with each other.
        variants: What is compared; the first is what the others are compared with (not in a repair study).
        cases: Where.
        rules: What makes a verdict.
        confidence: Level of the intervals.
        replicates: Of bootstraps and permutations.
        threads: Of each run. `None`: cores / workers, and then the last digits of a result depend on the workers.
        gpus: How much of a GPU each run asks a Ray cluster for.
        repair: In a repair study.
    """

    kind: str
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
    cases: tuple[Case, ...]
    rules: tuple[Rule, ...]
    confidence: float = 0.95
    replicates: int = 2000
    threads: int | None = None
    gpus: float = 0.0
    repair: Repair | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for the record."""
        return asdict(self)


def conditions(config: StudyConfig) -> list[Condition]:
    """Everything that a study compares, in order: what its effects are of, whether or not the runs succeed."""
    if config.kind == "information":
        found: list[Condition] = [(case.name, variant, None) for case in config.cases for variant in case.variants]
        return [*found, (POOLED, None, None)]
    pairs: list[tuple[str, str]] = [(variant, config.variants[0]) for variant in config.variants[1:]]
    if config.kind == "repair":
        pairs = [(variant, UNTOUCHED) for variant in config.variants]
        actions = dict.fromkeys(variant.partition("-")[0] for variant in config.variants)
        blamed = [(f"{action}-blamed", f"{action}-cleared") for action in actions]
        pairs += [pair for pair in blamed if set(pair) <= set(config.variants)]
    return [
        (case.name, variant, against)
        for case in config.cases
        for variant, against in pairs
        if {variant, against} <= {*case.variants, UNTOUCHED}
    ]


def correlations() -> list[tuple[str, str, str | None]]:
    """What an information study correlates over layers, and what is held fixed."""
    pairs = [(loss, definition) for loss in LOSSES for definition in DEFINITIONS]
    pairs += [(DEFINITIONS[0], other) for other in DEFINITIONS[1:]]
    alone: list[tuple[str, str, str | None]] = [(*pair, None) for pair in pairs]
    return [*alone, (DEPTH, DEFINITIONS[0], None), *((loss, DEFINITIONS[0], DEPTH) for loss in LOSSES)]


def correlation_name(first: str, second: str, given: str | None = None) -> str:
    """The name of a correlation as a quantity: `spearman(first, second | given)`."""
    return f"spearman({first}, {second}{'' if given is None else f' | {given}'})"


def quantities(config: StudyConfig) -> list[str]:
    """The effects that rules can be about."""
    if config.kind == "information":
        return [correlation_name(*names) for names in correlations()]
    attacks = [name for case in config.cases for name in case.settings.evaluation.names()]
    known = ["natural", *dict.fromkeys(attacks), "worst_case"]
    return [*known, TEST_ACCURACY] if config.kind == "pooling" else known


def fine_tuning(repair: Repair, case: Case) -> TrainingOptions:
    """The fine-tuning of a case: against its own attack where no other eps is stated."""
    training = repair.training
    attack = case.settings.attack
    if training.eps is not None or training.objective == "natural":
        return training
    if training.norm not in (TrainingOptions().norm, attack.norm):
        raise ConfigError(
            expected=f"an eps beside norm = {training.norm!r} in repair",
            got=f"none, and the attack's is of {attack.norm}",
            do="state it, or leave the norm out: then both are the attack's",
        )
    return replace(training, eps=attack.eps, norm=attack.norm)
