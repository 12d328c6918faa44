"""Which layer of an image classifier lets adversarial perturbations through, and what do they change there?

The public names are loaded on first use, so that importing the package, and `interpretgan --help`, stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interpretgan.attacks import ThreatModel as ThreatModel, attack as attack
    from interpretgan.classifier import Classifier as Classifier
    from interpretgan.data import ImageSet as ImageSet, load_data as load_data
    from interpretgan.diagnosis.diagnose import diagnose as diagnose
    from interpretgan.diagnosis.let_in import LetIn as LetIn, let_in as let_in
    from interpretgan.diagnosis.result import Diagnosis as Diagnosis
    from interpretgan.errors import Flag as Flag, InterpretGANError as InterpretGANError
    from interpretgan.features.modified import (
        ModifiedFeatures as ModifiedFeatures,
        modified_features as modified_features,
    )
    from interpretgan.gan.train import GANConfig as GANConfig
    from interpretgan.information import Decoders as Decoders, InformationConfig as InformationConfig
    from interpretgan.interpreter import Explanation as Explanation, InterpretGAN as InterpretGAN
    from interpretgan.judge import Judge as Judge, train_judge as train_judge
    from interpretgan.layers import Layer as Layer, capture as capture, find_layers as find_layers, replay as replay
    from interpretgan.models import load_classifier as load_classifier
    from interpretgan.pipeline.run_diagnosis import run_diagnosis as run_diagnosis
    from interpretgan.report import write_report as write_report
    from interpretgan.robustness import Evaluation as Evaluation, evaluate as evaluate

_NAMES = {
    "attacks": "ThreatModel attack",
    "classifier": "Classifier",
    "data": "ImageSet load_data",
    "diagnosis.diagnose": "diagnose",
    "diagnosis.let_in": "LetIn let_in",
    "diagnosis.result": "Diagnosis",
    "errors": "Flag InterpretGANError",
    "features.modified": "ModifiedFeatures modified_features",
    "gan.train": "GANConfig",
    "information": "Decoders InformationConfig",
    "interpreter": "Explanation InterpretGAN",
    "judge": "Judge train_judge",
    "layers": "Layer capture find_layers replay",
    "models": "load_classifier",
    "pipeline.run_diagnosis": "run_diagnosis",
    "report": "write_report",
    "robustness": "Evaluation evaluate",
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = list(_MODULES)


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'interpretgan' has no attribute '{name}'")
    value = getattr(import_module(f"interpretgan.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
