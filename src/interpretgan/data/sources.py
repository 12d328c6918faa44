"""Shapes and protocols that several parts share.

Images are `[N, C, H, W]` float32 within the classifier's bounds, labels int64 `[N]`, logits `[N, K]`. `L` counts
layers.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from interpretgan.errors import ImageError


class ImageSource(Protocol):
    """Labelled images that are read a batch at a time, so that memory does not grow with their number."""

    def __len__(self) -> int:
        """Number of images."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, C, H, W]` and labels `[n]` at int64 indices `[n]`."""


class TensorImages:
    """An `ImageSource` over tensors that are in memory anyway.

    Args:
        images: Floating point `[N, C, H, W]` within the classifier's bounds.
        labels: int64 `[N]`; zeros where nothing reads them.

    Raises:
        ImageError: No images, or not four axes.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        if images.ndim != 4 or not len(images):
            raise ImageError(
                expected="images [N, C, H, W] with N >= 1", got=f"shape {tuple(images.shape)}", do="stack the images"
            )
        self.images = images
        self.labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels at the indices."""
        return self.images[indices], self.labels[indices]
