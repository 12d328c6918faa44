"""One network of a benchmark: planted, verified, diagnosed and scored, as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, attack
from interpretgan.baselines.layer_scores import ScoreInputs
from interpretgan.classifier import Classifier
from interpretgan.diagnosis.diagnose import diagnose
from interpretgan.diagnosis.let_in import EXAMPLES, let_in, mending_images
from interpretgan.diagnosis.reliability import is_unreliable
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import InterpretGANError, TrainingError
from interpretgan.gan.train import GANConfig
from interpretgan.information import Decoders, InformationConfig
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge
from interpretgan.layers import Anatomy, Layer, examine
from interpretgan.models import build_model, load_classifier
from interpretgan.pipeline.networks import Say
from interpretgan.planted.columns import OURS, Column, let_in_column, our_columns, rival_columns
from interpretgan.planted.kinds import Planted
from interpretgan.planted.plants import NETWORKS, Plan, Setting, make, setting
from interpretgan.planted.settings import BenchmarkSettings
from interpretgan.planted.verify import Interventions
from interpretgan.report.wording import answer
from interpretgan.statistics import Floats
from interpretgan.store.progress import stage_seconds
from interpretgan.store.provenance import provenance

UNMADE = "unmade"  #: The plant could not be made,
UNVERIFIED = "unverified"  #: was not proved,
COLLAPSED = "collapsed"  #: was proved, but the generator's training failed,
REFUSED = "refused"  #: or the diagnosis was refused,
DIAGNOSED = "diagnosed"  #: or it is there.


@dataclass(eq=False)
class Shared:
    """What all plants of a network share; each part is made when it is first asked for."""

    network: str  #: A key of `NETWORKS`.
    settings: BenchmarkSettings
    folder: Path  #: Of trained networks.
    judge_file: Path  #: The judge's weights.
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  #: Where all of it is, and runs.

    @cached_property
    def setting(self) -> Setting:
        """Robust network, images, threat model."""
        return setting(self.network, self.folder, device=self.device)

    @cached_property
    def interventions(self) -> Interventions:
        """Proves plants; the robust network is measured once."""
        given, settings = self.setting, self.settings
        return Interventions(
            given.classifier, given.test, given.threat_model, examples=settings.verified_on, restarts=settings.restarts
        )

    @cached_property
    def judge(self) -> Judge:
        """The judge of the data set."""
        train, bounds = self.setting.train, self.setting.classifier.bounds
        return load_judge(self.judge_file, train.shape, len(train.classes), bounds, self.device)

    @cached_property
    def recognition_network(self) -> Classifier | None:
        """What recognises explanations, where it is not the planted network."""
        name = NETWORKS[self.network].recognition_network
        return None if name is None else load_classifier(name, device=self.device)


def load_judge(
    file: Path, shape: tuple[int, int, int], classes: int, bounds: tuple[float, float], device: torch.device
) -> Judge:
    """A judge from its weights, and the JSON file beside them."""
    with torch.random.fork_rng(devices=()):
        model = build_model("judge", in_channels=shape[0], num_classes=classes, image_size=shape[1:])
    judge = Judge.load(file, Classifier(model.eval(), bounds))
    judge.classifier.to(device)
    return judge


def record_of(plan: Plan, shared: Shared, say: Say) -> dict[str, Any]:
    """Make a plant, verify it, diagnose it and measure the rivals.

    Whatever cannot be done is said in a line, and stands in the record.

    Returns:
        `status` (one of the above) and `reason`; `truth` by question; `verification`; `layers`, `image`; `columns` by
        name; `controls`, `named` (the layers that the diagnosis's sentence names), `seconds` of each step.
    """
    seconds: dict[str, float] = {}
    record: dict[str, Any] = {**identity_of(plan), "seconds": seconds}

    def ended(status: str, reason: str = "", **more: Any) -> dict[str, Any]:
        if reason:
            say(f"{plan.key}: {status}: {reason}")
        known = provenance(plan.seed, device=str(shared.device))
        return {**record, **more, "status": status, "reason": reason, "provenance": known}

    given = shared.setting
    with stage_seconds(seconds, "make"):
        planted = make(plan, given)
    if not isinstance(planted, Planted):
        return ended(UNMADE, str(planted))
    with stage_seconds(seconds, "verify_original"):  # once for all plants of a network
        _ = shared.interventions.natural, shared.interventions.robust
    with stage_seconds(seconds, "verify"):
        found = shared.interventions.verify(planted)
    record |= {"details": planted.details, "verification": asdict(found)}
    if not found.verified:
        return ended(UNVERIFIED, found.reason)
    anatomy = examine(planted.classifier, given.test)
    record |= {"truth": _truth(planted, anatomy), "layers": [layer.name for layer in anatomy.distinct]}
    trial = _Trial(plan, planted.classifier, tuple(anatomy.distinct), shared, seconds, say)
    columns, more, outcome = trial.ours()
    if shared.settings.rivals:
        columns |= trial.rivals()
    return ended(*outcome, **more, columns={name: asdict(column) for name, column in columns.items()})


def identity_of(plan: Plan) -> dict[str, Any]:
    """Which plant a record is of."""
    known = {"key": plan.key, "network": plan.network, "data": NETWORKS[plan.network].data, "kind": plan.kind}
    return {**known, "planted": list(plan.layers), "seed": plan.seed}


def _truth(planted: Planted, anatomy: Anatomy) -> dict[str, list[str] | None]:
    """The layers that are to blame, by question, each by the name that stands for its tensor."""
    same = {layer.name: layer.same_as or layer.name for layer in anatomy.layers}
    places = {"turns": planted.turns_at, "let in": planted.let_in_at}
    return {name: None if at is None else [same.get(layer, layer) for layer in at] for name, at in places.items()}


@dataclass(eq=False)
class _Trial:
    """A verified network, and what is measured on it."""

    plan: Plan
    classifier: Classifier
    layers: tuple[Layer, ...]
    shared: Shared
    seconds: dict[str, float]
    say: Say

    @cached_property
    def attacked(self) -> tuple[Tensor, Tensor, Tensor]:
        """Images, classes and adversarial images, the same for all scores."""
        test = self.shared.setting.test.scaled(self.classifier.bounds).head(self.shared.settings.examples)
        images, labels = (given.to(self.classifier.device) for given in test.batch(slice(0, len(test))))
        with stage_seconds(self.seconds, "attack"):
            return images, labels, attack(self.classifier, images, labels, self.threat_model, seed=self.plan.seed)

    @property
    def threat_model(self) -> ThreatModel:
        """What the network is fragile to."""
        return self.shared.setting.threat_model

    def ours(self) -> tuple[dict[str, Column], Mapping[str, Any], tuple[str, str]]:
        """Our columns, what else the record says of the diagnosis, and what became of it."""
        settings, seed, seconds = self.shared.settings, self.plan.seed, self.seconds
        config = GANConfig(steps=settings.generator_steps, image_noise=settings.image_noise)
        images, labels, adversarial = self.attacked
        judge, count = self.shared.judge, min(EXAMPLES, len(images))
        natural = mending_images(self.shared.setting.train, self.classifier.bounds, seed=seed)
        with stage_seconds(seconds, "let in"):
            mended = let_in(
                self.classifier, self.layers, images[:count], labels[:count], adversarial[:count],
                natural=natural, threat_model=self.threat_model, seed=seed, on_progress=False,
            )  # fmt: skip
        alone = {OURS["let in"]: let_in_column(mended)}  # no generator takes part
        told = {"mended_together": None if mended.pair is None else asdict(mended.pair)}
        try:
            with stage_seconds(seconds, "fit"):
                interpreter = InterpretGAN(self.classifier, self.layers, config=config, seed=seed)
                interpreter.fit(
                    self.shared.setting.train, recognition_network=self.shared.recognition_network, on_progress=False
                )
            with stage_seconds(seconds, "diagnose"):
                diagnosis = diagnose(
                    interpreter, judge, images, labels, threat_model=self.threat_model, seed=seed,
                    adversarial=adversarial, let_in=mended, on_progress=False,
                )  # fmt: skip
        except TrainingError as error:
            return alone, told, (COLLAPSED, str(error))
        except InterpretGANError as error:
            return alone, told, (REFUSED, str(error))
        return our_columns(diagnosis), {**told, **_told(diagnosis)}, (DIAGNOSED, "")

    def rivals(self) -> dict[str, Column]:
        """The scores of all rivals; one that cannot run says so in a line."""
        images, labels, adversarial = self.attacked
        inputs = ScoreInputs(
            self.classifier, self.layers, images, labels, adversarial, self.shared.setting.train, self.threat_model,
            self.plan.seed, self._information_loss(images, labels),
        )  # fmt: skip
        with stage_seconds(self.seconds, "rivals"):
            found = rival_columns(inputs)
        for name, column in found.items():
            if column.error is not None:
                self.say(f"{self.plan.key}: {name} could not run: {column.error}")
        if "information" in self.seconds:
            found["information_loss"] = replace(found["information_loss"], seconds=self.seconds["information"])
        return found

    def _information_loss(self, images: Tensor, labels: Tensor) -> Floats | None:
        """Of each layer, by the decoders."""
        if not (steps := self.shared.settings.information_steps):
            return None
        with stage_seconds(self.seconds, "information"):
            decoders = Decoders(
                self.classifier, self.layers, config=InformationConfig(steps=steps), seed=self.plan.seed
            )
            measured = decoders.fit(self.shared.setting.train, on_progress=False).measure(
                images, labels, on_progress=False
            )
        unexplained: Floats = measured.errors.sum(axis=1) / measured.variance.sum()
        return np.diff(unexplained)


def _told(diagnosis: Diagnosis) -> Mapping[str, Any]:
    said = answer(diagnosis)
    return {
        "image": diagnosis.layers[0].natural,
        "natural": [layer.natural for layer in diagnosis.layers[1:]],
        "survival": [layer.survival for layer in diagnosis.layers[1:]],
        "unreliable": [is_unreliable(layer) for layer in diagnosis.layers[1:]],
        "named": list(said.layers), "sentence": said.sentence,
        "accuracy": dict(diagnosis.accuracy), "controls": dict(diagnosis.controls), "judge": dict(diagnosis.judge),
        "flags": [asdict(flag) for flag in diagnosis.flags],
        "image_noise": diagnosis.provenance["generator"]["image_noise"],
        "lets_in": None if diagnosis.let_in is None else diagnosis.let_in.answer,
        "let_in_named": [] if diagnosis.let_in is None else list(diagnosis.let_in.named),
    }  # fmt: skip
