"""What the numbers of a latent are: where its channels stand, and which place of the image each of them belongs to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_APART = 5  # tokens that have no place in the image (class, distillation, registers), at most


def channels_first(latent: Tensor) -> Tensor:
    """A latent `[N, *shape]` with its channels in axis 1: those of tokens `(T, D)` are their last axis."""
    return latent.movedim(2, 1) if latent.ndim == 3 else latent


def channels_first_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, without the batch axis, of what `channels_first` makes of a latent `[N, *shape]`."""
    return (shape[1], shape[0]) if len(shape) == 2 else shape


def token_grid(tokens: int, proportions: float) -> tuple[int, int, int]:
    """How many of the first tokens have no place in the image, and the rows and columns of the others.

    They are the fewest for which the others fill a grid with the image's proportions, height by width. Where there is
    none, the grid is one that holds them all, with cells to spare at its end.
    """
    for apart in range(min(MOST_APART, tokens - 1) + 1):
        cells = tokens - apart
        rows, columns = round(math.sqrt(cells * proportions)), round(math.sqrt(cells / proportions))
        if rows * columns == cells and cells > apart:
            return apart, rows, columns
    rows = math.ceil(math.sqrt(tokens * proportions))
    return 0, rows, math.ceil(tokens / rows)


def as_map(latent: Tensor, proportions: float) -> tuple[Tensor, Tensor]:
    """A map or tokens, channels first, as a map `[N, C, H, W]`, and the tokens without a place in it, `[N, C, E]`."""
    if latent.ndim == 4:
        return latent, latent.new_zeros(len(latent), latent.shape[1], 0)
    apart, rows, columns = token_grid(latent.shape[2], proportions)
    cells = F.pad(latent[:, :, apart:], (0, rows * columns - (latent.shape[2] - apart)))
    return cells.view(*cells.shape[:2], rows, columns), latent[:, :, :apart]


class Standardise(nn.Module):
    """Mean 0 and deviation 1 in each channel over natural images: `[N, *shape] → [N, C, ...]`, channels first.

    With `drop_still` a channel that never moves becomes zero: it carries nothing, and rounding must not look like
    something. Else one that moves less than a thousandth of the liveliest is scaled as if it moved that much.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...], *, drop_still: bool) -> None:
        super().__init__()
        channels = channels_first_shape(shape)[0]
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


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """`[N, C, H, W]` brought to `size` by bilinear interpolation; as it is where it has that size."""
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def smoothed(images: Tensor) -> Tensor:
    """`[N, C, H, W]` averaged over neighbours by 1/4, 1/2, 1/4 along both axes: no pattern of period two is left."""
    around = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(around, 2, stride=1), 2, stride=1)


def are_smooth(images: Tensor) -> bool:
    """Whether `smoothed` takes next to nothing from images `[N, C, H, W]`: a hundredth of their variance, at most."""
    return float((images - smoothed(images)).var(correction=0)) <= 0.01 * float(images.var(correction=0))


def space_to_depth(images: Tensor, fold: tuple[int, int]) -> Tensor:
    """`[N, C, H, W] → [N, C·fh·fw, H/fh, W/fw]`: each block of pixels becomes one cell's channels."""
    n, c, h, w = images.shape
    blocks = images.reshape(n, c, h // fold[0], fold[0], w // fold[1], fold[1])
    return blocks.permute(0, 1, 3, 5, 2, 4).reshape(n, c * fold[0] * fold[1], h // fold[0], w // fold[1])


def depth_to_space(cells: Tensor, fold: tuple[int, int]) -> Tensor:
    """`[N, C·fh·fw, H, W] → [N, C, H·fh, W·fw]`: undoes `space_to_depth`."""
    n, c, h, w = cells.shape
    blocks = cells.reshape(n, -1, *fold, h, w).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(n, c // (fold[0] * fold[1]), h * fold[0], w * fold[1])
