"""What the networks share about sizes: scaled widths and the smallest images."""

from __future__ import annotations

from interpretgan.errors import ConfigError

__all__ = ["require_size", "scaled"]


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded, at least 1."""
    return max(1, round(channels * width))


def require_size(image_size: tuple[int, int], smallest: int, network: str) -> None:
    """Refuse images on which the map of `network` would vanish.

    Raises:
        ConfigError: Height or width below `smallest`.
    """
    if min(image_size) < smallest:
        raise ConfigError(
            expected=f"images of at least {smallest}x{smallest} for {network}",
            got=f"{image_size[0]}x{image_size[1]}",
            do="load the data with a larger image_size",
        )
