"""What a collapse of a training looks like."""

from __future__ import annotations

import pytest
import torch

from interpretgan.gan.collapse import CHECKS, NO_LOSS, ONE_PICTURE, Collapse, Watch, one_picture
from interpretgan.gan.multi_device import Team

IMAGES = torch.rand(2 * 4, 1, 6, 6, generator=torch.Generator().manual_seed(0))  # of two layers, four each
SURE, UNSURE = torch.tensor(NO_LOSS / 2), torch.tensor(1.0)


def looked(losses: list[torch.Tensor | None], explanations: torch.Tensor = IMAGES) -> Collapse | None:
    watch = Watch()
    try:
        for step in range(1, CHECKS[-1] + 1):
            loss = losses[CHECKS.index(step)] if step in CHECKS else SURE
            watch.look(step, explanations, IMAGES, loss, layers=2, team=Team())
    except Collapse as collapse:
        return collapse
    return None


def test_a_discriminator_at_zero_loss_twice_in_a_row_is_a_collapse() -> None:
    found = looked([UNSURE, SURE, SURE, UNSURE, UNSURE])
    assert found is not None
    assert (found.seen, found.steps) == ("a discriminator at zero loss", 60)
    assert looked([SURE, UNSURE, SURE, UNSURE, SURE]) is None
    assert looked([None] * 5) is None  # nothing is asked of it


def test_one_picture_at_every_layer_is_a_collapse_and_at_one_is_none() -> None:
    flat = IMAGES.mean(dim=0, keepdim=True) + 0.5 * ONE_PICTURE * (IMAGES - IMAGES.mean(dim=0, keepdim=True))
    found = looked([UNSURE] * 5, flat)
    assert found is not None
    assert (found.seen, found.steps) == ("one picture for all", 40)
    half = torch.cat([flat[:4], IMAGES[4:]])
    assert looked([UNSURE] * 5, half) is None
    assert not one_picture(flat[:2], IMAGES[:2], 2, Team())  # one image a layer differs from nothing


def test_what_was_seen_is_in_the_state() -> None:
    watch, resumed = Watch(), Watch()
    watch.look(20, IMAGES, IMAGES, SURE, layers=2, team=Team())
    resumed.load_state_dict(watch.state_dict())
    with pytest.raises(Collapse):
        resumed.look(40, IMAGES, IMAGES, SURE, layers=2, team=Team())
