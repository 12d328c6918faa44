"""LeNet-5 [17], the network that the paper reads."""

from __future__ import annotations

from torch import Tensor, nn

from interpretgan.models.architectures.pooling import pooling
from interpretgan.models.architectures.sizes import require_size, scaled

SMALLEST = 12
"""Smallest height and width: two 2x2 poolings around an unpadded 5x5 convolution leave one position."""


class LeNet5(nn.Module):
    """LeNet-5 with ReLU, its pooling a parameter.

    Modules run in the order conv1, relu1, pool1, conv2, relu2, pool2, fc1, relu3, fc2, relu4, fc3. Each
    activation is its own module and not in place, so each of them is a complete layer with a name.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width, at least 12 each.
        pool: See `pooling`.
        width: Multiplies the channels and the hidden units.

    Raises:
        ConfigError: The images are too small.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, image_size: tuple[int, int], pool: str = "max", width: float = 1.0
    ) -> None:
        super().__init__()
        require_size(image_size, SMALLEST, "LeNet-5")
        rows, columns = ((side // 2 - 4) // 2 for side in image_size)
        first, second, third, fourth = (scaled(units, width) for units in (6, 16, 120, 84))
        self.conv1 = nn.Conv2d(in_channels, first, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = pooling(pool, first)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = pooling(pool, second)
        self.fc1 = nn.Linear(second * rows * columns, third)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(third, fourth)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(fourth, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        z = self.pool1(self.relu1(self.conv1(images)))
        z = self.pool2(self.relu2(self.conv2(z)))
        z = self.relu3(self.fc1(z.flatten(1)))
        logits: Tensor = self.fc3(self.relu4(self.fc2(z)))
        return logits
