"""Where a generator starts: what linear decoders draw of each layer, fitted in closed form before the first step.

A generator that starts at grey images feeds the classifier what it has never seen. Where the classifier answers that
with large gradients, they drown the discriminator's, and the training collapses. Linear decodings are near natural
images from the first step on, and few steps are needed from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretgan.data import ImageSource
from interpretgan.errors import ConfigError, kind_of
from interpretgan.gan.latents import (
    as_map,
    channels_first,
    channels_first_shape,
    depth_to_space,
    resize,
    space_to_depth,
    token_grid,
)

IMAGES = 2000  # natural images that it is fitted to,
IMAGE_PIXELS = 2**25  # fewer where this many pixels are reached before
BATCH = 250  # of these that the classifier sees at a time
INPUTS = 6144  # numbers of a latent that a decoder sees; larger maps are averaged over neighbouring places
COMPONENTS = 64  # principal components of the images that it draws
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge regression, of which held-out images choose one
HELD_OUT = 0.25  # share of the images that choose it
PALEST = 0.02  # distance that a decoded pixel keeps from the bounds, as a share of their width
LEAST_DEVIATION = 0.05  # of a number of the latent, as a share of the largest one's: what hardly moves tells nothing
NUMBERS = 2**26  # of latents that are in memory at once, at most
COPIES = 7  # of a latent in float64 that its regression holds
PATCH_INPUTS = 1200  # numbers around a place of a map from which its patch of the image is decoded, at most
PATCH_SIDE = 16  # pixels a side that such a patch has for its own, at most: larger ones are left to the components
PATCHES = 10_000  # that a local decoder is fitted to
STRIDE = 7919  # places from the first that is chosen in one image to that in the next; a prime

LatentsOf = Callable[[Sequence[int]], Iterator[Sequence[Tensor]]]
"""Latents of natural images at the layers with these indices, a batch at a time; each call has the same images."""


class LinearStart(nn.Module):
    """Images of latents by linear decoders: `[N_l, *shape_l] → [Σ N_l, C, H, W]`.

    Each layer has one of the whole image, from the whole latent. A layer whose latent is a map has a second one before
    it (`PatchDecoder`), and the first draws what that leaves, where held-out images are drawn better so. Their weights
    are buffers: they are fitted once (`fit`), and stay as they are while the generator learns what to add.
    """

    basis: Tensor
    mean: Tensor

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int], *, names: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.image_shape, self.shapes, self.names = image_shape, tuple(shapes), tuple(names)
        pixels = math.prod(image_shape)
        self.proportions = image_shape[1] / image_shape[2]
        components = min(COMPONENTS, pixels)
        self.register_buffer("basis", torch.zeros(components, pixels))
        self.register_buffer("mean", torch.full((pixels,), 0.5))
        self.inputs = [reduced(torch.zeros(1, *shape, device="meta"), self.proportions).shape[1] for shape in shapes]
        self.patches = nn.ModuleDict()
        for index, (shape, inputs) in enumerate(zip(shapes, self.inputs, strict=True)):
            self.register_buffer(f"weight_{index}", torch.zeros(inputs, components))
            self.register_buffer(f"bias_{index}", torch.zeros(components))
            if (decoder := PatchDecoder.of(shape, image_shape)) is not None:
                self.patches[str(index)] = decoder

    @torch.no_grad()
    def fitting_mib(self, images: int) -> int:
        """MiB that `fit` holds of so many images, beside what it always holds."""
        latents = min(sum(self.inputs) * images, NUMBERS + max(self.inputs) * images)
        return (4 * latents + 8 * COPIES * max(self.inputs) * images) // 2**20

    def fit(self, images: Tensor, latents_of: LatentsOf, *, known: int = 0) -> None:
        """Fit to natural images `[N, C, H, W]`, in [0, 1], and their latents.

        Ridge regression of the images' principal components on the standardised numbers of each latent:
        `W = argmin ‖Y − Z W‖² + λ‖W‖²`, with the λ that draws held-out images best.

        So many of the first layers as are `known` stay as they are, of a start that was fitted to the same images.
        """
        pixels = images.flatten(1).double()
        mean = pixels.mean(dim=0)
        centred = pixels - mean
        if not known:
            self.mean.copy_(mean)
            self.basis.copy_(_principal(centred, len(self.basis)))
        basis = self.basis.double()
        targets, images = centred @ basis.T, centred.float().view_as(images)
        unreached = centred.square().sum(dim=1) - targets.square().sum(dim=1)
        del pixels, centred
        for group in self._groups(len(images), first=known):
            with_patches = [index for index in group if str(index) in self.patches]
            self._fit_patches(with_patches, images, latents_of)
            inputs: dict[int, list[Tensor]] = {index: [] for index in group}
            left: dict[int, list[Tensor]] = {index: [] for index in with_patches}  # of the components
            outside: dict[int, list[Tensor]] = {index: [] for index in with_patches}  # error where they do not reach
            seen = 0
            for latents in latents_of(group):
                rows = slice(seen, seen := seen + len(latents[0]))
                for index, latent in zip(group, latents, strict=True):
                    inputs[index].append(reduced(latent, self.proportions))
                    if index in left:
                        drawn = self._patch(index)(latent).flatten(1)
                        left[index].append(targets[rows] - (drawn @ self.basis.T).double())
                        missed = (images[rows].flatten(1) - drawn).square().sum(dim=1)
                        # Whether patches help is told by the whole error, not by that in the components.
                        outside[index].append(missed - left[index][-1].square().sum(dim=1) - unreached[rows])
            for index in group:
                latent = torch.cat(inputs.pop(index)).double()
                if index not in left:
                    (found,) = _ridge(latent, targets)
                else:
                    found, beside = _ridge(latent, targets, torch.cat(left.pop(index)))
                    if beside.error + torch.cat(outside.pop(index))[: _held_out(len(images))].sum() < found.error:
                        found = beside
                    else:
                        self._patch(index).set_zero()
                self.get_buffer(f"weight_{index}").copy_(found.weight)
                self.get_buffer(f"bias_{index}").copy_(found.bias)

    def _fit_patches(self, group: list[int], images: Tensor, latents_of: LatentsOf) -> None:
        """Fit the local decoders of these layers to images `[N, C, H, W]` less their mean."""
        if not group:
            return
        cells: dict[int, list[tuple[Tensor, Tensor]]] = {index: [] for index in group}
        seen = 0
        for latents in latents_of(group):
            batch = images[seen : seen + len(latents[0])]
            seen += len(batch)
            for index, latent in zip(group, latents, strict=True):
                cells[index].append(self._patch(index).cells(latent, batch, math.ceil(PATCHES / len(images))))
        for index in group:
            inputs, targets = (torch.cat(part).double() for part in zip(*cells.pop(index), strict=True))
            (found,) = _ridge(inputs, targets)
            self._patch(index).set(found.weight, found.bias)

    def _patch(self, index: int) -> PatchDecoder:
        decoder = self.patches[str(index)]
        assert isinstance(decoder, PatchDecoder)
        return decoder

    def take(self, known: LinearStart) -> None:
        """Take over the weights of another start, whose layers are the first of these; else it is a `ConfigError`."""
        given: object = known  # whatever a caller without type checks hands in
        if not isinstance(given, LinearStart):
            do = "pass interpreter.natural_start"
            raise ConfigError(expected="the start of an InterpretGAN", got=kind_of(given), do=do)
        count = len(known.shapes)
        mine = (self.image_shape, self.names[:count], self.shapes[:count])
        if mine != (known.image_shape, known.names, known.shapes):
            expected = f"a start of layers {', '.join(self.names)} and images {self.image_shape}"
            got = f"one of {', '.join(known.names)} and images {known.image_shape}"
            raise ConfigError(expected=expected, got=got, do="take that of an InterpretGAN of the same layers")
        self.load_state_dict({**self.state_dict(), **known.state_dict()})

    def _groups(self, images: int, *, first: int) -> list[list[int]]:
        """The indices of the layers from the first on, in groups whose latents are in memory together."""
        groups: list[list[int]] = []
        size = NUMBERS
        for index in range(first, len(self.inputs)):
            inputs = self.inputs[index]
            size += inputs * images
            if size > NUMBERS:
                groups.append([])
                size = inputs * images
            groups[-1].append(index)
        return groups

    def forward(self, latents: Sequence[Tensor | None]) -> Tensor:
        """Pixels `[Σ N_l, C, H, W]` in (0, 1) of the latents of each layer, or `None`, in the order of the layers."""
        with torch.autocast(self.mean.device.type, enabled=False):
            chosen = [(index, latent) for index, latent in enumerate(latents) if latent is not None]
            drawn = [
                reduced(latent, self.proportions) @ self.get_buffer(f"weight_{index}")
                + self.get_buffer(f"bias_{index}")
                for index, latent in chosen
            ]
            pixels = torch.cat(drawn) @ self.basis + self.mean
            if self.patches:
                patches = [
                    self.patches[str(index)](latent).flatten(1)
                    if str(index) in self.patches
                    else pixels.new_zeros(len(latent), pixels.shape[1])
                    for index, latent in chosen
                ]
                pixels = pixels + torch.cat(patches)
            return pixels.clamp(PALEST, 1 - PALEST).view(-1, *self.image_shape)


def most_images(image_shape: tuple[int, ...]) -> int:
    """How many natural images `[C, H, W]` a start is fitted to, at most."""
    return max(4, min(IMAGES, IMAGE_PIXELS // math.prod(image_shape)))


def fit_start(
    start: LinearStart,
    images: ImageSource,
    order: Tensor,
    bounds: tuple[float, float],
    latents: Callable[[Tensor, Sequence[int]], Sequence[Tensor]],
    *,
    batch: int = BATCH,
    known: LinearStart | None = None,
    seen: Callable[[Tensor], Tensor] = lambda x: x,
) -> None:
    """Fit to the first images of this order, and to latents of what is `seen` in place of a batch of them.

    `latents(x, indices)` gives the latents of layers. The first layers may be `known`, from a start that was fitted to
    the same images.
    """
    if known is not None:
        start.take(known)
        if len(known.shapes) == len(start.shapes):
            return
    low, high = bounds
    some, _ = images.batch(order[: most_images(start.image_shape)])
    some = some.to(start.mean.device, torch.float32)
    batches = [seen(x) for x in torch.split(some, batch)]

    def latents_of(group: Sequence[int]) -> Iterator[Sequence[Tensor]]:
        return (latents(x, group) for x in batches)

    start.fit((some - low) / (high - low), latents_of, known=0 if known is None else len(known.shapes))


class PatchDecoder(nn.Module):
    """Images of a map by one linear decoder for all its places: `[N, *shape] → [N, C, H, W]`, less the mean image.

    Each place draws its `fold` pixels of the image, and half as many more on each side, from the `reach × reach` places
    around it. So it draws fine detail, which principal components of whole images do not hold, and draws it as well in
    a large image. Each patch fades out where it overlaps the next, so no seams are seen.
    """

    weight: Tensor
    bias: Tensor
    overlap: Tensor

    def __init__(self, channels: int, places: tuple[int, int], image_shape: tuple[int, int, int], reach: int) -> None:
        super().__init__()
        self.image_shape, self.places, self.reach = image_shape, places, reach
        self.fold = (math.ceil(image_shape[1] / places[0]), math.ceil(image_shape[2] / places[1]))
        self.margin = (self.fold[0] // 2, self.fold[1] // 2)
        self.patch = (self.fold[0] + 2 * self.margin[0], self.fold[1] + 2 * self.margin[1])
        outputs = image_shape[0] * math.prod(self.patch)
        self.register_buffer("weight", torch.zeros(outputs, channels, reach, reach))
        self.register_buffer("bias", torch.zeros(outputs))
        self.register_buffer("overlap", self._laid(self._fading()[None, :, None].expand(-1, -1, math.prod(places))))

    @classmethod
    def of(cls, shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> PatchDecoder | None:
        """That of a latent, or `None`: a vector has no places, and patches may be too large or depend on too much."""
        if len(shape) == 1:
            return None
        channels, *places = channels_first_shape(shape)
        if len(places) == 1:
            places = list(token_grid(places[0], image_shape[1] / image_shape[2])[1:])
        height, wide = min(places[0], image_shape[1]), min(places[1], image_shape[2])
        reach = next((reach for reach in (3, 1) if channels * reach**2 <= PATCH_INPUTS), None)
        if reach is None or max(image_shape[1] / height, image_shape[2] / wide) > PATCH_SIDE:
            return None
        return cls(channels, (height, wide), image_shape, reach)

    def _cells(self, latent: Tensor) -> Tensor:
        cells, _ = as_map(channels_first(latent.float()), self.image_shape[1] / self.image_shape[2])
        return F.pad(resize(cells, self.places), [self.reach // 2] * 4, mode="replicate")

    def cells(self, latent: Tensor, images: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """What `count` places of each of `N` images see, `[N·count, d]`, and their patches, `[N·count, outputs]`.

        The places are spread evenly over the map, and begin elsewhere in each image.
        """
        cells, (down, right) = self._cells(latent), (fold - m for fold, m in zip(self.fold, self.margin, strict=True))
        # Beyond its edge an image goes on as the map does there.
        beyond = F.pad(space_to_depth(resize(images, self._fine()), self.fold), [1] * 4, mode="replicate")
        beyond = depth_to_space(beyond, self.fold)[:, :, down:-down, right:-right]
        patches = beyond.unfold(2, self.patch[0], self.fold[0]).unfold(3, self.patch[1], self.fold[1])
        image = torch.arange(len(latent), device=latent.device)[:, None]
        steps = torch.arange(count, device=latent.device) * math.prod(self.places) // count
        place = (image * STRIDE + steps) % math.prod(self.places)
        row, column = place // self.places[1], place % self.places[1]
        around = [
            cells[image, :, row + down, column + right] for down in range(self.reach) for right in range(self.reach)
        ]
        seen = torch.stack(around, dim=3)  # [N, count, C, reach²], as the weights of a convolution
        return seen.flatten(2).flatten(0, 1), patches[image, :, row, column].flatten(2).flatten(0, 1)

    def set(self, weight: Tensor, bias: Tensor) -> None:
        """Take weights `[d, outputs]` and biases `[outputs]`."""
        fading = self._fading().to(weight)
        self.weight.copy_((weight * fading).T.reshape(self.weight.shape))
        self.bias.copy_(bias * fading)

    def set_zero(self) -> None:
        """Draw nothing."""
        self.weight.zero_()
        self.bias.zero_()

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, *shape] → [N, C, H, W]`."""
        patches = F.conv2d(self._cells(latent), self.weight, self.bias)
        return resize(self._laid(patches.flatten(2)) / self.overlap, (self.image_shape[1], self.image_shape[2]))

    def _laid(self, patches: Tensor) -> Tensor:
        """The sums of patches `[N, outputs, places]` where they lie in the image: `[N, C, H, W]`."""
        return F.fold(patches, self._fine(), self.patch, padding=self.margin, stride=self.fold)

    def _fading(self) -> Tensor:
        """What each number of a patch counts, `[outputs]`: less the farther it is from the middle."""
        rows, columns = (1 - torch.linspace(-1, 1, side + 2)[1:-1].abs() for side in self.patch)
        return torch.outer(rows, columns).flatten().repeat(self.image_shape[0])

    def _fine(self) -> tuple[int, int]:
        return self.places[0] * self.fold[0], self.places[1] * self.fold[1]


def reduced(latent: Tensor, proportions: float) -> Tensor:
    """A latent as at most about `INPUTS` numbers, `[N, *shape] → [N, d]`: a larger map is averaged over neighbours."""
    latent = latent.float()
    if latent.ndim == 2 or latent[0].numel() <= INPUTS:
        return latent.flatten(1)
    cells, apart = as_map(channels_first(latent), proportions)
    side = max(1, math.isqrt(max(0, INPUTS - apart[0].numel()) // cells.shape[1]))
    cells = F.adaptive_avg_pool2d(cells, (min(side, cells.shape[2]), min(side, cells.shape[3])))
    return torch.cat([apart.flatten(1), cells.flatten(1)], dim=1)


def _principal(centred: Tensor, most: int) -> Tensor:
    """The principal components `[most, pixels]` of centred images `[N, pixels]`; zeros where there are fewer."""
    many = len(centred) > centred.shape[1]
    variances, directions = torch.linalg.eigh(centred.T @ centred if many else centred @ centred.T)
    count = min(most, int((variances > 1e-9 * variances[-1].clamp_min(1e-12)).sum()))
    chosen = directions[:, len(variances) - count :].T
    components = centred.new_zeros(most, centred.shape[1])
    components[:count] = chosen if many else F.normalize(chosen @ centred, dim=1)
    return components


def _held_out(rows: int) -> int:
    """How many of these rows, the first, choose a penalty."""
    return max(1, round(HELD_OUT * rows))


class _Fit(NamedTuple):
    weight: Tensor  # [d, R]
    bias: Tensor  # [R]
    error: Tensor  # sum of squares over the held-out rows


def _ridge(latents: Tensor, *several: Tensor) -> list[_Fit]:
    """Ridge regressions of several centred targets `[N, R]` on latents `[N, d]`.

    It is solved in the smaller space: `W = (Zᵀ Z + λ d)⁻¹ Zᵀ Y = Zᵀ (Z Zᵀ + λ d)⁻¹ Y`. Held-out rows choose each λ.
    """
    mean, deviation = latents.mean(dim=0), latents.std(dim=0, correction=0)
    scale = 1 / deviation.clamp_min(LEAST_DEVIATION * float(deviation.max()) + 1e-9)
    standardised = (latents - mean) * scale
    held_out, root = _held_out(len(latents)), math.sqrt(latents.shape[1])
    fitted, tested = standardised[held_out:] / root, standardised[:held_out]
    targets, sizes = torch.cat(several, dim=1), [one.shape[1] for one in several]
    many = len(fitted) > latents.shape[1]
    right = targets[held_out:]
    gram, right = (fitted.T @ fitted, fitted.T @ right) if many else (fitted @ fitted.T, right)
    found: list[list[_Fit]] = [[] for _ in several]
    for penalty in PENALTIES:
        solved = torch.cholesky_solve(right, torch.linalg.cholesky(gram + penalty * torch.eye(len(gram)).to(gram)))
        weight = (solved if many else fitted.T @ solved) / root
        errors = (tested @ weight - targets[:held_out]).square().sum(dim=0)
        scaled = scale[:, None] * weight
        for fits, part, error in zip(found, torch.split(scaled, sizes, 1), torch.split(errors, sizes), strict=True):
            fits.append(_Fit(part, -mean @ part, error.sum()))
    return [min(fits, key=lambda fit: float(fit.error)) for fits in found]
