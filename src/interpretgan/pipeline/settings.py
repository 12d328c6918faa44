"""The settings of a run: all groups of options together, and what they resolve to before step 0."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypedDict, get_type_hints

from interpretgan.errors import ConfigError, RunFolderError, kind_of
from interpretgan.pipeline.options import (
    AttackOptions,
    DataOptions,
    DiagnosisOptions,
    EvaluationOptions,
    GeneratorOptions,
    InformationOptions,
    JudgeOptions,
    ModelOptions,
    RunOptions,
    TrainingOptions,
)
from interpretgan.store.files import read_json, write_json

OPTIONS_FILE = "options.json"  #: What was chosen, in a run folder.
DIAGNOSE = ("data", "model", "attack", "judge", "generator", "information", "diagnosis")
"""The sections that a diagnosis depends on."""


class DiagnosisKeywords(TypedDict, total=False):
    """The options of `interpretgan diagnose` that `run_diagnosis` takes; their defaults stand in `options.py`."""

    layers: str | Sequence[str]
    judge_epochs: int
    generator_steps: int
    generator_seeds: int
    images_per_layer: int
    recognition_network: str
    information: float
    latent: float
    image_noise: float
    diversity: float
    precision: str
    information_steps: int
    examples: int
    let_in_steps: int
    branches: bool
    groups: str | Mapping[str, int | str]
    bootstrap: int
    confidence: float
    baselines: bool
    time_budget: float
    seed: int
    devices: int


# The sections that keywords of `run_diagnosis` set.
KEYWORD_GROUPS = {
    "judge": JudgeOptions,
    "generator": GeneratorOptions,
    "information": InformationOptions,
    "diagnosis": DiagnosisOptions,
    "run": RunOptions,
}


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on."""

    data: DataOptions = field(default_factory=DataOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    attack: AttackOptions = field(default_factory=AttackOptions)
    judge: JudgeOptions = field(default_factory=JudgeOptions)
    generator: GeneratorOptions = field(default_factory=GeneratorOptions)
    diagnosis: DiagnosisOptions = field(default_factory=DiagnosisOptions)
    run: RunOptions = field(default_factory=RunOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    information: InformationOptions = field(default_factory=InformationOptions)

    @classmethod
    def of(cls, **options: Any) -> Self:
        """Settings from the keywords of `DiagnosisKeywords` and the judge's name; a `ConfigError` for any other."""
        known = {item.name: section for section, group in KEYWORD_GROUPS.items() for item in fields(group)}
        types = get_type_hints(DiagnosisKeywords) | {"judge": str, "layers": str, "groups": str}
        if isinstance(layers := options.get("layers"), Sequence) and all(isinstance(name, str) for name in layers):
            options["layers"] = layers if isinstance(layers, str) else ",".join(layers)
        if isinstance(groups := options.get("groups"), Mapping):
            options["groups"] = ",".join(f"{name}={number}" for name, number in groups.items())
        # Numbers of numpy's and torch's as plain ones.
        options = {k: value.item() if getattr(value, "shape", None) == () else value for k, value in options.items()}
        for name, value in options.items():
            if name not in types:
                near = get_close_matches(name, types, n=1, cutoff=0.6)
                expected = f"an option of {', '.join(DiagnosisKeywords.__annotations__)}"
                do = f"did you mean {near[0]}?" if near else "leave it out"
                raise ConfigError(expected=expected, got=name, do=do)
            wanted = (int, float) if types[name] is float else types[name]
            if not isinstance(value, wanted) or (isinstance(value, bool) and types[name] is not bool):
                do = {str: "pass names", bool: "pass True or False"}.get(types[name], "pass a number")
                raise ConfigError(expected=f"{name} of type {types[name].__name__}", got=kind_of(value), do=do)
        return cls(
            **{
                section: group(**{name: value for name, value in options.items() if known[name] == section})
                for section, group in KEYWORD_GROUPS.items()
            }
        )

    def save(self, folder: Path, sections: Sequence[str] = DIAGNOSE) -> None:
        """Keep what was chosen in a run folder, for commands that go on there; paths as they are from anywhere.

        The command has these sections. What another one chose there for the rest stays.
        """
        from interpretgan.data.readers import NAMES
        from interpretgan.models.named import absolute

        kept = self
        with suppress(RunFolderError):  # a new folder has none
            before = type(self).load(folder)
            rest = [name for name in (*DIAGNOSE, "evaluation") if name not in sections]
            kept = replace(self, **{name: getattr(before, name) for name in rest})
        chosen = {item.name: dict(vars(getattr(kept, item.name))) for item in fields(kept)}
        for group in chosen.values():
            group |= {name: str(value.absolute()) for name, value in group.items() if isinstance(value, Path)}
        data = chosen["data"]
        for name in ("data", "classes"):
            # A folder may be called like a data set, which comes first; a list of names may be too long for a file's.
            if data[name] and data[name] not in NAMES and os.path.exists(data[name]):  # noqa: PTH110
                data[name] = str(Path(data[name]).absolute())
        if kept.generator.recognition_file is not None:
            chosen["generator"]["recognition_network"] = str(kept.generator.recognition_file.absolute())
        chosen["model"]["model"], chosen["judge"]["judge"] = absolute(kept.model.model), absolute(kept.judge.judge)
        chosen["run"]["out"] = None  # the folder that this is read from
        write_json(folder / OPTIONS_FILE, chosen)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `save` kept, for a run in that folder; a `RunFolderError` where there is nothing, or something else."""
        from pydantic import TypeAdapter, ValidationError

        values = read_json(folder / OPTIONS_FILE)
        try:
            kept = TypeAdapter(cls).validate_json(json.dumps(values))
        except (ValidationError, ConfigError) as error:
            got = str(error)
            if isinstance(error, ValidationError):
                first = error.errors(include_url=False)[0]
                got = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            do = "say all options of the command that made the folder"
            raise RunFolderError(expected=f"options in {folder / OPTIONS_FILE}", got=got, do=do) from error
        return replace(kept, run=replace(kept.run, out=folder))

    def resolve(self, sections: Sequence[str], channels: int = 1) -> dict[str, Any]:
        """The named sections (not `run` or `training`) as plain JSON, checked, with every default filled in.

        The images have so many channels.
        """
        model, information = self.model, self.information.config(self.generator.precision)
        evaluation, data = self.evaluation, self.data.data
        whole: dict[str, Any] = {
            # Where the data lie does not change a result; what they are is in the hash that is added on loading.
            "data": {"name": self.data.data, "image_size": self.data.image_size},
            "model": asdict(model)
            | {"weights": "pretrained" if model.shipped else None, "pretrained": model.as_returned},
            "judge": {"judge": self.judge.judge},
            "generator": asdict(self.generator.config(channels))
            | {
                "seeds": self.generator.generator_seeds,
                "recognition_network": self.generator.recognition_network,
                "layers": self.generator.names(),
            },
            "information": {"steps": 0} if information is None else asdict(information),
            # Baselines stand beside the rest and change none of it: a finished run may get them later. What a time
            # budget changes are the other options.
            "diagnosis": {
                name: value
                for name, value in asdict(self.diagnosis).items()
                if name not in ("baselines", "time_budget") and not (name == "groups" and value is None)
            },
        }
        if "attack" in sections:  # there alone an eps is needed
            whole["attack"] = self.attack.threat_model(data).to_dict()
        if "evaluation" in sections:
            threat_model, names = evaluation.threat_model(data), evaluation.names()
            resolved = {"eps": threat_model.eps, "attacks": names, "step_size": threat_model.resolved_step_size}
            whole["evaluation"] = asdict(evaluation) | resolved
        if "generator" not in sections and self.run.devices != 1:
            expected = "--devices with a command that trains a generator"
            do = "leave --devices out: the rest of the work runs on one"
            raise ConfigError(expected=expected, got=str(self.run.devices), do=do)
        for name in ("baselines", "time_budget"):
            if "diagnosis" in sections and "generator" not in sections and getattr(self.diagnosis, name):
                flag = f"--{name.replace('_', '-')}"
                expected, do = f"{flag} with a command that diagnoses", f"leave {flag} out"
                raise ConfigError(expected=expected, got="one that does not", do=do)
        run = {name: getattr(self.run, name) for name in ("seed", "device", "devices")}
        return {"schema": 2, "version": version("interpretgan"), **run} | {name: whole[name] for name in sections}
