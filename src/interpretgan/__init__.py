"""Which layer of an image classifier lets adversarial perturbations through, and what do they change there?

The public names are loaded on first use, so that importing the package, and `interpretgan --help`, stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interpretgan.attacks import ThreatModel as ThreatModel
    from interpretgan.attacks import attack as attack
    from interpretgan.classifier import Classifier as Classifier
    from interpretgan.data import ImageSet as ImageSet
    from interpretgan.data import load_data as load_data
    from interpretgan.diagnosis.diagnose import diagnose as diagnose
    from interpretgan.diagnosis.result import Diagnosis as Diagnosis
    from interpretgan.errors import Flag as Flag
    from interpretgan.errors import InterpretGANError as InterpretGANError
    from interpretgan.gan.train import GANConfig as GANConfig
    from interpretgan.information import Decoders as Decoders
    from interpretgan.information import InformationConfig as InformationConfig
    from interpretgan.interpreter import Explanation as Explanation
    from interpretgan.interpreter import InterpretGAN as InterpretGAN
    from interpretgan.judge import Judge as Judge
    from interpretgan.judge import train_judge as train_judge
    from interpretgan.layers import Layer as Layer
    from interpretgan.layers import capture as capture
    from interpretgan.layers import find_layers as find_layers
    from interpretgan.layers import replay as replay
    from interpretgan.models import load_classifier as load_classifier
    from interpretgan.pipeline.run_diagnosis import run_diagnosis as run_diagnosis
    from interpretgan.report import write_report as write_report
    from interpretgan.robustness import Evaluation as Evaluation
    from interpretgan.robustness import evaluate as evaluate

_PUBLIC = {
    "Classifier": "classifier",
    "Decoders": "information",
    "Layer": "layers",
    "Diagnosis": "diagnosis.result",
    "Evaluation": "robustness",
    "Explanation": "interpreter",
    "Flag": "errors",
    "GANConfig": "gan.train",
    "ImageSet": "data",
    "InformationConfig": "information",
    "InterpretGAN": "interpreter",
    "InterpretGANError": "errors",
    "Judge": "judge",
    "ThreatModel": "attacks",
    "attack": "attacks",
    "capture": "layers",
    "diagnose": "diagnosis.diagnose",
    "evaluate": "robustness",
    "find_layers": "layers",
    "load_classifier": "models",
    "load_data": "data",
    "replay": "layers",
    "run_diagnosis": "pipeline.run_diagnosis",
    "train_judge": "judge",
    "write_report": "report",
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'interpretgan' has no attribute '{name}'")
    value = getattr(import_module(f"interpretgan.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
