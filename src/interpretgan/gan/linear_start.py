"""Where a generator starts: what linear decoders draw of each layer, fitted in closed form before the first step.

A generator that starts at grey images feeds the classifier what it has never seen. Where the classifier answers that
with large gradients, they drown the discriminator's, and the training collapses. Linear decodings are near natural
images from the first step on, and few steps are needed from there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

INPUTS = 6144  # numbers of a latent that a decoder sees; larger maps are averaged over neighbouring places
COMPONENTS = 64  # principal components of the images that it draws
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge regression, of which held-out images choose one
HELD_OUT = 0.25  # share of the images that choose it
PALEST = 0.02  # distance that a decoded pixel keeps from the bounds, as a share of their width
LEAST_DEVIATION = 0.05  # of a number of the latent, as a share of the largest one's: what hardly moves tells nothing
NUMBERS = 2**26  # of latents that are in memory at once, at most

LatentsOf = Callable[[Sequence[int]], Iterator[Sequence[Tensor]]]
"""Latents of natural images at the layers with these indices, a batch at a time; each call has the same images."""


class LinearStart(nn.Module):
    """Images of latents by one linear decoder a layer: `[N_l, *shape_l] → [Σ N_l, C, H, W]`, as logits of the pixels.

    Its weights are buffers: they are fitted once (`fit`), and stay as they are while the generator learns what to add.
    """

    basis: Tensor
    mean: Tensor

    def __init__(self, shapes: Sequence[tuple[int, ...]], image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape, pixels = image_shape, math.prod(image_shape)
        components = min(COMPONENTS, pixels)
        self.register_buffer("basis", torch.zeros(components, pixels))
        self.register_buffer("mean", torch.full((pixels,), 0.5))
        self.inputs = [reduced(torch.zeros(1, *shape, device="meta")).shape[1] for shape in shapes]
        for index, inputs in enumerate(self.inputs):
            self.register_buffer(f"weight_{index}", torch.zeros(inputs, components))
            self.register_buffer(f"bias_{index}", torch.zeros(components))

    @torch.no_grad()
    def fit(self, images: Tensor, latents_of: LatentsOf) -> None:
        """Fit to natural images `[N, C, H, W]`, in [0, 1], and their latents.

        Ridge regression of the images' principal components on the standardised numbers of each latent:
        `W = argmin ‖Y − Z W‖² + λ‖W‖²`, solved in the dual, `W = Zᵀ (Z Zᵀ + λ d)⁻¹ Y`, with the λ that draws held-out
        images best.
        """
        pixels = images.flatten(1).double()
        mean = pixels.mean(dim=0)
        centred = pixels - mean
        variances, directions = torch.linalg.eigh(centred @ centred.T)  # in N dimensions: images may be large
        count = min(len(self.basis), int((variances > 1e-9 * variances[-1].clamp_min(1e-12)).sum()))
        basis = torch.zeros_like(self.basis, dtype=torch.float64)
        basis[:count] = F.normalize(directions[:, len(variances) - count :].T @ centred, dim=1)
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        targets = centred @ basis.T
        for group in self._groups(len(images)):
            batches = [[reduced(latent) for latent in latents] for latents in latents_of(group)]
            for index, parts in zip(group, zip(*batches, strict=True), strict=True):
                weight, bias = _ridge(torch.cat(parts).double(), targets)
                self.get_buffer(f"weight_{index}").copy_(weight)
                self.get_buffer(f"bias_{index}").copy_(bias)

    def _groups(self, images: int) -> list[list[int]]:
        """The indices of the layers, in groups whose latents are in memory together."""
        groups: list[list[int]] = []
        size = NUMBERS
        for index, inputs in enumerate(self.inputs):
            size += inputs * images
            if size > NUMBERS:
                groups.append([])
                size = inputs * images
            groups[-1].append(index)
        return groups

    def forward(self, latents: Sequence[Tensor | None]) -> Tensor:
        """Logits `[Σ N_l, C, H, W]` of the latents of each layer, or `None`, in the order of the layers."""
        with torch.autocast(self.mean.device.type, enabled=False):
            drawn = [
                reduced(latent) @ self.get_buffer(f"weight_{index}") + self.get_buffer(f"bias_{index}")
                for index, latent in enumerate(latents)
                if latent is not None
            ]
            pixels = (torch.cat(drawn) @ self.basis + self.mean).clamp(PALEST, 1 - PALEST)
            return pixels.logit().view(-1, *self.image_shape)


def reduced(latent: Tensor) -> Tensor:
    """A latent as at most about `INPUTS` numbers, `[N, *shape] → [N, d]`: a larger map is averaged over neighbours."""
    latent = latent.float()
    if latent.ndim == 4 and latent[0].numel() > INPUTS:
        side = max(1, math.isqrt(INPUTS // latent.shape[1]))
        latent = F.adaptive_avg_pool2d(latent, (min(side, latent.shape[2]), min(side, latent.shape[3])))
    elif latent.ndim == 3 and latent[0].numel() > INPUTS:  # tokens [N, T, D]
        count = max(1, INPUTS // latent.shape[2])
        latent = F.adaptive_avg_pool1d(latent.movedim(1, 2), min(count, latent.shape[1]))
    return latent.flatten(1)


def _ridge(latents: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weight `[d, R]` and bias `[R]` of the ridge regression of centred targets `[N, R]` on latents `[N, d]`."""
    mean, deviation = latents.mean(dim=0), latents.std(dim=0, correction=0)
    scale = 1 / deviation.clamp_min(LEAST_DEVIATION * float(deviation.max()) + 1e-9)
    standardised = (latents - mean) * scale
    held_out = max(1, round(HELD_OUT * len(latents)))
    fitted, tested = standardised[held_out:], standardised[:held_out]
    gram, unit = fitted @ fitted.T / fitted.shape[1], torch.eye(len(fitted)).to(latents)
    weights = [
        fitted.T @ torch.linalg.solve(gram + penalty * unit, targets[held_out:]) / fitted.shape[1]
        for penalty in PENALTIES
    ]
    best = min(weights, key=lambda weight: float((tested @ weight - targets[:held_out]).square().sum()))
    weight = scale[:, None] * best
    return weight, -mean @ weight
