"""Layers that wait, because nothing is recognised in what a generator draws of them at first.

There, what realism and the recognition network ask leads nowhere, and it keeps the generator from learning by latent
consistency, which can teach it such a layer. So that goes first, and the others come as the layer is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.gan.generator import Generator

START_IMAGES = 256  # natural images, at most, whose linear starts are classified
SURE = 3.0  # standard errors by which two networks' predictions must agree more often than by chance
NONE, ALL = 0.5, 0.2  # relative errors of its latents at which a waiting layer is asked the first bit, and everything
REMEMBERED = 0.9  # decay per step of the moving average of these errors


class Waiting(nn.Module):
    """How much of realism and information is asked of each layer's explanations: shares `[L]` in [0, 1].

    Everything of a layer that does not wait. Of one that does, by the moving average of the relative error of its
    latents, `e_l = ‖f_{<=l}(x̂) - z_l‖² / ‖z_l‖²`: nothing above `NONE`, everything below `ALL`, a share between.
    """

    waits: Tensor
    error: Tensor

    def __init__(self, waits: Tensor) -> None:
        super().__init__()
        self.register_buffer("waits", waits)
        self.register_buffer("error", torch.ones(len(waits)))

    @torch.no_grad()
    def forward(self, errors: Tensor) -> Tensor:
        """The shares after a step with relative errors `[L]`."""
        self.error.lerp_(errors, 1 - REMEMBERED)
        return ((NONE - self.error) / (NONE - ALL)).clamp(0, 1).masked_fill(~self.waits, 1.0)


@torch.no_grad()
def layers_that_wait(
    generator: Generator, recognition_network: Classifier | None, logits: Tensor, latents: Mapping[str, Tensor]
) -> Tensor:
    """Layers `[L]` in whose linear start the recognition network recognises nothing.

    The logits `[N, K]` and the latents, `{layer name: [N, *shape]}`, are those of natural images. Without a start none
    waits, nor where the classifier itself recognises (`None`), for a fragile one may misread what is drawn well, nor
    where the images are too few, or too much of one class, to tell.
    """
    predictions, waits = logits[:START_IMAGES].argmax(dim=1), list[bool]()
    if recognition_network is None or generator.start is None or not agree_beyond_chance(predictions, predictions):
        return torch.zeros(len(generator.names), dtype=torch.bool)
    low, high = generator.bounds
    for index, name in enumerate(generator.names):
        chosen: list[Tensor | None] = [None] * len(generator.names)
        chosen[index] = latents[name][:START_IMAGES]
        drawn = low + (high - low) * generator.start(chosen)
        waits.append(not agree_beyond_chance(predictions, recognition_network.logits(drawn).argmax(dim=1)))
    return torch.tensor(waits)


def agree_beyond_chance(predictions: Tensor, others: Tensor) -> bool:
    """Whether more of the predictions equal those of `others`, both `[N]`, than would if they were paired by chance."""
    classes = int(torch.cat([predictions, others]).max()) + 1
    first, second = (torch.bincount(each, minlength=classes).double() for each in (predictions, others))
    chance = float(first @ second) / len(predictions) ** 2
    error = math.sqrt(chance * (1 - chance) / len(predictions))
    return float((predictions == others).double().mean()) > chance + SURE * error
