from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from interpretgan.gan import linear_start
from interpretgan.gan.linear_start import LinearStart, reduced


def fitted(images: Tensor, latents: list[Tensor], monkeypatch: pytest.MonkeyPatch | None = None) -> LinearStart:
    asked: list[list[int]] = []

    def latents_of(group: Sequence[int]) -> Iterator[list[Tensor]]:
        asked.append(list(group))
        for rows in torch.split(torch.arange(len(images)), 64):
            yield [latents[index][rows] for index in group]

    start = LinearStart([tuple(latent.shape[1:]) for latent in latents], tuple(images.shape[1:]))  # type: ignore[arg-type]  # of images
    start.fit(images, latents_of)
    assert [index for group in asked for index in group] == list(range(len(latents)))
    assert len(asked) == (1 if monkeypatch is None else len(latents))
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
    known, blind, mixed = start(latents).sigmoid().view(3, *images.shape)
    variance = float(images.var(dim=0).sum())

    def unexplained(drawn: Tensor) -> float:
        return float((drawn - images).square().flatten(1).sum(dim=1).mean()) / variance

    assert unexplained(known) < 0.1
    assert unexplained(mixed) < 0.1
    assert unexplained(blind) == pytest.approx(1, abs=0.1)
    alone = start([None, latents[1], None]).sigmoid()
    assert torch.equal(alone, blind)
    assert start([10 * latents[0], None, None]).sigmoid().min() >= linear_start.PALEST - 1e-6


def test_layers_that_do_not_fit_in_memory_together_are_fitted_alike(
    scene: tuple[Tensor, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = fitted(*scene).state_dict()
    monkeypatch.setattr(linear_start, "NUMBERS", 10)
    apart = fitted(*scene, monkeypatch).state_dict()
    assert all(torch.equal(value, apart[name]) for name, value in together.items())


def test_large_latents_are_averaged_over_neighbours() -> None:
    assert reduced(torch.rand(2, 64, 112, 112)).shape[1] <= linear_start.INPUTS
    assert reduced(torch.rand(2, 197, 768)).shape[1] <= linear_start.INPUTS
    assert torch.equal(reduced(torch.ones(1, 3, 100, 100)).unique(), torch.ones(1))  # type: ignore[no-untyped-call]  # torch has no type
    small = torch.rand(2, 4, 5, 5)
    assert torch.equal(reduced(small), small.flatten(1))
