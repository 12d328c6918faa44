"""Whether maps of other explainers say anything: fidelity by deletion and insertion, and random weights.

Sources: deletion and insertion of pixels (RISE, arXiv 1806.07421); the cascading randomisation of weights (Sanity
checks for saliency maps, arXiv 1810.03292).
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpretgan.baselines.explainers import Explainer
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.layers import Layer
from interpretgan.layers.hooks import visiting
from interpretgan.layers.outputs import without_history
from interpretgan.statistics import Floats, spearman_rows

STEPS = 20  #: Equal parts in which the pixels of an image are taken away, or put in.
BATCH = 500


@dataclass(frozen=True, eq=False)
class Fidelity:
    """How the probability of the explained class moves as pixels go, and come, the most important first."""

    deletion: Floats  #: Mean probability while pixels become black, `[N]`: the lower, the better the map.
    insertion: Floats  #: Mean probability while pixels appear on black, `[N]`: the higher, the better the map.
    deletion_random: Floats  #: The same in a random order, `[N]`.
    insertion_random: Floats


def fidelity(classifier: Classifier, maps: Tensor, images: Tensor, targets: Tensor, *, seed: int) -> Fidelity:
    """Take the pixels of images away in the order of maps, and put them in, and read the probability of the classes.

    Args:
        classifier: Who reads: the one that was explained, or a judge.
        maps: `[N, H, W]`, high where a pixel speaks for the class.
        images: `[N, C, H, W]` within the classifier's bounds.
        targets: The explained classes `[N]`.
        seed: Of the random order that maps are compared with.
    """
    images = classifier.check_images(images)
    maps, targets = maps.to(images.device), targets.to(images.device)
    if maps.shape != (len(images), *images.shape[2:]):
        expected, got = f"maps {[len(images), *images.shape[2:]]}, one for each image", str(list(maps.shape))
        raise ConfigError(expected=expected, got=got, do="pass what Explainer.explain returns of the same images")
    random = torch.rand(maps.shape, generator=torch.Generator().manual_seed(seed)).to(images.device)
    areas = []
    for scores in (maps, random):
        places = scores.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1).view_as(scores)
        kept, black = [], torch.full_like(images, classifier.bounds[0])
        for first, second in ((black, images), (images, black)):  # the first pixels are of the first
            shares = []
            for step in range(STEPS + 1):
                taken = (places < maps[0].numel() * step / STEPS)[:, None]
                mixed = torch.where(taken, first, second)
                logits = torch.cat([classifier.logits(batch) for batch in torch.split(mixed, BATCH)])
                shares.append(logits.softmax(dim=1).gather(1, targets[:, None])[:, 0])
            ends = torch.stack(shares)
            kept.append(((ends[1:] + ends[:-1]) / 2).mean(dim=0).double().cpu().numpy())
        areas.append(kept)
    (deletion, insertion), (deletion_random, insertion_random) = areas
    return Fidelity(deletion, insertion, deletion_random, insertion_random)


@dataclass(frozen=True)
class Randomised:
    """How much a map is still the same, once a module and all after it have random weights."""

    module: str  #: The first one that is random.
    similarity: tuple[float, ...]  #: Spearman's correlation of the sizes in both maps, for each image; NaN: undefined.


def randomisation(
    explainer: Explainer, classifier: Classifier, layer: Layer, images: Tensor, targets: Tensor, *, seed: int
) -> list[Randomised]:
    """Explain images while the weights become random, module by module from the last to the first.

    Each weight tensor gets its own values in a random order, so that their distribution stays. A map that stays as it
    was does not depend on what the network learned. An image without a defined correlation, as where a map is zero
    everywhere, has NaN: such a map cannot pass.

    For the arguments, see `Explainer.explain`; the classifier is copied. The seed is that of the random order.
    """
    before, found = explainer.explain(classifier, layer, images, targets), []
    for name, broken in randomised(classifier, images, seed=seed):
        after = explainer.explain(broken, layer, images, targets)
        found.append(Randomised(name, tuple(map(float, agreement(before, after)))))
    return found


def randomised(classifier: Classifier, images: Tensor, *, seed: int) -> Iterator[tuple[str, Classifier]]:
    """Networks whose weights become random, the last module's first, and the name of each module.

    Each weight tensor gets its own values in a random order. It is one copy of the classifier, which goes on changing.
    """
    broken = copy.deepcopy(classifier, without_history(classifier.model))
    generator = torch.Generator().manual_seed(seed)
    for name in reversed(_weighted(classifier, images)):
        for parameter in broken.model.get_submodule(name).parameters(recurse=False):
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            with torch.no_grad():
                parameter.copy_(parameter.flatten()[order].view_as(parameter))
        yield name, broken


def agreement(first: Tensor, second: Tensor) -> Floats:
    """Spearman's correlation `[N]` of the sizes in two maps or pictures of each image, `[N, ...]`; NaN: undefined."""
    one, other = (maps.flatten(1).abs().double().cpu().numpy() for maps in (first, second))
    return spearman_rows(one, other)


def _weighted(classifier: Classifier, images: Tensor) -> list[str]:
    """Names of the modules with weights of their own, in the order in which they run."""
    names: dict[str, None] = {}

    def visit(name: str, _call: int, module: nn.Module, _output: object) -> None:
        if any(True for _ in module.parameters(recurse=False)):
            names[name] = None

    with classifier.borrowed(), torch.no_grad(), visiting(classifier, visit):
        classifier.run(images[:1])
    return list(names)
