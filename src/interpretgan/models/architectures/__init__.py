"""The architectures that this package can build.

Each activation and each pooling is a module of its own and not in place, so each of them is a layer with a name.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class NetworkOptions:
    """What every network of this package is built from; `build_model` checks it."""

    in_channels: int  #: Channels of the images.
    num_classes: int  #: Number of logits.
    image_size: tuple[int, int]  #: Height and width of the images.
    pool: str  #: How a map is halved, see `pooling`.
    width: float  #: Multiplies the channels and the hidden units.

    def scaled(self, channels: int) -> int:
        """A number of channels times the width, rounded, at least 1."""
        return max(1, round(channels * self.width))
