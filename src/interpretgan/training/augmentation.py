"""Augmentation of training images, drawn anew at every step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

AUGMENTATIONS = ("none", "shift", "shift-flip")
SHIFT = 8
"""Images are shifted by up to an eighth of their side: four pixels of 32, as is usual on CIFAR-10."""


def augment(images: Tensor, kind: str, generator: torch.Generator, *, fill: float = 0.0) -> Tensor:
    """Shifted images, each by its own whole number of pixels; what comes in at the border is `fill`.

    Args:
        images: `[N, C, H, W]`.
        kind: `"none"`, `"shift"`, or `"shift-flip"`, which mirrors half of the images left to right as well.
        generator: On the CPU.
        fill: Value of the pixels from outside: black.

    Returns:
        `[N, C, H, W]`.
    """
    if kind == "none":
        return images
    count, channels, height, width = images.shape
    rows, columns = height // SHIFT, width // SHIFT
    padded = F.pad(images, (columns, columns, rows, rows), value=fill)
    down = torch.randint(2 * rows + 1, (count, 1), generator=generator) + torch.arange(height)
    right = torch.randint(2 * columns + 1, (count, 1), generator=generator) + torch.arange(width)
    if kind == "shift-flip":
        flipped = torch.rand(count, 1, generator=generator) < 0.5
        right = torch.where(flipped, right.flip(1), right)
    down, right = down.to(images.device), right.to(images.device)
    example = torch.arange(count, device=images.device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=images.device).view(1, -1, 1, 1)
    return padded[example, channel, down[:, None, :, None], right[:, None, None, :]]
