"""What each unit's change did to the decision: layer-wise integrated gradients along the way from `z` to `z'`.

A *unit* is a channel of a map, an entry of a vector, or a dimension of tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from interpretgan.baselines.inputs import fewest_images, stretched
from interpretgan.classifier import Classifier
from interpretgan.gan.latents import channels_first
from interpretgan.layers import Layer, replay

TOLERANCE = 1e-3  #: Error of the sum over units, as a share of the margin's change, at which a path is fine enough.
PIECES = 16  #: Equal pieces of the path to begin with.
ROUNDING = 8  #: Times the precision of the margin, below which an error is rounding.
HALVINGS = 11  #: Times that a piece is halved at most.
POINTS, NUMBERS = 512, 2**23  #: Points of paths, and numbers of their latents, that are looked at together.

Logits: TypeAlias = Callable[[Tensor, Tensor], Tensor]  #: Latents `[n, ...]`, and which image each is of, to `[n, K]`.


@dataclass(frozen=True)
class Conductance:
    """What each of `U` units' change did to two logits, for `N` images; all in doubles."""

    to_true: Tensor  #: What it added to the logit of the true class, `[N, U]`.
    to_shown: Tensor  #: What it added to the logit of the shown class, `[N, U]`.
    before: Tensor  #: Margin of the true class over the shown one at `z`, `[N]`.
    after: Tensor  #: The same at `z'`.

    @property
    def error(self) -> Tensor:
        """How far the units' sum is from the margin's change, as a share of it, `[N]`; 0 where nothing changes."""
        change = self.after - self.before
        missing = ((self.to_true - self.to_shown).sum(dim=1) - change).abs()
        return torch.where(missing > 0, missing / change.abs(), 0.0)


def by_unit(latent: Tensor) -> Tensor:
    """A latent `[N, *shape]` as `[N, units, places]`; a vector has one place."""
    return channels_first(latent).flatten(2) if latent.ndim > 2 else latent[:, :, None]


def of_units(chosen: Tensor, latent: Tensor) -> Tensor:
    """One value for each unit, `[N, units]`, in a shape that broadcasts with latents `[N, *shape]`."""
    if latent.ndim == 3:
        return chosen[:, None, :]
    return chosen.view(*chosen.shape, *[1] * (latent.ndim - 2))


def rest_of_network(classifier: Classifier, layer: Layer, latent: Tensor, images: Tensor) -> Logits:
    """The network from a layer on, for latents of these images `[N, C, H, W]`."""
    run, pair = partial(replay, classifier, layer), [0, -1]
    one_is_enough = len(fewest_images(run, latent[pair], images[pair])) == 1
    return lambda latents, index: run(latents, images[:1] if one_is_enough else images[index])


def conductance(
    logits: Logits, z: Tensor, changed: Tensor, true: Tensor, shown: Tensor, *, tolerance: float = TOLERANCE
) -> Conductance:
    """Integrated gradients of two logits along the straight path from `z` to `changed`, unit by unit.

    `c_k = Σ_places (z'_k - z_k) ∫ ∂f_c / ∂z_k dt`. From each logit the mean of all is taken: a constant that is added
    to all of them changes no decision. By completeness the units' sum is the change of the logit, so that of
    `to_true - to_shown` is the change of the margin.

    The integral is a sum over pieces of the path, each with the gradient at its middle. What a piece should sum to is
    known from the logits at its ends. Pieces that miss it are halved until the error of the whole is within the
    tolerance: a network of ReLUs is straight except for its kinks, and there the pieces become small.

    Args:
        logits: The network from the layer on.
        z: Natural latents `[N, *shape]`.
        changed: Adversarial latents, likewise.
        true: True classes `[N]`.
        shown: The classes `[N]` whose logits are compared with them.
        tolerance: The error, as a share of the margin's change.

    Source: integrated gradients (arXiv 1703.01365); of hidden units, conductance (arXiv 1805.12233).
    """
    path = _Path(logits, z, changed - z, torch.stack([true, shown], dim=1))
    everyone = torch.arange(len(z), device=z.device)
    found = torch.zeros(2, *by_unit(z).shape[:2], dtype=torch.float64, device=z.device)
    ends = torch.linspace(0, 1, PIECES + 1, dtype=torch.float64, device=z.device)
    margins = path.margins(everyone.repeat_interleave(PIECES + 1), ends.repeat(len(z))).view(len(z), PIECES + 1)
    before, after = margins[:, 0], margins[:, -1]
    allowed = tolerance * (after - before).abs()
    rounding = ROUNDING * torch.finfo(z.dtype).eps * margins.abs().amax(dim=1)
    small = torch.maximum(allowed / (8 * PIECES), rounding)  # a piece that misses less is not halved
    # The open pieces: of which image, where it starts, how long it is, the margin at both ends.
    index, left = everyone.repeat_interleave(PIECES), ends[:-1].repeat(len(z))
    length = torch.full_like(left, 1 / PIECES)
    low, high = margins[:, :-1].flatten(), margins[:, 1:].flatten()
    spent = torch.zeros_like(before)  # errors of the pieces that are closed
    for halving in range(HALVINGS + 1):
        middle, parts = path.pieces(index, left, length)
        missing = ((parts[0] - parts[1]).sum(dim=1) - (high - low)).abs()
        again = (spent.index_add(0, index, missing) > allowed)[index] & (missing > small[index])
        if halving == HALVINGS:
            again[:] = False
        found.index_add_(1, index[~again], parts[:, ~again])
        spent.index_add_(0, index[~again], missing[~again])
        if not again.any():
            break
        index, half = index[again].repeat(2), length[again] / 2
        left, length = torch.cat([left[again], left[again] + half]), half.repeat(2)
        low, high = torch.cat([low[again], middle[again]]), torch.cat([middle[again], high[again]])
    return Conductance(found[0], found[1], before, after)


@dataclass(frozen=True)
class _Path:
    """The straight paths of `N` latents, and the two logits `[N, 2]` that are looked at on each."""

    logits: Logits
    z: Tensor
    change: Tensor
    classes: Tensor

    def margins(self, index: Tensor, t: Tensor) -> Tensor:
        """The margin `[n]` at shares `t` of the paths of the images `index`."""
        found = []
        with torch.no_grad():
            for i, s in zip(*self._split(index, t), strict=True):
                found.append(self._values(self._at(i, s), i))
        values = torch.cat(found)
        return values[:, 0] - values[:, 1]

    def pieces(self, index: Tensor, left: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """For each piece the margin `[n]` at its middle, and what each unit adds to both logits on it, `[2, n, U]`."""
        margins, parts = [], []
        for i, a, h in zip(*self._split(index, left, length), strict=True):
            point = self._at(i, a + h / 2).requires_grad_()
            values = self._values(point, i)
            moved = self.change[i] * stretched(h, self.change)
            gradients = [torch.autograd.grad(values[:, side].sum(), point, retain_graph=not side)[0] for side in (0, 1)]
            parts.append(torch.stack([by_unit(moved * gradient).double().sum(dim=2) for gradient in gradients]))
            margins.append((values[:, 0] - values[:, 1]).detach())
        return torch.cat(margins), torch.cat(parts, dim=1)

    def _split(self, *tensors: Tensor) -> list[tuple[Tensor, ...]]:
        size = max(1, min(POINTS, NUMBERS // self.z[0].numel()))
        return [torch.split(tensor, size) for tensor in tensors]

    def _at(self, index: Tensor, t: Tensor) -> Tensor:
        return self.z[index] + stretched(t, self.z) * self.change[index]

    def _values(self, latents: Tensor, index: Tensor) -> Tensor:
        """The logits of two classes, less the mean of all: `[n, 2]`, in doubles."""
        values = self.logits(latents, index).double()
        return values.gather(1, self.classes[index]) - values.mean(dim=1, keepdim=True)
