"""The ways to halve a feature map, the same for every network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretgan.errors import ConfigError


def pooling(kind: str, channels: int) -> nn.Module:
    """A module that halves height and width, rounding down, and that has neither parameters nor saved state.

    So networks that differ in their pooling alone have the same parameters under the same names. The kind is `"max"`,
    the largest of 2x2 values; `"avg"`, their mean; `"stride"`, see `Subsample`; or `"blur"`, see `BlurPool`.
    """
    match kind:
        case "max":
            return nn.MaxPool2d(2)
        case "avg":
            return nn.AvgPool2d(2)
        case "stride":
            return Subsample()
        case "blur":
            return BlurPool(channels)
    raise ConfigError(expected="a pooling among max, avg, stride, blur", got=repr(kind), do="choose one of them")


class Subsample(nn.Module):
    """The top left of every 2x2 values: what a layer of stride 2 keeps of its result with stride 1.

    The stride of the layer before is thus moved behind its normalisation and activation, and a layer of
    stride 2 with weights of its own is not added: that would compare parameter counts and not poolings.
    """

    def forward(self, z: Tensor) -> Tensor:
        """`[N, C, H // 2, W // 2]` of `[N, C, H, W]`."""
        rows, columns = z.shape[-2] // 2 * 2, z.shape[-1] // 2 * 2
        return z[..., :rows:2, :columns:2].clone()


class BlurPool(nn.Module):
    """`Subsample` behind a fixed low-pass filter: the binomial [1, 2, 1] in both directions, its sum 1.

    The map is reflected at its borders, and each of its channels is filtered on its own.

    Source: Zhang 2019, Making convolutional networks shift-invariant again.
    """

    weight: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        weight = torch.outer(line, line).expand(channels, 1, 3, 3).contiguous()
        self.register_buffer("weight", weight, persistent=False)

    def forward(self, z: Tensor) -> Tensor:
        """`[N, C, H // 2, W // 2]` of `[N, C, H, W]`, height and width at least 2."""
        # The last row and column need no border: an even map's filter ends there, an odd map's is rounded away.
        # Joined, because the gradient of a reflecting pad is not deterministic on every device.
        z = torch.cat([z[:, :, 1:2], z], 2)
        z = torch.cat([z[:, :, :, 1:2], z], 3)
        return F.conv2d(z, self.weight, stride=2, groups=self.weight.shape[0])
