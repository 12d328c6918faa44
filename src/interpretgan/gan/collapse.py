"""Whether a training collapses within its first hundred steps: what the classifier sends back drowns the discriminator.

Explanations of different images become one picture, or the discriminator tells all of them from images at no loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interpretgan.gan.multi_device import Team

ONE_PICTURE = 0.05  # explanations that differ over images by less than this share of what the images do are one picture
NO_LOSS = 0.05  # of the discriminator, whose hinge loss is 2 at the start: below this it is sure of all
CHECKS = (20, 40, 60, 80, 100)  # steps after which that is looked for; two in a row are a collapse


class Collapse(Exception):
    """What was seen, within so many steps."""

    def __init__(self, seen: str, steps: int) -> None:
        super().__init__(seen, steps)
        self.seen, self.steps = seen, steps


class Watch(nn.Module):
    """Watches a training for a collapse. Its count is in the checkpoint: a resumed training goes on with it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("checks", torch.zeros((), dtype=torch.int64))  # in a row that found a collapse
        self.checks: Tensor

    def look(
        self, step: int, explanations: Tensor, images: Tensor, loss: Tensor | None, *, layers: int, team: Team
    ) -> None:
        """Raise `Collapse` where a second check in a row finds one.

        Args:
            step: How many steps are done.
            explanations: This process's, `[L · N, C, H, W]`, those of a layer in a row.
            images: What they explain, likewise.
            loss: The discriminator's. `None`: nothing is asked of it.
            layers: How many there are.
            team: The processes that train.
        """
        if step not in CHECKS:
            return
        seen = None
        if one_picture(explanations, images, layers, team):
            seen = "one picture for all"
        elif loss is not None and bool(team.mean(loss) < NO_LOSS):
            seen = "a discriminator at zero loss"
        self.checks = self.checks + 1 if seen else self.checks * 0
        if seen and self.checks >= 2:
            raise Collapse(seen, step)


def one_picture(explanations: Tensor, images: Tensor, layers: int, team: Team) -> bool:
    """Whether at no layer the explanations of different images differ by `ONE_PICTURE` of what the images do."""
    if len(explanations) <= layers:  # one image a layer differs from nothing
        return False
    spread = explanations.view(layers, -1, *explanations.shape[1:]).std(dim=1, correction=0).mean(dim=(1, 2, 3))
    return bool(team.mean(spread).max() < ONE_PICTURE * team.mean(images.std(dim=0, correction=0).mean()))
