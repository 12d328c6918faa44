"""VGG networks [37] with BatchNorm, in their form for small images."""

from __future__ import annotations

from torch import nn

from interpretgan.models.architectures import scaled
from interpretgan.models.architectures.pooling import pooling

BLOCKS: dict[str, tuple[tuple[int, ...], ...]] = {
    "vgg-small": ((32, 32), (64, 64), (128, 128), (128,)),
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}
"""Output channels of the convolutions of each block."""


class VGG(nn.Sequential):
    """Blocks of 3x3 convolutions, a pooling between them, the mean over all positions, one linear layer.

    Modules run in the order conv1_1, norm1_1, relu1_1, conv1_2, ..., pool1, conv2_1, ..., mean, flatten, fc. The small
    variant pools thrice, before its last block; the others pool behind each of their five blocks. The convolutions keep
    their biases, as is usual in the form for CIFAR-10. Weights start as published: normal with variance 2 / (9 outputs)
    in convolutions and 0.01 as deviation in the linear layer, biases at zero.

    Source: Simonyan and Zisserman 2015, Very deep convolutional networks for large-scale image recognition,
    configurations A and D; He et al. 2015, Delving deep into rectifiers, for the initial weights.
    """

    def __init__(
        self,
        *,
        variant: str,
        in_channels: int,
        num_classes: int,
        image_size: tuple[int, int],
        pool: str = "max",
        width: float = 1.0,
    ) -> None:
        super().__init__()
        blocks, inputs = BLOCKS[variant], in_channels
        poolings = len(blocks) - 1 if variant == "vgg-small" else len(blocks)
        for block, channels in enumerate(blocks, start=1):
            for layer, wanted in enumerate(channels, start=1):
                outputs = scaled(wanted, width)
                self.add_module(f"conv{block}_{layer}", nn.Conv2d(inputs, outputs, 3, padding=1))
                self.add_module(f"norm{block}_{layer}", nn.BatchNorm2d(outputs))
                self.add_module(f"relu{block}_{layer}", nn.ReLU())
                inputs = outputs
            if block <= poolings:
                self.add_module(f"pool{block}", pooling(pool, inputs))
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution above has one
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)
