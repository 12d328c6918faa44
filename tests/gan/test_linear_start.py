from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from interpretgan.gan import linear_start
from interpretgan.gan.linear_start import LinearStart, reduced


def fitted(images: Tensor, latents: list[Tensor], monkeypatch: pytest.MonkeyPatch | None = None) -> LinearStart:
    groups: set[tuple[int, ...]] = set()

    def latents_of(group: Sequence[int]) -> Iterator[list[Tensor]]:
        groups.add(tuple(group))
        for rows in torch.split(torch.arange(len(images)), 64):
            yield [latents[index][rows] for index in group]

    start = LinearStart([tuple(latent.shape[1:]) for latent in latents], tuple(images.shape[1:]))  # type: ignore[arg-type]  # of images
    start.fit(images, latents_of)
    alone = {(index,) for index in range(len(latents))}
    assert groups == alone if monkeypatch else tuple(range(len(latents))) in groups
    return start


@pytest.fixture
def scene() -> tuple[Tensor, list[Tensor]]:
    """Images that a latent of five numbers makes, and latents of three shapes that hold it or do not."""
    torch.manual_seed(0)
    latent = torch.randn(300, 5)
    images = (0.5 + 0.1 * latent @ torch.randn(5, 48)).clamp(0.05, 0.95).view(300, 3, 4, 4)
    blind = torch.randn(300, 6, 2, 2)
    return images, [latent, blind, 3 * torch.cat([latent, torch.randn(300, 7)], dim=1).view(300, 4, 3) + 1]


def test_what_a_latent_holds_is_drawn_and_else_the_mean(scene: tuple[Tensor, list[Tensor]]) -> None:
    images, latents = scene
    start = fitted(images, latents)
    known, blind, mixed = start(latents).view(3, *images.shape)
    variance = float(images.var(dim=0).sum())

    def unexplained(drawn: Tensor) -> float:
        return float((drawn - images).square().flatten(1).sum(dim=1).mean()) / variance

    assert unexplained(known) < 0.1
    assert unexplained(mixed) < 0.1
    assert unexplained(blind) == pytest.approx(1, abs=0.1)
    alone = start([None, latents[1], None])
    assert torch.equal(alone, blind)
    assert start([10 * latents[0], None, None]).min() >= linear_start.PALEST - 1e-6


def test_a_latent_that_stands_still_draws_the_mean_wherever_it_is_moved(scene: tuple[Tensor, list[Tensor]]) -> None:
    images, _ = scene
    for size in (20, 400):  # fewer and more numbers than images
        start = fitted(images, [torch.randn(1, size).expand(300, -1).contiguous()])
        assert not start.get_buffer("weight_0").any()
        torch.testing.assert_close(start([torch.randn(1, size)]), images.mean(dim=0, keepdim=True))


def test_what_the_caller_allows_products_to_lose_changes_no_start() -> None:
    torch.manual_seed(4)
    images, gate = torch.rand(800, 1, 4, 4), (torch.randn(800, 1) > 1).float().expand(-1, 3000).contiguous()
    given, exact = torch.get_float32_matmul_precision(), fitted(images, [gate])([gate])
    try:
        torch.set_float32_matmul_precision("medium")  # bf16 where a processor is fast at it
        lossy = fitted(images, [gate])
    finally:
        torch.set_float32_matmul_precision(given)
    torch.testing.assert_close(lossy([gate]), exact, atol=0.01, rtol=0)


def test_layers_that_do_not_fit_in_memory_together_are_fitted_alike(
    scene: tuple[Tensor, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = fitted(*scene).state_dict()
    monkeypatch.setattr(linear_start, "NUMBERS", 10)
    apart = fitted(*scene, monkeypatch).state_dict()
    assert all(torch.equal(value, apart[name]) for name, value in together.items())


def test_large_latents_are_averaged_over_neighbours() -> None:
    assert reduced(torch.rand(2, 64, 112, 112), 1.0).shape[1] <= linear_start.INPUTS
    assert torch.equal(reduced(torch.ones(1, 3, 100, 100), 1.0).unique(), torch.ones(1))  # type: ignore[no-untyped-call]  # torch has no type
    small = torch.rand(2, 4, 5, 5)
    assert torch.equal(reduced(small, 1.0), small.flatten(1))
    tokens = torch.cat([torch.full((1, 1, 768), 7.0), torch.rand(1, 196, 768)], dim=1)
    assert reduced(tokens, 1.0).shape[1] <= linear_start.INPUTS
    assert torch.equal(reduced(tokens, 1.0)[:, :768], tokens[:, 0])  # the class token is not mixed with its neighbours
    assert reduced(torch.rand(2, 5 + 256, 1536), 1.0).shape == (2, 6 * 1536)  # five tokens apart are all of it already


@pytest.mark.parametrize("layout", ["map", "tokens"])
def test_patches_draw_detail_that_components_of_whole_images_do_not_hold(layout: str) -> None:
    """In an image of any size, and of latents however they are laid out."""
    for side in (16, 48):
        torch.manual_seed(0)
        images = torch.rand(200, 2, side, side)
        latents = F.conv2d(images, torch.randn(16, 2, 2, 2), stride=2)
        if layout == "tokens":
            latents = torch.cat([torch.randn(200, 1, 16), latents.flatten(2).movedim(1, 2)], dim=1)
        shape, image_shape = tuple(latents.shape[1:]), (2, side, side)
        start = LinearStart([shape], image_shape)
        start.fit(images[:150], lambda _group, latents=latents: iter([[latents[:90]], [latents[90:150]]]))  # type: ignore[misc]  # bound now
        error = float((start([latents[150:]]) - images[150:]).abs().mean())
        start._patch(0).set_zero()
        components = float((start([latents[150:]]) - images[150:]).abs().mean())
        assert error < 0.02, side
        assert components > 0.15, side


def test_patches_are_left_out_where_they_draw_held_out_images_worse() -> None:
    """A map whose places lie elsewhere than those of the image, of images that components describe."""
    torch.manual_seed(0)
    few = torch.randn(200, 3)
    images = (0.5 + 0.1 * few @ torch.randn(3, 2 * 16 * 16)).clamp(0.1, 0.9).view(200, 2, 16, 16)
    latents = F.conv2d(images, torch.randn(4, 2, 2, 2), stride=2).roll(3, dims=2).flip(3)
    start = LinearStart([(4, 8, 8)], (2, 16, 16))
    start.fit(images, lambda _group: iter([[latents]]))
    assert not start._patch(0).weight.any()
    assert float((start([latents]) - images).abs().mean()) < 0.02


def test_a_layer_without_places_has_no_patches() -> None:
    start = LinearStart([(5,), (600, 4, 4), (4, 2, 2), (8, 16, 16)], (1, 64, 64))
    assert list(start.patches) == ["1", "3"]
    assert start._patch(1).reach == 1


def test_patches_leave_no_seams() -> None:
    """Each place sees itself alone here: without overlap pixels on both sides of a border differ five times as much."""
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.2 * F.interpolate(torch.randn(300, 1, 8, 8, generator=generator), scale_factor=4, mode="bicubic")
    latents = F.avg_pool2d(images, 8).expand(-1, 200, -1, -1)
    start = LinearStart([(200, 4, 4)], (1, 32, 32))
    start.fit(images, lambda _group: iter([[latents]]))
    steps = start._patch(0)(latents).diff(dim=3).abs().mean(dim=(0, 1, 2))
    assert steps[7::8].mean() < 2 * steps.mean()


def test_what_a_fit_holds_grows_with_its_images_and_its_widest_latent() -> None:
    """480 MiB more for 2,000 images of MNIST than for 400; a process that fitted LeNet-5's layers held 462 more."""
    start = LinearStart([(6, 28, 28), (6, 28, 28), (6, 14, 14), (16, 10, 10), (400,), (120,), (10,)], (1, 28, 28))
    assert start.fitting_mib(2000) - start.fitting_mib(400) == pytest.approx(480, abs=2)
    many = LinearStart([(6, 28, 28)] * 40, (1, 28, 28))  # of all, only groups are held at once
    assert many.fitting_mib(2000) < start.fitting_mib(2000) + 4 * linear_start.NUMBERS / 2**20
