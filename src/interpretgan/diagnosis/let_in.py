"""Where the perturbation is let in: how much of what an attack takes comes back when one layer alone is mended."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from interpretgan.attacks import ThreatModel, iterated, require_eps_within_range, search, seed_generators
from interpretgan.attacks.gradient import Run, ready
from interpretgan.attacks.threat_model import Bounds
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError, FlagKind, ImageError, LabelError, ModelError, in_a_line
from interpretgan.layers import Layer, capture, capturing, owned_by_layers, replay
from interpretgan.layers.outputs import without_history
from interpretgan.statistics import Floats, Interval, bootstrap_weights, intervals
from interpretgan.store.progress import OnProgress, Progress, reporting
from interpretgan.torch_state import as_seed, plain_torch
from interpretgan.training.steps import relative_rates

MENDED_ON = 2000
"""Training images that layers are mended on; fewer where they have `MENDED_PIXELS` pixels before."""
MENDED_PIXELS = 2**24
EXAMPLES = 200
"""Images that mendings are judged on; more make the interval narrower and the search slower."""
STEPS = 60
"""Of the training that mends a layer's weights."""
BATCH = 50
INNER_STEPS = 3
"""PGD steps of the adversarial images that weights are mended on."""
RATE = 0.06
"""Length of Adam's steps, as a share of the root mean square of each tensor of weights."""
RENEWED_STEPS = 10
"""PGD steps against each mended network, from the adversarial images."""
FILTER_IMAGES = 300
"""Natural images that the filter is made from."""
RIDGE = 0.1
"""Of the filter, as a share of the mean natural variance over the directions that are used."""
PIXELS = 2**20
"""Pixels of images that are attacked together, at most; but no fewer images than `LEAST_IMAGES`."""
LEAST_IMAGES = 16
LEAST = 0.05
"""An attack that takes less than this from the probability of the true class takes nothing worth sharing out."""
ENOUGH = 0.5
"""The least score of a layer that is named."""
EVERYWHERE = 2 / 3
"""Where the mending of any layer brings back more than this, no layer is the one that lets the perturbation in."""


LET_IN_UNKNOWN = FlagKind("let_in_unknown", "warning", "which layer lets the perturbation in is not known: {reason}")


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
    """

    layers: tuple[str, ...]
    scores: tuple[Interval, ...]
    weights: tuple[Interval, ...]
    filtering: tuple[Interval, ...]
    lead: Interval
    taken: float
    examples: int

    @property
    def first(self) -> str:
        """The layer of the highest score, sure or not."""
        return self.layers[int(np.argmax([score.value for score in self.scores]))]

    @property
    def answer(self) -> str | None:
        """The layer that lets the perturbation in. `None`: no sure answer.

        It is sure where the attack takes something, the score is at least a half and above all others, both by their
        intervals, and the weights of some other layer are no cure.
        """
        best = max(self.scores, key=lambda score: score.value)
        sure = self.taken >= LEAST and best.low >= ENOUGH and self.lead.low > 0
        return self.first if sure and not self.everywhere else None

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
    """Mend each layer alone, renew the attack, and see how much of what the attack took comes back.

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
        on_progress: Told how many layers are done; see `interpretgan.store.progress.OnProgress`.

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
    with _mendable(), reporting(on_progress) as report, ready(classifier, images, labels, seed=seed) as (x, y):
        require_eps_within_range(threat_model, classifier.bounds, x.shape[1:])
        perturbed, natural = (classifier.check_images(one).detach().float().clone() for one in (adversarial, natural))
        trial = _Trial(x, y, perturbed, classifier.bounds, _shortened(threat_model, RENEWED_STEPS))
        calm, before = _true_probability(classifier.run, x, y), trial.renewed(classifier.run)
        owned = mended_weights(classifier, layers, x[:1])
        retrained, filtered = before.repeat(2, len(layers), 1)
        for place in range(len(layers)):
            if owned[place]:
                mended = _retrained(
                    classifier,
                    owned[place],
                    natural,
                    tm=threat_model,
                    steps=steps,
                    batch=min(BATCH, at_once),
                    seed=seed,
                )
                retrained[place] = trial.renewed(mended.run)
            clean = _filtered(classifier, layers[place - 1] if place else None, natural[: min(FILTER_IMAGES, at_once)])
            filtered[place] = trial.old(clean)
            if filtered[place].mean() > before.mean():
                filtered[place] = trial.renewed(clean)  # else it brings nothing back, and would only be lower
            report(Progress("mending", place + 1, len(layers), "layer"))
    gains = [(after - before).double().cpu().numpy() for after in (retrained, filtered)]
    lost = (calm - before).double().cpu().numpy()
    weights = bootstrap_weights(len(lost), bootstrap, seed=seed).astype(np.float64)
    total = np.maximum(weights @ lost, LEAST * len(lost))[:, None]
    table = _scores(*(weights @ gain.T / total for gain in gains))
    count, first = len(layers), int(np.argmax(table[0, : len(layers)]))
    others = np.delete(table[:, :count], first, axis=1).max(axis=1, initial=0.0)
    found = intervals(np.column_stack([table, table[:, first] - others]), confidence)
    scores, own, filtering = (tuple(found[start : start + count]) for start in (0, count, 2 * count))
    names = tuple(layer.name for layer in layers)
    return LetIn(names, scores, own, filtering, found[-1], float(lost.mean()), len(lost))


def _scores(retrained: Floats, filtered: Floats) -> Floats:
    """Scores and the two parts they are made of, side by side `[B, 3 L]`, from what mendings bring back `[B, L]`."""
    useful = np.maximum(filtered, 0.0)
    later = np.maximum.accumulate(np.pad(useful, ((0, 0), (0, 1)))[:, ::-1], axis=1)[:, ::-1][:, 1:]
    weights, filtering = np.minimum(retrained, 1.0), np.clip(useful - later, 0.0, 1.0)
    return np.concatenate([1 - (1 - np.maximum(weights, 0.0)) * (1 - filtering), weights, filtering], axis=1)


@dataclass(frozen=True)
class _Trial:
    """Images and their adversarial ones, on which networks are attacked afresh; call it with gradients enabled."""

    images: Tensor
    labels: Tensor
    adversarial: Tensor
    bounds: Bounds
    threat_model: ThreatModel

    def old(self, run: Run) -> Tensor:
        """Probabilities of the true classes on the adversarial images as they are, `[N]`."""
        return _true_probability(run, self.adversarial, self.labels)

    def renewed(self, run: Run) -> Tensor:
        """The lower one of that and of what an attack leaves that goes on from there."""
        found = search(run, self.images, self.labels, self.threat_model, self.bounds, start=self.adversarial)
        return torch.minimum(self.old(run), _true_probability(run, found, self.labels))


@torch.no_grad()
def _true_probability(run: Run, images: Tensor, labels: Tensor) -> Tensor:
    return run(images).float().softmax(dim=1).gather(1, labels[:, None])[:, 0]


def _shortened(threat_model: ThreatModel, steps: int) -> ThreatModel:
    """PGD of the same size with few steps, as long as suits their number."""
    return replace(iterated(threat_model), steps=steps, restarts=1, step_size=None)


def most_examples(shape: Sequence[int]) -> int:
    """On how many images `[C, H, W]` mendings are judged where nothing is said: of large ones fewer."""
    return min(EXAMPLES, _together(shape))


def _together(shape: Sequence[int]) -> int:
    return max(LEAST_IMAGES, PIXELS // math.prod(shape))


def mended_weights(classifier: Classifier, layers: Sequence[Layer], image: Tensor) -> list[list[str]]:
    """The names of the weights that are retrained for each layer, by an image `[1, C, H, W]`.

    A `ModelError` for a network whose layers cannot be trained apart.
    """
    with _mendable(), torch.inference_mode(False), torch.enable_grad():
        return owned_by_layers(classifier, layers, image.to(classifier.device), _weights(classifier.model))


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of real numbers by name; not the statistics that a normalisation has collected."""
    counted = [b for m in model.modules() if isinstance(m, _NormBase) for b in m.buffers(recurse=False)]
    skipped = {id(buffer) for buffer in counted}
    buffers = {n: b for n, b in model.named_buffers() if b.is_floating_point() and id(b) not in skipped}
    return {**{n: p for n, p in model.named_parameters() if p.is_floating_point()}, **buffers}


@contextmanager
def _mendable() -> Iterator[None]:
    """Says of a network that torch cannot copy, train or replay in parts that it cannot be mended."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        expected = "a network that can be copied, and its layers trained apart"
        raise ModelError(expected=expected, got=in_a_line(error), do="leave it out: --let-in-steps 0") from error


@contextmanager
def _trainable(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Tensors that take part in autograd inside."""
    try:
        for tensor in tensors:
            tensor.requires_grad_(True)
        yield
    finally:
        for tensor in tensors:
            tensor.requires_grad_(False)


def _retrained(
    classifier: Classifier, names: Sequence[str], natural: Tensor, *, tm: ThreatModel, steps: int, batch: int, seed: int
) -> Classifier:
    """A copy whose named weights are trained to withstand the attack and to keep natural answers."""
    mended = copy.deepcopy(classifier, without_history(classifier.model))
    generator, inner = torch.Generator().manual_seed(seed), _shortened(tm, INNER_STEPS)
    seed_generators(natural.device, seed)  # whichever layers were mended before
    own = _weights(mended.model)
    tensors = [own[name] for name in names]
    optimizer = torch.optim.Adam(relative_rates(tensors, RATE))
    for _ in range(steps):
        images = natural[torch.randint(len(natural), (batch,), generator=generator).to(natural.device)]
        with torch.no_grad():
            answers = classifier.run(images).float().log_softmax(dim=1)
        classes = answers.argmax(dim=1)
        adversarial = search(mended.run, images, classes, inner, mended.bounds)
        with _trainable(tensors):
            attacked, calm = mended.run(torch.cat([adversarial, images])).float().chunk(2)
            divergence = F.kl_div(calm.log_softmax(dim=1), answers, log_target=True, reduction="batchmean")
            loss = F.cross_entropy(attacked, classes) + divergence
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        optimizer.step()
    return mended


def _filtered(classifier: Classifier, previous: Layer | None, natural: Tensor) -> Run:
    """The network with what natural latents do not do taken out of one latent. `None`: out of the image."""
    if previous is None:
        clean = _Filter(natural)
        return lambda images: classifier.run(clean(images))
    clean = _Filter(capture(classifier, natural, [previous])[1][previous.name])

    def run(images: Tensor) -> Tensor:
        with capturing(classifier, [previous]) as latents:
            classifier.run(images)
        return replay(classifier, previous, clean(latents[previous.name]), images.detach())

    return run


class _Filter:
    """`mu + S (S + rho)^-1 (z - mu)`, solved in the dimensions of natural latents `[M, ...]`."""

    def __init__(self, latents: Tensor) -> None:
        flat = latents.detach().flatten(1).float()
        self._mean = flat.mean(dim=0)
        self._centred = flat - self._mean
        gram = self._centred @ self._centred.T
        ridge = RIDGE * gram.trace() / min(flat.shape)
        self._solved = torch.linalg.solve(gram + ridge.clamp_min(1e-12) * torch.eye(len(flat)).to(gram), self._centred)

    def __call__(self, latent: Tensor) -> Tensor:
        """Of the same shape; gradients flow."""
        along = (latent.float().flatten(1) - self._mean) @ self._centred.T
        clean: Tensor = self._mean + along @ self._solved
        return clean.view_as(latent).to(latent.dtype)
