"""The discriminator: one for all layers, spectrally normalised, conditioned on the layer and on the classification."""

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from interpretgan.gan.generator import coarse_grid, working_size
from interpretgan.gan.latents import space_to_depth


class Discriminator(nn.Module):
    """`D(x, l, p)`: how natural `x` looks as an explanation of layer `l` where the classifier saw the classes `p`.

    Both enter by projection: `score = w·h + (e_l + E p)·h` on pooled features `h`. Every layer fixes `p`, so nothing
    leaks into an explanation that its latent does not hold; a digit drawn as another class is found out, which deep
    layers need. It works on the coarse grid too: the image is folded (space-to-depth), so that every convolution is a
    matrix product over a few cells with many channels. There are `blocks` convolutions after the first.
    Of images of more than `LARGEST_DRAWN` pixels a side it sees averages over neighbours.
    """

    def __init__(
        self,
        layers: int,
        classes: int,
        image_shape: tuple[int, int, int],
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        width: int = 96,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        channels, height, wide = image_shape
        self.bounds = bounds
        self.grid = (coarse_grid(height), coarse_grid(wide))
        self.size = (working_size(height), working_size(wide))
        self.fold = (math.ceil(self.size[0] / self.grid[0]), math.ceil(self.size[1] / self.grid[1]))
        sizes = [channels * self.fold[0] * self.fold[1]] + [width] * (blocks + 1)
        self.convs = nn.ModuleList([spectral_norm(nn.Conv2d(a, b, 3, padding=1)) for a, b in itertools.pairwise(sizes)])
        self.score = spectral_norm(nn.Linear(width, 1))
        self.of_layer = spectral_norm(nn.Embedding(layers, width))
        self.of_classes = spectral_norm(nn.Linear(classes, width, bias=False))

    def forward(self, images: Tensor, layer: Tensor, probabilities: Tensor) -> Tensor:
        """Scores `[N]` of images `[N, C, H, W]` for layer indices `[N]` and class probabilities `[N, K]`."""
        pad = (0, self.grid[1] * self.fold[1] - self.size[1], 0, self.grid[0] * self.fold[0] - self.size[0])
        low, high = self.bounds
        unit = (images - low) / (high - low)
        if tuple(images.shape[2:]) != self.size:
            unit = F.adaptive_avg_pool2d(unit, self.size)
        hidden = space_to_depth(F.pad(unit, pad), self.fold).contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            hidden = F.leaky_relu(conv(hidden), 0.2)
        pooled = hidden.sum(dim=(2, 3)) / math.sqrt(hidden.shape[2] * hidden.shape[3])
        condition = self.of_layer(layer) + self.of_classes(probabilities)
        score: Tensor = self.score(pooled).squeeze(1) + (condition * pooled).sum(dim=1)
        return score
