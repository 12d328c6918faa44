"""Which layer of an image classifier lets adversarial perturbations through, and what do they change there?

The public names are loaded on first use, so that importing the package, and `interpretgan --help`, stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interpretgan.attacks import ThreatModel, attack
    from interpretgan.classifier import Classifier
    from interpretgan.cuts import Cut, capture, find_cuts, replay
    from interpretgan.data import ImageSet, load_data
    from interpretgan.diagnosing import diagnose
    from interpretgan.diagnosis import Diagnosis
    from interpretgan.errors import InterpretGANError
    from interpretgan.evaluation import Evaluation, evaluate
    from interpretgan.explanation import Explanation, InterpretGAN
    from interpretgan.gan.trainer import GANConfig
    from interpretgan.information import InformationConfig, InformationMeter
    from interpretgan.judge import Judge, train_judge
    from interpretgan.pretrained import load_classifier
    from interpretgan.report import write_report

_PUBLIC = {
    "Classifier": "classifier",
    "Cut": "cuts",
    "Diagnosis": "diagnosis",
    "Evaluation": "evaluation",
    "Explanation": "explanation",
    "GANConfig": "gan.trainer",
    "ImageSet": "data",
    "InformationConfig": "information",
    "InformationMeter": "information",
    "InterpretGAN": "explanation",
    "InterpretGANError": "errors",
    "Judge": "judge",
    "ThreatModel": "attacks",
    "attack": "attacks",
    "capture": "cuts",
    "diagnose": "diagnosing",
    "evaluate": "evaluation",
    "find_cuts": "cuts",
    "load_classifier": "pretrained",
    "load_data": "data",
    "replay": "cuts",
    "train_judge": "judge",
    "write_report": "report",
}

__all__ = [
    "Classifier",
    "Cut",
    "Diagnosis",
    "Evaluation",
    "Explanation",
    "GANConfig",
    "ImageSet",
    "InformationConfig",
    "InformationMeter",
    "InterpretGAN",
    "InterpretGANError",
    "Judge",
    "ThreatModel",
    "attack",
    "capture",
    "diagnose",
    "evaluate",
    "find_cuts",
    "load_classifier",
    "load_data",
    "replay",
    "train_judge",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'interpretgan' has no attribute '{name}'")
    value = getattr(import_module(f"interpretgan.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
