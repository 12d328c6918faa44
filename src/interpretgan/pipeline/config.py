"""Settings of a run: all options together, resolved to plain JSON before step 0."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from interpretgan.errors import ConfigError
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

    def resolve(self, sections: tuple[str, ...]) -> dict[str, Any]:
        """The named sections as plain JSON, checked, with every default filled in.

        Args:
            sections: Of `data`, `model`, `attack`, `judge`, `generator`, `information`, `diagnosis`,
                `evaluation`.

        Raises:
            InterpretGANError: A setting out of range, or that does not fit the others.
        """
        model, information = self.model, self.information.config(self.generator.precision)
        if model.pretrained and (model.file is not None or not model.own):
            raise ConfigError(
                expected="--pretrained with a factory of your own and no weights",
                got=f"model {model.model}" + (f" with weights {model.weights}" if model.weights else ""),
                do="name the model as package.module:factory, or say --weights pretrained for one of this package",
            )
        if model.shipped and (model.mean is not None or model.std is not None):
            raise ConfigError(
                expected=f"{model.model} with the normalisation that it was trained with",
                got="--mean or --std",
                do="leave them out",
            )
        for name, value in (("epochs", model.epochs), ("judge-epochs", self.judge.judge_epochs)):
            if value is not None and value < 1:
                raise ConfigError(expected=f"{name} >= 1", got=str(value), do=f"leave --{name} out for the default")
        whole = {
            # Where the data lie does not change a result; what they are is in the hash that is added on loading.
            "data": {"name": self.data.data, "image_size": self.data.image_size},
            "model": {
                **asdict(model),
                "weights": "pretrained" if model.shipped else None,
                "pretrained": model.as_returned,
            },
            "attack": self.attack.threat_model().to_dict(),
            "judge": {"judge": self.judge.judge},
            "generator": {
                **asdict(self.generator.gan()),
                "seeds": self.generator.generator_seeds,
                "recognition_network": self.generator.recognition_network,
                "layers": self.generator.names(),
            },
            "information": {"steps": 0} if information is None else asdict(information),
            "diagnosis": asdict(self.diagnosis),
            "evaluation": {
                **asdict(self.evaluation),
                "attacks": self.evaluation.names(),
                "step_size": self.evaluation.threat_model().resolved_step_size,
            },
        }
        if "generator" in sections:
            from interpretgan.gan.multi_device import check_team

            check_team(self.run.devices, self.generator.images_per_layer)
        elif self.run.devices != 1:
            raise ConfigError(
                expected="--devices with a command that trains a generator",
                got=str(self.run.devices),
                do="leave --devices out: the rest of the work runs on one",
            )
        common = {
            "version": version("interpretgan"), "seed": self.run.seed, "device": self.run.device,
            "devices": self.run.devices,
        }  # fmt: skip
        return {**common, **{name: whole[name] for name in sections}}
