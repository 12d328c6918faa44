"""Probes of what a latent holds, the random projections that they see it through, and the controls of decoders."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLPProbes(nn.Module):
    """Class probes with one hidden layer, all of the same size, one per place: `[P, N, features] → [P, N, K]`."""

    def __init__(self, places: int, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(places, features, hidden) / math.sqrt(features))
        self.bias = nn.Parameter(torch.zeros(places, 1, hidden))
        # At zero, so that a probe which has learnt nothing says that every class is as likely.
        self.last = nn.Parameter(torch.zeros(places, hidden, classes))
        self.offset = nn.Parameter(torch.zeros(places, 1, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[P, N, K]`."""
        hidden = F.relu(torch.baddbmm(self.bias, features, self.first))
        return torch.baddbmm(self.offset, hidden, self.last)


class RandomMixture(nn.Module):
    """Any latent of `inputs` numbers as `size` random mixtures of all of them: `[N, ...] → [N, size]`.

    Random signs, an orthonormal transform (Hartley's, by the fast Fourier transform), and a random choice of `size`
    coordinates: a projection with orthonormal rows in `O(d log d)` time and `O(d)` memory, where a dense matrix of the
    first layers would have 10^8 entries. A latent of at most `size` numbers is kept as it is, with zeros behind.
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
            return F.pad(flat, (0, self.size - flat.shape[1]))
        spectrum = torch.fft.fft(flat * self.signs, norm="ortho")
        hartley: Tensor = spectrum.real - spectrum.imag
        return hartley[:, self.chosen]


class RandomConvolution(nn.Module):
    """A map as a smaller one by one random matrix for all places: `[N, C, H, W] → [N, C', H', W']`.

    Each place of the smaller map gets `C'` random mixtures of a window of the larger one. The windows have
    `⌈H/H'⌉ × ⌈W/W'⌉` places and cover the map, without overlap where it is divided evenly.
    """

    matrix: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...], random: torch.Generator) -> None:
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
    """The control of a decoder: a standardised latent brought to the size of the next one, which is smaller, by chance.

    `[N, C, ...] → [N, *self.shape]`. From map to map it is a `RandomConvolution`, so that what is near stays near and
    the decoder has an equal task; to anything else a `RandomMixture`.
    """

    def __init__(self, before: tuple[int, ...], after: tuple[int, ...], random: torch.Generator) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = after
        self.map: nn.Module
        if len(before) == len(after) == 3:
            self.map = RandomConvolution(before, after, random)
        elif len(before) == len(after) == 2:  # tokens are a map of one column
            self.map = RandomConvolution((before[1], before[0], 1), (after[1], after[0], 1), random)
        else:
            self.shape = (math.prod(after),)
            self.map = RandomMixture(math.prod(before), math.prod(after), random)

    def forward(self, standardised: Tensor) -> Tensor:
        """`[N, C, ...] → [N, *shape]`, from a latent that `Standardise` returned."""
        tokens = len(self.shape) == 2
        mapped: Tensor = self.map(standardised[:, :, :, None] if tokens else standardised)
        return mapped[..., 0].movedim(1, 2) if tokens else mapped
