"""Inversion of a layer by optimisation: a smooth image whose latent is the one that is given.

Source: Mahendran and Vedaldi 2015, Understanding deep image representations by inverting them (arXiv 1412.0035).
"""

import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.layers import Layer, capture, capturing

STEPS, RATE = 200, 0.1  #: Of Adam, on the logits of the pixels.
SMOOTHNESS = 0.5  #: Weight of the total variation beside the error of the latent.


def invert(
    classifier: Classifier, layer: Layer, images: Tensor, *, steps: int = STEPS, smoothness: float = SMOOTHNESS
) -> Tensor:
    """Images `[N, C, H, W]` within the bounds that minimise `‖f_{<=l}(x) - z‖² / ‖z‖² + λ TV(x)`, from mid-grey.

    `z` are the latents of the images that are given. The total variation is the mean squared difference of neighbours,
    for pixels from 0 to 1.
    """
    _, latents = capture(classifier, images, [layer])
    wanted, (low, high) = latents[layer.name], classifier.bounds
    size = wanted.flatten(1).square().sum(dim=1).clamp_min(1e-12)
    logits = torch.zeros_like(images).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=RATE)
    with torch.enable_grad(), classifier.borrowed(), capturing(classifier, [layer]) as found:
        for _ in range(steps):
            unit = torch.sigmoid(logits)
            classifier.run(low + (high - low) * unit)
            error = (found[layer.name] - wanted).flatten(1).square().sum(dim=1) / size
            variation = sum(unit.diff(dim=axis).square().mean(dim=(1, 2, 3)) for axis in (2, 3))
            loss = (error + smoothness * variation).sum()
            optimizer.zero_grad()
            (logits.grad,) = torch.autograd.grad(loss, logits)
            optimizer.step()
    return low + (high - low) * torch.sigmoid(logits.detach())
