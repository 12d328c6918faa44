"""Where the perturbation is let in: how much of what an attack takes comes back when one layer is mended, or two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

from interpretgan.attacks import ThreatModel, require_eps_within_range
from interpretgan.attacks.gradient import ready
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.diagnosis.mending import (
    BATCH,
    FILTER_IMAGES,
    RENEWED_STEPS,
    Trial,
    filtered,
    mendable,
    mended_weights,
    retrained,
    shortened,
    true_probability,
)
from interpretgan.errors import ConfigError, FlagKind, ImageError, LabelError
from interpretgan.layers import Layer
from interpretgan.statistics import Floats, Interval, bootstrap_weights, intervals
from interpretgan.store.progress import OnProgress, Progress, reporting
from interpretgan.torch_state import as_seed, plain_torch

MENDED_ON = 2000
"""Training images that layers are mended on; fewer where they have `MENDED_PIXELS` pixels before."""
MENDED_PIXELS = 2**24
EXAMPLES = 200
"""Images that mendings are judged on; more make the interval narrower and the search slower."""
STEPS = 60
"""Of the training that mends a layer's weights."""
PIXELS = 2**20
"""Pixels of images that are attacked together, at most; but no fewer images than `LEAST_IMAGES`."""
LEAST_IMAGES = 16
LEAST = 0.05
"""An attack that takes less than this from the probability of the true class takes nothing worth sharing out."""
ENOUGH = 0.5
"""The least score of a layer that is named."""
EVERYWHERE = 2 / 3
"""Where the mending of any layer brings back more than this, no layer is the one that lets the perturbation in."""
WORTH = 0.1
"""By how much mending two layers must be better than one, and than any other two, for both to be named."""
PAIRED = 4
"""Layers that are mended two by two, at most: those with weights that have the highest scores."""


LET_IN_UNKNOWN = FlagKind("let_in_unknown", "warning", "which layer lets the perturbation in is not known: {reason}")


@dataclass(frozen=True)
class Pair:
    """The two layers that bring back most when their weights are mended together."""

    layers: tuple[str, str]  #: In execution order.
    share: Interval  #: Of what the attack takes, that comes back; up to 1.
    lead: Interval  #: By how much that is above any other pair that was tried, and any layer's weights alone; paired.


@dataclass(frozen=True)
class LetIn:
    """How well each layer can be mended, and whether one stands out.

    Attributes:
        layers: Names, in execution order.
        scores: Of each layer, 0 to 1, see `let_in`. Intervals cover the choice of images, not the seed of the training.
        weights: Share of what the attack takes that comes back when its weights alone are mended, up to 1; 0 without
            weights, and below where more is lost.
        filtering: The same where the layer alone does not read what natural images do not use, 0 to 1.
        lead: By how much the highest score is above all others; paired over images.
        taken: What the attack takes from the probability of the true class, 0 to 1.
        examples: How many images it rests on.
        pair: The best two of those that were mended together. `None`: fewer than two layers have weights, the attack
            takes nothing, or the record is older.
    """

    layers: tuple[str, ...]
    scores: tuple[Interval, ...]
    weights: tuple[Interval, ...]
    filtering: tuple[Interval, ...]
    lead: Interval
    taken: float
    examples: int
    pair: Pair | None = None

    @property
    def first(self) -> str:
        """The layer of the highest score, sure or not."""
        return self.layers[int(np.argmax([score.value for score in self.scores]))]

    @property
    def answer(self) -> str | None:
        """The layer that lets the perturbation in, if one does alone. `None`: no sure answer.

        It is sure where the attack takes something, the score is at least a half and above all others, both by their
        intervals, and the weights of some other layer are no cure.
        """
        best = max(self.scores, key=lambda score: score.value)
        sure = self.taken >= LEAST and best.low >= ENOUGH and self.lead.low > 0
        return self.first if sure and not self.everywhere else None

    @property
    def named(self) -> tuple[str, ...]:
        """The layer that lets the perturbation in, or the two that do together; or none.

        Two are sure where they bring back at least a half, and a tenth more than any other two or the weights of any
        layer alone, both by their intervals. If there is an answer it must be one of them, and both must bring back as
        much as its score says, less a tenth: what was taken out of its input was then missing at the other, too.
        """
        alone, pair = self.answer, self.pair
        one = () if alone is None else (alone,)
        if pair is None or self.taken < LEAST or self.everywhere or pair.share.low < ENOUGH or pair.lead.low < WORTH:
            return one
        needed = 0.0 if alone is None else self.scores[self.layers.index(alone)].value - WORTH
        return pair.layers if pair.share.low >= needed and {*one} <= {*pair.layers} else one

    @property
    def everywhere(self) -> bool:
        """Whether mending any layer that has weights, one as another, mends the network."""
        cures = [score.value for score, own in zip(self.scores, self.weights, strict=True) if own.value]
        return len(cures) > 1 and min(cures) > EVERYWHERE


def mending_images(train: ImageSet, bounds: tuple[float, float], *, seed: int) -> Tensor:
    """Training images `[M, C, H, W]` that layers are mended on: at most `MENDED_ON`, drawn by the seed."""
    enough = min(MENDED_ON, max(FILTER_IMAGES, MENDED_PIXELS // math.prod(train.shape)))
    images, _ = train.sample(enough, seed).scaled(bounds).batch(slice(None))
    return images


@plain_torch()
def let_in(
    classifier: Classifier,
    layers: Sequence[Layer],
    images: Tensor,
    labels: Tensor,
    adversarial: Tensor,
    *,
    natural: Tensor,
    threat_model: ThreatModel,
    seed: int,
    examples: int = EXAMPLES,
    steps: int = STEPS,
    bootstrap: int = 1000,
    confidence: float = 0.95,
    on_progress: OnProgress | bool = True,
) -> LetIn:
    """Mend each layer alone, and some in pairs, renew the attack, and see how much of what it took comes back.

    With `p(f, x)` the probability that network `f` gives to the true class, and `f_m` a network that is mended in one
    place, a mending brings back the share

        share(m) = mean(p(f_m, x'_m) - p(f, x')) / max(mean(p(f, x) - p(f, x')), 0.05),

    where `x'_m` is adversarial to `f_m`, and `x'` to `f`. No better network is known; each layer `l` is mended twice:

    - `w_l`, its *weights* (parameters and other real tensors, without the statistics of a normalisation) are trained
      for a few steps to classify adversarial training images as the network does natural ones, and to answer natural
      ones as before; all others are frozen. A weight belongs to the first layer whose latent depends on it.
    - `i_l`, its *input* `z` is replaced by `mu + S (S + rho)^-1 (z - mu)`, with mean `mu` and covariance `S` of natural
      latents: it no longer reads what natural images do not use. What the same filter brings back further on is not
      this layer's doing, so that `e_l = max(0, i_l - max(0, max_{m > l} i_m))`.

    Both bounded to [0, 1],

        score_l = 1 - (1 - w_l) (1 - e_l).

    The first moves back a layer that was moved; the second finds one that reacts to what natural images hardly use,
    with weights or without. Where several layers can mend a network, the lead is small and there is no sure answer.

    Where an attack has two ways in, mending one leaves the other. So of the `PAIRED` layers with weights that have the
    highest scores each two are mended together, by their weights; the best two are the `pair`.

    Args:
        classifier: Given back as it was; weights are trained on copies.
        layers: In execution order, at least one, of different tensors (see `distinct`). A layer is all that happens
            after the one before it in this list.
        images: `[N, C, H, W]` within the bounds, not among those that the classifier was trained on.
        labels: True classes, int64 `[N]`.
        adversarial: `[N, C, H, W]`, the images under attack.
        natural: Training images `[M, C, H, W]`; their classes are not needed.
        threat_model: Of the attack; each mended network is attacked under it with few steps.
        seed: Of batches, random starts and resamples.
        examples: At most so many images are used, from the first; fewer where they are large.
        steps: Of the training of weights.
        bootstrap: Resamples of the images.
        confidence: Level of the intervals, between 0 and 1.
        on_progress: Told how many mendings are done; see `interpretgan.store.progress.OnProgress`.

    Raises:
        ConfigError: No layer, step or example, or an interval that cannot be made.
        LabelError: Not one adversarial image for each image.
        ImageError: Training images of another size.
        ModelError: A network that cannot be copied, or whose layers cannot be trained or replayed apart.
    """
    if not layers or min(steps, examples, len(images)) < 1 or bootstrap < 0 or not 0 < confidence < 1:
        got = f"{len(layers)} layers, {steps} steps, {min(examples, len(images))} examples, bootstrap={bootstrap}, "
        expected = "at least one layer, step and example, bootstrap >= 0 and 0 < confidence < 1"
        raise ConfigError(expected=expected, got=f"{got}confidence={confidence}", do="check the settings")
    if natural.shape[1:] != images.shape[1:]:
        expected, got = f"training images {list(images.shape[1:])}", str(list(natural.shape[1:]))
        raise ImageError(expected=expected, got=got, do="bring them to the size of the images")
    if adversarial.shape != images.shape:
        got = f"{list(adversarial.shape)} for {list(images.shape)}"
        raise LabelError(expected="an adversarial image for each image", got=got, do="attack the same images")
    at_once, seed = _together(images.shape[1:]), as_seed(seed)
    images, labels, adversarial = (given[: min(examples, at_once)] for given in (images, labels, adversarial))
    with mendable(), reporting(on_progress) as report, ready(classifier, images, labels, seed=seed) as (x, y):
        require_eps_within_range(threat_model, classifier.bounds, x.shape[1:])
        perturbed, natural = (classifier.check_images(one).detach().float().clone() for one in (adversarial, natural))
        trial = Trial(x, y, perturbed, classifier.bounds, shortened(threat_model, RENEWED_STEPS))
        calm, before = true_probability(classifier.run, x, y), trial.renewed(classifier.run)
        owned = mended_weights(classifier, layers, x[:1])
        weighted = [place for place, names in enumerate(owned) if names]

        def after_mending(names: Sequence[str]) -> Tensor:
            mended = retrained(
                classifier, names, natural, tm=threat_model, steps=steps, batch=min(BATCH, at_once), seed=seed
            )
            return trial.renewed(mended.run)

        lost = (calm - before).double().cpu().numpy()
        pairs = math.comb(min(PAIRED, len(weighted)), 2) if lost.mean() >= LEAST else 0
        alone, clean = before.repeat(2, len(layers), 1)
        for place in range(len(layers)):
            if owned[place]:
                alone[place] = after_mending(owned[place])
            run = filtered(classifier, layers[place - 1] if place else None, natural[: min(FILTER_IMAGES, at_once)])
            clean[place] = trial.old(run)
            if clean[place].mean() > before.mean():
                clean[place] = trial.renewed(run)  # else it brings nothing back, and would only be lower
            report(Progress("mending", place + 1, len(layers) + pairs, "mending"))
        gains = [(after - before).double().cpu().numpy() for after in (alone, clean)]
        weights = bootstrap_weights(len(lost), bootstrap, seed=seed).astype(np.float64)
        total = np.maximum(weights @ lost, LEAST * len(lost))[:, None]
        table = _scores(*(weights @ gain.T / total for gain in gains))
        likely = sorted(sorted(weighted, key=lambda place: -table[0, place])[:PAIRED])
        tried = list(combinations(likely, 2))[:pairs]
        both = before.repeat(pairs, 1)
        for number, (one, other) in enumerate(tried):
            both[number] = after_mending([*owned[one], *owned[other]])
            report(Progress("mending", len(layers) + number + 1, len(layers) + pairs, "mending"))
    count, names = len(layers), tuple(layer.name for layer in layers)
    first = int(np.argmax(table[0, :count]))
    rest = np.delete(table[:, :count], first, axis=1).max(axis=1, initial=0.0)
    found = intervals(np.column_stack([table, table[:, first] - rest]), confidence)
    scores, own, filtering = (tuple(found[start : start + count]) for start in (0, count, 2 * count))
    pair = None
    if tried:
        shares = np.minimum(weights @ (both - before).double().cpu().numpy().T / total, 1.0)
        most = int(np.argmax(shares[0]))
        rest = np.column_stack([np.delete(shares, most, axis=1), table[:, count : 2 * count]]).max(axis=1)
        share, lead = intervals(np.column_stack([shares[:, most], shares[:, most] - rest]), confidence)
        one, other = tried[most]
        pair = Pair((names[one], names[other]), share, lead)
    return LetIn(names, scores, own, filtering, found[-1], float(lost.mean()), len(lost), pair)


def _scores(retrained: Floats, filtered: Floats) -> Floats:
    """Scores and the two parts they are made of, side by side `[B, 3 L]`, from what mendings bring back `[B, L]`."""
    useful = np.maximum(filtered, 0.0)
    later = np.maximum.accumulate(np.pad(useful, ((0, 0), (0, 1)))[:, ::-1], axis=1)[:, ::-1][:, 1:]
    weights, filtering = np.minimum(retrained, 1.0), np.clip(useful - later, 0.0, 1.0)
    return np.concatenate([1 - (1 - np.maximum(weights, 0.0)) * (1 - filtering), weights, filtering], axis=1)


def most_examples(shape: Sequence[int]) -> int:
    """On how many images `[C, H, W]` mendings are judged where nothing is said: of large ones fewer."""
    return min(EXAMPLES, _together(shape))


def _together(shape: Sequence[int]) -> int:
    return max(LEAST_IMAGES, PIXELS // math.prod(shape))
