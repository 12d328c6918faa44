from __future__ import annotations

import pytest
import torch

from interpretgan.gan import losses
from tests import reference


@pytest.fixture
def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_the_information_bound_is_the_formula(random: torch.Generator) -> None:
    logits, explained = torch.randn(2, 5, 7, generator=random) * 3
    found = losses.information_bound(logits, explained)
    assert float(found) == pytest.approx(reference.information_bound(logits.tolist(), explained.tolist()), rel=1e-5)


def test_the_information_bound_is_largest_at_the_classification_itself(random: torch.Generator) -> None:
    logits, explained = torch.randn(2, 6, 4, generator=random)
    own = losses.information_bound(logits, logits)
    probabilities = logits.softmax(dim=1)
    entropy = -(probabilities * probabilities.log()).sum(dim=1).mean()
    torch.testing.assert_close(own, -entropy)
    assert losses.information_bound(logits, explained) < own < 0


def test_the_hinges_are_the_formulas(random: torch.Generator) -> None:
    real, fake = torch.randn(9, generator=random), torch.randn(5, generator=random)
    found = losses.discriminator_hinge(real, fake)
    assert float(found) == pytest.approx(reference.discriminator_hinge(real.tolist(), fake.tolist()), rel=1e-5)
    assert float(losses.generator_hinge(fake)) == pytest.approx(-sum(fake.tolist()) / 5, rel=1e-5)


def test_the_energy_score_is_least_where_draws_vary_as_the_images_do(random: torch.Generator) -> None:
    images, *noise = torch.randn(3, 4000, 1, 3, 3, generator=random)  # nothing is known of them but their distribution
    scores = {spread: float(losses.energy_score(images, *(spread * n for n in noise))) for spread in (0.0, 0.5, 1, 2)}
    assert min(scores, key=lambda spread: scores[spread]) == 1
    by_hand = [(x - a).norm() + (x - b).norm() - (a - b).norm() for x, a, b in zip(images, *noise, strict=True)]
    assert scores[1] == pytest.approx(float(torch.stack(by_hand).mean()) / 2 / 3, rel=1e-4)


def test_latent_consistency_is_the_formula_and_scale_free(random: torch.Generator) -> None:
    latent, explained = torch.randn(2, 3, 4, 5, 6, generator=random)
    found = losses.latent_consistency(latent, explained)
    rows = [part.flatten(1).tolist() for part in (latent, explained)]
    assert float(found) == pytest.approx(reference.latent_consistency(*rows), rel=1e-4)
    torch.testing.assert_close(losses.latent_consistency(100 * latent, 100 * explained), found)
    assert losses.latent_consistency(latent, latent) == 0
    assert torch.isfinite(losses.latent_consistency(torch.zeros(2, 3), torch.ones(2, 3)))
