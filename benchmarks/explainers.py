"""Other explainers and ours, judged alike.

On the pretrained LeNet and MNIST. Maps: deletion and insertion, as the classifier and a judge see them, of natural
images for their true class and of attacked ones for the class that is shown; and whether what the attack changes in a
map lies where natural pixels, put back, return the true class. Pictures (inversions of a layer, and ours): what a judge
predicts, what the classifier makes of them, how far they are from natural images. All: what is left of them where the
weights of the network are random. `python -m benchmarks.explainers` needs MNIST and the extra `captum`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import interpretgan as ig
from interpretgan.baselines.explainer_checks import Fidelity, agreement, fidelity, randomisation, randomised
from interpretgan.baselines.explainers import EXPLAINERS, Explainer, ExplainerError
from interpretgan.baselines.inversion import invert
from interpretgan.baselines.patterns import pattern_explainers
from interpretgan.diagnosis.realism import independent_network, kernel_distance
from interpretgan.errors import TrainingError
from interpretgan.information.inversion import PERCEPTUAL, inversion_by_decoder, inversion_by_generator
from interpretgan.layers import Layer, capture
from interpretgan.statistics import Floats, mean_interval, wilson
from interpretgan.store.files import write_json
from interpretgan.store.machine import fastest
from interpretgan.store.provenance import package_version, provenance

RESULT = Path("results/benchmarks/explainers.json")
CLASSIFIER, JUDGE, EPS = "lenet5-max", "lenet5-avg-trades", 0.2
IMAGES, BROKEN = 100, 20  #: Images of maps, and those of them that are explained with random weights.
PICTURES = 400  #: Images of pictures.
LAYER = "pool2"  #: The last with maps, for Grad-CAM.
DRAWN = ("pool2", "fc1", "fc3")  #: Layers of pictures.
WINDOW, STRIDE = 4, 2  #: Pixels a side of what is put back, and from one window to the next.


def mean(values: Floats) -> dict[str, float]:
    """The mean over images with its bootstrap interval."""
    found = mean_interval(values, 0.95, replicates=2000, seed=0)
    return {name: getattr(found, name) for name in ("value", "low", "high")}


def defined(values: Floats) -> dict[str, float]:
    """The mean over images with a defined value, and how many have none."""
    known = values[np.isfinite(values)]
    return (mean(known) if len(known) else {}) | {"undefined": len(values) - len(known)}


def share(right: Tensor) -> dict[str, float]:
    """The share of images with its interval."""
    found = wilson(int(right.sum()), len(right), 0.95)
    return {name: getattr(found, name) for name in ("value", "low", "high")}


def gains(found: Fidelity) -> dict[str, dict[str, float]]:
    """By how much a map beats a random order of pixels; above zero is better."""
    return {
        "deletion": mean(found.deletion_random - found.deletion),
        "insertion": mean(found.insertion - found.insertion_random),
    }


@dataclass(frozen=True)
class Attacked:
    """Images `[N, C, H, W]`, natural and attacked, their true classes and those that are shown, `[N]`."""

    images: Tensor
    labels: Tensor
    adversarial: Tensor
    shown: Tensor

    def first(self, count: int) -> Attacked:
        """So many of them."""
        return Attacked(*(given[:count] for given in vars(self).values()))


def returned(classifier: ig.Classifier, given: Attacked) -> Tensor:
    """By how much the margin of the true class over the shown one rises with a pixel's natural value, `[N, H, W]`.

    Windows of natural pixels are put back into the attacked image, one at a time; a pixel has the mean of its windows.
    """

    images, adversarial = given.images, given.adversarial

    def margin(x: Tensor) -> Tensor:
        logits = classifier.logits(x)
        return (logits.gather(1, given.labels[:, None]) - logits.gather(1, given.shown[:, None]))[:, 0]

    height, width = images.shape[2:]
    total, count = torch.zeros(len(images), height, width), torch.zeros(height, width)
    attacked = margin(adversarial)
    for top in range(0, height - WINDOW + 1, STRIDE):
        for left in range(0, width - WINDOW + 1, STRIDE):
            place = (..., slice(top, top + WINDOW), slice(left, left + WINDOW))
            mixed = adversarial.clone()
            mixed[place] = images[place]
            total[place] += (margin(mixed) - attacked)[:, None, None]
            count[place] += 1
    return total / count


def moves(change: Tensor, where: Tensor) -> dict[str, dict[str, float]]:
    """How a change `[N, C, H, W]` agrees with where the attack is undone, and with where it is in the next image."""
    sizes = F.avg_pool2d(change.abs().sum(dim=1, keepdim=True), 5, 1, padding=2)[: len(where), 0]  # as coarse as that
    return {"own": defined(agreement(sizes, where)), "another": defined(agreement(sizes, where.roll(1, 0)))}


def main(count: int = IMAGES, pictures: int = PICTURES, result: Path = RESULT) -> None:
    """Measure, print, and write the record."""
    classifier, judge = ig.load_classifier(CLASSIFIER), ig.load_classifier(JUDGE)
    train = ig.load_data("mnist", "train")
    images, labels = ig.load_data("mnist", "test").batch(range(max(count, pictures)))
    adversarial = ig.attack(classifier, images, labels, ig.ThreatModel("linf", EPS), seed=0)
    given = Attacked(images, labels, adversarial, classifier.logits(adversarial).argmax(dim=1))
    layers = {layer.name: layer for layer in ig.find_layers(classifier, images[:1])}
    where = returned(classifier, given.first(count))
    record: dict[str, Any] = {
        "command": "python -m benchmarks.explainers", "classifier": CLASSIFIER, "judge": JUDGE, "eps": EPS,
        "images": count, "pictures": pictures, "provenance": provenance(0) | {"captum": package_version("captum")},
        "perturbation": moves(adversarial - images, where), "methods": {}, "drawn": {}, "random_weights": {},
    }  # fmt: skip

    def write(part: str, name: str, found: Any) -> None:
        record[part][name] = found
        print(name, found, flush=True)
        write_json(result, record)

    for explainer in (*EXPLAINERS, *pattern_explainers(train)):
        if explainer.kind == "map":
            found = of_map(
                explainer, layers[LAYER], given.first(count), classifier=classifier, judge=judge, where=where
            )
            write("methods", explainer.name, found)
    given = given.first(pictures)
    look = Look(given, classifier, judge, where)
    record["features_of"] = look.features_of
    write("drawn", "the images themselves", look.of(given.images, given.adversarial))
    methods = drawing(train)
    before: dict[tuple[str, str], Tensor] = {}
    for method, explain in methods.items():
        drawn = {}
        for name in DRAWN:
            natural, attacked = (explain(classifier, layers[name], x) for x in (given.images, given.adversarial))
            before[method, name], drawn[name] = natural, look.of(natural, attacked)
        write("drawn", method, drawn)
    for module, broken in randomised(classifier, given.images[:1], seed=0):
        left: dict[str, Any] = {method: {} for method in methods}
        for (method, name), drawn_before in before.items():
            try:
                after = methods[method](broken, layers[name], given.images)
            except TrainingError as error:
                left[method][name] = {"refused": str(error)}
                continue
            right = share(judge.logits(after).argmax(dim=1) == given.labels)
            left[method][name] = {"agrees": defined(agreement(drawn_before, after)), "right": right}
        write("random_weights", module, left)


def of_map(
    explainer: Explainer,
    layer: Layer,
    given: Attacked,
    *,
    classifier: ig.Classifier,
    judge: ig.Classifier,
    where: Tensor,
) -> dict[str, Any]:
    """The figures of an explainer whose answers are maps, or why it refuses."""
    explain = partial(explainer.explain, classifier, layer)
    try:
        natural = explain(given.images, given.labels)
        attacked, same_class = (explain(given.adversarial, classes) for classes in (given.shown, given.labels))
    except ExplainerError as error:
        return {"refused": str(error)}
    few = given.first(BROKEN)
    broken = randomisation(explainer, classifier, layer, few.images, few.labels, seed=0)
    return {
        "seconds_per_image": fastest(lambda: explain(given.images, given.labels), repeats=3) / len(given.images),
        "natural": gains(fidelity(classifier, natural, given.images, given.labels, seed=0)),
        "attacked": gains(fidelity(classifier, attacked, given.adversarial, given.shown, seed=0)),
        "judged": gains(fidelity(judge, natural, given.images, given.labels, seed=0)),
        "moves": moves((same_class - natural)[:, None], where),
        "random_weights": {step.module: defined(np.array(step.similarity)) for step in broken},
    }


class Look:
    """Looks at pictures of a layer, and says what is there."""

    def __init__(self, given: Attacked, classifier: ig.Classifier, judge: ig.Classifier, where: Tensor) -> None:
        self.given, self.classifier, self.judge, self.where = given, classifier, judge, where
        found = independent_network(ig.load_data("mnist", "train"), [classifier, judge])
        assert found is not None
        self.features_of, self.other = found
        self.layer = ig.find_layers(self.other, given.images[:1])[-2]
        self.rest = self._features(given.images[len(given.images) // 2 :])
        self.scale = float(np.sqrt(np.mean(self.rest**2)))

    def of(self, natural: Tensor, attacked: Tensor) -> dict[str, Any]:
        """The figures of pictures `[N, C, H, W]` of natural and of attacked images."""
        given, half = self.given, len(self.given.images) // 2
        first = self._features(natural[:half])
        distance = kernel_distance(first / self.scale, self.rest / self.scale, seed=0)
        return {
            "right": share(self.judge.logits(natural).argmax(dim=1) == given.labels),
            "shown": share(self.judge.logits(attacked).argmax(dim=1) == given.shown),
            "apart": mean(self._apart(given.images, natural)),
            "apart_attacked": mean(self._apart(given.adversarial, attacked)),
            "kernel_distance": {name: getattr(distance, name) for name in ("value", "low", "high")},
            "moves": moves(attacked - natural, self.where),
            "of_another_image": defined(agreement(natural, natural.roll(1, 0))),
        }

    def _features(self, x: Tensor) -> Floats:
        found: Floats = capture(self.other, x, [self.layer])[1][self.layer.name].flatten(1).double().numpy()
        return found

    def _apart(self, x: Tensor, drawn: Tensor) -> Floats:
        """How far what the classifier makes of both is apart: total variation of its probabilities, 0 to 1."""
        one, other = (self.classifier.logits(each).softmax(dim=1).double().numpy() for each in (x, drawn))
        distance: Floats = np.abs(one - other).sum(axis=1) / 2
        return distance


Draw = Callable[[ig.Classifier, Layer, Tensor], Tensor]


def drawing(train: ig.data.ImageSet) -> dict[str, Draw]:
    """What draws pictures of a layer: ours and decoders, which are fitted to each network anew, and inversion."""

    def by(fit: Callable[[ig.Classifier], Explainer]) -> Draw:
        known: dict[str, Explainer] = {}  # of the last network

        def draw(classifier: ig.Classifier, layer: Layer, images: Tensor) -> Tensor:
            if (state := classifier.state_sha256()) not in known:
                known.clear()
                known[state] = fit(classifier)
            classes = torch.zeros(len(images), dtype=torch.long)  # they decide nothing
            return known[state].explain(classifier, layer, images, classes)

        return draw

    def ours(classifier: ig.Classifier) -> Explainer:
        return inversion_by_generator(ig.InterpretGAN(classifier, seed=0).fit(train))

    def decoder(classifier: ig.Classifier) -> Explainer:
        return inversion_by_decoder(ig.Decoders(classifier, seed=0).fit(train))

    def perceptual(classifier: ig.Classifier) -> Explainer:
        return inversion_by_generator(ig.InterpretGAN(classifier, config=PERCEPTUAL, seed=0).fit(train))

    fits = {"ours": ours, "inversion by a decoder": decoder, "inversion by a perceptual decoder": perceptual}
    return {name: by(fit) for name, fit in fits.items()} | {"inversion": invert}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    main(options.images, options.pictures, options.result)
