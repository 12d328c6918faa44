"""Wide residual networks, the usual networks of robust training on CIFAR-10."""

import re
from collections import OrderedDict

from torch import Tensor, nn

from interpretgan.errors import ConfigError
from interpretgan.models.architectures import NetworkOptions
from interpretgan.models.architectures.pooling import pooling


def depth_and_widening(name: str) -> tuple[int, int]:
    """The numbers D and K in `"wrn-D-K"`; `ConfigError` unless D is 6 n + 4 with n at least 1, and K at least 1."""
    match = re.fullmatch(r"wrn-(\d{1,4})-(\d{1,3})", name)
    depth, widening = (int(match[1]), int(match[2])) if match else (0, 0)
    if depth < 10 or (depth - 4) % 6 or widening < 1:
        expected = "wrn-D-K with a depth D of 10, 16, 22, 28, 34, ... (6 n + 4) and a widening K of at least 1"
        raise ConfigError(expected=expected, got=repr(name), do="choose such a depth, wrn-28-10 for example")
    return depth, widening


class WideResNet(nn.Module):
    """A convolution, three groups of pre-activation residual blocks, BatchNorm, ReLU, mean, one linear layer.

    Modules run in the order conv1, block1, block2, block3, bn1, relu, mean, fc. The blocks of a group are
    `block1.layer.0`, `block1.layer.1` and so on, and the output of each is a layer. The parameters have the names of
    the widely used PyTorch versions, so published weights load. There is no dropout.

    A depth of 6 n + 4 has n blocks in each group. A widening of K gives the groups 16 K, 32 K and 64 K channels; width
    multiplies K, and the first convolution keeps its 16 channels. The first blocks of `block2` and `block3` halve the
    map: with `pool="stride"`, the published form, by the stride of their first convolution and of their shortcut. With
    another `pool` a module of that name halves their common input, the block's first ReLU, and is a layer; no layer
    grows more expensive, and parameters and their names are the same.

    Source: Zagoruyko and Komodakis 2016, Wide residual networks; the initial weights are those of He et al. 2015,
    Delving deep into rectifiers.
    """

    def __init__(self, options: NetworkOptions, depth: int, widening: int) -> None:
        super().__init__()
        first, second, third = (options.scaled(channels * widening) for channels in (16, 32, 64))
        blocks, pool = (depth - 4) // 6, options.pool
        self.conv1 = nn.Conv2d(options.in_channels, 16, 3, padding=1, bias=False)
        self.block1 = _group(blocks, 16, first, None)
        self.block2 = _group(blocks, first, second, pool)
        self.block3 = _group(blocks, second, third, pool)
        self.bn1 = nn.BatchNorm2d(third)
        self.relu = nn.ReLU()
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(third, options.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        z = self.block3(self.block2(self.block1(self.conv1(images))))
        logits: Tensor = self.fc(self.mean(self.relu(self.bn1(z))).flatten(1))
        return logits


class Block(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU, added to the input.

    Where the number of channels or the size changes, the shortcut is a 1x1 convolution of the first ReLU instead of
    the input. `pool` is how the block halves the map, see `WideResNet`; `None` for a block that keeps its size.
    """

    def __init__(self, inputs: int, outputs: int, pool: str | None = None) -> None:
        super().__init__()
        stride = 2 if pool == "stride" else 1
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.pool = None if pool in (None, "stride") else pooling(pool, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = pool is not None or inputs != outputs
        self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if changes else None

    def forward(self, z: Tensor) -> Tensor:
        """`[N, outputs, H', W']` of `[N, inputs, H, W]`."""
        active = self.relu1(self.bn1(z))
        if self.pool is not None:
            active = self.pool(active)
        added: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return added + (z if self.convShortcut is None else self.convShortcut(active))


def _group(blocks: int, inputs: int, outputs: int, pool: str | None) -> nn.Sequential:
    """Blocks under the name `layer`, the first of which changes the channels and the size."""
    layer = nn.Sequential(Block(inputs, outputs, pool), *(Block(outputs, outputs) for _ in range(blocks - 1)))
    return nn.Sequential(OrderedDict(layer=layer))
