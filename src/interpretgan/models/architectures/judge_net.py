"""The default judge: a small VGG-like network, of another architecture than the classifiers it judges."""

from __future__ import annotations

from torch import Tensor, nn

from interpretgan.models.architectures import scaled
from interpretgan.models.architectures.pooling import pooling


class JudgeNet(nn.Module):
    """A strided 5x5 stem, two blocks of 3x3 convolutions with BatchNorm, one hidden linear layer.

    The stem halves the map at once: at full resolution a step is bound by memory and not by arithmetic. The first
    block has 24 channels for grey images, else 64, the second twice as many, and the hidden layer 128 units.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, image_size: tuple[int, int], pool: str = "max", width: float = 1.0
    ) -> None:
        super().__init__()
        base = 24 if in_channels == 1 else 64
        first, second, units = scaled(base, width), scaled(2 * base, width), scaled(128, width)
        self.stem = _convolution(in_channels, first, kernel=5, stride=2)
        self.block1 = nn.Sequential(_convolution(first, first), pooling(pool, first))
        self.block2 = nn.Sequential(_convolution(first, second), _convolution(second, second), pooling(pool, second))
        rows, columns = ((side + 1) // 2 // 4 for side in image_size)
        self.hidden = nn.Sequential(nn.Linear(second * rows * columns, units), nn.ReLU())
        self.head = nn.Linear(units, num_classes)

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
