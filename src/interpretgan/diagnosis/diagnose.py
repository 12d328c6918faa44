"""`diagnose`: split a classifier's loss of accuracy under attack among its layers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, largest_eps, require_eps_within_range
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_source, describe
from interpretgan.diagnosis.branch_split import branch_figures
from interpretgan.diagnosis.controls import agreement, perturbing_controls, positive_control, zero_eps_control
from interpretgan.diagnosis.let_in import LetIn
from interpretgan.diagnosis.predictions import (
    Perturb,
    Predictions,
    attacker,
    check_adversarial,
    collect,
    given_adversarial,
)
from interpretgan.diagnosis.realism import Realism
from interpretgan.diagnosis.reliability import diagnosis_flags, layer_flags
from interpretgan.diagnosis.result import Diagnosis, LayerResult
from interpretgan.diagnosis.vulnerability import layer_figures
from interpretgan.errors import ConfigError
from interpretgan.information.measure import Measurement
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge, require_same_pixels
from interpretgan.layers import Layer
from interpretgan.layers.branches import Block
from interpretgan.robustness import Sample, attack_checks
from interpretgan.statistics import bootstrap_weights, claim
from interpretgan.store.progress import OnProgress, reporting
from interpretgan.store.provenance import provenance
from interpretgan.torch_state import as_seed, plain_torch

CHECKED = 250  #: Images on which the control without a perturbation and the checks of the model run.
SEARCHED = 128  #: Of these, on how many the attack runs again with other settings.
REPLAYED = 4  #: Images whose latents are replayed from every layer, before anything is predicted.


@plain_torch()
def diagnose(
    interpreter: InterpretGAN | Sequence[InterpretGAN],
    judge: Judge,
    images: ImageData,
    labels: Tensor | None = None,
    *,
    threat_model: ThreatModel,
    examples: int | None = None,
    seed: int = 0,
    bootstrap: int = 2000,
    confidence: float = 0.95,
    adversarial: Tensor | Perturb | None = None,
    classifier_info: Mapping[str, Any] | None = None,
    information: Measurement | None = None,
    let_in: LetIn | None = None,
    realism: Realism | None = None,
    blocks: Sequence[Block] = (),
    on_progress: OnProgress | bool = True,
    on_predictions: Callable[[list[Predictions]], None] | None = None,
) -> Diagnosis:
    """Split a classifier's loss of accuracy under attack among its layers.

    Args:
        interpreter: A trained InterpretGAN, or several of the same layers trained with different seeds: then
            figures are means over them, each with its spread, and of five or more the intervals cover the seeds.
        judge: Predicts the class that an image shows; independent of the classifier and harder to fool.
        images: Held-out natural images with their true classes, of any kind that `as_source` takes.
        labels: True classes `[N]`, with a tensor of images.
        threat_model: The attack.
        examples: How many images, from the first. `None`: all.
        seed: Of the attack, the noises and the bootstrap.
        bootstrap: Replicates.
        confidence: Of the intervals.
        adversarial: Adversarial images that were made elsewhere, `[N, C, H, W]` in the order of the images, or a
            function `perturb(images, labels, first_index)` that makes them a batch at a time; they are held to the
            threat model. `None`: the images are attacked here.
        classifier_info: Kept in the record, beside the model's class and size.
        information: What `Decoders` measured at the same layers, on the same examples. `None`: nothing.
        let_in: What `let_in` found at the same layers: where the perturbation is let in. `None`: nothing.
        realism: What `measure_realism` found at the same layers. `None`: nothing.
        blocks: Layers that follow from several branches, as `find_branches` finds them among the distinct layers of the
            interpreter; the vulnerability of each is split among its branches.
        on_progress: Told how many examples are done; see `interpretgan.store.progress.OnProgress`.
        on_predictions: Called with the predictions of each interpreter.

    Raises:
        ImageError, LabelError: Images, adversarial images or labels that do not fit.
        ConfigError: No examples, a judge of other bounds, or interpreters, information, `let_in`, realism or blocks of
            different layers.
        ThreatModelError: No threat model, or adversarial images that do not keep to it.
        ModelError, LayerError: A model that stays in train mode, or whose logits do not follow from a layer.
    """
    attack_checks.require_threat_model(threat_model)
    interpreters = [interpreter] if isinstance(interpreter, InterpretGAN) else list(interpreter)
    classifier, layers = _shared(interpreters)
    require_same_pixels(judge, classifier)
    source, seed = as_source(images, labels, classifier.bounds, labelled=True), as_seed(seed)
    count = len(source) if examples is None else min(examples, len(source))
    if count < 1 or bootstrap < 0 or not 0 < confidence < 1:
        got = f"{count} examples, bootstrap={bootstrap}, confidence={confidence}"
        expected = "at least one example, bootstrap >= 0 and 0 < confidence < 1"
        raise ConfigError(expected=expected, got=got, do="check the settings")
    names = tuple(layer.name for layer in layers)
    if information is not None and (information.layers != names or len(information.variance) != count):
        expected = f"information measured at {', '.join(names)} on {count} images"
        got = f"{', '.join(information.layers)} on {len(information.variance)}"
        do = "measure it at the layers of the interpreter, on the examples that are diagnosed"
        raise ConfigError(expected=expected, got=got, do=do)

    if let_in is not None and let_in.layers != (wanted := tuple(x.name for x in interpreters[0].distinct_layers)):
        expected, got = f"what was found at {', '.join(wanted)}", ", ".join(let_in.layers)
        raise ConfigError(expected=expected, got=got, do="call let_in with the distinct layers of the interpreter")
    if realism is not None and len(realism.layers) != len(layers):
        expected, got = f"realism of {len(layers)} layers", f"of {len(realism.layers)}"
        raise ConfigError(expected=expected, got=got, do="measure it with the interpreter that is diagnosed")
    if strangers := [block.layer.name for block in blocks if block.layer not in interpreters[0].distinct_layers]:
        expected, got = f"blocks among {', '.join(names)}", ", ".join(strangers)
        raise ConfigError(expected=expected, got=got, do="call find_branches with the interpreter's distinct_layers")

    # Can this model be diagnosed under this attack, and what warns of either?
    checked, checked_labels = source.batch(torch.arange(min(count, CHECKED)))
    checked = classifier.check_images(checked)
    require_eps_within_range(threat_model, classifier.bounds, checked.shape[1:])
    checked_labels = classifier.check_labels(checked_labels, checked)
    attack_checks.require_eval_mode(classifier)
    attack_checks.require_replay(classifier, layers, checked[:REPLAYED])
    _ = [each.network for each in interpreters]  # a ConfigError where one is not fitted
    warnings = attack_checks.model_flags(classifier, checked, checked_labels)
    if adversarial is None:
        sample = Sample(classifier, checked[:SEARCHED], checked_labels[:SEARCHED], seed=seed)
        largest = largest_eps(threat_model.norm, classifier.bounds, checked.shape[1:])
        warnings += attack_checks.search_flags(sample.accuracy, sample.examples, threat_model, largest)
        perturb = attacker(classifier, threat_model, seed=seed)
    else:
        if not callable(adversarial):
            check_adversarial(adversarial, source, count, classifier, threat_model)
        perturb = given_adversarial(adversarial, classifier, threat_model)

    # What the judge predicts for every image and its explanation at every layer.
    perturbing = perturbing_controls(classifier, seed=seed)
    if count == 1:
        del perturbing["foreign"]  # of one image there is no other
    with reporting(on_progress) as report:
        predictions = collect(
            interpreters, judge, source, count,
            adversarial=perturb, controls=perturbing, blocks=blocks, repeated=CHECKED, seed=seed, on_progress=report,
        )  # fmt: skip
    if on_predictions is not None:
        on_predictions(predictions)

    # The figures of each layer, with their intervals.
    pooled = Predictions.pooled(predictions)
    accuracy = {name: float((shown == pooled.labels).mean()) for name, shown in pooled.model.items()}
    weights = bootstrap_weights(count, bootstrap, seed=seed)
    figures = layer_figures(predictions, weights, confidence)
    places = [("image", "Image", tuple(checked.shape[1:])), *((x.name, x.kind, tuple(x.shape)) for x in layers)]
    positive = positive_control(predictions)
    shares = [None, *(float(share) if np.isfinite(share) else None for share in positive)]
    rows = [
        LayerResult(*place, **row, positive=share) for place, row, share in zip(places, figures, shares, strict=True)
    ]
    rows = [dataclasses.replace(row, flags=flags) for row, flags in zip(rows, layer_flags(rows, accuracy), strict=True)]
    if information is not None:
        measured = information.rows(weights, confidence)
        rows = [
            dataclasses.replace(row, **(vars(more) | {"flags": row.flags + more.flags}))
            for row, more in zip(rows, measured, strict=True)
        ]
    if let_in is not None:
        scores = (None, *(let_in.scores[place] for place in interpreters[0].rows))
        rows = [dataclasses.replace(row, let_in=score) for row, score in zip(rows, scores, strict=True)]

    if realism is not None:
        distances = (realism.natural, *realism.layers)
        rows = [dataclasses.replace(row, realism=each) for row, each in zip(rows, distances, strict=True)]

    for block in blocks:
        place = 1 + interpreters[0].rows.index(interpreters[0].distinct_layers.index(block.layer))
        branches = branch_figures(predictions, block, place, weights, confidence)
        rows[place] = dataclasses.replace(rows[place], branches=branches)

    # The controls, and what they and the figures warn of.
    attacks = [threat_model.attack] if adversarial is None else ["given images"]
    classes = describe(images).get("classes", ())
    warnings = attack_checks.class_flags(pooled.model["natural"], pooled.labels, classes, confidence) + warnings
    shown = {name: accuracy[name] for name in ("natural", "adversarial", "noise")}
    warnings += attack_checks.figure_flags(**shown, attacks=attacks, examples=count)
    accuracy |= {"judge_natural": rows[0].natural, "judge_adversarial": rows[0].adversarial}
    controls = {
        "eps0_max_abs_vulnerability": zero_eps_control(predictions[0]),
        **{
            f"{name}_max_abs_vulnerability": max(abs(getattr(row, f"vulnerability_{name}").value) for row in rows)
            for name in perturbing
        },
        **({"positive_least": float(positive.min())} if np.isfinite(positive).all() else {}),
        **agreement(predictions),
    }
    parameters = sum(p.numel() for p in classifier.model.parameters())
    found = Diagnosis(
        classifier={"name": classifier.name, "parameters": parameters, **(classifier_info or {})},
        data={"examples": count, **describe(images)},
        threat_model=threat_model.to_dict(), accuracy=accuracy, layers=tuple(rows), controls=controls, let_in=let_in,
        realism=realism,
        judge={"name": judge.name, "natural": judge.natural, "adversarial": judge.adversarial},
        provenance={
            **provenance(seed, device=str(classifier.device)),
            "generator_seeds": [trained.seed for trained in interpreters],
            "generator": dataclasses.asdict(interpreters[0].resolved_config),
            "recognition_network_sha256": interpreters[0].recognition_network_sha256,
            "bootstrap": bootstrap, "confidence": confidence, "intervals_cover": claim(len(interpreters)),
            **({} if adversarial is None else {"adversarial": "made elsewhere"}),
            **({} if information is None else {"information": dict(information.settings)}),
        },
    )  # fmt: skip
    return dataclasses.replace(found, flags=(*warnings, *diagnosis_flags(found)))


def _shared(interpreters: Sequence[InterpretGAN]) -> tuple[Classifier, tuple[Layer, ...]]:
    """The classifier and the layers that all interpreters have in common."""
    names = {tuple(layer.name for layer in interpreter.layers) for interpreter in interpreters}
    if len(names) != 1 or len({id(interpreter.classifier) for interpreter in interpreters}) != 1:
        expected = "one InterpretGAN, or several of the same classifier and layers"
        got = f"{len(interpreters)} with {len(names)} different lists of layers"
        do = "fit them on the same classifier and layers, with different seeds"
        raise ConfigError(expected=expected, got=got, do=do)
    return interpreters[0].classifier, interpreters[0].layers
