"""How real explanations look: their distance to natural images, in the features of a network that took no part.

The kernel inception distance (Bińkowski et al. 2018, arXiv 1801.01401) is an unbiased estimate of the squared maximum
mean discrepancy with the kernel `k(a, b) = (a·b / d + 1)³` of `d` features. In place of Inception it takes the features
of a classifier of the same data, scaled to a mean square of 1 on natural images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, ImageSet, as_source
from interpretgan.errors import ConfigError
from interpretgan.interpreter import InterpretGAN
from interpretgan.layers import capture, find_layers
from interpretgan.models.zoo.cards import card_names, load_classifier, read_card
from interpretgan.statistics import Floats, Interval
from interpretgan.torch_state import as_seed, plain_torch

SUBSETS = 100  #: Whose distances make the interval.
LARGEST = 1000  #: Images in each half, at most.
LEAST = 100  #: Images in each half, at least.
BATCH = 100
NOISE = 0.2  #: Deviation of the noise of a control, as a share of the bounds.


@dataclass(frozen=True)
class Realism:
    """Distances to natural images, each with an interval that holds those of 95 % of the subsets, or as asked.

    A distance may be below zero: the estimate is unbiased, and that of two sets of natural images is zero on average.
    """

    network: str  #: Whose features are compared.
    images: int  #: In each of the two halves.
    natural: Interval  #: Of one half of the natural images to the other: the floor.
    layers: tuple[Interval, ...]  #: Of the explanations of natural images, by layer.
    controls: Mapping[str, Interval]  #: Of images that are `blurred` and `noisy`: these must be worse than the floor.

    @property
    def tells(self) -> bool:
        """Whether these features tell natural images from both controls: if not, the distances say nothing."""
        return all(control.low > self.natural.high for control in self.controls.values())


def kernel_distance(
    first: Floats, second: Floats, *, seed: int, subsets: int = SUBSETS, confidence: float = 0.95
) -> Interval:
    """The kernel distance of two independent sets of features `[N, d]` and `[M, d]`, at least 4 each.

    The value is the mean over subsets of half of each set, the interval holds that share of them. The same seed takes
    the same subsets. A `ConfigError` where sets are too small or do not fit.
    """
    if min(len(first), len(second)) < 4 or first.shape[1:] != second.shape[1:]:
        expected, got = "two sets of at least 4 rows of features", f"{list(first.shape)} and {list(second.shape)}"
        raise ConfigError(expected=expected, got=got, do="pass more images, features of one network")
    random, size = np.random.default_rng(seed), min(len(first), len(second)) // 2

    def kernel(a: Floats, b: Floats) -> Floats:
        return np.asarray((a @ b.T / a.shape[1] + 1) ** 3)

    def chosen(count: int) -> Floats:
        rows = [np.isin(np.arange(count), random.permutation(count)[:size]) for _ in range(subsets)]
        return np.stack(rows).astype(np.float64)

    a, b = chosen(len(first)), chosen(len(second))

    def within(chosen: Floats, of: Floats) -> Floats:
        table = kernel(of, of)
        np.fill_diagonal(table, 0)
        return np.asarray((chosen @ table * chosen).sum(axis=1) / (size * (size - 1)))

    between = (a @ kernel(first, second) * b).sum(axis=1) / size**2
    values, tail = within(a, first) + within(b, second) - 2 * between, 50 * (1 - confidence)
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(float(values.mean()), float(low), float(high))


def independent_network(train: ImageSet, others: Sequence[Classifier | None]) -> tuple[str, Classifier] | None:
    """A pretrained classifier of the same training images that is none of the others, and its name; `None`: none is.

    `others` are the networks that took part, the explained one first: it comes to its device, and knows its bounds.
    Robust ones are preferred: what they see of an image is nearer to what a person sees.
    """
    networks = [network for network in others if network is not None]
    used = {network.state_sha256() for network in networks}
    cards = [card for card in map(read_card, card_names()) if card.state_sha256 not in used]
    fitting = [card for card in cards if card.data["sha256"] == train.sha256 and card.bounds == networks[0].bounds]
    names = [card.name for card in sorted(fitting, key=lambda card: card.eps is None)]
    return (names[0], load_classifier(names[0], device=networks[0].device)) if names else None


@plain_torch()
def measure_realism(
    interpreter: InterpretGAN,
    images: ImageData,
    network: Classifier,
    *,
    name: str,
    examples: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Realism:
    """Compare explanations of one half of some natural images with the other half, at every layer.

    The halves are apart, as an explanation resembles the image that it is drawn from.

    Args:
        interpreter: A fitted one.
        images: Natural images, of which nothing was trained.
        network: A classifier that took no part, for its features: the latent of its last layer before the logits.
        name: Of that network, for the record.
        examples: How many images, from the first. `None`: all; at most twice `LARGEST` are taken.
        seed: Of noise and subsets.
        confidence: Share of the subsets that an interval holds.

    Raises:
        ConfigError: Fewer than twice `LEAST` images.
        ImageError: Images that either network refuses.
    """
    classifier, seed = interpreter.classifier, as_seed(seed)
    source = as_source(images, None, classifier.bounds)
    half = min(LARGEST, min(len(source), examples or len(source)) // 2)
    if half < LEAST:
        expected, got = f"at least {2 * LEAST} images to compare", str(2 * half)
        raise ConfigError(expected=expected, got=got, do="take more examples")
    probe = source.batch(torch.arange(2))[0].to(network.device)
    every = find_layers(network, probe)
    layer = every[max(0, len(every) - 2)]  # what the logits are computed from
    low, high = classifier.bounds
    generator = torch.Generator().manual_seed(seed)

    def features(x: Tensor) -> Tensor:
        return capture(network, x.to(network.device).float(), [layer])[1][layer.name].flatten(1).double().cpu()

    drawn: dict[str, list[Tensor]] = {}
    for part in torch.split(torch.arange(2 * half), BATCH):
        x = classifier.check_images(source.batch(part)[0])
        rows, of = part < half, features(x)
        drawn.setdefault("second", []).append(of[~rows])
        drawn.setdefault("first", []).append(of[rows])
        if not bool(rows.any()):
            continue
        x = x[rows.to(x.device)]
        noise = torch.randn(x.shape, generator=generator).to(x.device) * NOISE * (high - low)
        drawn.setdefault("noisy", []).append(features((x + noise).clamp(low, high)))
        drawn.setdefault("blurred", []).append(features(_blurred(x)))
        for place, explanations in enumerate(interpreter.draw(x, interpreter.noise_of(part[rows], seed=seed))):
            drawn.setdefault(str(place), []).append(features(explanations))
    found = {key: torch.cat(parts).numpy() for key, parts in drawn.items()}
    scale = max(float(np.sqrt(np.mean(found["second"] ** 2))), 1e-12)

    def distance(key: str) -> Interval:
        return kernel_distance(found[key] / scale, found["second"] / scale, seed=seed, confidence=confidence)

    layers = tuple(distance(str(place)) for place in range(len(interpreter.layers)))
    return Realism(name, half, distance("first"), layers, {kind: distance(kind) for kind in ("blurred", "noisy")})


def _blurred(images: Tensor) -> Tensor:
    """Images as means over 5 × 5 pixels, without those outside."""
    return F.avg_pool2d(images, 5, stride=1, padding=2, count_include_pad=False)
