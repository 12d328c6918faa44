"""The TOML file of a study."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from interpretgan.errors import ConfigError
from interpretgan.pipeline import options
from interpretgan.pipeline.devices import find_device
from interpretgan.pipeline.options import TrainingOptions
from interpretgan.pipeline.settings import Settings
from interpretgan.studies.config import AtLeastOne, Case, Pool, Study, StudyConfig, read_record, training_of


@dataclass(frozen=True, kw_only=True)
class Sections:
    """Options as on the command line, of all networks or of one; the objective's `attack_eps` is their eps."""

    evaluation: options.EvaluationOptions = field(default_factory=options.EvaluationOptions)
    attack: options.AttackOptions = field(default_factory=options.AttackOptions)
    judge: options.JudgeOptions = field(default_factory=options.JudgeOptions)
    generator: options.GeneratorOptions = field(default_factory=options.GeneratorOptions)
    information: options.InformationOptions = field(default_factory=options.InformationOptions)
    diagnosis: options.DiagnosisOptions = field(default_factory=options.DiagnosisOptions)


SECTIONS = tuple(item.name for item in fields(Sections))
ATTACKED = ("attack", "evaluation")


@dataclass(frozen=True, kw_only=True)
class Objective(TrainingOptions):
    """One of `[[models.objectives]]`: how a network is trained, and the size of the attack afterwards."""

    attack_eps: float
    name: str | None = None  # of the case
    epochs: AtLeastOne | None = None


@dataclass(frozen=True, kw_only=True)
class Network(Sections):
    """One of `[[models]]`."""

    data: str
    model: str
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]
    pool: Pool | None = None
    image_size: int | tuple[int, int] | None = None
    width: float | None = None
    variants: tuple[str, ...] | None = None  # `None`: all of the study
    diagnosed: tuple[str, ...] | None = None  # `None`: all variants


@dataclass(frozen=True, kw_only=True)
class StudyFile(Study, Sections):
    """The whole file."""

    models: Annotated[tuple[Network, ...], Field(min_length=1)]
    device: str = "auto"
    devices: AtLeastOne = 1


def load_config(path: str | Path, kind: str | None = None) -> StudyConfig:
    """Read a study from a TOML file, which must be of that `kind`.

    Raises:
        ConfigError: The file cannot be read, or something in it is not as it should be; one line says what.
    """
    try:
        tree = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(expected=f"a readable file {path}", got=type(error).__name__, do="check --config") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(expected=f"TOML in {path}", got=str(error), do="correct the file") from error
    config = parse_config(tree)
    if kind not in (None, config.kind):
        do = f"say `interpretgan study {config.kind}`, or name another file"
        raise ConfigError(expected=f'kind = "{kind}" in {path}', got=f'"{config.kind}"', do=do)
    return config


def parse_config(tree: Mapping[str, Any]) -> StudyConfig:
    """A study from the tree of its TOML file; raises as `load_config`."""
    tree = _with_numbers(tree)
    file = read_record(StudyFile, tree)
    cases = [case for number, network in enumerate(file.models) for case in _cases(file, network, tree, number)]
    return StudyConfig(**{item.name: getattr(file, item.name) for item in fields(Study)}, cases=tuple(cases))


def _with_numbers(value: Any) -> Any:
    """The tree with numbers in place of texts like `8/255`."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_numbers(item) for item in value]
    return float(Fraction(value)) if isinstance(value, str) and re.fullmatch(r"\d+/[1-9]\d*", value) else value


def _cases(file: StudyFile, network: Network, tree: Mapping[str, Any], number: int) -> Iterator[Case]:
    """The cases of one of `[[models]]`: one for each of its objectives."""
    own = tree["models"][number]
    sections = {name: {**tree.get(name, {}), **own.get(name, {})} for name in SECTIONS}
    if any("eps" in sections[name] for name in ATTACKED):
        raise ConfigError(expected="attack_eps beside each objective", got="eps in a section", do="move it there")
    variants = file.variants if network.variants is None else network.variants
    diagnosed = variants if network.diagnosed is None else network.diagnosed
    model = {name: getattr(network, name) for name in ("model", "pool", "width")}
    for objective in network.objectives:
        training = training_of(objective)
        training.build()  # raises where the objective lacks a setting
        values = {
            **sections,
            **{name: {**sections[name], "eps": objective.attack_eps} for name in ATTACKED},
            "data": {"data": network.data, "image_size": network.image_size},
            "model": {**model, "epochs": objective.epochs},
            "training": vars(training),
            "run": {"device": str(find_device(file.device)), "devices": file.devices},
        }
        settings = read_record(Settings, values)
        settings.resolve(SECTIONS)
        name = f"{Path(network.data).name}-{network.model.rpartition(':')[2]}-{training.objective}"
        yield Case(objective.name or name, settings, variants, diagnosed)
