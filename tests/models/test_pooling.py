"""Each way to halve a map, by hand."""

from __future__ import annotations

import pytest
import torch

from interpretgan.errors import ConfigError
from interpretgan.models.architectures.pooling import pooling

BY_HAND = {
    # Of the map z[r, c] = 5 r + c. Blurring leaves a plane as it is, but reflects row and column -1 to 1.
    "max": [[6.0, 8.0], [16.0, 18.0]],
    "avg": [[3.0, 5.0], [13.0, 15.0]],
    "stride": [[0.0, 2.0], [10.0, 12.0]],
    "blur": [[3.0, 4.5], [10.5, 12.0]],
}


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize("size", [(5, 5), (4, 5), (5, 4), (4, 4)])
def test_values_and_rounding_down(kind: str, size: tuple[int, int]) -> None:
    plane = torch.arange(25.0).reshape(5, 5)[: size[0], : size[1]]
    halved = pooling(kind, 2)(torch.stack([plane, -plane])[None])
    assert halved.shape == (1, 2, 2, 2)
    torch.testing.assert_close(halved[0, 0], torch.tensor(BY_HAND[kind]))
    if kind != "max":
        torch.testing.assert_close(halved[0, 1], -halved[0, 0])


@pytest.mark.parametrize("kind", BY_HAND)
def test_nothing_to_train_or_to_save_and_the_memory_format_stays(kind: str) -> None:
    module = pooling(kind, 4)
    assert not list(module.parameters())
    assert not module.state_dict()
    z = torch.rand(2, 4, 6, 7).to(memory_format=torch.channels_last)
    assert module(z).is_contiguous(memory_format=torch.channels_last)


def test_blurring_weighs_by_the_binomial() -> None:
    z = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    z[0, 0, 3, 4] = 16
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[1, 2] = expected[2, 2] = 2
    blurred = pooling("blur", 1).double()(z)
    torch.testing.assert_close(blurred[0, 0], expected)
    z[0, 0, 3, 4], z[0, 0, 4, 4] = 0, 16
    assert pooling("blur", 1).double()(z)[0, 0, 2, 2] == 4


def test_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="max, avg, stride, blur, got 'median'"):
        pooling("median", 1)
