"""Recipes, their schedules, and augmentation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel
from interpretgan.data import ImageSet, load_data
from interpretgan.errors import ConfigError
from interpretgan.training import OBJECTIVES, Recipe, adversarial_objective, default_recipe, judge_recipe
from interpretgan.training.recipes import SMALL_SET, augment


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return load_data("digits", "train", image_size=12)


def test_recipes_follow_the_size_of_the_data(train: ImageSet) -> None:
    for kind in ("natural", "judge"):
        recipe = default_recipe(train, kind)
        steps = recipe.epochs * (len(train) // recipe.batch_size)
        assert 300 < steps < 700
        assert default_recipe(train.head(10), kind).batch_size == 10
    with pytest.raises(ConfigError, match="mart"):
        default_recipe(train, "mart")


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "natural"])
def test_robust_recipes_select_the_best_epoch(train: ImageSet, objective: str) -> None:
    recipe = default_recipe(train, objective)
    assert 0 < recipe.validation <= len(train) // 10
    assert recipe.averaging > 0
    assert recipe.epochs > default_recipe(train, "natural").epochs


def test_large_sizes_get_help(train: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    modest, large = (ThreatModel("linf", eps, steps=20) for eps in (0.2, 0.4))
    few = len(train) < SMALL_SET
    assert few
    small, hopeless = (adversarial_objective(train, one) for one in (modest, large))
    assert small.warmup < hopeless.warmup == 1
    assert small.natural_share == 0 < hopeless.natural_share
    assert (small.threat_model.eps, small.threat_model.steps) == (0.2, 3)
    assert small.one_step_first
    assert not hopeless.one_step_first
    assert judge_recipe(train, large) == judge_recipe(train, modest) == default_recipe(train, "judge")
    monkeypatch.setattr("interpretgan.training.recipes.SMALL_SET", len(train))
    hard = adversarial_objective(train, large)
    assert small.warmup < hard.warmup < 1
    assert hard.natural_share == 0
    assert judge_recipe(train, modest) == default_recipe(train, "judge")
    assert judge_recipe(train, large).epochs == 3 * default_recipe(train, "judge").epochs


def test_one_cycle_rises_and_falls_to_zero() -> None:
    rate = Recipe(1, 1, lr=2.0).rate
    assert rate(0) == pytest.approx(0.1)
    assert rate(0.1) == pytest.approx(2 * (0.05 + 0.95 / 2))
    assert rate(0.2) == pytest.approx(2.0)
    assert rate(0.6) == pytest.approx(1.0)
    assert rate(1) == pytest.approx(0.0, abs=1e-12)


def test_step_schedule_drops_twice() -> None:
    rate = Recipe(1, 1, lr=1.0, schedule="step").rate
    assert [rate(done) for done in (0, 0.49, 0.5, 0.74, 0.75, 1)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_augmentation_shifts_each_image_by_itself() -> None:
    x = torch.rand(40, 1, 16, 24, generator=torch.Generator().manual_seed(0)) + 1  # no zero in the image
    shifted = augment(x, "shift", torch.Generator().manual_seed(1), fill=0.0)
    assert shifted.shape == x.shape
    offsets = set()
    for before, after in zip(x, shifted, strict=True):
        found = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-3, 4)
            if torch.equal(after, _shift(before, down, right))
        ]
        assert len(found) == 1
        offsets.add(found[0])
    assert len(offsets) > 15
    assert {down for down, _ in offsets} == set(range(-2, 3))
    assert {right for _, right in offsets} == set(range(-3, 4))


def test_half_of_the_images_are_mirrored() -> None:
    x = torch.rand(200, 1, 7, 7, generator=torch.Generator().manual_seed(0))  # too small to be shifted
    found = augment(x, "shift-flip", torch.Generator().manual_seed(1))
    mirrored = [torch.equal(b, a.flip(-1)) for a, b in zip(x, found, strict=True)]
    kept = [torch.equal(b, a) for a, b in zip(x, found, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


def test_augmentation_follows_its_generator_and_its_fill() -> None:
    x = torch.ones(50, 1, 16, 16)
    one, two = (augment(x, "shift-flip", torch.Generator().manual_seed(5), fill=-1.0) for _ in range(2))
    assert torch.equal(one, two)
    assert set(one.flatten().tolist()) == {-1.0, 1.0}
    assert augment(x, "none", torch.Generator()) is x


def _shift(image: Tensor, down: int, right: int) -> Tensor:
    """The image seen through a window that is moved, with black around it."""
    _, height, width = image.shape
    around = torch.zeros(1, height + 4, width + 6)
    around[:, 2 : 2 + height, 3 : 3 + width] = image
    return around[:, 2 + down : 2 + down + height, 3 + right : 3 + right + width]
