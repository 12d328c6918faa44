"""A vision transformer for small images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.models.architectures import NetworkOptions

PATCH = 4  #: Pixels a side of a token.
HEAD = 32  #: Channels of a head.
DEPTH = 6
CHANNELS = 192


class ViT(nn.Module):
    """Patches of 4x4 pixels as tokens, six pre-norm transformer blocks, the mean over the tokens, one linear layer.

    Modules run in the order patches, position, blocks.0 to blocks.5, norm, mean, fc, and the output of each is a layer.
    A stem of two strided 3x3 convolutions with BatchNorm makes the tokens, as transformers without much data need that
    (Xiao et al. 2021, Early convolutions help transformers see better). There is no class token. Inside a block,
    `attention` and `mlp` are its branches. Width multiplies the channels, to a multiple of a head's 32.

    Source: Dosovitskiy et al. 2021, An image is worth 16x16 words; Beyer et al. 2022, Better plain ViT baselines, for
    the mean in place of a class token.
    """

    def __init__(self, options: NetworkOptions) -> None:
        super().__init__()
        channels = HEAD * max(1, round(CHANNELS * options.width / HEAD))
        rows, columns = ((side + PATCH - 1) // PATCH for side in options.image_size)
        self.patches = Patches(options.in_channels, channels)
        self.position = Position(rows * columns, channels)
        self.blocks = nn.Sequential(*(TransformerBlock(channels) for _ in range(DEPTH)))
        self.norm = nn.LayerNorm(channels)
        self.mean = Mean()
        self.fc = nn.Linear(channels, options.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[N, K]` of images `[N, C, H, W]`."""
        tokens = self.blocks(self.position(self.patches(images)))
        logits: Tensor = self.fc(self.mean(self.norm(tokens)))
        return logits


class Patches(nn.Module):
    """Two strided 3x3 convolutions, the first with BatchNorm and ReLU."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels // 2, 3, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels // 2)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens `[N, T, D]` of images `[N, C, H, W]`."""
        cells: Tensor = self.conv2(self.relu1(self.norm1(self.conv1(images))))
        return cells.flatten(2).transpose(1, 2)


class Position(nn.Module):
    """Adds a trained vector to each token."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.of_token = nn.Parameter(torch.empty(1, tokens, channels))
        nn.init.trunc_normal_(self.of_token, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, T, D]` of the same."""
        return tokens + self.of_token


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, T, D]` of the same."""
        n, t, d = tokens.shape
        q, k, v = self.qkv(tokens).view(n, t, 3, self.heads, HEAD).permute(2, 0, 3, 1, 4)
        mixed: Tensor = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d))
        return mixed


class TransformerBlock(nn.Module):
    """Attention, then an MLP of four times the channels, each behind LayerNorm and added to what came in."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, T, D]` of the same."""
        tokens = tokens + self.attention(self.norm1(tokens))
        added: Tensor = tokens + self.mlp(self.norm2(tokens))
        return added


class Mean(nn.Module):
    """The mean over the tokens."""

    def forward(self, tokens: Tensor) -> Tensor:
        """`[N, D]` of `[N, T, D]`."""
        return tokens.mean(dim=1)
