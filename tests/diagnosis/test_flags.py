"""The flags travel: from the checks into `diagnosis.json`, the terminal and the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel
from interpretgan.classifier import Classifier
from interpretgan.diagnosis.diagnose import diagnose
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import LayerError, ModelError, ThreatModelError
from interpretgan.gan.train import GANConfig
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge
from interpretgan.layers import examine
from interpretgan.report import summary_table, write_report
from tests.networks import Tiny
from tests.robustness.test_attack_checks import AlwaysTraining, saturated

Examples = tuple[Tensor, Tensor]
CONFIG = GANConfig(steps=2, images_per_layer=4, width=16, blocks=1, noise=4, precision="fp32")
WEAK = ThreatModel("linf", 0.05, steps=10)


def fitted(classifier: Classifier, digits: Examples) -> InterpretGAN:
    return InterpretGAN(classifier, examine(classifier, digits[0]).distinct[:2], config=CONFIG).fit(digits[0])


def diagnosis_of(classifier: Classifier, judge: Classifier, digits: Examples) -> Diagnosis:
    reader = Judge(judge, 0.97, 0.5, "tiny")
    return diagnose(fitted(classifier, digits), reader, *digits, threat_model=WEAK, bootstrap=20)


def test_flags_are_in_the_record_and_in_the_report(
    net: Tiny, sound: Classifier, digits: Examples, tmp_path: Path
) -> None:
    masked, honest = diagnosis_of(saturated(net), sound, digits), diagnosis_of(sound, sound, digits)
    signs = ("no usable gradient", "no better than one step", "made grey")
    for sign in signs:
        assert any(sign in flag for flag in masked.flags)
        assert not any(sign in flag for flag in honest.flags)
    assert "only 80 examples: fewer than 1,000" in honest.flags
    masked.save(tmp_path)
    record = json.loads((tmp_path / "diagnosis.json").read_text())
    assert record["flags"] == list(masked.flags)
    page, table = write_report(record, None, tmp_path).read_text(), summary_table(record)
    for sign in signs:
        assert sign in page
        assert sign in table


def test_a_diagnosis_refuses_what_cannot_be_trusted(net: Tiny, sound: Classifier, digits: Examples) -> None:
    interpreter, judge = fitted(sound, digits), Judge(sound, 0.97, 0.5, "tiny")
    with pytest.raises(ThreatModelError, match="a stated threat model"):
        diagnose(interpreter, judge, *digits, threat_model=None)  # type: ignore[arg-type]  # on purpose
    first, second = interpreter.layers
    interpreter.layers = (first, dataclasses.replace(second, call=2))
    with pytest.raises(LayerError, match="call 2 of the layer"):
        diagnose(interpreter, judge, *digits, threat_model=WEAK)
    training: nn.Module = AlwaysTraining(net)
    torch.manual_seed(0)
    stuck = Classifier(training)
    interpreter = InterpretGAN(stuck, (first,), config=CONFIG)
    with pytest.raises(ModelError, match="in train mode"):
        diagnose(interpreter, judge, *digits, threat_model=WEAK)
