"""A gate: a direction that natural images hardly excite feeds another class's features."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, search
from interpretgan.attacks.noise import scrambled
from interpretgan.classifier import Classifier
from interpretgan.errors import LayerError
from interpretgan.layers import Layer
from interpretgan.planted.planting import Accuracies, Planting, replace_module

GATE_IMAGES = 2000  #: Images that the direction is found on, and as many others that the threshold is set on.
#: Images that are perturbed one by one, and over which the gradient of a common pattern is averaged.
PATTERN_IMAGES = 500
COMMON_ROUNDS = 6  #: How often the common pattern and the direction that it excites are found in turn.
SINGLE_ROUNDS = 4  #: The same with a perturbation of its own for each image.
RIDGE = 0.05  #: Added to the natural variance of latents, as a share of its mean.
QUIET = 0.9995  #: Share of the natural images that do not open the gate.
SLOPE = 0.02  #: Of the gate below its threshold, so that attacks have a gradient there.
#: What an open gate adds, as a multiple of the mean size of the layer's output; the first that is enough is taken.
STRENGTHS = (3.0, 4.0, 6.0, 9.0, 12.0)
#: Least distance beyond the threshold that is reckoned with, as a share of that between it and the natural mean.
LEAST_PUSH = 0.1


class Gated(nn.Module):
    """A layer with a gate: `y = k(z) + (leaky_relu(w·z − τ) − leaky_relu(w·μ − τ)) · v`.

    Args:
        layer: The layer `k`, from one tensor `[N, ...]` to one tensor `[N, ...]`.
        direction: `w`, over the flattened input.
        threshold: `τ`, a scalar.
        centre: `w·μ` of natural inputs with mean `μ`, a scalar.
        features: `v`, of the shape of an output.
    """

    direction: Tensor
    threshold: Tensor
    centre: Tensor
    features: Tensor

    def __init__(
        self, layer: nn.Module, direction: Tensor, threshold: Tensor, centre: Tensor, features: Tensor
    ) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("direction", direction)
        self.register_buffer("threshold", threshold)
        self.register_buffer("centre", centre)
        self.register_buffer("features", features)

    def forward(self, latent: Tensor) -> Tensor:
        """The layer's output, and what passes the gate."""
        excitation = latent.flatten(1) @ self.direction
        passed, usual = (F.leaky_relu(e - self.threshold, SLOPE) for e in (excitation, self.centre))
        output: Tensor = self.layer(latent)
        return output + (passed - usual).view(-1, *[1] * (output.ndim - 1)) * self.features


class _Watched(nn.Module):
    """A layer that keeps its last input and output."""

    latent: Tensor
    output: Tensor

    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        self.layer, self.name = layer, name

    def forward(self, *inputs: Any, **keywords: Any) -> Tensor:
        if len(inputs) != 1 or keywords or not isinstance(inputs[0], Tensor):
            got = f"'{self.name}', which takes more"
            raise LayerError(expected="a layer that takes one tensor", got=got, do="choose another layer for a gate")
        self.latent, self.output = inputs[0], self.layer(inputs[0])
        return self.output


class _Site:
    """The latents before a layer, as functions of the images; call it inside `borrowed()`."""

    def __init__(self, planting: Planting, planted: Classifier, layer: Layer) -> None:
        self.planting, self.planted, self.layer = planting, planted, layer
        self.module = planted.model.get_submodule(layer.module)
        self._watched = _Watched(self.module, layer.name)
        replace_module(planted.model, layer.module, self._watched)

    def latents(self, images: Tensor) -> Tensor:
        """`[N, D]`; gradients flow to the images."""
        self.planted.run(images.clamp(*self.planted.bounds))
        return self._watched.latent.flatten(1)

    @torch.no_grad()
    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Latents before and after the layer, without gradient."""
        pairs = [(self.latents(part), self._watched.output) for part in torch.split(images, PATTERN_IMAGES)]
        before, after = zip(*pairs, strict=True)
        return torch.cat(before), torch.cat(after)

    def along(self, images: Tensor, direction: Tensor) -> Tensor:
        """The images, each perturbed to excite a direction of the latents."""
        none = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return search(
            lambda x: (self.latents(x) @ direction)[:, None], images, none, self.planting.threat_model,
            self.planted.bounds, loss=lambda excitations: excitations.sum(),
        )  # fmt: skip

    def common(self, images: Tensor, direction: Tensor) -> Tensor:
        """The pattern of largest size that excites a direction in most images."""
        images = images.clone().requires_grad_()
        gradient = torch.autograd.grad((self.latents(images) @ direction).sum(), images)[0]
        return _of_size(gradient.mean(dim=0), self.planting.threat_model)


def gate(planting: Planting, planted: Classifier, layer: Layer) -> dict[str, Any]:
    """Add a gate to a layer: a direction that neither natural nor noisy images excite feeds another class's features.

    The direction is the linear discriminant between the natural latents before the layer and those of images that are
    perturbed to excite it, first by one pattern for all, then each by its own. Perturbation and direction are found in
    turn, and the direction that single perturbations drive furthest beyond the natural latents is taken.
    """
    site = _Site(planting, planted, layer)
    images, labels = planting.sample(2 * GATE_IMAGES)
    half = (len(images) + 1) // 2  # the threshold is set on images that the direction has not seen
    with planted.borrowed():
        latents, output = site.both(images)
        natural, others = latents[:half], images[half : half + PATTERN_IMAGES]
        fitted, few = images[:half], images[: min(half, PATTERN_IMAGES)]
        whiten, mean = _Whitening(natural), natural.mean(dim=0)

        def excited(direction: Tensor) -> tuple[float, Tensor, Tensor, Tensor]:
            """How far beyond the threshold, of natural distances; the threshold, and what natural images do."""
            quiet = latents[half:] @ direction
            perturbed = site.along(others, direction)
            # Noise as large must not open the gate: else no adversary is needed.
            noisy = [
                scrambled(others, perturbed - others, planted.bounds, seed=planting.seed, smooth=smooth)
                for smooth in (False, True)
            ]
            shaken = site.both(torch.cat(noisy))[0] @ direction
            threshold, reached = quiet.quantile(QUIET), site.latents(perturbed) @ direction
            threshold = torch.maximum(threshold, shaken.quantile(QUIET))
            share = (reached.median() - threshold) / (threshold - quiet.mean()).clamp_min(1e-12)
            return float(share), direction, threshold, quiet

        pattern = torch.randn(images.shape[1:], generator=planting.generator).to(images)
        pattern = _of_size(pattern, planting.threat_model)
        for _ in range(COMMON_ROUNDS):
            direction = whiten(site.both(fitted + pattern)[0].mean(dim=0) - mean)
            pattern = site.common(few, direction)
        found = [excited(direction)]
        for _ in range(SINGLE_ROUNDS):
            shifted = site.both(site.along(few, direction))[0] - natural[: len(few)]
            direction = whiten(shifted.mean(dim=0))
            found.append(excited(direction))
    share, direction, threshold, quiet = max(found, key=lambda one: one[0])
    centre = quiet.mean()
    present = torch.unique(labels)  # a small set may lack a class
    target = int(present[torch.randint(len(present), (), generator=planting.generator)])
    features = output[labels == target].mean(dim=0) - output.mean(dim=0)
    features = features * output.flatten(1).norm(dim=1).mean() / features.norm().clamp_min(1e-12)
    features = features / ((threshold - centre) * max(share, LEAST_PUSH))
    tried: list[tuple[float, Accuracies]] = []
    for strength in STRENGTHS:
        replace_module(
            planted.model, layer.module, Gated(site.module, direction, threshold, centre, strength * features)
        )
        tried.append((strength, planting.measure(planted)))
        if planting.succeeds(tried[-1][1]) or not planting.keeps(tried[-1][1]):
            break
    strength, accuracies = max(tried, key=lambda one: (planting.keeps(one[1]), -one[1].robust))
    replace_module(planted.model, layer.module, Gated(site.module, direction, threshold, centre, strength * features))
    return {"target_class": target, "strength": strength, "reach": share, **vars(accuracies)}


class _Whitening:
    """`(Σ + ρ)⁻¹ d`, normalised, with the natural covariance Σ of latents `[N, D]`; solved in N dimensions."""

    def __init__(self, latents: Tensor) -> None:
        centred = latents - latents.mean(dim=0)
        ridge = RIDGE * centred.square().sum() / min(centred.shape)
        gram = centred @ centred.T
        self._centred = centred
        self._factor = torch.linalg.cholesky(gram + ridge.clamp_min(1e-12) * torch.eye(len(gram)).to(gram))

    def __call__(self, direction: Tensor) -> Tensor:
        along: Tensor = torch.cholesky_solve((self._centred @ direction)[:, None], self._factor)[:, 0]
        return F.normalize(direction - self._centred.T @ along, dim=0)


def _of_size(pattern: Tensor, threat_model: ThreatModel) -> Tensor:
    """The largest perturbation along a pattern that the threat model allows."""
    if threat_model.norm == "linf":
        return threat_model.eps * torch.where(pattern < 0, -1.0, 1.0)
    return threat_model.eps * F.normalize(pattern.flatten(), dim=0).view(pattern.shape)
