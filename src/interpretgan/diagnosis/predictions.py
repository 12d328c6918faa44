"""What the judge predicts at every layer, for natural images, adversarial ones and controls: a diagnosis' raw data."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, attack, check_perturbation
from interpretgan.attacks.threat_model import TOLERANCE
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource
from interpretgan.errors import ImageError, ThreatModelError
from interpretgan.interpreter import InterpretGAN, Predictor, predict_all
from interpretgan.layers.branches import Block, patched_latents
from interpretgan.statistics import Integers
from interpretgan.store.progress import OnProgress, Progress
from interpretgan.training.precision import Precision, uses_bf16

BATCH = 250  #: Images in a batch, where they are small.
PIXELS = 2**25  #: Pixels of explanations that are in memory at a time,
LAYERS = 16  #: at so many layers. A batch is drawn in parts: what is attacked together stays the same.
PART = 512  #: Explanations that a processor draws at a time: more do not fit its caches.
AGREES = 0.999  #: Share of predictions that must not depend on the precision of drawing, else it is the full one.

Perturb = Callable[[Tensor, Tensor, int], Tensor]  #: Images, labels and the index of the first to perturbed images.
#: Natural images, their adversarial ones and the index of the first to images that a control perturbs.
Control = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Predictions:
    """Classes predicted for `N` images: row 0 for the image itself, row `l` for the explanation of layer `l`."""

    labels: Integers  #: True classes `[N]`.
    natural: Integers  #: Predictions of the judge for natural images, `[L + 1, N]`.
    adversarial: Integers  #: The same for adversarial images.
    controls: Mapping[str, Integers]  #: The same for the images of each control.
    model: Mapping[str, Integers]  #: Predictions of the classifier itself, `natural`, `adversarial` and each control.
    #: Of the judge, for each block by its layer's name, where some of its branches are attacked: `[2^k - 2, N]`.
    branches: Mapping[str, Integers] = dataclasses.field(default_factory=dict)
    #: `natural` of the first images in a second pass: nothing but chance can make them differ.
    again: Integers = dataclasses.field(default_factory=lambda: np.empty((0, 0), dtype=np.int64))

    @classmethod
    def pooled(cls, predictions: Sequence[Self]) -> Self:
        """The predictions of several batches, or of all `S` generators, side by side: `[..., S·N]`."""

        def side_by_side(parts: Sequence[Any]) -> Any:
            if isinstance(parts[0], Mapping):
                return {name: side_by_side([part[name] for part in parts]) for name in parts[0]}
            return np.concatenate(parts, axis=-1)

        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: side_by_side([getattr(p, name) for p in predictions]) for name in names})


def attacker(classifier: Classifier, threat_model: ThreatModel, *, seed: int) -> Perturb:
    """Attack images from random starts that follow from the seed and the image's index, whatever the batches are."""
    return lambda images, labels, first: attack(classifier, images, labels, threat_model, seed=seed, first_index=first)


def given_adversarial(adversarial: Tensor | Perturb, classifier: Classifier, threat_model: ThreatModel) -> Perturb:
    """Adversarial images `[N, C, H, W]` that were made elsewhere, or are by a function, each batch checked.

    They must keep to the bounds of the classifier and to the threat model.
    """

    def perturb(images: Tensor, labels: Tensor, first: int) -> Tensor:
        part = slice(first, first + len(images))
        given = adversarial(images, labels, first) if callable(adversarial) else adversarial[part]
        given = classifier.check_images(given)
        if given.shape != images.shape:
            expected = f"adversarial images {tuple(images.shape)}, from the image {first} on"
            do = "pass one for each image, in the order of the images"
            raise ImageError(expected=expected, got=f"{tuple(given.shape)}", do=do)
        try:
            check_perturbation(images, given, threat_model, classifier.bounds)
        except ThreatModelError as error:
            do = "state the threat model that they were made under, and pass them in the order of the images"
            raise ThreatModelError(expected=error.expected, got=error.got, do=do) from None
        return given

    return perturb


def check_adversarial(
    adversarial: Tensor, images: ImageSource, count: int, classifier: Classifier, threat_model: ThreatModel
) -> None:
    """Refuse adversarial images that do not fit the first natural ones (see `given_adversarial`), or equal them all.

    Some may be equal: an attack leaves alone what is misclassified already, or what it cannot turn.
    """
    perturb, moved = given_adversarial(adversarial, classifier, threat_model), False
    rounding = TOLERANCE * max(1.0, *map(abs, classifier.bounds))
    for part in torch.split(torch.arange(count), BATCH):  # no network runs
        natural, labels = images.batch(part)
        natural = classifier.check_images(natural)
        moved |= float((perturb(natural, labels, int(part[0])) - natural).abs().max()) > rounding
    if not moved:
        expected, got = "adversarial images, some of which are perturbed", f"{count} that equal the natural ones"
        raise ImageError(expected=expected, got=got, do="pass what the attack made of them")


def collect(
    interpreters: Sequence[InterpretGAN],
    judge: Predictor,
    images: ImageSource,
    count: int,
    *,
    adversarial: Perturb,
    controls: Mapping[str, Control],
    blocks: Sequence[Block] = (),
    repeated: int = 0,
    seed: int,
    on_progress: OnProgress | None = None,
) -> list[Predictions]:
    """The judge's predictions for the first `count` images at every layer, for each interpreter.

    Each image is attacked once, for all interpreters. Its explanations, natural and perturbed, are drawn with the same
    noise `n`, each interpreter having noise of its own, drawn from the seed. Of `blocks` the branches are patched, too.
    Of the first interpreter so many natural images as `repeated` says, or a few more, are predicted once more.
    `on_progress` is told how many images are done, and which layer is worst read. Batches are of an even number, so
    that pairs of images stay together.
    """
    classifier, layers = interpreters[0].classifier, len(interpreters[0].layers)
    size, at_once = batch_size(images), explained_at_once(images, layers)
    part = min(at_once, drawn_at_once(layers, classifier.device))

    def predicted(interpreter: InterpretGAN, version: Tensor, noise: Tensor, precision: Precision) -> Integers:
        found = []
        for x, n in zip(torch.split(version, at_once), torch.split(noise, at_once), strict=True):
            parts = zip(torch.split(x, part), torch.split(n, part), strict=True)
            drawn = torch.cat([interpreter.draw(*each, precision=precision) for each in parts], dim=1)
            found.append(predict_all(judge, x, drawn))
        return torch.cat(found, dim=1).cpu().numpy()

    def inside(block: Block, natural: Tensor, attacked: Tensor, noises: Sequence[Tensor]) -> Integers:
        each = (torch.split(given, at_once) for given in (natural, attacked, *noises))
        predicted = [
            predict_patched(
                interpreters, judge, block, natural=x, adversarial=changed, noises=ns, precisions=precisions
            )
            for x, changed, *ns in zip(*each, strict=True)
        ]
        return np.concatenate(predicted, axis=2)

    def first_read(interpreter: InterpretGAN, x: Tensor, n: Tensor) -> tuple[Precision, Integers]:
        """How to draw, and what is predicted so: as in its training where the judge predicts the same, else in full."""
        trained, full = interpreter.config.precision, predicted(interpreter, x, n, "fp32")
        if not uses_bf16(x.device, trained):
            return "fp32", full
        quick = predicted(interpreter, x, n, trained)
        return (trained, quick) if (quick == full).mean() >= AGREES else ("fp32", full)

    precisions: list[Precision] = []
    generators = [torch.Generator().manual_seed(seed + number) for number in range(len(interpreters))]
    collected: list[list[Predictions]] = [[] for _ in interpreters]
    for first, end in batches_of(count, size):
        x, y = images.batch(torch.arange(first, end))
        x = classifier.check_images(x)
        y = classifier.check_labels(y, x)
        attacked = adversarial(x, y, first)
        perturbed = {name: control(x, attacked, first) for name, control in controls.items()}
        versions = {"natural": x, "adversarial": attacked, **perturbed}
        with classifier.borrowed(), torch.no_grad():
            model = {name: classifier.run(version).argmax(dim=1).cpu().numpy() for name, version in versions.items()}
        noises = [each.noise(len(x), generator=its) for each, its in zip(interpreters, generators, strict=True)]
        read = []
        if not precisions:
            read = [first_read(each, x, n) for each, n in zip(interpreters, noises, strict=True)]
            precisions = [precision for precision, _ in read]
        patched = {block.layer.name: inside(block, x, attacked, noises) for block in blocks}
        for place, batches in enumerate(collected):
            interpreter, n, precision = interpreters[place], noises[place], precisions[place]
            shown = {"natural": read[place][1]} if read else {}
            rest = {name: version for name, version in versions.items() if name not in shown}
            shown |= {name: predicted(interpreter, version, n, precision) for name, version in rest.items()}
            of_controls = {name: shown[name] for name in controls}
            branches = {layer: predicted_inside[place] for layer, predicted_inside in patched.items()}
            natural, perturbed_shown = shown["natural"], shown["adversarial"]
            again = predicted(interpreter, x, n, precision) if place == 0 and first < repeated else natural[:, :0]
            batches.append(Predictions(y.cpu().numpy(), natural, perturbed_shown, of_controls, model, branches, again))
        if on_progress is not None:
            done = Predictions.pooled([batch for batches in collected for batch in batches])
            read = (done.natural == done.labels).mean(axis=1)[1:]
            worst = interpreters[0].layers[int(read.argmin())].name, float(read.min())
            on_progress(Progress("diagnosis", first + len(x), count, "image", worst_read=worst))
    return [Predictions.pooled(batches) for batches in collected]


def batches_of(count: int, size: int) -> list[tuple[int, int]]:
    """Where batches of so many images begin and end; the last image is never alone, for there must be another one."""
    ends = [*range(size, count - 1, size), count]
    return list(pairwise([0, *ends]))


def batch_size(images: ImageSource) -> int:
    """How many images are attacked at a time, an even number; it does not depend on the layers that are asked for."""
    return max(2, min(BATCH, explained_at_once(images, LAYERS)) // 2 * 2)


def explained_at_once(images: ImageSource, layers: int) -> int:
    """How many images have their explanations in memory at a time: as many as keep them below `PIXELS`."""
    pixels = images.batch(torch.tensor([0]))[0].numel()
    return max(1, PIXELS // (pixels * layers))


def drawn_at_once(layers: int, device: torch.device) -> int:
    """Images whose explanations at so many layers are drawn together: some on a processor, on a GPU all in memory."""
    return max(1, PART // layers) if device.type == "cpu" else BATCH


def predict_patched(
    interpreters: Sequence[InterpretGAN],
    judge: Predictor,
    block: Block,
    *,
    natural: Tensor,
    adversarial: Tensor,
    noises: Sequence[Tensor],
    precisions: Sequence[Precision],
) -> Integers:
    """What the judge predicts of the block's explanations for each of its `coalitions`, int64 `[G, 2^k - 2, N]`.

    Images are `[N, C, H, W]` within the bounds. Each of the `G` interpreters, all of one classifier, has its own noise
    `[N, noise]` and precision. The latents are made once for all of them.
    """
    found: list[Tensor] = []
    for _, latent in patched_latents(interpreters[0].classifier, block, natural, adversarial):
        drawn = (
            interpreter.draw_from(block.layer, latent, noise, precision=precision)
            for interpreter, noise, precision in zip(interpreters, noises, precisions, strict=True)
        )
        found.append(torch.stack([judge.predict(explanations) for explanations in drawn]))
    predicted: Integers = torch.stack(found, dim=1).cpu().numpy()
    return predicted
