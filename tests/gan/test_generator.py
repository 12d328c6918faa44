from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from interpretgan.data import load_data
from interpretgan.gan.discriminator import Discriminator
from interpretgan.gan.generator import Generator, SmoothShuffle, Stem, coarse_grid, should_be_smooth
from interpretgan.gan.latents import (
    are_smooth,
    as_map,
    channels_first,
    depth_to_space,
    smoothed,
    space_to_depth,
    token_grid,
)
from interpretgan.layers import Layer

SHAPES = [(4, 28, 20), (6, 14, 10), (5, 9, 7), (7, 3, 2), (11,), (3, 5), (300, 2, 2), (90, 13)]


def layers_of(shapes: list[tuple[int, ...]]) -> list[Layer]:
    return [Layer(f"layer{i}", f"layer{i}", 1, "Conv2d", shape) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize(("size", "grid"), [(28, 7), (32, 8), (224, 7), (8, 8), (5, 5), (33, 5)])
def test_the_grid_is_coarse_whatever_the_image(size: int, grid: int) -> None:
    assert coarse_grid(size) == grid


def test_folding_keeps_every_pixel_in_its_cell() -> None:
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    folded = space_to_depth(images, (2, 3))
    assert folded.shape == (2, 18, 2, 2)
    assert folded[1, :, 1, 0].tolist() == images[1, :, 2:4, 0:3].flatten().tolist()


def test_unfolding_undoes_folding() -> None:
    images = torch.rand(2, 3, 4, 6)
    assert torch.equal(depth_to_space(space_to_depth(images, (2, 3)), (2, 3)), images)


def test_tokens_are_laid_out_on_the_grid_of_the_image() -> None:
    assert token_grid(197, 1.0) == (1, 14, 14)  # a class token
    assert token_grid(201, 1.0) == (5, 14, 14)  # and four registers
    assert token_grid(64, 1.0) == (0, 8, 8)
    assert token_grid(129, 2.0) == (1, 16, 8)
    apart, rows, columns = token_grid(90, 1.0)  # no square
    assert apart == 0
    assert rows * columns >= 90
    tokens = torch.arange(1.0, 18.0).view(1, 17, 1)
    cells, alone = as_map(channels_first(tokens), 1.0)
    assert cells[0, 0].tolist() == torch.arange(2.0, 18.0).view(4, 4).tolist()
    assert alone.flatten().tolist() == [1.0]


def test_the_same_features_are_drawn_alike_whatever_their_layout() -> None:
    """As a map, and as tokens of the same grid."""
    maps = torch.randn(6, 30, 16, 16)
    drawn = []
    for latent in (maps, maps.flatten(2).movedim(1, 2)):
        torch.manual_seed(0)
        generator = Generator(layers_of([tuple(latent.shape[1:])]), (1, 32, 32), width=16, blocks=1, noise=4)
        generator.calibrate({"layer0": latent})
        drawn.append(generator([latent], torch.zeros(6, 4)))
    torch.testing.assert_close(drawn[1], drawn[0])


@pytest.mark.parametrize("image_shape", [(1, 28, 20), (3, 32, 32), (2, 33, 17), (1, 6, 5)])
def test_every_latent_becomes_an_image_within_the_bounds(image_shape: tuple[int, int, int]) -> None:
    layers = layers_of(SHAPES)
    generator = Generator(layers, image_shape, bounds=(-2.0, 3.0), width=16, blocks=1, noise=4)
    counts = [2, 1, 3, 2, 4, 1, 2, 3]
    latents = [torch.randn(n, *shape) for n, shape in zip(counts, SHAPES, strict=True)]
    images = generator([50 * z for z in latents], torch.randn(sum(counts), 4))
    assert images.shape == (sum(counts), *image_shape)
    assert images.min() >= -2.0
    assert images.max() <= 3.0


def test_a_layer_is_drawn_alike_alone_and_among_others() -> None:
    layers = layers_of(SHAPES)
    generator = Generator(layers, (1, 28, 20), width=16, blocks=1, noise=4)
    latents, noise = [torch.randn(2, *shape) for shape in SHAPES], torch.randn(2 * len(SHAPES), 4)
    together = generator(latents, noise)
    for index in range(len(SHAPES)):
        only = [z if i == index else None for i, z in enumerate(latents)]
        rows = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(generator(only, noise[rows]), together[rows])


@pytest.mark.parametrize("shape", [(3, 2, 2), (5, 3)])
def test_a_stem_standardises_by_natural_latents_and_survives_a_dead_channel(shape: tuple[int, ...]) -> None:
    """Channels are the first axis of maps, the last of tokens."""
    size = torch.tensor([100.0, 0.01, 0.0])
    latent = torch.randn(50, *shape) * (size if len(shape) == 2 else size.view(3, 1, 1)) + 7
    stem = Stem(shape, (7, 5), 8, proportions=1.4)
    stem.standardise.calibrate(latent)
    standard = stem.standardise(latent)
    assert standard[:, 0].std(correction=0) == pytest.approx(1, abs=1e-3)
    assert standard.abs().max() < 10
    assert torch.isfinite(stem(latent)).all()


def test_a_cell_is_drawn_where_it_is_seen() -> None:
    """What moves in one corner of a feature map moves that corner of the picture, whatever the image's proportions."""
    for image_shape in ((1, 28, 28), (1, 12, 40), (1, 36, 36), (3, 65, 33)):
        torch.manual_seed(0)
        _, height, wide = image_shape
        shapes: list[tuple[int, ...]] = [(4, height, wide)]
        generator = Generator(layers_of(shapes), image_shape, width=16, blocks=1, noise=4)
        latent = torch.zeros(1, 4, height, wide)
        other = latent.clone()
        other[:, :, : height // 4, -(wide // 4) :] = 5.0
        noise = torch.zeros(1, 4)
        with torch.no_grad():
            moved = (generator([other], noise) - generator([latent], noise)).abs().sum(dim=(0, 1))
        corners = [
            float(moved[rows, columns].mean())
            for rows in (slice(0, height // 4), slice(-(height // 4), None))
            for columns in (slice(0, wide // 4), slice(-(wide // 4), None))
        ]
        assert max(range(4), key=corners.__getitem__) == 1, image_shape
        assert corners[1] > 5 * max(corners[0], corners[2], corners[3]), image_shape


def test_stems_stay_small_for_wide_coarse_maps_and_tokens() -> None:
    for shape in ((512, 4, 4), (197, 768), (2048, 7, 7)):
        stem = Stem(shape, (8, 8), 96, proportions=1.0)
        assert sum(p.numel() for p in stem.parameters()) < 1_000_000
        latent = torch.randn(3, *shape)
        stem.standardise.calibrate(latent)
        assert stem(latent).shape == (3, 96, 8, 8)


@pytest.mark.parametrize("shape", [(128, 4, 4), (512, 5, 5), (128, 4, 32), (64, 40, 3), (2048, 1, 7), (32, 20, 20)])
def test_a_stem_sees_each_place_of_a_map_and_gives_a_coarse_one_cells_of_its_own(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    stem = Stem(shape, (8, 8), 16, proportions=1.0)
    latent = torch.randn(20, *shape)
    stem.standardise.calibrate(latent)
    one = latent[:1].requires_grad_()
    mapped = stem(one)
    assert mapped.shape == (1, 16, 8, 8)
    (seen,) = torch.autograd.grad(mapped.square().sum(), one)
    assert (seen[0].abs().sum(dim=0) > 0).all()
    if shape[1:] == (4, 4):  # cells of one place differ, and are no mean of neighbours
        moved = one.detach().clone()
        moved[0, :, 1, 1] += 1
        change = (stem(moved) - mapped).abs().sum(dim=1)[0].detach()
        assert (change > 0).nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
        assert len(change[2:4, 2:4].unique()) == 4


def test_the_discriminator_knows_layer_and_classes_and_is_lipschitz() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(3, 5, (1, 28, 20), width=16).eval()
    images = torch.rand(4, 1, 28, 20)
    classes = torch.eye(5)
    scores = [discriminator(images, torch.full((4,), layer), classes[:4]) for layer in range(3)]
    assert scores[0].shape == (4,)
    assert not torch.allclose(scores[0], scores[1])
    assert not torch.allclose(scores[0], discriminator(images, torch.zeros(4, dtype=torch.int64), classes[1:]))
    for conv in discriminator.convs:
        assert isinstance(conv, torch.nn.Conv2d)
        assert torch.linalg.matrix_norm(conv.weight.flatten(1), ord=2) < 1.5


def test_upsampling_leaves_no_pattern_of_period_two() -> None:
    columns = torch.tensor([1.0, -1.0]).repeat(5)
    for pattern in (columns.expand(10, 10), columns[:, None].expand(10, 10), torch.outer(columns, columns)):
        assert smoothed(pattern[None, None])[:, :, 1:-1, 1:-1].abs().max() < 1e-6
    assert torch.equal(smoothed(torch.ones(1, 1, 4, 6)), torch.ones(1, 1, 4, 6))
    cells = torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(SmoothShuffle(2)(cells), smoothed(F.pixel_shuffle(cells, 2)))


def test_what_is_added_is_smooth_where_the_images_are() -> None:
    digits, _ = load_data("digits", "test").batch(range(100))
    assert should_be_smooth(digits)
    strokes = (digits > 0.5).float()
    assert not should_be_smooth(strokes)
    assert should_be_smooth(strokes.expand(-1, 3, -1, -1))  # photographs always
    assert should_be_smooth(torch.ones(1, 1, 1, 1))
    large = F.interpolate(strokes, size=(224, 224))  # as fine as before at the size that the trunk draws
    assert are_smooth(large)
    assert not should_be_smooth(large)


@pytest.mark.parametrize(
    ("image_shape", "reach"), [((1, 28, 28), 4), ((3, 32, 48), 4), ((1, 8, 64), 9), ((3, 128, 128), 10)]
)
def test_a_trunk_that_looks_again_sees_what_is_around_each_pixel(image_shape: tuple[int, int, int], reach: int) -> None:
    """On its coarse grid alone it would have to know all pixels of a cell by a few numbers."""
    layer = Layer("fc", "fc", 1, "Linear", (11,))
    generator = Generator([layer], image_shape, width=16, blocks=1, linear_start=True, look_again=True)
    assert len(generator.looks) == len(generator.stages) > 1
    for weight in generator.stages[-1].parameters():
        nn.init.normal_(weight)
    for look in generator.looks[:-1]:
        look.register_forward_hook(lambda _module, _inputs, seen: torch.zeros_like(seen))
    start = torch.rand(1, *image_shape, requires_grad=True)
    generator.start.forward = lambda latents: start  # type: ignore[union-attr, method-assign]
    row, column = image_shape[1] // 2 + 1, image_shape[2] // 2 + 1
    added = torch.logit(generator([torch.zeros(1, 11)], torch.zeros(1, 16))) - start.logit()
    (seen,) = torch.autograd.grad(added[0, 0, row, column], start)
    rows, columns = seen[0].abs().amax(dim=0).gt(1e-6).nonzero(as_tuple=True)
    assert row in rows.tolist()
    assert int((rows - row).abs().max()) <= reach
    assert int((columns - column).abs().max()) <= reach
