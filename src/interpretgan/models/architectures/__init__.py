"""The architectures that this package can build.

All networks take the same keywords, which `build_model` checks:

    in_channels: Channels of the images.
    num_classes: Number of logits.
    image_size: Height and width of the images.
    pool: How a map is halved, see `pooling`.
    width: Multiplies the channels and the hidden units.

Each activation and each pooling is a module of its own and not in place, so each of them is a layer with a name.
"""

from __future__ import annotations


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, at least 1."""
    return max(1, round(channels * width))
