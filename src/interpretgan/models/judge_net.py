"""The default judge: a small VGG-like network, of another architecture than the classifiers it judges."""

from __future__ import annotations

from torch import Tensor, nn

from interpretgan.errors import ConfigError
from interpretgan.models.lenet import pooling

SMALLEST = 8
"""Smallest height and width: the stem and two poolings halve them three times."""


class JudgeNet(nn.Module):
    """A strided 5x5 stem, two blocks of 3x3 convolutions with BatchNorm, one hidden linear layer.

    The stem halves the map at once: at full resolution a step is bound by memory and not by arithmetic.
    Colour images get a wider network than grey ones.

    Args:
        in_channels: Channels of the images.
        num_classes: Number of logits.
        image_size: Height and width, at least 8 each.
        pool: `"max"` or `"avg"`.
        width: Channels of the first block; the second has twice as many. `None`: 24 for grey images, else 64.

    Raises:
        ConfigError: The images are too small.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        image_size: tuple[int, int],
        pool: str = "max",
        width: int | None = None,
    ) -> None:
        super().__init__()
        height, columns = image_size
        if min(height, columns) < SMALLEST:
            raise ConfigError(
                expected=f"images of at least {SMALLEST}x{SMALLEST} for the judge",
                got=f"{height}x{columns}",
                do="load the data with a larger image_size",
            )
        width = width or (24 if in_channels == 1 else 64)
        self.stem = _convolution(in_channels, width, kernel=5, stride=2)
        self.block1 = nn.Sequential(_convolution(width, width), pooling(pool))
        self.block2 = nn.Sequential(_convolution(width, 2 * width), _convolution(2 * width, 2 * width), pooling(pool))
        positions = ((height + 1) // 2 // 4) * ((columns + 1) // 2 // 4)
        self.hidden = nn.Sequential(nn.Linear(2 * width * positions, 128), nn.ReLU())
        self.head = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        z = self.block2(self.block1(self.stem(images)))
        logits: Tensor = self.head(self.hidden(z.flatten(1)))
        return logits


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
