from __future__ import annotations

import pytest
import torch

from interpretgan.cuts import Cut
from interpretgan.gan.discriminator import Discriminator
from interpretgan.gan.generator import Generator, Stem, coarse_grid, space_to_depth

SHAPES = [(4, 28, 20), (6, 14, 10), (5, 9, 7), (7, 3, 2), (11,), (3, 5)]


def cuts_of(shapes: list[tuple[int, ...]]) -> list[Cut]:
    return [Cut(f"cut{i}", f"cut{i}", 1, "Conv2d", shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("size", "grid"), [(28, 7), (32, 8), (224, 7), (8, 8), (5, 5), (33, 5)])
def test_the_grid_is_coarse_whatever_the_image(size: int, grid: int) -> None:
    assert coarse_grid(size) == grid


def test_folding_keeps_every_pixel_in_its_cell() -> None:
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    folded = space_to_depth(images, (2, 3))
    assert folded.shape == (2, 18, 2, 2)
    assert folded[1, :, 1, 0].tolist() == images[1, :, 2:4, 0:3].flatten().tolist()


@pytest.mark.parametrize("image_shape", [(1, 28, 20), (3, 32, 32), (2, 33, 17), (1, 6, 5)])
def test_every_latent_becomes_an_image_within_the_bounds(image_shape: tuple[int, int, int]) -> None:
    cuts = cuts_of(SHAPES)
    generator = Generator(cuts, image_shape, bounds=(-2.0, 3.0), width=16, blocks=1, noise=4)
    counts = [2, 1, 3, 2, 4, 1]
    latents = [torch.randn(n, *shape) for n, shape in zip(counts, SHAPES, strict=True)]
    images = generator([50 * z for z in latents], torch.randn(sum(counts), 4))
    assert images.shape == (sum(counts), *image_shape)
    assert images.min() >= -2.0
    assert images.max() <= 3.0


def test_a_cut_is_drawn_alike_alone_and_among_others() -> None:
    cuts = cuts_of(SHAPES)
    generator = Generator(cuts, (1, 28, 20), width=16, blocks=1, noise=4)
    latents, noise = [torch.randn(2, *shape) for shape in SHAPES], torch.randn(2 * len(SHAPES), 4)
    together = generator(latents, noise)
    for index in range(len(SHAPES)):
        only = [z if i == index else None for i, z in enumerate(latents)]
        rows = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(generator(only, noise[rows]), together[rows])


def test_a_stem_standardises_by_natural_latents_and_survives_a_dead_channel() -> None:
    latent = torch.randn(50, 3, 4) * torch.tensor([100.0, 0.01, 0.0]).view(1, 3, 1) + 7
    stem = Stem((3, 4), (7, 5), 8)
    stem.calibrate(latent)
    standard = (latent - stem.mean.view(1, 3, 1)) * stem.scale.view(1, 3, 1)
    assert standard[:, 0].std(correction=0) == pytest.approx(1, abs=1e-3)
    assert standard.abs().max() < 10
    assert torch.isfinite(stem(latent)).all()


def test_the_discriminator_knows_cut_and_classes_and_is_lipschitz() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(3, 5, (1, 28, 20), width=16).eval()
    images = torch.rand(4, 1, 28, 20)
    classes = torch.eye(5)
    scores = [discriminator(images, torch.full((4,), cut), classes[:4]) for cut in range(3)]
    assert scores[0].shape == (4,)
    assert not torch.allclose(scores[0], scores[1])
    assert not torch.allclose(scores[0], discriminator(images, torch.zeros(4, dtype=torch.int64), classes[1:]))
    for conv in discriminator.convs:
        assert isinstance(conv, torch.nn.Conv2d)
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2) < 1.5
