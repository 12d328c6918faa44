"""Random noise of the size that an adversary may use, and random state that is put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from interpretgan.attacks.threat_model import Bounds, ThreatModel, perturbation_size


def equal_norm_noise(
    images: Tensor, threat_model: ThreatModel, bounds: Bounds, *, generator: torch.Generator
) -> Tensor:
    """Random noise of the size that the adversary may use: the control for "any such change does it".

    L-infinity: every pixel moves by +eps or -eps. L2: a direction drawn uniformly from the sphere, of length
    eps. The result is clipped to the bounds, so the noise is shorter where a pixel was near them.

    Images are `[N, C, H, W]` within the bounds. The generator is on the CPU, for the same noise on every device.
    """
    draw = torch.randn(images.shape, generator=generator)
    if threat_model.norm == "linf":
        direction = torch.where(draw < 0, -1.0, 1.0)
    else:
        direction = draw / perturbation_size(draw, "l2").clamp_min(1e-12).view(-1, 1, 1, 1)
    return (images + (threat_model.eps * direction).to(images)).clamp(*bounds)


def random_starts(x: Tensor, threat_model: ThreatModel, *, seed: int, restart: int, first_index: int) -> Tensor:
    """A point drawn uniformly from the ball of the threat model around each image `[N, C, H, W]`.

    It follows from the seed, the number of the restart and the number of the image alone, whichever batch the image is
    in; the first image has the number `first_index`.
    """
    size, steps = x[0].numel(), []
    for number in range(first_index, first_index + len(x)):
        random = np.random.default_rng([seed % 2**64, restart, number])
        if threat_model.norm == "linf":
            steps.append(2 * random.random(size, dtype=np.float32) - 1)
        else:  # the first coordinates of a point on a sphere with two dimensions more (Voelker et al. 2017)
            draw = random.standard_normal(size + 2, dtype=np.float32)
            steps.append((draw / np.linalg.norm(draw))[:size])
    return x + threat_model.eps * torch.from_numpy(np.stack(steps)).view(x.shape).to(x)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Global random state seeded inside, as it was outside."""
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    with torch.random.fork_rng(devices=devices):
        seed_generators(device, seed)
        yield


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the global generators of the CPU and of the device.

    `torch.manual_seed` seeds every kind of device that torch knows, and notes a stack trace for each that is absent:
    more than two milliseconds and a little memory a call, where a training step of a small network takes ten.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed_all(seed)
