"""A model of one's own, as the command line takes it: a function that returns a `torch.nn.Module`.

interpretgan layers   --model examples.residual_digits:make_net
interpretgan diagnose --model examples.residual_digits:make_net --mean 0.3 --std 0.35 --out runs/residual

Without --weights the network is trained first. The modules inside a residual branch cannot be diagnosed, because their
outputs alone do not fix the logits. The whole block can.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions around which the input flows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same."""
        inner = self.conv2(F.relu(self.norm(self.conv1(x))))
        return F.relu(x + inner)


class ResidualNet(nn.Module):
    """Stem, two blocks, head: about 18,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.block1 = Residual(16)
        self.pool = nn.AvgPool2d(2)
        self.block2 = Residual(16)
        self.head = nn.Linear(16 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[N, 1, 28, 28]` to logits `[N, 10]`."""
        logits: Tensor = self.head(torch.flatten(self.block2(self.pool(self.block1(self.stem(x)))), 1))
        return logits


def make_net() -> nn.Module:
    """The network, untrained."""
    return ResidualNet()
