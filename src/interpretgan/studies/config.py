"""What a study is, read from its TOML file: typed, checked, and with the rules of its verdicts."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from interpretgan.config import Settings
from interpretgan.errors import ConfigError
from interpretgan.models import POOLS, published_pool
from interpretgan.options import DataOptions, ModelOptions, RunOptions, TrainingOptions
from interpretgan.studies.rules import Rule
from interpretgan.studies.statistics import POOLED
from interpretgan.studies.tables import as_table, check_keys, read_table
from interpretgan.workshop import find_device

ACTIONS = ("finetune-blamed", "finetune-cleared", "finetune-all", "swap-blamed", "swap-cleared")
"""What a repair study can do to a network."""
UNTOUCHED = "untouched"
"""The network that is repaired, as it was trained."""
ARMS = {"information": POOLS, "pooling": POOLS, "repair": ACTIONS}
"""The kinds of study, with the arms that each knows."""
FEWEST_SEEDS = 2
FEWEST_REPLICATES = 100
"""Of a bootstrap: of fewer the ends of an interval are among its outermost."""
DEFINITIONS = ("vulnerability", "vulnerability_bits", "vulnerability_probe", "relative_error")
"""Ways to say how vulnerable a layer is: from accuracy, in bits, from class probes, from activations."""
LOSSES = ("information_loss", "class_loss")
"""Ways to say what a layer loses: of the image, and of the class."""
TEST_ACCURACY = "test_accuracy"
"""Natural accuracy on all test images: not of repairs, whose networks are read on the attacked images alone."""
DEPTH = "depth"
"""The place of a layer in its network, which may explain both what it loses and what it contributes."""
SECTIONS = tuple(
    item.name for item in fields(Settings) if item.name not in ("data", "model", "training", "run")
)  # fmt: skip
"""Sections of the settings that a study takes as they are on the command line."""
OURS = ("eps", "data", "data_dir")
"""Of their keys, those that a study sets by itself."""


Condition = tuple[str, str | None, str | None]
"""A case (or all of them), an arm, and the arm that it is compared with."""


@dataclass(frozen=True)
class Case:
    """One network, its data, its training and the size of the attack: what the arms are compared in.

    Attributes:
        name: Unique in the study.
        settings: Of each run, but for seed and arm.
        arms: The study's arms that are run here.
        diagnosed: Those of them whose layers are compared as well.
    """

    name: str
    settings: Settings
    arms: tuple[str, ...]
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
        arms: What is compared; the first is what the others are compared with (not in a repair study).
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
    arms: tuple[str, ...]
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


@dataclass(frozen=True)
class _Head:
    """The keys above all tables."""

    kind: str
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    confidence: float = 0.95
    replicates: int = 2000
    threads: int | None = None
    device: str = "auto"
    devices: int = 1
    gpus: float = 0.0


@dataclass(frozen=True)
class _Network:
    """The keys of one of `[[models]]`, but for its tables."""

    data: str
    model: str
    pool: str | None = None
    image_size: int | None = None
    width: float | None = None
    arms: tuple[str, ...] | None = None
    diagnosed: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Goal:
    """The keys of one of `[[models.objectives]]` that are no settings of a training."""

    attack_eps: float
    name: str | None = None
    epochs: int | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)


def load_config(path: str | Path, kind: str | None = None) -> StudyConfig:
    """Read a study.

    Args:
        path: The TOML file.
        kind: What it must be a study of. `None`: anything.

    Raises:
        ConfigError: The file cannot be read, or something in it is not as it should be; one line says what.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(expected=f"a readable file {path}", got=type(error).__name__, do="check --config") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(expected=f"TOML in {path}", got=str(error), do="correct the file") from error
    config = parse_config(tree)
    if kind not in (None, config.kind):
        raise ConfigError(
            expected=f'kind = "{kind}" in {path}',
            got=f'"{config.kind}"',
            do=f"say `interpretgan study {config.kind}`, or name another file",
        )
    return config


def parse_config(tree: Mapping[str, Any]) -> StudyConfig:
    """A study from the tree of its TOML file.

    Raises:
        ConfigError: See `load_config`.
    """
    heads = [item.name for item in fields(_Head)]
    check_keys(tree, [*heads, "models", "rules", "repair", *SECTIONS], "the study")
    head = read_table(_Head, {key: value for key, value in tree.items() if key in heads}, "the study")
    _check_head(head)
    common = {name: as_table(tree[name], name) for name in SECTIONS if name in tree}
    cases = [
        case
        for number, table in enumerate(_list(tree, "models"), start=1)
        for case in _cases(head, table, common, f"models {number}")
    ]
    names = [case.name for case in cases]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(expected="cases of different names", got=f"{name!r} twice", do="give one of them a name")
    if (head.kind == "repair") != ("repair" in tree):
        raise ConfigError(
            expected="a table [repair] in a study of kind repair, and in no other",
            got=f"kind {head.kind!r} {'with' if 'repair' in tree else 'without'} it",
            do="add it or remove it",
        )
    config = StudyConfig(
        kind=head.kind,
        seeds=head.seeds,
        arms=head.arms,
        cases=tuple(cases),
        rules=tuple(
            read_table(Rule, table, f"rules {number}") for number, table in enumerate(_list(tree, "rules"), start=1)
        ),
        confidence=head.confidence,
        replicates=head.replicates,
        threads=head.threads,
        gpus=head.gpus,
        repair=_repair(as_table(tree["repair"], "repair"), cases, head) if "repair" in tree else None,
    )
    for rule in config.rules:
        _check_rule(rule, config)
    return config


def conditions(config: StudyConfig) -> list[Condition]:
    """Everything that a study compares, in order: what its effects are of, whether or not the runs succeed."""
    if config.kind == "information":
        found: list[Condition] = [(case.name, arm, None) for case in config.cases for arm in case.arms]
        return [*found, (POOLED, None, None)]
    pairs: list[tuple[str, str]] = [(arm, config.arms[0]) for arm in config.arms[1:]]
    if config.kind == "repair":
        pairs = [(arm, UNTOUCHED) for arm in config.arms]
        actions = dict.fromkeys(arm.partition("-")[0] for arm in config.arms)
        blamed = [(f"{action}-blamed", f"{action}-cleared") for action in actions]
        pairs += [pair for pair in blamed if set(pair) <= set(config.arms)]
    return [
        (case.name, arm, against)
        for case in config.cases
        for arm, against in pairs
        if {arm, against} <= {*case.arms, UNTOUCHED}
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


def _check_head(head: _Head) -> None:
    if head.kind not in ARMS:
        raise ConfigError(expected=f"a kind among {', '.join(ARMS)}", got=repr(head.kind), do="choose one")
    if len(set(head.seeds)) < FEWEST_SEEDS or len(set(head.seeds)) != len(head.seeds):
        raise ConfigError(
            expected=f"at least {FEWEST_SEEDS} different seeds",
            got=str(list(head.seeds)),
            do="add seeds: one training says nothing about the next",
        )
    _check_arms(head.arms, head.kind, ARMS[head.kind])
    too_few_threads = head.threads is not None and head.threads < 1
    too_few_replicates = head.replicates < FEWEST_REPLICATES
    if not 0 < head.confidence < 1 or too_few_replicates or too_few_threads or not 0 <= head.gpus < math.inf:
        raise ConfigError(
            expected=f"0 < confidence < 1, replicates >= {FEWEST_REPLICATES}, threads >= 1 and gpus >= 0",
            got=f"{head.confidence}, {head.replicates}, {head.threads} and {head.gpus:g}",
            do="try 0.95, 2000, 1 and 0",
        )
    if head.kind == "pooling" and len(head.arms) < 2:
        raise ConfigError(expected="at least two arms", got=str(list(head.arms)), do="add what to compare with")


def _check_arms(arms: tuple[str, ...], kind: str, known: tuple[str, ...]) -> None:
    for arm in arms:
        if arm not in known:
            raise ConfigError(
                expected=f"arms of a {kind} study among {', '.join(known)}", got=repr(arm), do="choose among them"
            )
    if not arms or len(set(arms)) != len(arms):
        raise ConfigError(expected="arms, each once", got=str(list(arms)), do="correct the list")


def _list(tree: Mapping[str, Any], name: str) -> list[Any]:
    found = tree.get(name)
    if not isinstance(found, list) or not found:
        raise ConfigError(expected=f"at least one table [[{name}]]", got=repr(found), do="add one")
    return found


def _cases(head: _Head, table: object, common: Mapping[str, Any], where: str) -> list[Case]:
    """The cases of one of `[[models]]`: one for each of its objectives."""
    values = as_table(table, where)
    own = [item.name for item in fields(_Network)]
    check_keys(values, [*own, "objectives", *SECTIONS], where)
    network = read_table(_Network, {key: value for key, value in values.items() if key in own}, where)
    arms = head.arms if network.arms is None else network.arms
    _check_arms(arms, head.kind, head.arms)
    if head.kind == "pooling" and head.arms[0] not in arms:
        raise ConfigError(
            expected=f"the arm {head.arms[0]!r} in {where}, which the others are compared with",
            got=str(list(arms)),
            do="add it",
        )
    if head.kind == "pooling" and len(arms) < 2:
        raise ConfigError(
            expected=f"at least two arms in {where}", got=str(list(arms)), do="add one that it is compared with"
        )
    if network.pool is not None and head.kind != "repair":
        raise ConfigError(expected=f"no pool in {where}: the arms are the poolings", got=network.pool, do="remove it")
    if network.pool is not None and network.pool not in POOLS:
        raise ConfigError(expected=f"a pool among {', '.join(POOLS)}", got=repr(network.pool), do="choose one")
    diagnosed = arms if network.diagnosed is None else network.diagnosed
    if head.kind != "pooling" and diagnosed != arms:
        raise ConfigError(
            expected=f"diagnoses of {where}, which a study of kind {head.kind} is about",
            got=f"diagnosed = {list(diagnosed)}",
            do="remove it",
        )
    for arm in diagnosed:
        if arm not in arms:
            raise ConfigError(expected=f"diagnosed arms of {where} among {', '.join(arms)}", got=repr(arm), do="add it")
    sections = {
        name: {**common.get(name, {}), **as_table(values.get(name, {}), f"{where} {name}")} for name in SECTIONS
    }
    cases = []
    for number, goal in enumerate(_list(values, "objectives"), start=1):
        place = f"{where} objectives {number}"
        settings, name = _settings(head, network, as_table(goal, place), sections, place)
        cases.append(Case(name, settings, arms, diagnosed))
    return cases


def _settings(
    head: _Head, network: _Network, table: Mapping[str, Any], sections: Mapping[str, Any], where: str
) -> tuple[Settings, str]:
    own = [item.name for item in fields(_Goal) if item.name != "sections"]
    trained = [item.name for item in fields(TrainingOptions)]
    check_keys(table, [*own, *trained], where)
    goal = read_table(_Goal, {key: value for key, value in table.items() if key in own}, where, without=("sections",))
    training = read_table(TrainingOptions, {key: value for key, value in table.items() if key in trained}, where)
    training.build()
    made: dict[str, Any] = {}
    for item in fields(Settings):
        if item.name in SECTIONS:
            kind = type(getattr(Settings(), item.name))
            section = read_table(kind, sections[item.name], item.name, without=OURS)
            made[item.name] = replace(section, eps=goal.attack_eps) if hasattr(section, "eps") else section
    settings = Settings(
        data=DataOptions(data=network.data, image_size=network.image_size),
        model=ModelOptions(
            model=network.model,
            pool=network.pool,  # type: ignore[arg-type]  # checked above
            width=network.width,
            epochs=goal.epochs,
        ),
        training=training,
        run=RunOptions(device=str(find_device(head.device)), devices=head.devices),
        **made,
    )
    settings.resolve(SECTIONS)
    data = Path(network.data).name
    name = goal.name or f"{data}-{network.model.rpartition(':')[2]}-{training.objective}"
    if not re.fullmatch(r"[\w.-]+", name) or name == POOLED:
        raise ConfigError(
            expected=f"a name of letters, digits, dots and hyphens in {where}, not {POOLED!r}",
            got=repr(name),
            do="give it another name: folders are called by it",
        )
    return settings, name


def _repair(table: Mapping[str, Any], cases: list[Case], head: _Head) -> Repair:
    own = [item.name for item in fields(Repair) if item.name != "training"]
    trained = [item.name for item in fields(TrainingOptions)]
    check_keys(table, [*own, *trained], "repair")
    repair = read_table(
        Repair, {key: value for key, value in table.items() if key in own}, "repair", without=("training",)
    )
    settings = {"objective": "pgd"} | {key: value for key, value in table.items() if key in trained}
    repair = replace(repair, training=read_table(TrainingOptions, settings, "repair"))
    for case in cases:
        fine_tuning(repair, case).build()
    if repair.layers < 1 or (repair.epochs is not None and repair.epochs < 1) or repair.pool not in POOLS:
        raise ConfigError(
            expected=f"layers >= 1, epochs >= 1 and a pool among {', '.join(POOLS)} in repair",
            got=f"{repair.layers}, {repair.epochs} and {repair.pool}",
            do="correct them",
        )
    for case in cases:
        swapped = case.settings.model.pool or published_pool(case.settings.model.model)
        if swapped == repair.pool and any(arm.startswith("swap") for arm in head.arms):
            raise ConfigError(
                expected=f"a pool to swap for that {case.name} has not", got=repair.pool, do="choose another"
            )
    return repair


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


def _check_rule(rule: Rule, config: StudyConfig) -> None:
    pooled = [POOLED] if config.kind == "information" else []
    opposed = [UNTOUCHED] if config.kind == "repair" else []
    for name, value, known in (
        ("quantity", rule.quantity, quantities(config)),
        ("arm", rule.arm, ["", *config.arms]),
        ("against", rule.against, ["", *opposed, *config.arms]),
        *(("case", case, [*pooled, *(one.name for one in config.cases)]) for case in rule.cases),
    ):
        if value not in known:
            raise ConfigError(
                expected=f"a {name} of the rule {rule.claim!r} among {', '.join(filter(None, known))}",
                got=repr(value),
                do="choose one of them",
            )
    covered = [condition for condition in conditions(config) if rule.covers(condition)]
    if not covered or {case for case, *_ in covered} < set(rule.cases):
        measured = dict.fromkeys(f"{arm} against {against}" for _, arm, against in conditions(config) if against)
        raise ConfigError(
            expected=f"a rule {rule.claim!r} about something that this study measures",
            got=f"arm = {rule.arm!r}, against = {rule.against!r}, cases = {list(rule.cases)}",
            do=f"it compares {', '.join(measured)}" if measured else "name no arm with the case all, and no against",
        )
