"""LeNet-5 [17], the network that the paper reads."""

from __future__ import annotations

from torch import Tensor, nn

from interpretgan.errors import ConfigError

SMALLEST = 12
"""Smallest height and width: two 2x2 poolings around an unpadded 5x5 convolution leave one position."""


class LeNet5(nn.Module):
    """LeNet-5 with ReLU, its pooling a parameter.

    Modules run in the order conv1, relu1, pool1, conv2, relu2, pool2, fc1, relu3, fc2, relu4, fc3. Each
    activation is its own module and not in place, so each of them is a complete cut with a name.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width, at least 12 each.
        pool: `"max"` or `"avg"`.

    Raises:
        ConfigError: The images are too small.
    """

    def __init__(self, *, in_channels: int, num_classes: int, image_size: tuple[int, int], pool: str = "max") -> None:
        super().__init__()
        height, width = image_size
        if min(height, width) < SMALLEST:
            raise ConfigError(
                expected=f"images of at least {SMALLEST}x{SMALLEST} for LeNet-5",
                got=f"{height}x{width}",
                do="load the data with a larger image_size",
            )
        rows, columns = ((height // 2 - 4) // 2, (width // 2 - 4) // 2)
        self.conv1 = nn.Conv2d(in_channels, 6, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = pooling(pool)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = pooling(pool)
        self.fc1 = nn.Linear(16 * rows * columns, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        z = self.pool1(self.relu1(self.conv1(images)))
        z = self.pool2(self.relu2(self.conv2(z)))
        z = self.relu3(self.fc1(z.flatten(1)))
        logits: Tensor = self.fc3(self.relu4(self.fc2(z)))
        return logits


def pooling(kind: str) -> nn.Module:
    """2x2 pooling with stride 2: the largest of four values (`"max"`) or their mean (`"avg"`).

    Raises:
        ConfigError: Another `kind`.
    """
    if kind == "max":
        return nn.MaxPool2d(2)
    if kind == "avg":
        return nn.AvgPool2d(2)
    raise ConfigError(expected="a pooling of max or avg", got=repr(kind), do='pass pool="max" or pool="avg"')
