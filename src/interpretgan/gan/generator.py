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

from interpretgan.gan.linear_start import LinearStart
from interpretgan.layers import Layer

FINEST_GRID = 8  # cells a side of the coarse grid, at most
SHORT = 1024  # numbers of a small map that is taken as a vector, at most


def coarse_grid(image_size: int) -> int:
    """Cells a side: the size of the image halved until it is at most `FINEST_GRID` (28 → 7, 32 → 8, 224 → 7)."""
    grid = image_size
    while grid > FINEST_GRID:
        grid = math.ceil(grid / 2)
    return grid


def channels_first(latent: Tensor) -> Tensor:
    """A latent `[N, *shape]` with its channels in axis 1: those of tokens `(T, D)` are their last axis."""
    return latent.movedim(2, 1) if latent.ndim == 3 else latent


class Standardise(nn.Module):
    """Mean 0 and deviation 1 in each channel over natural images: `[N, *shape] → [N, C, ...]`, channels first.

    With `drop_still` a channel that never moves becomes zero: it carries nothing, and rounding must not look like
    something. Else one that moves less than a thousandth of the liveliest is scaled as if it moved that much.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], *, drop_still: bool) -> None:
        super().__init__()
        channels = shape[1] if len(shape) == 2 else shape[0]
        self.drop_still = drop_still
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def calibrate(self, latent: Tensor) -> None:
        """Take mean and deviation from latents of natural images `[N, *shape]`."""
        rows = channels_first(latent.float()).movedim(1, 0).flatten(1)
        self.mean.copy_(rows.mean(dim=1))
        deviation = rows.std(dim=1, correction=0)
        if self.drop_still:
            moves = deviation > 1e-6 * (1 + rows.abs().amax(dim=1))
            self.scale.copy_(torch.where(moves, 1 / deviation.clamp_min(1e-12), 0.0))
        else:
            self.scale.copy_(1 / deviation.clamp_min(1e-3 * float(deviation.max()) + 1e-12))

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, *shape] → [N, C, ...]`, in single precision."""
        shape = (1, -1, *[1] * (latent.ndim - 2))
        standard: Tensor = (channels_first(latent.float()) - self.mean.view(shape)) * self.scale.view(shape)
        return standard


class Stem(nn.Module):
    """Bring the latent of one layer, standardised, to the grid: `[N, *shape] → [N, width, grid, grid]`.

    - A map at least as fine as the grid is resized to a multiple of it and folded, so nothing is averaged away.
    - A vector, or a map so small that all its numbers make a short vector, is mapped by one matrix.
    - A larger coarse map, or a sequence of tokens `(T, D)`, is mapped channel by channel and stretched over the grid.
    """

    def __init__(self, shape: tuple[int, ...], grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.grid, self.width = grid, width
        self.standardise = Standardise(shape, drop_still=False)
        channels = len(self.standardise.mean)
        self.fold: tuple[int, int] | None = None
        self.project: nn.Module
        if len(shape) == 3 and shape[1] >= grid[0] and shape[2] >= grid[1]:
            self.fold = (math.ceil(shape[1] / grid[0]), math.ceil(shape[2] / grid[1]))
            self.project = nn.Conv2d(channels * self.fold[0] * self.fold[1], width, 1)
        elif len(shape) == 1 or math.prod(shape) <= SHORT:
            self.project = nn.Linear(math.prod(shape), width * grid[0] * grid[1])
            # What natural latents never do must not be drawn by the luck of the first weights.
            nn.init.zeros_(self.project.weight)
        else:
            self.project = nn.Conv1d(channels, width, 1)

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, *shape] → [N, width, grid, grid]`."""
        latent = self.standardise(latent)
        mapped: Tensor
        if self.fold is not None:
            latent = resize(latent, (self.grid[0] * self.fold[0], self.grid[1] * self.fold[1]))
            mapped = self.project(space_to_depth(latent, self.fold))
        elif isinstance(self.project, nn.Linear):
            mapped = self.project(latent.flatten(1)).view(-1, self.width, *self.grid)
        elif latent.ndim == 4:
            mapped = resize(self.project(latent.flatten(2)).view(-1, self.width, *latent.shape[2:]), self.grid)
        else:
            cells = self.grid[0] * self.grid[1]
            mapped = F.interpolate(self.project(latent), size=cells, mode="linear", align_corners=False)
            mapped = mapped.view(-1, self.width, *self.grid)
        return mapped


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """`[N, C, H, W]` brought to `size` by bilinear interpolation; as it is where it has that size."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def space_to_depth(images: Tensor, fold: tuple[int, int]) -> Tensor:
    """`[N, C, H, W] → [N, C·fh·fw, H/fh, W/fw]`: each block of pixels becomes one cell's channels."""
    n, c, h, w = images.shape
    blocks = images.reshape(n, c, h // fold[0], fold[0], w // fold[1], fold[1])
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(n, c * fold[0] * fold[1], h // fold[0], w // fold[1])


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


class Generator(nn.Module):
    """`x̂ = G_l(z_l, n)` for every layer `l`, in one network; the layers have different latents.

    The trunk has `width` channels and `blocks` residual blocks. The noise `n ~ N(0, I)` has `noise` numbers. With
    `linear_start` the trunk adds to what linear decoders draw (`LinearStart`), at first nothing.
    """

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
    ) -> None:
        super().__init__()
        channels, height, wide = image_shape
        self.image_shape, self.bounds = image_shape, bounds
        self.names = tuple(layer.name for layer in layers)
        self.grid = (coarse_grid(height), coarse_grid(wide))
        self.stems = nn.ModuleList([Stem(layer.shape, self.grid, width) for layer in layers])
        self.mix = nn.Linear(noise, width * self.grid[0] * self.grid[1])
        self.blocks = nn.ModuleList([Block(width, len(layers)) for _ in range(blocks)])
        doublings = math.ceil(math.log2(max(math.ceil(height / self.grid[0]), math.ceil(wide / self.grid[1]))))
        stages: list[nn.Module] = []
        for left in reversed(range(doublings)):
            narrow = channels if left == 0 else max(width // 2, 16)
            stages += [nn.Conv2d(width, 4 * narrow, 3, padding=1), nn.PixelShuffle(2)]
            width = narrow
        if not stages:  # the grid is as fine as the image
            stages = [nn.Conv2d(width, channels, 3, padding=1)]
        self.stages = nn.ModuleList(stages)
        self.start = LinearStart([layer.shape for layer in layers], image_shape) if linear_start else None
        if self.start is not None:
            last = stages[-2 if doublings else -1]
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

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
        for block in self.blocks:
            hidden = block(hidden, layer)
        for stage in self.stages:
            hidden = stage(F.relu(hidden) if isinstance(stage, nn.Conv2d) else hidden)
        low, high = self.bounds
        hidden = resize(hidden.float(), (self.image_shape[1], self.image_shape[2]))
        if self.start is not None:
            hidden = hidden + self.start(latents)
        return low + (high - low) * torch.sigmoid(hidden)
