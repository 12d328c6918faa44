"""The generator: a stem per layer, and one trunk that all layers share.

Each latent, whatever its shape, is brought to the same coarse grid. From there on one network draws the image; a scale
and a shift per layer, channel and block say for which layer it is drawn. Almost all arithmetic is done in the trunk on
the coarse grid, so one more layer costs its stem and its share of the batch.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretgan.gan.latents import (
    Standardise,
    are_smooth,
    as_map,
    channels_first_shape,
    depth_to_space,
    resize,
    smoothed,
    space_to_depth,
    token_grid,
)
from interpretgan.gan.linear_start import LinearStart
from interpretgan.layers import Layer

FINEST_GRID = 8  # cells a side of the coarse grid, at most
LARGEST_DRAWN = 64  # pixels a side that trunk and discriminator work on, at most
SHORT = 1024  # numbers of a small map that is taken as a vector, at most


def coarse_grid(image_size: int) -> int:
    """Cells a side: the size of the image halved until it is at most `FINEST_GRID` (28 → 7, 32 → 8, 224 → 7)."""
    grid = image_size
    while grid > FINEST_GRID:
        grid = math.ceil(grid / 2)
    return grid


def working_size(image_size: int) -> int:
    """Pixels a side that the trunk draws and the discriminator sees: those of the image, or at most `LARGEST_DRAWN`."""
    grid = coarse_grid(image_size)
    return image_size if image_size <= LARGEST_DRAWN else grid * 2 ** int(math.log2(LARGEST_DRAWN / grid))


class Stem(nn.Module):
    """Bring the latent of one layer, standardised, to the grid: `[N, *shape] → [N, width, grid, grid]`.

    - A vector, or a map or sequence so small that all its numbers make a short vector, is mapped by one matrix. A
      `local` stem has none, so that of a map each cell sees what lies there.
    - Of a larger map, a side at least as fine as the grid is resized to a multiple of it and folded, so nothing is
      averaged away. A coarser side is unfolded, each place into some of its own, and resized to the grid.

    Tokens `(T, D)` are laid out as the map that they are of an image with these proportions, height by width. Those
    that have no place there, as a class token, are mapped by one matrix, and added everywhere.
    """

    def __init__(
        self, shape: tuple[int, ...], grid: tuple[int, int], width: int, *, proportions: float, local: bool = False
    ) -> None:
        super().__init__()
        self.grid, self.width, self.proportions = grid, width, proportions
        self.standardise = Standardise(shape, drop_still=False)
        channels, *places = channels_first_shape(shape)
        apart = 0
        if len(places) == 1:
            apart, *places = token_grid(places[0], proportions)
        self.project: nn.Module
        self.apart: nn.Linear | None = None
        finer = [side >= cells for side, cells in zip(places, grid, strict=False)]
        if not places or (not local and not all(finer) and math.prod(shape) <= SHORT):
            self.project = nn.Linear(math.prod(shape), width * grid[0] * grid[1])
            # What natural latents never do must not be drawn by the luck of the first weights.
            nn.init.zeros_(self.project.weight)
            return
        folds = [math.ceil(side / cells) if side >= cells else 1 for side, cells in zip(places, grid, strict=True)]
        sides = [
            max(side, fold * cells * (side >= cells)) for side, fold, cells in zip(places, folds, grid, strict=True)
        ]
        self.fold, self.resized = (folds[0], folds[1]), (sides[0], sides[1])
        self.unfold = (math.ceil(grid[0] / sides[0]), math.ceil(grid[1] / sides[1]))
        self.project = nn.Conv2d(channels * math.prod(self.fold), width * math.prod(self.unfold), 1)
        if apart:
            self.apart = nn.Linear(apart * shape[-1], width)

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, *shape] → [N, width, grid, grid]`."""
        latent = self.standardise(latent)
        mapped: Tensor
        if isinstance(self.project, nn.Linear):
            mapped = self.project(latent.flatten(1))
            return mapped.view(-1, self.width, *self.grid)
        cells, apart = as_map(latent, self.proportions)
        cells = space_to_depth(resize(cells, self.resized), self.fold)
        mapped = resize(depth_to_space(self.project(cells), self.unfold), self.grid)
        if self.apart is not None:
            mapped = mapped + self.apart(apart.flatten(1))[:, :, None, None]
        return mapped


class Block(nn.Module):
    """Residual block with a scale and a shift per channel and layer: `h + conv(relu(conv(relu(a_l·h + b_l))))`."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.style = nn.Embedding(layers, 2 * width)
        nn.init.zeros_(self.style.weight)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)  # starts as the identity: deep trunks train from the first step

    def forward(self, hidden: Tensor, layer: Tensor) -> Tensor:
        """`hidden` `[N, width, G, G]`, `layer` `[N]` indices → `[N, width, G, G]`."""
        scale, shift = self.style(layer).to(hidden.dtype)[:, :, None, None].chunk(2, dim=1)
        inner = self.first(F.relu(hidden * (1 + scale) + shift))
        out: Tensor = hidden + self.second(F.relu(inner))
        return out


class SmoothShuffle(nn.PixelShuffle):
    """Twice as fine, `[N, 4C, H, W] → [N, C, 2H, 2W]`, without the checkerboard: `smoothed` after the shuffle.

    The four pixels of a cell are outputs of their own, and what pleases the recognition network can settle in their
    differences. Sugawara et al. 2018 blur after the upsampling, too.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """See above."""
        return smoothed(super().forward(input))


def should_be_smooth(images: Tensor) -> bool:
    """Whether what the trunk adds to a linear start is to be smooth, for images `[N, C, H, W]` like these.

    Where they have colour; and where smoothing takes nothing from them at the size that the trunk draws, as from
    enlarged ones. MNIST's strokes are as fine as pixels: smoothed, explanations are farther from their images.
    """
    height, width = images.shape[2:]
    return images.shape[1] > 1 or are_smooth(resize(images, (working_size(height), working_size(width))))


class Generator(nn.Module):
    """`x̂ = G_l(z_l, n)` for every layer `l`, in one network; the layers have different latents.

    The trunk has `width` channels and `blocks` residual blocks. The noise `n ~ N(0, I)` has `noise` numbers. With
    `linear_start` the trunk sees what linear decoders draw (`LinearStart`), and adds to it, at first nothing. With
    `look_again` it sees that not on the coarse grid alone, but at each size that it draws at. `smooth`: what the trunk
    draws has no checkerboard (`SmoothShuffle`), nor the finest detail.
    """

    image_noise = 0.0  #: The largest noise in the images of its training, see `GANConfig.image_noise`.

    def __init__(
        self,
        layers: Sequence[Layer],
        image_shape: tuple[int, int, int],
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        width: int = 96,
        blocks: int = 2,
        noise: int = 16,
        linear_start: bool = False,
        look_again: bool = False,
        smooth: bool = False,
    ) -> None:
        super().__init__()
        channels, height, wide = image_shape
        self.image_shape, self.bounds, self.smooth = image_shape, bounds, smooth
        self.names = tuple(layer.name for layer in layers)
        self.grid = (coarse_grid(height), coarse_grid(wide))
        shapes = [layer.shape for layer in layers]
        self.stems = nn.ModuleList([Stem(shape, self.grid, width, proportions=height / wide) for shape in shapes])
        self.looks = nn.ModuleList()
        if linear_start:
            self.looks.append(Stem(image_shape, self.grid, width, proportions=height / wide))
        self.mix = nn.Linear(noise, width * self.grid[0] * self.grid[1])
        self.blocks = nn.ModuleList([Block(width, len(layers)) for _ in range(blocks)])
        folds = (math.ceil(working_size(side) / cells) for side, cells in zip(image_shape[1:], self.grid, strict=True))
        doublings = math.ceil(math.log2(max(folds)))
        self.stages = nn.ModuleList()
        finer = SmoothShuffle if smooth else nn.PixelShuffle
        for stage in range(max(doublings, 1)):
            if linear_start and look_again and stage:
                cells = (self.grid[0] * 2**stage, self.grid[1] * 2**stage)
                self.looks.append(Stem(image_shape, cells, width, proportions=height / wide, local=True))
            narrow = channels if stage >= doublings - 1 else max(width // 2, 16)
            if doublings:
                upwards = [nn.Conv2d(width, 4 * narrow, 3, padding=1), finer(2)]
            else:  # the grid is as fine as the image
                upwards = [nn.Conv2d(width, narrow, 3, padding=1)]
            self.stages.append(nn.Sequential(nn.ReLU(), *upwards))
            width = narrow
        self.start: LinearStart | None = None
        if linear_start:
            self.start = LinearStart(shapes, image_shape, names=self.names)
            for weight in self.stages[-1].parameters():
                nn.init.zeros_(weight)

    def calibrate(self, latents: Mapping[str, Tensor]) -> None:
        """Standardise every stem by latents of natural images, `{layer name: [N, *shape]}`."""
        for name, stem in zip(self.names, self.stems, strict=True):
            assert isinstance(stem, Stem)
            stem.standardise.calibrate(latents[name])

    def forward(self, latents: Sequence[Tensor | None], noise: Tensor) -> Tensor:
        """Images `[Σ N_l, C, H, W]` within the bounds, in the order of the layers, drawn in one batch.

        Of each layer there are latents `[N_l, *shape]`, or `None`. The noise is `[Σ N_l, noise]`.
        """
        stems = [(i, stem(z)) for i, (stem, z) in enumerate(zip(self.stems, latents, strict=True)) if z is not None]
        layer = torch.cat([torch.full((len(h),), i, device=h.device) for i, h in stems])
        hidden = torch.cat([h for _, h in stems])
        hidden = hidden + self.mix(noise).view_as(hidden)
        hidden = hidden.contiguous(memory_format=torch.channels_last)
        start = None if self.start is None else self.start(latents)
        for number, stage in enumerate(self.stages):
            if start is not None and number < len(self.looks):
                hidden = hidden + self.looks[number](2 * start - 1)
            if not number:
                for block in self.blocks:
                    hidden = block(hidden, layer)
            hidden = stage(hidden)
        low, high = self.bounds
        hidden = resize(hidden.float(), (self.image_shape[1], self.image_shape[2]))
        if start is not None:
            hidden = hidden + start.logit()
        return low + (high - low) * torch.sigmoid(hidden)
