from __future__ import annotations

import math

import pytest
import torch

from interpretgan.gan.latents import Standardise
from interpretgan.information.probes import RandomConvolution, RandomMixture, RandomProjection


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def matrix_of(mixture: RandomMixture, inputs: int) -> torch.Tensor:
    """The projection, column by column."""
    columns: torch.Tensor = mixture(torch.eye(inputs))
    return columns.T


@pytest.mark.parametrize("inputs", [37, 64])
def test_a_mixture_has_orthonormal_rows_that_see_every_number(inputs: int) -> None:
    rows = matrix_of(RandomMixture(inputs, 20, seeded()), inputs)
    torch.testing.assert_close(rows @ rows.T, torch.eye(20), atol=1e-5, rtol=0)
    assert (rows.abs() > 1e-4).float().mean() > 0.9


def test_a_short_latent_is_kept_as_it_is() -> None:
    latent = torch.randn(2, 3, 2, generator=seeded())
    mixed = RandomMixture(6, 10, seeded())(latent)
    torch.testing.assert_close(mixed[:, :6], latent.flatten(1))
    assert (mixed[:, 6:] == 0).all()


@pytest.mark.parametrize("sizes", [(8, 4), (9, 4), (7, 3), (5, 1), (4, 4), (3, 5)])
def test_windows_cover_the_map(sizes: tuple[int, int]) -> None:
    before, after = sizes
    layer = RandomConvolution((2, before, 6), (3, after, 2), seeded())
    assert set(layer.rows.flatten().tolist()) == set(range(before))
    assert layer.rows.shape == (after, math.ceil(before / after))
    if before % after == 0:
        assert layer.rows.flatten().tolist() == list(range(before))


def test_a_random_convolution_is_its_formula_place_by_place() -> None:
    layer = RandomConvolution((2, 5, 4), (3, 2, 2), seeded())
    latent = torch.randn(2, 2, 5, 4, generator=seeded())
    found = layer(latent)
    assert found.shape == (2, 3, 2, 2)
    for n in range(2):
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            window = latent[n][:, layer.rows[i]][:, :, layer.columns[j]].flatten()
            torch.testing.assert_close(found[n, :, i, j], window @ layer.matrix)


@pytest.mark.parametrize(
    ("before", "after", "shape"),
    [
        ((6, 28, 28), (6, 14, 14), (6, 14, 14)),
        ((16, 5, 5), (120,), (120,)),
        ((120,), (84,), (84,)),
        ((17, 12), (5, 10), (5, 10)),
        ((17, 12), (12,), (12,)),
    ],
    ids=str,
)
def test_a_control_has_the_size_of_the_next_layer(
    before: tuple[int, ...], after: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    standard, projection = Standardise(before, drop_still=True), RandomProjection(before, after, seeded())
    latent = torch.randn(3, *before, generator=seeded())
    found = projection(standard(latent))
    assert found.shape == (3, *shape) == (3, *projection.shape)
    again = RandomProjection(before, after, seeded())(standard(latent))
    assert torch.equal(found, again)


@pytest.mark.parametrize(("shape", "channel"), [((4, 3, 5), 1), ((7, 4), 2), ((4,), 1)])
def test_standardising_is_per_channel_and_leaves_out_what_never_moves(shape: tuple[int, ...], channel: int) -> None:
    latent = 5 + 3 * torch.randn(50, *shape, generator=seeded())
    latent.movedim(channel, 0)[2] = 0.3  # a channel that never moves
    standard = Standardise(shape, drop_still=True)
    standard.calibrate(latent)
    found = standard(latent).movedim(1, 0).flatten(1)
    moving = [0, 1, 3]
    torch.testing.assert_close(found[moving].mean(dim=1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[moving].std(dim=1, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    assert (found[2] == 0).all()
