"""VGG networks [37] with BatchNorm, in their form for small images, and the judge's network, which is like them."""

import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.models.architectures import NetworkOptions
from interpretgan.models.architectures.pooling import pooling

BLOCKS: dict[str, tuple[tuple[int, ...], ...]] = {  # output channels of the convolutions of each block
    "vgg-small": ((32, 32), (64, 64), (128, 128), (128,)),
    "vgg11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}

SEEN = 64
"""Pixels a side that the judge sees, at most."""


class VGG(nn.Sequential):
    """Blocks of 3x3 convolutions, a pooling between them, the mean over all positions, one linear layer.

    Modules run in the order conv1_1, norm1_1, relu1_1, conv1_2, ..., pool1, conv2_1, ..., mean, flatten, fc. The small
    variant pools thrice, before its last block; the others pool behind each of their five blocks. The convolutions keep
    their biases, as is usual in the form for CIFAR-10. Weights start as published: normal with variance 2 / (9 outputs)
    in convolutions and 0.01 as deviation in the linear layer, biases at zero.

    Source: Simonyan and Zisserman 2015, Very deep convolutional networks for large-scale image recognition,
    configurations A and D; He et al. 2015, Delving deep into rectifiers, for the initial weights.
    """

    def __init__(self, options: NetworkOptions, variant: str) -> None:
        super().__init__()
        blocks, inputs = BLOCKS[variant], options.in_channels
        poolings = len(blocks) - 1 if variant == "vgg-small" else len(blocks)
        for block, channels in enumerate(blocks, start=1):
            for layer, outputs in enumerate(map(options.scaled, channels), start=1):
                self.add_module(f"conv{block}_{layer}", nn.Conv2d(inputs, outputs, 3, padding=1))
                self.add_module(f"norm{block}_{layer}", nn.BatchNorm2d(outputs))
                self.add_module(f"relu{block}_{layer}", nn.ReLU())
                inputs = outputs
            if block <= poolings:
                self.add_module(f"pool{block}", pooling(options.pool, inputs))
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, options.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]  # every convolution above has one
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)


class JudgeNet(nn.Module):
    """A strided 5x5 stem, two blocks of 3x3 convolutions with BatchNorm, one hidden linear layer.

    The default judge, of another architecture than the classifiers it judges. The stem halves the map at once: at full
    resolution a step is bound by memory and not by arithmetic. The first block has 24 channels for grey images, else
    64, the second twice as many, and the hidden layer 128 units. It sees images of more than `SEEN` pixels a side
    reduced to that, so that it computes no more for larger ones.
    """

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        base, pool = 24 if options.in_channels == 1 else 64, options.pool
        first, second, units = map(options.scaled, (base, 2 * base, 128))
        self.stem = _convolution(options.in_channels, first, kernel=5, stride=2)
        self.block1 = nn.Sequential(_convolution(first, first), pooling(pool, first))
        self.block2 = nn.Sequential(_convolution(first, second), _convolution(second, second), pooling(pool, second))
        shrink = max(1.0, max(options.image_size) / SEEN)
        height, width = (max(8, round(side / shrink)) for side in options.image_size)
        self.reduced_to = (height, width) if shrink > 1 else None
        rows, columns = ((side + 1) // 2 // 4 for side in (height, width))
        self.hidden = nn.Sequential(nn.Linear(second * rows * columns, units), nn.ReLU())
        self.head = nn.Linear(units, options.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        if self.reduced_to is not None:
            images = F.adaptive_avg_pool2d(images, self.reduced_to)
        z = self.block2(self.block1(self.stem(images)))
        logits: Tensor = self.head(self.hidden(z.flatten(1)))
        return logits


def _convolution(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
