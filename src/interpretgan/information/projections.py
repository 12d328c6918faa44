"""Random linear maps without a dense matrix, and the standardisation before them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def channels_first(latent: Tensor) -> Tensor:
    """A latent `[N, *shape]` with its channels in axis 1: those of tokens `(T, D)` are their last axis."""
    return latent.movedim(2, 1) if latent.ndim == 3 else latent


class Standardise(nn.Module):
    """Mean 0 and deviation 1 in each channel over natural images: `[N, *shape] → [N, C, ...]`, channels first.

    Without it a random mixture would show little but the channels that happen to be large.

    Args:
        shape: Of the latent, without the batch axis.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels = shape[1] if len(shape) == 2 else shape[0]
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def calibrate(self, latent: Tensor) -> None:
        """Take mean and deviation from latents of natural images `[N, *shape]`."""
        rows = channels_first(latent.float()).movedim(1, 0).flatten(1)
        self.mean.copy_(rows.mean(dim=1))
        deviation = rows.std(dim=1, correction=0)
        # A channel that never moves carries nothing, and rounding must not look like something.
        moves = deviation > 1e-6 * (1 + rows.abs().amax(dim=1))
        self.scale.copy_(torch.where(moves, 1 / deviation.clamp_min(1e-12), 0.0))

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, *shape] → [N, C, ...]`."""
        shape = (1, -1, *[1] * (latent.ndim - 2))
        out: Tensor = (channels_first(latent.float()) - self.mean.view(shape)) * self.scale.view(shape)
        return out


class RandomMixture(nn.Module):
    """Any latent as `size` random mixtures of all its numbers: `[N, ...] → [N, size]`.

    Random signs, then an orthonormal transform (Hartley's, by the fast Fourier transform), then a random choice of
    `size` coordinates: a random projection with orthonormal rows in `O(d log d)` time and `O(d)` memory, where a dense
    Gaussian matrix of the first layers would have 10^8 entries. A latent of at most `size` numbers is kept as it is,
    with zeros behind.

    Args:
        inputs: Numbers of the latent, `d`.
        size: Numbers that come out.
        random: Draws the signs and the coordinates.
    """

    signs: Tensor
    chosen: Tensor

    def __init__(self, inputs: int, size: int, random: torch.Generator) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("signs", torch.randint(0, 2, (inputs,), generator=random).float() * 2 - 1)
        self.register_buffer("chosen", torch.randperm(inputs, generator=random)[:size].sort().values)

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, ...] → [N, size]`."""
        flat = latent.flatten(1)
        if flat.shape[1] <= self.size:
            return nn.functional.pad(flat, (0, self.size - flat.shape[1]))
        spectrum = torch.fft.fft(flat * self.signs, norm="ortho")
        hartley: Tensor = spectrum.real - spectrum.imag
        return hartley[:, self.chosen]


class RandomConvolution(nn.Module):
    """A map as a smaller one by one random matrix for all places: `[N, C, H, W] → [N, C', H', W']`.

    Each place of the smaller map gets `C'` random mixtures of a window of the larger one. The windows have
    `⌈H/H'⌉ × ⌈W/W'⌉` places and cover the map, without overlap where it is divided evenly.

    Args:
        before: `(C, H, W)`.
        after: `(C', H', W')`.
        random: Draws the matrix.
    """

    matrix: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, before: tuple[int, int, int], after: tuple[int, int, int], random: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("rows", _windows(before[1], after[1]))
        self.register_buffer("columns", _windows(before[2], after[2]))
        inputs = before[0] * self.rows.shape[1] * self.columns.shape[1]
        self.register_buffer("matrix", torch.randn(inputs, after[0], generator=random) / math.sqrt(inputs))

    def forward(self, latent: Tensor) -> Tensor:
        """`[N, C, H, W] → [N, C', H', W']`."""
        windows = latent[:, :, self.rows][:, :, :, :, self.columns]  # [N, C, H', h, W', w]
        n, c, height, h, width, w = windows.shape
        cells = windows.permute(0, 2, 4, 1, 3, 5).reshape(n, height, width, c * h * w)
        return (cells @ self.matrix).permute(0, 3, 1, 2)


def _windows(size: int, count: int) -> Tensor:
    """Indices `[count, ⌈size/count⌉]` of windows that start at even distances and cover `0 .. size - 1`."""
    width = math.ceil(size / count)
    starts = torch.linspace(0, size - width, count).floor().to(torch.int64)
    return starts[:, None] + torch.arange(width)


class RandomProjection(nn.Module):
    """The control: a latent brought to the size of the next one by chance, `[N, C, ...] → [N, *shape]`.

    From map to map a `RandomConvolution`, so that what is near stays near and the decoder has an equal task; to
    anything else a `RandomMixture`.

    Args:
        before: Shape of the latent.
        after: Shape of the next one; it must have fewer numbers.
        random: Draws it.

    Attributes:
        shape: Of what comes out.
    """

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...], random: torch.Generator) -> None:
        super().__init__()
        self.shape: tuple[int, ...]
        self.map: nn.Module
        if len(before) == len(after) and len(after) in (2, 3):
            self.shape, self.map = after, RandomConvolution(_as_map(before), _as_map(after), random)
        else:
            self.shape = (math.prod(after),)
            self.map = RandomMixture(math.prod(before), math.prod(after), random)

    def forward(self, standardised: Tensor) -> Tensor:
        """`[N, C, ...] → [N, *shape]`, from a latent that `Standardise` returned."""
        if len(self.shape) == 2:
            tokens: Tensor = self.map(standardised[:, :, :, None])
            return tokens[..., 0].movedim(1, 2)
        out: Tensor = self.map(standardised)
        return out


def _as_map(shape: tuple[int, ...]) -> tuple[int, int, int]:
    return (shape[1], shape[0], 1) if len(shape) == 2 else (shape[0], shape[1], shape[2])
