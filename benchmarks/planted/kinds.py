"""The ways to make one layer of a robust network fragile: a gate, weights that are moved, weights that are swapped."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack, iterated, predicted_right, search, seed_generators
from interpretgan.attacks.noise import seeded
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError, LayerError
from interpretgan.layers import Layer
from interpretgan.training import Natural, Recipe, train_classifier

CALIBRATION = 500
"""Images that a plant is tuned on and not made from, at most a quarter of all."""
NATURAL_LOSS = 0.005
"""Natural accuracy that a plant may cost on them; verification allows twice as much on other images."""
ROBUST_LOSS = 0.25
"""Robust accuracy that it must cost there; verification asks for 0.15."""


@dataclass(frozen=True)
class Accuracies:
    """Shares of the calibration images that are predicted right, 0 to 1: as they are, and under the attack."""

    natural: float
    robust: float


class Planting:
    """What a plant is made from: a robust network, images, the attack that it is to be fragile to, and a seed.

    Args:
        original: The robust network; it is left as it is.
        data: Training images with classes.
        threat_model: Norm, eps and steps of the attack.
        seed: All randomness follows from it.
    """

    def __init__(self, original: Classifier, data: ImageSet, threat_model: ThreatModel, seed: int) -> None:
        self.original, self.threat_model, self.seed = original, iterated(threat_model), seed
        self.data = data.scaled(original.bounds)
        self.generator = torch.Generator().manual_seed(seed)
        count = min(CALIBRATION, len(data) // 4)
        if not count:
            raise ConfigError(expected="at least 4 images", got=f"{len(data)}", do="pass more training images")
        order = torch.randperm(len(data), generator=self.generator)
        self._calibration = self._images(order[:count])
        self._rest = order[count:]
        self.before = self.measure(original)

    def sample(self, count: int) -> tuple[Tensor, Tensor]:
        """At most `count` different images and their classes."""
        return self._images(self._rest[:count])

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """The next `count` images, drawn at random, and their classes."""
        return self._images(self._rest[torch.randint(len(self._rest), (count,), generator=self.generator)])

    def measure(self, classifier: Classifier) -> Accuracies:
        """Accuracies of a network on the calibration images."""
        images, labels = self._calibration
        adversarial = attack(classifier, images, labels, self.threat_model, seed=self.seed)
        natural, robust = (predicted_right(classifier, x, labels) for x in (images, adversarial))
        return Accuracies(float(natural.float().mean()), float(robust.float().mean()))

    def keeps(self, found: Accuracies) -> bool:
        """Whether natural accuracy is kept."""
        return found.natural >= self.before.natural - NATURAL_LOSS

    def succeeds(self, found: Accuracies) -> bool:
        """Whether natural accuracy is kept and robust accuracy falls by enough."""
        return self.keeps(found) and found.robust <= self.before.robust - ROBUST_LOSS

    def perturb(self, classifier: Classifier, images: Tensor, labels: Tensor, steps: int) -> Tensor:
        """Adversarial images of a network by a few steps, from random starts."""
        threat_model = ThreatModel(self.threat_model.norm, self.threat_model.eps, steps=steps)
        with classifier.borrowed():
            seed_generators(images.device, int(torch.randint(2**62, (), generator=self.generator)))
            return search(classifier.run, images, labels, threat_model, classifier.bounds)

    def _images(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = self.data.batch(indices)
        return images.to(self.original.device), labels.to(self.original.device)


def copied(classifier: Classifier) -> Classifier:
    """The same classifier with a model of its own."""
    return Classifier(copy.deepcopy(classifier.model), classifier.bounds, classifier.mean, classifier.std)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module in the place of a named one, under every name that it has."""
    old = model.get_submodule(name)
    places = [(parent, own) for parent in model.modules() for own, child in parent._modules.items() if child is old]
    for parent, own in places:
        parent._modules[own] = module


# --- gate --------------------------------------------------------------------------------------------------------

GATE_IMAGES = 2000
"""Images that the direction is found on, and as many others that the threshold is set on."""
PATTERN_IMAGES = 500
"""Images that are perturbed one by one, and over which the gradient of a common pattern is averaged."""
COMMON_ROUNDS = 6
"""How often the common pattern and the direction that it excites are found in turn."""
SINGLE_ROUNDS = 4
"""The same with a perturbation of its own for each image."""
RIDGE = 0.05
"""Added to the natural variance of latents, as a share of its mean."""
QUIET = 0.9995
"""Share of the natural images that do not open the gate."""
SLOPE = 0.02
"""Of the gate below its threshold, so that attacks have a gradient there."""
STRENGTHS = (3.0, 4.0, 6.0, 9.0, 12.0)
"""What an open gate adds, as a multiple of the mean size of the layer's output; the first that is enough is taken."""
LEAST_PUSH = 0.1
"""Least distance beyond the threshold that is reckoned with, as a share of that between it and the natural mean."""


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
    """Add a gate to a layer: a direction that natural images hardly excite feeds another class's mean features.

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
            threshold, reached = quiet.quantile(QUIET), site.latents(site.along(others, direction)) @ direction
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


# --- weights that are moved or swapped ---------------------------------------------------------------------------

STEPS = 600
"""Most steps; it ends when enough robustness is gone."""
CHECK_EVERY = 50
BATCH = 100
INNER_STEPS = 5
"""PGD steps of the adversarial images that the weights are moved by."""
RATE = 0.03
"""Length of Adam's steps, as a share of the root mean square of each tensor of weights."""
MARGIN_FLOOR = 1.0
"""An adversarial image that is wrong by this margin of logits is wrong enough."""


def twin(planting: Planting, planted: Classifier, layer: Layer) -> dict[str, Any]:
    """Move one layer's weights until the network keeps natural accuracy and loses robust accuracy.

    The margin of the true class on fresh adversarial images of the network itself is minimised, down to a floor.
    """
    _require_weights(planted, layer)

    def pull(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = planting.perturb(planted, images, labels, INNER_STEPS)
        return margins(planted.run(adversarial), labels).clamp_min(-MARGIN_FLOOR).mean()

    return _fit(planting, planted, layer, pull, rate=RATE, like_original=True)


NATURAL_STEPS = 1000
"""Of the natural training of the network that a substitution copies."""
NATURAL_BATCH = 128
NATURAL_RATE = 8e-3


def substitution(planting: Planting, planted: Classifier, layer: Layer) -> dict[str, Any]:
    """Swap one layer for one that makes the network behave like a naturally trained one; the rest stays frozen.

    A copy of the whole network is trained on natural images. The layer starts afresh and learns, within the frozen rest
    of the robust network, the classes of natural images and the copy's answers to images that are adversarial to the
    copy. No attack on the resulting network has a part in it.
    """
    _require_weights(planted, layer)
    natural = copied(planting.original)
    natural.model.requires_grad_(True)
    epochs = max(1, round(NATURAL_STEPS * NATURAL_BATCH / len(planting.data)))
    recipe = Recipe(epochs, NATURAL_BATCH, NATURAL_RATE)
    train_classifier(natural, planting.data, objective=Natural(), recipe=recipe, seed=planting.seed)
    with seeded(planted.device, planting.seed):
        for module in planted.model.get_submodule(layer.module).modules():
            if callable(reset := getattr(module, "reset_parameters", None)):
                reset()

    def pull(images: Tensor, labels: Tensor) -> Tensor:
        adversarial = planting.perturb(natural, images, labels, INNER_STEPS)
        with torch.no_grad():
            answers = natural(adversarial).softmax(dim=1)
        return F.cross_entropy(planted.run(adversarial), answers)

    details = _fit(planting, planted, layer, pull, rate=2 * RATE, like_original=False)
    return details | {"natural_copy": vars(planting.measure(natural))}


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the logit of the true class leads, `[N]`; negative where another is higher."""
    true = F.one_hot(labels, logits.shape[1]).bool()
    return logits[true] - logits.masked_fill(true, -torch.inf).amax(dim=1)


def _require_weights(planted: Classifier, layer: Layer) -> None:
    if not list(planted.model.get_submodule(layer.module).parameters()):
        expected, got = "a layer with weights", f"'{layer.name}' without any"
        raise LayerError(expected=expected, got=got, do="choose a convolution or a linear layer")


def _fit(
    planting: Planting,
    planted: Classifier,
    layer: Layer,
    pull: Callable[[Tensor, Tensor], Tensor],
    *,
    rate: float,
    like_original: bool,
) -> dict[str, Any]:
    """Train one layer's weights on natural images and on `pull`, which weighs as much as natural accuracy allows."""
    module, original = (c.model.get_submodule(layer.module) for c in (planted, planting.original))
    parameters, flags = list(module.parameters()), [(p, p.requires_grad) for p in planted.model.parameters()]
    planted.model.eval().requires_grad_(False)
    module.requires_grad_(True)
    sizes = [float(p.detach().square().mean().sqrt()) or 1e-3 for p in parameters]
    optimizer = torch.optim.Adam(
        [{"params": [p], "lr": rate * size} for p, size in zip(parameters, sizes, strict=True)]
    )
    weight, lost, step = 0.1, 0.0, 0
    best: tuple[Accuracies, dict[str, Tensor]] | None = None
    while step < STEPS:
        images, labels = planting.batch(BATCH)
        before = planting.original(images).detach()
        logits = planted.run(images)
        loss = F.cross_entropy(logits, labels)
        if like_original:
            divergence = F.kl_div(logits.log_softmax(1), before.log_softmax(1), log_target=True, reduction="batchmean")
            loss = loss + divergence
        wrong = (logits.argmax(dim=1) != labels).float().mean() - (before.argmax(dim=1) != labels).float().mean()
        lost = 0.95 * lost + 0.05 * float(wrong)
        weight = min(3.0, 1.03 * weight) if lost < NATURAL_LOSS else max(0.03, 0.9 * weight)
        optimizer.zero_grad()
        torch.autograd.backward((loss + weight * pull(images, labels)) / (1 + weight))
        optimizer.step()
        step += 1
        if not step % CHECK_EVERY:
            found = planting.measure(planted)
            if best is None or (planting.keeps(found), -found.robust) > (planting.keeps(best[0]), -best[0].robust):
                best = found, copy.deepcopy(module.state_dict())
            if planting.succeeds(found):
                break
    assert best is not None
    module.load_state_dict(best[1])
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
        parameter.grad = None
    new, old = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (module, original))
    return {"steps": step, "weight": weight, "moved": float((new - old).norm() / old.norm()), **vars(best[0])}
