"""The TOML file of a study: read, typed and checked, with one line for each mistake."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from interpretgan.errors import ConfigError
from interpretgan.models import POOLS, published_pool
from interpretgan.pipeline.config import Settings
from interpretgan.pipeline.options import DataOptions, ModelOptions, RunOptions, TrainingOptions
from interpretgan.pipeline.workshop import find_device
from interpretgan.studies.config import ARMS, UNTOUCHED, Case, Repair, StudyConfig, conditions, fine_tuning, quantities
from interpretgan.studies.rules import POOLED, Rule
from interpretgan.studies.tables import as_table, check_keys, read_table

FEWEST_SEEDS = 2
FEWEST_REPLICATES = 100
"""Of a bootstrap: of fewer the ends of an interval are among its outermost."""
SECTIONS = tuple(
    item.name for item in fields(Settings) if item.name not in ("data", "model", "training", "run")
)  # fmt: skip
"""Sections of the settings that a study takes as they are on the command line."""
OURS = ("eps", "data", "data_dir")
"""Of their keys, those that a study sets by itself."""


@dataclass(frozen=True)
class _Head:
    """The keys above all tables."""

    kind: str
    seeds: tuple[int, ...]
    variants: tuple[str, ...]
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
    variants: tuple[str, ...] | None = None
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
        variants=head.variants,
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


def _check_head(head: _Head) -> None:
    if head.kind not in ARMS:
        raise ConfigError(expected=f"a kind among {', '.join(ARMS)}", got=repr(head.kind), do="choose one")
    if len(set(head.seeds)) < FEWEST_SEEDS or len(set(head.seeds)) != len(head.seeds):
        raise ConfigError(
            expected=f"at least {FEWEST_SEEDS} different seeds",
            got=str(list(head.seeds)),
            do="add seeds: one training says nothing about the next",
        )
    _check_variants(head.variants, head.kind, ARMS[head.kind])
    too_few_threads = head.threads is not None and head.threads < 1
    too_few_replicates = head.replicates < FEWEST_REPLICATES
    if not 0 < head.confidence < 1 or too_few_replicates or too_few_threads or not 0 <= head.gpus < math.inf:
        raise ConfigError(
            expected=f"0 < confidence < 1, replicates >= {FEWEST_REPLICATES}, threads >= 1 and gpus >= 0",
            got=f"{head.confidence}, {head.replicates}, {head.threads} and {head.gpus:g}",
            do="try 0.95, 2000, 1 and 0",
        )
    if head.kind == "pooling" and len(head.variants) < 2:
        raise ConfigError(expected="at least two variants", got=str(list(head.variants)), do="add what to compare with")


def _check_variants(variants: tuple[str, ...], kind: str, known: tuple[str, ...]) -> None:
    for variant in variants:
        if variant not in known:
            raise ConfigError(
                expected=f"variants of a {kind} study among {', '.join(known)}",
                got=repr(variant),
                do="choose among them",
            )
    if not variants or len(set(variants)) != len(variants):
        raise ConfigError(expected="variants, each once", got=str(list(variants)), do="correct the list")


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
    variants = head.variants if network.variants is None else network.variants
    _check_variants(variants, head.kind, head.variants)
    if head.kind == "pooling" and head.variants[0] not in variants:
        raise ConfigError(
            expected=f"the variant {head.variants[0]!r} in {where}, which the others are compared with",
            got=str(list(variants)),
            do="add it",
        )
    if head.kind == "pooling" and len(variants) < 2:
        raise ConfigError(
            expected=f"at least two variants in {where}", got=str(list(variants)), do="add one that it is compared with"
        )
    if network.pool is not None and head.kind != "repair":
        raise ConfigError(
            expected=f"no pool in {where}: the variants are the poolings", got=network.pool, do="remove it"
        )
    if network.pool is not None and network.pool not in POOLS:
        raise ConfigError(expected=f"a pool among {', '.join(POOLS)}", got=repr(network.pool), do="choose one")
    diagnosed = variants if network.diagnosed is None else network.diagnosed
    if head.kind != "pooling" and diagnosed != variants:
        raise ConfigError(
            expected=f"diagnoses of {where}, which a study of kind {head.kind} is about",
            got=f"diagnosed = {list(diagnosed)}",
            do="remove it",
        )
    for variant in diagnosed:
        if variant not in variants:
            raise ConfigError(
                expected=f"diagnosed variants of {where} among {', '.join(variants)}", got=repr(variant), do="add it"
            )
    sections = {
        name: {**common.get(name, {}), **as_table(values.get(name, {}), f"{where} {name}")} for name in SECTIONS
    }
    cases = []
    for number, goal in enumerate(_list(values, "objectives"), start=1):
        place = f"{where} objectives {number}"
        settings, name = _settings(head, network, as_table(goal, place), sections, place)
        cases.append(Case(name, settings, variants, diagnosed))
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
        if swapped == repair.pool and any(variant.startswith("swap") for variant in head.variants):
            raise ConfigError(
                expected=f"a pool to swap for that {case.name} has not", got=repair.pool, do="choose another"
            )
    return repair


def _check_rule(rule: Rule, config: StudyConfig) -> None:
    pooled = [POOLED] if config.kind == "information" else []
    opposed = [UNTOUCHED] if config.kind == "repair" else []
    for name, value, known in (
        ("quantity", rule.quantity, quantities(config)),
        ("variant", rule.variant, ["", *config.variants]),
        ("against", rule.against, ["", *opposed, *config.variants]),
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
        measured = dict.fromkeys(
            f"{variant} against {against}" for _, variant, against in conditions(config) if against
        )
        raise ConfigError(
            expected=f"a rule {rule.claim!r} about something that this study measures",
            got=f"variant = {rule.variant!r}, against = {rule.against!r}, cases = {list(rule.cases)}",
            do=f"it compares {', '.join(measured)}"
            if measured
            else "name no variant with the case all, and no against",
        )
