"""Whether a training collapses: within its first hundred steps, explanations of different images become one picture."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from interpretgan.gan.multi_device import Team

ONE_PICTURE = 0.05  # explanations that differ over images by less than this share of what the images do are one picture
CHECKS = (20, 40, 60, 80, 100)  # steps after which that is looked for; two in a row are a collapse


class Collapse(Exception):
    """All explanations became one picture, within so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self.steps = steps


class Watch(nn.Module):
    """Looks for a collapse. What it has seen is in its state, so that an interruption forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("alike", torch.zeros((), dtype=torch.int64))  # checks in a row that found one picture
        self.alike: Tensor

    def look(self, step: int, explanations: Tensor, images: Tensor, layers: int, team: Team) -> None:
        """Raise `Collapse` where a second check in a row finds one picture.

        Args:
            step: How many steps are done.
            explanations: This process's, `[L · N, C, H, W]`, those of a layer in a row.
            images: What they explain, likewise.
            layers: How many there are.
            team: The processes that train.
        """
        if step in CHECKS:
            self.alike = self.alike + 1 if one_picture(explanations, images, layers, team) else self.alike * 0
            if self.alike >= 2:
                raise Collapse(step)


def one_picture(explanations: Tensor, images: Tensor, layers: int, team: Team) -> bool:
    """Whether at no layer the explanations of different images differ by `ONE_PICTURE` of what the images do."""
    if len(explanations) <= layers:  # one image a layer differs from nothing
        return False
    spread = explanations.view(layers, -1, *explanations.shape[1:]).std(dim=1, correction=0).mean(dim=(1, 2, 3))
    return bool(team.mean(spread).max() < ONE_PICTURE * team.mean(images.std(dim=0, correction=0).mean()))
