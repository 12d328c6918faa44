"""Random noise of the size that an adversary may use, and random state that is put back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.attacks.threat_model import Bounds, ThreatModel, perturbation_size

SMOOTHING = 6  #: Smooth noise is averaged over squares whose side is that of the image divided by this,
PATCHES = (12, 3)  #: and in `varied_noise` by these: finer and coarser, so that the control has a noise of its own.


def equal_norm_noise(
    images: Tensor, threat_model: ThreatModel, bounds: Bounds, *, seed: int, first_index: int = 0
) -> Tensor:
    """Random noise of the size that the adversary may use: the control for "any such change does it".

    L-infinity: every pixel moves by eps. L2: a direction from the sphere, of length eps. For the rest, see `scrambled`.
    """
    if threat_model.norm == "linf":
        sizes = torch.full_like(images, threat_model.eps)
    else:
        draw = _normal(images, seed=seed + 1, first_index=first_index)
        sizes = threat_model.eps * draw / perturbation_size(draw, "l2").clamp_min(1e-12).view(-1, 1, 1, 1)
    return scrambled(images, sizes, bounds, seed=seed, first_index=first_index)


def scrambled(
    images: Tensor, perturbation: Tensor, bounds: Bounds, *, seed: int, first_index: int = 0, smooth: bool = False
) -> Tensor:
    """Noise that is as large as a perturbation in every norm: its sizes `|δ|`, dealt to the pixels by chance.

    A pixel moves up or down by chance where there is room for both, else the way that has room. One that has none for
    the size it is dealt moves to the bound, and the noise is smaller; for sizes up to half the range there is room.

    Args:
        images: `[N, C, H, W]` within the bounds.
        perturbation: `δ` of each image, `[N, C, H, W]`.
        bounds: Range of the pixels.
        seed: The noise follows from it and from the number of the image alone, whichever batch the image is in.
        first_index: Number of the first image.
        smooth: Neighbouring pixels move alike. `False`: each by itself.
    """
    field = _normal(images, seed=seed, first_index=first_index)
    if smooth:
        field = _in_patches(field, SMOOTHING)
    sizes = perturbation.abs().to(images)
    largest = sizes.flatten(1).amax(dim=1).view(-1, 1, 1, 1)
    up, down = images + largest <= bounds[1], images - largest >= bounds[0]
    inward = torch.where(images < (bounds[0] + bounds[1]) / 2, 1.0, -1.0)
    sign = torch.where(up & down, torch.where(field < 0, -1.0, 1.0), inward)
    order = (field * sign).flatten(1).argsort(dim=1)  # who moves most: those that the field drives furthest
    dealt = torch.zeros_like(sizes.flatten(1)).scatter(1, order, sizes.flatten(1).sort(dim=1).values)
    return (images + sign * dealt.view_as(images)).clamp(*bounds)


def varied_noise(shape: Sequence[int], size: float, *, random: torch.Generator) -> Tensor:
    """Noise to add to images of a shape `[N, C, H, W]`, of four kinds in turn, on the device of `random`.

    None at all; each pixel by itself; in fine patches; in coarse ones. Every pixel of an image moves by as much: by
    `size` times the square root of a uniform number. Any share of the pixels moves up, the others down.
    """
    field = torch.randn(*shape, generator=random, device=random.device)
    for kind, parts in enumerate(PATCHES, start=2):
        field[kind::4] = _in_patches(field[kind::4], parts)
    shift = torch.randn(len(field), 1, 1, 1, generator=random, device=random.device)
    uniform = torch.rand(len(field), 1, 1, 1, generator=random, device=random.device)
    field += shift * field.std(dim=(1, 2, 3), correction=0, keepdim=True)
    field[::4] = 0
    return size * uniform.sqrt() * field.sign()


def _in_patches(field: Tensor, parts: int) -> Tensor:
    """A field averaged over squares whose side is that of the image divided by `parts`, and odd."""
    side = max(field.shape[2:]) // parts // 2 * 2 + 1
    return F.avg_pool2d(field, side, stride=1, padding=side // 2, count_include_pad=False)


def _normal(images: Tensor, *, seed: int, first_index: int) -> Tensor:
    """Standard normal numbers of the shape of the images, by the number of each image; the same on every device."""
    draws = [
        np.random.default_rng([seed % 2**64, number]).standard_normal(images[0].numel(), dtype=np.float32)
        for number in range(first_index, first_index + len(images))
    ]
    return torch.from_numpy(np.stack(draws)).view(images.shape).to(images)


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
