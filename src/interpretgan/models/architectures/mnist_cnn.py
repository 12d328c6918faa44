"""The wide network for MNIST of the paper that introduced training on PGD."""

from __future__ import annotations

from torch import Tensor, nn

from interpretgan.models.architectures.pooling import pooling
from interpretgan.models.architectures.sizes import require_size, scaled

__all__ = ["SMALLEST", "MnistWide"]

SMALLEST = 4
"""Smallest height and width: two poolings leave one position."""


class MnistWide(nn.Module):
    """Two padded 5x5 convolutions with 32 and 64 channels, each pooled, and a hidden layer of 1,024 units.

    Modules run in the order conv1, relu1, pool1, conv2, relu2, pool2, fc1, relu3, fc2; each is a complete layer.
    Weights start as published: normal with deviation 0.1, layer off at twice that, and biases at 0.1.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width, at least 4 each.
        pool: See `pooling`.
        width: Multiplies the channels and the hidden units.

    Raises:
        ConfigError: The images are too small.

    Source: Madry et al. 2018, Towards deep learning models resistant to adversarial attacks.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, image_size: tuple[int, int], pool: str = "max", width: float = 1.0
    ) -> None:
        super().__init__()
        require_size(image_size, SMALLEST, "mnist-wide")
        first, second, units = (scaled(wanted, width) for wanted in (32, 64, 1024))
        rows, columns = (side // 4 for side in image_size)
        self.conv1 = nn.Conv2d(in_channels, first, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = pooling(pool, first)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2)
        self.relu2 = nn.ReLU()
        self.pool2 = pooling(pool, second)
        self.fc1 = nn.Linear(second * rows * columns, units)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(units, num_classes)
        for layer in (self.conv1, self.conv2, self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
            nn.init.constant_(layer.bias, 0.1)  # type: ignore[arg-type]  # every layer above has one

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        z = self.pool1(self.relu1(self.conv1(images)))
        z = self.pool2(self.relu2(self.conv2(z)))
        logits: Tensor = self.fc2(self.relu3(self.fc1(z.flatten(1))))
        return logits
