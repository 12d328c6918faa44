"""Images as pictures: no pixel is lost, and differences have a colour for each sign."""

from __future__ import annotations

import numpy as np
import pytest

from interpretgan.data import pictures


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_pictures_keep_every_pixel(channels: int, bounds: tuple[float, float]) -> None:
    low, high = bounds
    image = np.linspace(low, high, channels * 2 * 3).reshape(channels, 2, 3)
    drawn = pictures.picture(image, bounds)
    assert drawn.shape == (2, 3, 3)
    assert drawn.dtype == np.uint8
    expected = np.round(255 * (image - low) / (high - low)).astype(np.uint8)
    assert np.array_equal(drawn[..., 0], expected[0])
    assert np.array_equal(drawn[..., -1], expected[-1])


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_pictures_of_other_channels_are_three_of_them_or_their_mean(channels: int) -> None:
    image = np.linspace(0, 1, channels * 2 * 3).reshape(channels, 2, 3)
    drawn = pictures.picture(image, (0.0, 1.0))
    shown = image[:3] if channels > 3 else np.broadcast_to(image.mean(axis=0), (3, 2, 3))
    assert np.array_equal(drawn, np.round(255 * shown.transpose(1, 2, 0)).astype(np.uint8))


def test_differences_have_a_colour_for_each_sign_and_none_at_zero() -> None:
    drawn = pictures.difference_picture(np.array([[[0.5, 0.0, -0.25]]]), 0.5)
    assert drawn[0, :, 3].tolist() == [255, 0, 180]
    assert tuple(drawn[0, 0, :3]) == pictures.MORE
    assert tuple(drawn[0, 2, :3]) == pictures.LESS
