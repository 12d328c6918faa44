"""What is trained to measure information: decoders on a shared trunk, and a probe per layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretgan.gan.generator import Generator
from interpretgan.information.projections import RandomMixture, RandomProjection, Standardise
from interpretgan.layers import Layer


class Probes(nn.Module):
    """Classifiers with one hidden layer, all of the same size: `[P, N, features] → [P, N, K]`, one per place.

    Args:
        places: How many, `P`.
        features: Numbers that each one sees.
        hidden: Units of the hidden layer.
        classes: `K`.
    """

    def __init__(self, places: int, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(places, features, hidden) / math.sqrt(features))
        self.bias = nn.Parameter(torch.zeros(places, 1, hidden))
        # At zero, so that a probe which has learnt nothing says that every class is as likely.
        self.last = nn.Parameter(torch.zeros(places, hidden, classes))
        self.offset = nn.Parameter(torch.zeros(places, 1, classes))

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[P, N, K]`."""
        hidden = F.relu(torch.baddbmm(self.bias, features, self.first))
        return torch.baddbmm(self.offset, hidden, self.last)


class Gauge(nn.Module):
    """Decoders, controls and probes of a classifier's layers.

    The decoders are InterpretGAN's generator without its noise: a stem per layer, and one trunk that is told the layer.
    Place 0 is the image, which has a probe and needs no decoder; place `l` is layer `l`.

    Args:
        layers: Layers with different latents, in execution order.
        image_shape: `(C, H, W)`.
        classes: How many the probes tell apart.
        bounds: Range of the pixels.
        width: Channels of the trunk.
        blocks: Residual blocks of the trunk.
        features: Numbers of a latent that its probe sees.
        hidden: Units of a probe's hidden layer.
        random: Draws the projections.

    Attributes:
        controls: For each control, the index of its layer (from 0): those whose latent is smaller than the one before.
    """

    mean_image: Tensor
    class_bits: Tensor

    def __init__(
        self,
        layers: Sequence[Layer],
        image_shape: tuple[int, int, int],
        classes: int,
        *,
        bounds: tuple[float, float],
        width: int,
        blocks: int,
        features: int,
        hidden: int,
        random: torch.Generator,
    ) -> None:
        super().__init__()
        shapes: list[tuple[int, ...]] = [image_shape, *(layer.shape for layer in layers)]
        self.register_buffer("mean_image", torch.zeros(image_shape))
        self.register_buffer("class_bits", torch.zeros(classes))
        self.standards = nn.ModuleList([Standardise(shape) for shape in shapes])
        self.mixtures = nn.ModuleList([RandomMixture(math.prod(shape), features, random) for shape in shapes])
        self.controls = [i for i in range(len(layers)) if math.prod(shapes[i + 1]) < math.prod(shapes[i])]
        projections = [RandomProjection(shapes[i], shapes[i + 1], random) for i in self.controls]
        self.projections = nn.ModuleList(projections)
        drawn = [
            *layers,
            *(
                Layer(f"control of {layers[i].name}", "", 1, "RandomProjection", projection.shape)
                for i, projection in zip(self.controls, projections, strict=True)
            ),
        ]
        # It draws the difference to the mean image, with room to spare: a decoder that drew pixels within the bounds
        # would start far from images that are mostly black, and some end there, saturated.
        room = 2 * (bounds[1] - bounds[0])
        self.bounds = bounds
        self.decoder = Generator(drawn, image_shape, bounds=(-room, room), width=width, blocks=blocks, noise=1)
        self.probes = Probes(len(shapes), features, hidden, classes)

    @torch.no_grad()
    def calibrate(self, places: Sequence[Tensor]) -> None:
        """Standardise by natural images and their latents, one per place."""
        for standard, place in zip(self.standards, places, strict=True):
            assert isinstance(standard, Standardise)
            standard.calibrate(place)
        inputs = self.decoder_inputs(places, self.standardise(places))
        self.decoder.calibrate(dict(zip(self.decoder.names, inputs, strict=True)))

    def standardise(self, places: Sequence[Tensor]) -> list[Tensor]:
        """The latents of all places, `[N, C, ...]` each, standardised per channel."""
        return [standard(place) for standard, place in zip(self.standards, places, strict=True)]

    def decoder_inputs(self, places: Sequence[Tensor], standardised: Sequence[Tensor]) -> list[Tensor]:
        """What each decoder sees: the latents of the layers, then the controls'."""
        controls = [projection(standardised[i]) for i, projection in zip(self.controls, self.projections, strict=True)]
        return [*places[1:], *controls]

    def decode(self, inputs: Sequence[Tensor]) -> Tensor:
        """Estimates of `E[x|z_l]`, `[Σ N, C, H, W]`, decoder after decoder; within the bounds in eval mode."""
        count = sum(map(len, inputs))
        decoded: Tensor = self.mean_image + self.decoder(inputs, torch.zeros(count, 1, device=inputs[0].device))
        return decoded if self.training else decoded.clamp(*self.bounds)

    def classify(self, standardised: Sequence[Tensor]) -> Tensor:
        """Logits of the probes `[places, N, K]`."""
        features = [mixture(z) for mixture, z in zip(self.mixtures, standardised, strict=True)]
        logits: Tensor = self.probes(torch.stack(features))
        return logits
