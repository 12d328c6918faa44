"""Diagnosing: how much of a model's loss of accuracy each layer contributes, with intervals and controls."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, check_perturbation, largest_eps
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource, as_source, describe
from interpretgan.diagnosis import vulnerability as vul
from interpretgan.diagnosis.predictions import Perturb, Predictions, attacker, collect, noise_control
from interpretgan.diagnosis.result import NOISE_CONTROL, Diagnosis, LayerResult, control_flags
from interpretgan.errors import ConfigError
from interpretgan.information.measure import Measurement
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge, require_same_pixels
from interpretgan.layers import Layer
from interpretgan.robustness import Sample
from interpretgan.robustness import attack_checks as trust
from interpretgan.statistics import Floats, Weights, bootstrap_weights, intervals
from interpretgan.store.provenance import provenance

READABLE = 0.05
"""A layer is unreliable when the judge reads its natural explanations this much worse than natural images."""
QUIET = 0.03
"""Equal-norm noise may move a layer's vulnerability by this much."""
FOOLED = 0.8
"""A judge that keeps less of its own accuracy on the attacked images is flagged."""
CONTROL_IMAGES = 250
"""Images on which the control with eps = 0 and the checks of the model run."""
SEARCHED = 128
"""Of these, on how many the attack runs again with other settings."""
REPLAYED = 4
"""Images whose latents are replayed from every layer, before anything is read."""


def diagnose(
    interpreter: InterpretGAN | Sequence[InterpretGAN],
    judge: Judge,
    images: Tensor | ImageSource,
    labels: Tensor | None = None,
    *,
    threat_model: ThreatModel,
    examples: int | None = None,
    seed: int = 0,
    bootstrap: int = 2000,
    confidence: float = 0.95,
    adversarial: Perturb | None = None,
    classifier_info: Mapping[str, Any] | None = None,
    data_info: Mapping[str, Any] | None = None,
    information: Measurement | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_predictions: Callable[[list[Predictions]], None] | None = None,
) -> Diagnosis:
    """Split a classifier's loss of accuracy under attack among its layers.

    Args:
        interpreter: A trained InterpretGAN, or several of the same layers trained with different seeds: then
            predictions are pooled and the intervals cover the seeds.
        judge: Reads the class that an image shows; independent of the classifier and harder to fool.
        images: Held-out natural images, `[N, C, H, W]` within the bounds or a source.
        labels: True classes `[N]`, with a tensor of images.
        threat_model: The attack.
        examples: How many images, from the first. `None`: all.
        seed: Of the attack, the noises and the bootstrap.
        bootstrap: Replicates.
        confidence: Of the intervals.
        adversarial: Makes the adversarial images, where they come from elsewhere; they are held to the threat model.
            `None`: attacks them here.
        classifier_info: Kept in the record, beside the model's class and size.
        data_info: Likewise, beside the number of examples.
        information: What `Decoders.measure` found at the same layers on the same examples, to stand beside the
            vulnerabilities. `None`: information is not measured.
        on_batch: Told how many examples are done.
        on_predictions: Given the predictions of each interpreter, to keep them.

    Returns:
        The diagnosis; its vulnerabilities add up to the loss.

    Raises:
        LabelError: Labels that do not fit.
        ConfigError: Nothing to read, a judge of other bounds, or interpreters or information of different layers.
        ThreatModelError: No threat model.
        ModelError: A model that stays in train mode.
        LayerError: Replaying the network from a layer does not reproduce its logits.
    """
    trust.require_threat_model(threat_model)
    interpreters = [interpreter] if isinstance(interpreter, InterpretGAN) else list(interpreter)
    classifier, layers = _same_layers(interpreters)
    require_same_pixels(judge, classifier)
    source = as_source(images, labels, classifier.bounds, labelled=True)
    count = len(source) if examples is None else min(examples, len(source))
    if count < 1 or bootstrap < 0 or not 0 < confidence < 1:
        raise ConfigError(
            expected="at least one example, bootstrap >= 0 and 0 < confidence < 1",
            got=f"{count} examples, bootstrap={bootstrap}, confidence={confidence}",
            do="check the settings",
        )
    if information is not None:
        _require_same(information, layers, count)
    probe, probe_labels = source.batch(torch.arange(min(count, CONTROL_IMAGES)))
    probe = classifier.check_images(probe)
    probe_labels = classifier.check_labels(probe_labels, probe)
    trust.require_eval_mode(classifier)
    trust.require_replay(classifier, layers, probe[:REPLAYED])
    doubts = [flag.message for flag in trust.model_flags(classifier, probe, probe_labels)]
    if adversarial is None:
        sample = Sample(classifier, probe[:SEARCHED], probe_labels[:SEARCHED], seed=seed)
        largest = largest_eps(threat_model.norm, classifier.bounds, probe.shape[1:])
        searched = trust.search_flags(sample.accuracy, sample.examples, threat_model, largest)
        doubts += [flag.message for flag in searched]
        adversarial = attacker(classifier, threat_model, seed=seed)
    else:
        adversarial = _checked(adversarial, classifier, threat_model)
    noise = noise_control(classifier, threat_model, seed=seed)
    predictions = collect(
        interpreters, judge, source, count, adversarial=adversarial, noise=noise, seed=seed, on_batch=on_batch
    )
    if on_predictions is not None:
        on_predictions(predictions)
    pooled = _pool(predictions)
    weights = bootstrap_weights(len(interpreters), count, bootstrap, seed=seed)
    rows = _rows(pooled, weights, confidence, len(interpreters))
    held: list[dict[str, Any]] = [{"flags": ()} for _ in rows]
    if information is not None:
        weights = bootstrap_weights(1, count, bootstrap, seed=seed)
        held = [dict(vars(layer)) for layer in information.rows(weights, confidence)]

    # The same code with x' = x must blame no layer at all.
    (still,) = collect(
        interpreters[:1], judge, source, len(probe), adversarial=lambda x, *_: x, noise=lambda x, *_: x, seed=seed
    )
    eps0 = _profile(still, np.ones((1, len(probe)), dtype=np.float32))

    classes = int(max(pooled.labels.max(), pooled.model.max(), pooled.adversarial.max())) + 1
    kinds = [("image", "Image", tuple(probe.shape[1:])), *((c.name, c.kind, c.shape) for c in layers)]
    results = tuple(
        LayerResult(
            name=name, kind=kind, shape=tuple(shape), **row,
            transitions=tuple(
                tuple(int(v) for v in counts)
                for counts in vul.transitions(pooled.labels, pooled.adversarial[index], classes)
            ),
            **known | {"flags": (*_row_flags(rows, index), *known["flags"])},
        )
        for index, ((name, kind, shape), row, known) in enumerate(zip(kinds, rows, held, strict=True))
    )  # fmt: skip
    model = [float(share) for share in (pooled.model == pooled.labels).mean(axis=1)]
    accuracy = {
        "natural": model[0],
        "adversarial": model[1],
        "noise": model[2],
        "judge_natural": rows[0]["natural"],
        "judge_adversarial": rows[0]["adversarial"],
    }
    controls = {
        "eps0_max_abs_vulnerability": float(np.abs(eps0).max()),
        "noise_max_abs_vulnerability": max(abs(layer.vulnerability_noise.value) for layer in results),
        **_agreement(predictions),
    }
    figures = trust.figure_flags(
        natural=model[0], adversarial=model[1], noise=model[2], attacks=[threat_model.attack], examples=count
    )
    doubts += [flag.message for flag in figures]
    reader = {"name": judge.name, "natural": judge.natural, "adversarial": judge.adversarial}
    doubts += _flags(rows, accuracy, controls)
    doubts += control_flags([{"name": layer.name, "flags": layer.flags} for layer in results], controls, reader)
    return Diagnosis(
        classifier={
            "name": classifier.name,
            "parameters": sum(p.numel() for p in classifier.model.parameters()),
            **(classifier_info or {}),
        },
        data={"examples": count, **describe(images), **(data_info or {})},
        threat_model=threat_model.to_dict(),
        accuracy=accuracy,
        layers=results,
        controls=controls,
        judge=reader,
        flags=tuple(doubts),
        provenance={
            **provenance(seed, device=str(classifier.device)),
            "generator_seeds": [one.seed for one in interpreters],
            "generator": dataclasses.asdict(interpreters[0].resolved_config),
            "recognition_network_sha256": interpreters[0].recognition_network_sha256,
            "bootstrap": bootstrap,
            "confidence": confidence,
            **({} if information is None else {"information": dict(information.settings)}),
        },
    )


def _checked(perturb: Perturb, classifier: Classifier, threat_model: ThreatModel) -> Perturb:
    """Perturbed images that come from elsewhere, held to the threat model that the record will name."""

    def checked(images: Tensor, labels: Tensor, first: int) -> Tensor:
        perturbed = classifier.check_images(perturb(images, labels, first))
        check_perturbation(images, perturbed, threat_model, classifier.bounds)
        return perturbed

    return checked


def _same_layers(interpreters: Sequence[InterpretGAN]) -> tuple[Classifier, tuple[Layer, ...]]:
    names = {tuple(layer.name for layer in one.layers) for one in interpreters}
    if len(names) != 1 or len({id(one.classifier) for one in interpreters}) != 1:
        raise ConfigError(
            expected="one InterpretGAN, or several of the same classifier and layers",
            got=f"{len(interpreters)} with {len(names)} different lists of layers",
            do="fit them on the same classifier and layers, with different seeds",
        )
    return interpreters[0].classifier, interpreters[0].layers


def _require_same(information: Measurement, layers: Sequence[Layer], count: int) -> None:
    """Refuse information that was measured at other layers or on other images."""
    names = tuple(layer.name for layer in layers)
    if information.layers != names or len(information.variance) != count:
        raise ConfigError(
            expected=f"information measured at {', '.join(names)} on {count} images",
            got=f"{', '.join(information.layers)} on {len(information.variance)}",
            do="give the decoders the layers of the interpreter, and measure the examples that are diagnosed",
        )


def _pool(predictions: Sequence[Predictions]) -> Predictions:
    """All generators' predictions side by side, `[S·N]`."""
    return Predictions(
        **{
            item.name: np.concatenate([getattr(one, item.name) for one in predictions], axis=-1)
            for item in dataclasses.fields(Predictions)
        }
    )


def _rows(predictions: Predictions, weights: Weights, confidence: float, generators: int) -> list[dict[str, Any]]:
    """The numbers of each row, the image first."""
    shares = {
        name: vul.accuracy(getattr(predictions, name) == predictions.labels, weights)
        for name in ("natural", "adversarial", "noise")
    }
    survival = vul.survival(shares["natural"], shares["adversarial"])
    bits = vul.information_bits(predictions.labels, predictions.adversarial, weights, generators=generators)
    lost = vul.vulnerability(survival)
    loss = lost.sum(axis=1, keepdims=True)
    sure = np.quantile(loss[1:] if len(loss) > 1 else loss, (1 - confidence) / 2) > 0  # of nothing there are no shares
    shared = loss if sure else np.zeros_like(loss)
    curves = {
        **shares,
        "survival": survival,
        "vulnerability": lost,
        "share": np.divide(lost, shared, out=np.zeros_like(lost), where=shared > 0),
        "vulnerability_bits": vul.vulnerability(bits),
        "vulnerability_noise": vul.vulnerability(vul.survival(shares["natural"], shares["noise"])),
    }
    found = {name: intervals(curve, confidence) for name, curve in curves.items()}
    plain = ("natural", "adversarial", "noise", "survival")
    return [
        {
            **{name: found[name][index].value for name in plain},
            "bits": float(bits[0, index]),
            **{name: found[name][index] for name in found if name not in plain},
            "intervals": {name: found[name][index] for name in plain},
        }
        for index in range(survival.shape[1])
    ]


def _agreement(predictions: Sequence[Predictions]) -> dict[str, float]:
    """How well generators of different seeds agree: the lowest rank correlation of two profiles, and of the top layer.

    Returns:
        `seeds_spearman` and `seeds_same_top` (1 if all blame the same layer); nothing for a single generator.
    """
    if len(predictions) < 2:
        return {}
    from scipy.stats import spearmanr

    ones = np.ones((1, len(predictions[0].labels)), dtype=np.float32)
    profiles = [_profile(one, ones) for one in predictions]
    pairs = [spearmanr(a, b).statistic for a, b in itertools.combinations(profiles, 2)]
    # A profile without any variation has no ranks to compare.
    lowest = min((float(value) for value in pairs if np.isfinite(value)), default=0.0)
    return {"seeds_spearman": lowest, "seeds_same_top": float(len({int(p.argmax()) for p in profiles}) == 1)}


def _profile(predictions: Predictions, weights: Weights) -> Floats:
    """The vulnerabilities of the layers, `[L]`, without intervals."""
    natural, adversarial = (
        vul.accuracy(row == predictions.labels, weights) for row in (predictions.natural, predictions.adversarial)
    )
    profile: Floats = vul.vulnerability(vul.survival(natural, adversarial))[0, 1:]
    return profile


def _row_flags(rows: Sequence[Mapping[str, Any]], index: int) -> tuple[str, ...]:
    row, flags = rows[index], []
    floor = rows[0]["natural"] - READABLE
    if row["natural"] < floor:
        flags.append(f"unreliable: natural explanations read right at {row['natural']:.3f} < {floor:.3f}")
    elif index and rows[index - 1]["natural"] < floor:
        flags.append("unreliable: the layer before it cannot be read")
    control = row["vulnerability_noise"]
    if abs(control.value) > QUIET and (control.low > 0 or control.high < 0):
        flags.append(f"{NOISE_CONTROL}: random noise alone moves it by {control.value:+.3f}")
    return tuple(flags)


def _flags(
    rows: Sequence[Mapping[str, Any]], accuracy: Mapping[str, float], controls: Mapping[str, float]
) -> list[str]:
    flags = []
    unread = sum(row["natural"] < rows[0]["natural"] - READABLE for row in rows)
    if unread:
        flags.append(
            f"natural explanations cannot be read at {unread} of {len(rows) - 1} layers: train the generator longer, "
            "on photographs with a robust recognition network (--recognition-network robust)"
        )
    if controls["eps0_max_abs_vulnerability"] > 0:
        flags.append(f"eps = 0 control failed: largest |V| {controls['eps0_max_abs_vulnerability']:.3g}")
    if accuracy["natural"] < accuracy["judge_natural"] - 2 * READABLE:
        flags.append(
            f"weak model: natural accuracy {accuracy['natural']:.3f}, the judge's {accuracy['judge_natural']:.3f}; "
            "check the weights, the normalisation and the order of the classes"
        )
    if accuracy["judge_adversarial"] < accuracy["adversarial"]:
        flags.append(
            "weak judge: the attack fools it more than the model "
            f"({accuracy['judge_adversarial']:.3f} < {accuracy['adversarial']:.3f})"
        )
    if accuracy["judge_adversarial"] < FOOLED * accuracy["judge_natural"]:
        flags.append(
            f"the perturbation fools the judge in the image itself: it reads {accuracy['judge_adversarial']:.3f} right "
            f"instead of {accuracy['judge_natural']:.3f}, and the layers split only what is left"
        )
    if accuracy["judge_natural"] < accuracy["natural"] - 2 * READABLE:
        flags.append(
            f"weak judge: natural accuracy {accuracy['judge_natural']:.3f}, the model's {accuracy['natural']:.3f}"
        )
    return flags
