"""What others do for each image and layer anew: attributions and inversion."""

from __future__ import annotations

import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.layers import Layer, capture, capturing, replay

PATH_POINTS = 50  # of integrated gradients, Captum's own default
INVERSION_STEPS = 200
SMOOTHNESS = 1e-3  # weight of the total variation


def integrated_gradients(classifier: Classifier, layer: Layer, images: Tensor, labels: Tensor) -> Tensor:
    """Captum's integrated gradients of the true class with respect to a latent, `[N, *shape]`."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        expected, do = "Captum, for integrated gradients", "install interpretgan[captum], or leave them out"
        raise ConfigError(expected=expected, got="none", do=do) from error
    latent = capture(classifier, images, [layer])[1][layer.name].detach()

    def logits(z: Tensor, x: Tensor) -> Tensor:
        return replay(classifier, layer, z, x)

    with classifier.borrowed():
        found: Tensor = IntegratedGradients(logits).attribute(
            latent, target=labels, additional_forward_args=(images,), n_steps=PATH_POINTS
        )
    return found


def inverted(classifier: Classifier, layer: Layer, images: Tensor, *, steps: int = INVERSION_STEPS) -> Tensor:
    """Images `[N, C, H, W]` whose latent is that of the given ones: Mahendran and Vedaldi, 2015.

    min_x  ‖f_{<=l}(x) - z_l‖² / ‖z_l‖²  +  SMOOTHNESS · TV(x), by Adam from grey.
    """
    low, high = classifier.bounds
    with classifier.borrowed():
        wanted = capture(classifier, images, [layer])[1][layer.name].detach()
        size = wanted.square().flatten(1).sum(dim=1).clamp_min(1e-12)
        free = torch.zeros_like(images, requires_grad=True)
        adam = torch.optim.Adam([free], lr=0.1)
        for _ in range(steps):
            x = low + (high - low) * torch.sigmoid(free)
            with capturing(classifier, [layer]) as latents:
                classifier.run(x)
            error = (latents[layer.name] - wanted).square().flatten(1).sum(dim=1) / size
            rough = x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()
            (free.grad,) = torch.autograd.grad(error.sum() + SMOOTHNESS * rough, free)
            adam.step()
    return (low + (high - low) * torch.sigmoid(free)).detach()
