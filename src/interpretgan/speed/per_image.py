"""Attributions of a latent, which others make for each image and layer anew."""

from __future__ import annotations

from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.layers import Layer, capture, replay

PATH_POINTS = 50  # of integrated gradients, Captum's own default


def integrated_gradients(classifier: Classifier, layer: Layer, images: Tensor, labels: Tensor) -> Tensor:
    """Captum's integrated gradients of the true class with respect to a latent, `[N, *shape]`."""
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        expected, do = "Captum, for integrated gradients", "pip install '.[captum]' in a clone, or leave them out"
        raise ConfigError(expected=expected, got="none", do=do) from error
    latent = capture(classifier, images, [layer])[1][layer.name].detach()

    def logits(z: Tensor, x: Tensor) -> Tensor:
        return replay(classifier, layer, z, x)

    with classifier.borrowed():
        found: Tensor = IntegratedGradients(logits).attribute(
            latent, target=labels, additional_forward_args=(images,), n_steps=PATH_POINTS
        )
    return found
