"""The way from a natural latent to its adversarial one, drawn frame by frame, and how a patched latent looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interpretgan.features.conductance import of_units, rest_of_network
from interpretgan.features.modified import LayerUnits
from interpretgan.interpreter import InterpretGAN, Predictor
from interpretgan.layers import capture

FRAMES = 9


@dataclass(frozen=True, eq=False)
class LatentPath:
    """Frames of the straight way from `z` to `z'` at one layer, for `N` images, drawn with the same noise."""

    layer: str
    shares: tuple[float, ...]  #: How far along the way each frame is, 0 to 1.
    frames: Tensor  #: Explanations `[T, N, C, H, W]` of the latents on the way.
    classified: Tensor  #: The class that the rest of the network shows for each latent, int64 `[T, N]`.
    judged: Tensor  #: The class that the judge predicts for each frame, int64 `[T, N]`.
    patched: Tensor  #: Explanations `[N, C, H, W]` of `z'` with the most responsible tenth of the units put back.
    patched_classified: Tensor  #: The class that the network shows for these, int64 `[N]`.
    patched_judged: Tensor  #: The class that the judge predicts for them, int64 `[N]`.


def latent_path(
    interpreter: InterpretGAN,
    images: Tensor,
    adversarial: Tensor,
    layer: str,
    *,
    judge: Predictor,
    units: LayerUnits,
    indices: Sequence[int] | None = None,
    frames: int = FRAMES,
    seed: int | None = None,
) -> LatentPath:
    """Draw the way from each natural latent to its adversarial one, at one layer.

    Args:
        interpreter: A fitted one.
        images: `[N, C, H, W]` within the classifier's bounds.
        adversarial: `x'` of each.
        layer: Name of one of the interpreter's layers.
        judge: Predicts the class that each frame shows.
        units: The same images' units at this layer: their most responsible tenth is put back.
        indices: The numbers of the images in their set, see `InterpretGAN.explain`.
        frames: How many, at least 2.
        seed: Of the noise. `None`: the interpreter's, as `explain` takes it.
    """
    classifier = interpreter.classifier
    images, adversarial = classifier.check_images(images), classifier.check_images(adversarial)
    place = interpreter.rows[[each.name for each in interpreter.layers].index(layer)]
    found = interpreter.distinct_layers[place]
    z, changed = (capture(classifier, x, [found])[1][found.name] for x in (images, adversarial))
    shares = torch.linspace(0, 1, frames).tolist()
    noise = interpreter.noise_of(range(len(images)) if indices is None else indices, seed=seed)
    logits, everyone = rest_of_network(classifier, found, z, images), torch.arange(len(images), device=z.device)

    def look(latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        picture = interpreter.draw_from(found, latent, noise)
        with torch.no_grad():
            return picture, logits(latent, everyone).argmax(dim=1), judge.predict(picture)

    drawn, classes, judged = zip(*(look(z + share * (changed - z)) for share in shares), strict=True)
    first = torch.as_tensor(units.in_first_tenth(), device=z.device)
    back = look(torch.where(of_units(first, z), z, changed))
    return LatentPath(layer, tuple(shares), torch.stack(drawn), torch.stack(classes), torch.stack(judged), *back)
