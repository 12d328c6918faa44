"""The paper's way: one generator and one discriminator for each layer, in the manner of DCGAN, in full precision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource
from interpretgan.gan.generator import Stem, coarse_grid
from interpretgan.gan.latents import resize
from interpretgan.gan.losses import information_bound
from interpretgan.layers import Layer, capture
from interpretgan.store.machine import wait_for

WIDTH = 128  # channels of the generator on its grid; each doubling of the resolution halves them
NOISE = 16
BATCH = 64
RATE, BETAS = 1e-3, (0.5, 0.999)  # DCGAN takes 2e-4, which is slower still
INFORMATION = 3.0  # weight of the information bound, as in ours
CALIBRATED = 256  # natural images that the latents are standardised by
CHECKED_EVERY = 25  # steps between two looks at the quality, whose time does not count


class AloneGenerator(nn.Module):
    """Images of the latents of one layer: a stem, then transposed convolutions with batch normalisation."""

    def __init__(self, layer: Layer, image_shape: tuple[int, int, int], bounds: tuple[float, float]) -> None:
        super().__init__()
        channels, height, wide = image_shape
        self.image_shape, self.bounds = image_shape, bounds
        grid = (coarse_grid(height), coarse_grid(wide))
        self.stem = Stem(layer.shape, grid, WIDTH, proportions=height / wide)
        self.mix = nn.Linear(NOISE, WIDTH * grid[0] * grid[1])
        doublings = math.ceil(math.log2(max(height / grid[0], wide / grid[1])))
        stages, width = list[nn.Module](), WIDTH
        for _ in range(doublings):
            stages += [
                nn.ConvTranspose2d(width, max(16, width // 2), 4, 2, 1),
                nn.BatchNorm2d(max(16, width // 2)),
                nn.ReLU(),
            ]
            width = max(16, width // 2)
        self.stages = nn.Sequential(nn.BatchNorm2d(WIDTH), nn.ReLU(), *stages, nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, latent: Tensor, noise: Tensor) -> Tensor:
        """`[N, *shape]` and `[N, NOISE]` → `[N, C, H, W]` within the bounds."""
        hidden = self.stem(latent)
        drawn = resize(self.stages(hidden + self.mix(noise).view_as(hidden)), self.image_shape[1:])
        low, high = self.bounds
        return low + (high - low) * torch.sigmoid(drawn)


def strided(image_shape: tuple[int, int, int], outputs: int) -> nn.Sequential:
    """Strided convolutions with batch normalisation, and so many numbers for each image."""
    channels, height, wide = image_shape
    stages, width, side = list[nn.Module](), channels, min(height, wide)
    following = 32
    while side > 4:
        stages += [nn.Conv2d(width, following, 4, 2, 1), nn.BatchNorm2d(following), nn.LeakyReLU(0.2)]
        width, following, side = following, min(256, 2 * following), side // 2
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))


@dataclass(frozen=True)
class Alone:
    """What the training of one layer's generator took."""

    layer: str  #: Its name.
    steps: int  #: Until the quality was reached, or all that were allowed.
    seconds: float  #: Of the steps alone.
    step_seconds: float  #: Of the fastest step.
    reached: bool  #: Whether the quality was reached; else the seconds are a lower bound.


def train_alone(
    classifier: Classifier,
    layer: Layer,
    images: ImageSource,
    *,
    steps: int,
    seed: int,
    good: Callable[[Callable[[Tensor], Tensor]], bool] | None = None,
) -> Alone:
    """Train a generator for one layer, until `good` says of what draws explanations that they are good enough.

    min_G max_D of the logistic loss of a GAN, and the information bound.
    """
    random = torch.Generator().manual_seed(seed)
    device = classifier.device
    first = images.batch(torch.randperm(len(images), generator=random)[:CALIBRATED])[0].to(device, torch.float32)
    shape = (first.shape[1], first.shape[2], first.shape[3])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = AloneGenerator(layer, shape, classifier.bounds).to(device)
        discriminator = strided(shape, 1).to(device)
    generator.stem.standardise.calibrate(capture(classifier, first, [layer])[1][layer.name])
    adams = [torch.optim.Adam(net.parameters(), lr=RATE, betas=BETAS, fused=True) for net in (generator, discriminator)]

    def draw(x: Tensor) -> Tensor:
        generator.eval()
        with torch.no_grad():
            drawn: Tensor = generator(
                capture(classifier, x, [layer])[1][layer.name],
                torch.randn(len(x), NOISE, generator=torch.Generator().manual_seed(1)).to(x),
            )
        generator.train()
        return drawn

    spent, fastest, reached, done = 0.0, math.inf, False, 0
    with classifier.borrowed():
        while done < steps and not reached:
            began = time.perf_counter()
            x = images.batch(torch.randint(len(images), (min(BATCH, len(images)),), generator=random))[0]
            x = x.to(device, torch.float32)
            logits, latents = capture(classifier, x, [layer])
            fake = generator(latents[layer.name], torch.randn(len(x), NOISE, generator=random).to(x))
            loss_d = F.softplus(-discriminator(x)).mean() + F.softplus(discriminator(fake.detach())).mean()
            adams[1].zero_grad()
            torch.autograd.backward(loss_d)
            adams[1].step()
            information = information_bound(logits, classifier.run(fake))
            loss_g = F.softplus(-discriminator(fake)).mean() - INFORMATION * information
            adams[0].zero_grad()
            torch.autograd.backward(loss_g)
            adams[0].step()
            wait_for(str(device))
            took = time.perf_counter() - began
            spent, fastest, done = spent + took, min(fastest, took), done + 1
            if good is not None and (done % CHECKED_EVERY == 0 or done == steps):
                reached = good(draw)
    return Alone(layer.name, done, spent, fastest, reached)
