"""Patching as proof: which units of an adversarial latent bring the class back when they get their natural values.

Conductance says which units are responsible. Here they are put back, and the network is run from there.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interpretgan.features.conductance import NUMBERS, Logits, by_unit, of_units
from interpretgan.statistics import Floats, Integers, Interval, mean_interval, wilson
from interpretgan.torch_state import as_seed

Bools = npt.NDArray[np.bool_]

ORDERS = ("responsible", "most changed", "random")  #: In which units are put back.
FIRST, STEPS = 10, 20  #: Sizes that are all tried, and equal steps from there to all units.
BOOTSTRAP = 2000
BATCH = 512


@dataclass(frozen=True)
class Patching:
    """What happened as `k` units were put back to their natural values, or alone were changed, for each order of units.

    `N` are the images that the attack turns: classified right before it, and wrong after.
    """

    units: int  #: That the layer has.
    sizes: tuple[int, ...]  #: The numbers `k` of units that were tried, from 0 to all.
    returned: Mapping[str, Bools]  #: By order: whether the true class is back with `k` units put back, `[N, sizes]`.
    turned: Mapping[str, Bools]  #: By order: whether the class turns with these `k` alone changed, `[N, sizes]`.

    @property
    def images(self) -> int:
        """How many images these are."""
        return len(self.returned[ORDERS[0]])

    @property
    def tenth(self) -> int:
        """A tenth of the units, rounded up."""
        return a_tenth(self.units)

    def share(self, order: str, size: int, *, reverse: bool = False, confidence: float = 0.95) -> Interval | None:
        """Share of images whose class is back with so many units put back; with `reverse`, that turn by these alone.

        The interval (Wilson's) covers the choice of images. `None`: no image was turned.
        """
        table = (self.turned if reverse else self.returned)[order]
        if not len(table):
            return None
        return wilson(int(table[:, self.sizes.index(size)].sum()), len(table), confidence)

    def smallest(self) -> Integers:
        """For each image the least number of responsible units, of those tried, that brings its class back, `[N]`."""
        sizes = np.asarray(self.sizes)
        smallest: Integers = sizes[self.returned[ORDERS[0]].argmax(axis=1)]
        return smallest

    def faithfulness(self, against: str = "random", *, confidence: float = 0.95, seed: int = 0) -> Interval | None:
        """Area between the curve of the responsible units and another, over the share of units: -1 to 1.

        The interval is a bootstrap of the images. `None`: no image was turned.
        """
        from scipy.integrate import trapezoid

        if not self.images:
            return None
        at = np.asarray(self.sizes) / self.units
        between = self.returned[ORDERS[0]].astype(np.float64) - self.returned[against]
        areas: Floats = trapezoid(between, at, axis=1)
        return mean_interval(areas, confidence, replicates=BOOTSTRAP, seed=as_seed(seed))


def a_tenth(units: int) -> int:
    """A tenth of so many units, rounded up."""
    return math.ceil(units / 10)


def tried_sizes(units: int) -> tuple[int, ...]:
    """Numbers of units to put back: the smallest, a tenth, and equal steps to all."""
    steps = (math.ceil(units * step / STEPS) for step in range(STEPS + 1))
    return tuple(sorted({*range(min(units, FIRST) + 1), a_tenth(units), *steps}))


def patch(logits: Logits, z: Tensor, changed: Tensor, true: Tensor, responsibility: Tensor, *, seed: int) -> Patching:
    """Put units back in three orders, and change them alone, in the same orders.

    Args:
        logits: The network from the layer on.
        z: Natural latents `[N, *shape]` of images that the attack turns.
        changed: Adversarial latents, likewise.
        true: True classes `[N]`.
        responsibility: By how much each unit lowered the margin, `[N, units]`: the highest are put back first.
        seed: Of the random order, which is another one for each image.
    """
    units = responsibility.shape[1]
    sizes = tried_sizes(units)
    moved = by_unit(changed - z).double().norm(dim=2)
    random = torch.rand(responsibility.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    scores = dict(zip(ORDERS, (responsibility, moved, random.to(moved.device)), strict=True))
    returned, turned = {}, {}
    for order, score in scores.items():
        place = score.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # of each unit in the order
        first = place[:, None, :] < torch.tensor(sizes, device=place.device)[None, :, None]
        returned[order] = _right(logits, true, changed, z, first)
        turned[order] = ~_right(logits, true, z, changed, first)
    return Patching(units, sizes, returned, turned)


def _right(logits: Logits, true: Tensor, latent: Tensor, other: Tensor, masks: Tensor) -> Bools:
    """Whether the class is right with the units of each mask `[N, M, U]` taken from the other latent, `[N, M]`."""
    found = [torch.empty(0, dtype=torch.bool, device=latent.device)]
    every = torch.arange(masks.shape[0] * masks.shape[1], device=latent.device)
    for part in torch.split(every, max(1, min(BATCH, NUMBERS // max(1, latent[:1].numel())))) if len(every) else ():
        index = part // masks.shape[1]
        with torch.no_grad():
            mixed = torch.where(of_units(masks.flatten(0, 1)[part], latent), other[index], latent[index])
            found.append(logits(mixed, index).argmax(dim=1) == true[index])
    values: Bools = torch.cat(found).view(masks.shape[:2]).cpu().numpy()
    return values
