"""The scores that rest on latents, their gradients, or the weights: one function each, `ScoreInputs → [layers]`.

`z_l` is the latent of layer `l` for a natural image, `z'_l` for the same image attacked, `z_0 = x` the image itself.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from interpretgan.attacks.named_attacks import margins
from interpretgan.baselines.inputs import ScoreInputs, gradient_of, norms, stretched
from interpretgan.errors import ConfigError
from interpretgan.layers import owned_by_layers
from interpretgan.statistics import Floats

TINY = 1e-12  #: Least length that something is divided by.
ROUNDING = 1e-6  #: A change below this share of a latent is rounding.
SEARCHED = 100  #: Images, at most, of the scores that run the network from each layer many times.
POWER_STEPS = 8  #: Of the power iteration.
NEWTON_STEPS, HALVINGS = 6, 8  #: Steps towards another class, and halvings of the way there.
PATH_POINTS = 10  #: Points of the path that gradients are integrated along.
ASCENT_STEPS, ASCENT_RADIUS = 10, 0.1  #: Steps of the weights, and how far, as a share of their norm.

Margin = Callable[[Tensor], Tensor]  #: Latents `[n, ...]` to one number each `[n]`.


# --- how far the latents move ------------------------------------------------------------------------------------


def relative_error(inputs: ScoreInputs) -> Floats:
    """`E ‖z'_l - z_l‖ / ‖z_l‖`. Source: LSA, arXiv 2202.02626."""
    rows = [
        torch.stack([norms(b - a) / norms(a).clamp_min(TINY) for a, b in zip(natural[1:], changed[1:], strict=True)])
        for _, natural, changed in inputs.pairs()
    ]
    return _numpy(torch.cat(rows, dim=1).mean(dim=1))


def feature_distortion(inputs: ScoreInputs) -> Floats:
    """`E |z'_lk - z_lk|`, the mean over images and units `k`. Source: ANP-VS, ICML 2020 (there summed over units)."""
    rows = [
        torch.stack(
            [(b - a).double().abs().flatten(1).mean(dim=1) for a, b in zip(natural[1:], changed[1:], strict=True)]
        )
        for _, natural, changed in inputs.pairs()
    ]
    return _numpy(torch.cat(rows, dim=1).mean(dim=1))


# --- how steep each layer is -------------------------------------------------------------------------------------


def secant_lipschitz(inputs: ScoreInputs) -> Floats:
    """`max ‖z'_l - z_l‖ / ‖z'_{l-1} - z_{l-1}‖` over images: how much the layer stretches what the attack did.

    A lower estimate of its local Lipschitz constant. Images whose latent hardly changed before the layer are left out.
    """
    rows = []
    for _, natural, changed in inputs.pairs():
        moved = torch.stack([norms(b - a) for a, b in zip(natural, changed, strict=True)])
        still = moved <= ROUNDING * torch.stack([norms(a) for a in natural])
        rows.append((moved[1:] / moved[:-1].clamp_min(TINY)).masked_fill(still[:-1], 0.0))
    return _numpy(torch.cat(rows, dim=1).amax(dim=1))


def jacobian_norm(inputs: ScoreInputs) -> Floats:
    """`E ‖∂z_l / ∂z_{l-1}‖₂`, the largest singular value of the layer's Jacobian at the natural latent.

    By power iteration from a random vector: `v ← JᵀJv / ‖JᵀJv‖`, then `‖Jv‖`. Source: spectral norms of layers bound
    the Lipschitz constant of a network (Szegedy et al., arXiv 1312.6199).
    """
    random = torch.Generator().manual_seed(inputs.seed)
    rows = []
    for x in torch.split(inputs.images, inputs.batch_size()):
        latents = inputs.latents(x)
        rows.append(torch.stack([_steepness(inputs, place, z, x, random) for place, z in enumerate(latents[:-1])]))
    return _numpy(torch.cat(rows, dim=1).mean(dim=1))


def _steepness(inputs: ScoreInputs, place: int, latent: Tensor, images: Tensor, random: torch.Generator) -> Tensor:
    """The largest singular value of the Jacobian of the layer after a place, for each latent: `[n]`."""
    z = latent.detach().clone().requires_grad_()
    after = inputs.latent_from(place, z, images)
    u = torch.zeros_like(after, requires_grad=True)
    (pulled,) = torch.autograd.grad(after, z, u, create_graph=True)  # Jᵀu, linear in u, whose own derivative is J
    v = torch.randn(latent.shape, generator=random).to(latent)
    for _ in range(POWER_STEPS):
        (pushed,) = torch.autograd.grad(pulled, u, v, retain_graph=True)
        (v,) = torch.autograd.grad(after, z, pushed, retain_graph=True)
        v = v / stretched(norms(v).clamp_min(TINY), v)
    (pushed,) = torch.autograd.grad(pulled, u, v)
    return norms(pushed.detach())


def gradient_norm(inputs: ScoreInputs) -> Floats:
    """`E ‖∂L/∂z_l‖ · ‖z_l‖`: by how much the cross-entropy changes when the natural latent does, in proportion.

    The norm of the latent makes layers of different scale comparable, as in gradient times input (arXiv 1605.01713).
    """
    rows = []
    for x, y in zip(*(torch.split(t, inputs.batch_size()) for t in (inputs.images, inputs.labels)), strict=True):
        sizes = []
        for place, z in list(enumerate(inputs.latents(x)))[1:]:
            _, gradient = gradient_of(partial(_loss, inputs, place, x, y), z)
            sizes.append(norms(gradient) * norms(z))
        rows.append(torch.stack(sizes))
    return _numpy(torch.cat(rows, dim=1).mean(dim=1))


def _loss(inputs: ScoreInputs, place: int, x: Tensor, y: Tensor, latent: Tensor) -> Tensor:
    """The cross-entropy `[n]` of the network from a latent on."""
    return F.cross_entropy(inputs.logits_from(place, latent, x).double(), y, reduction="none")


# --- how little is enough ----------------------------------------------------------------------------------------


def latent_margin(inputs: ScoreInputs) -> Floats:
    """The median over images of `min ‖ρ‖ / ‖z_l‖` such that `f_{>l}(z_l + ρ)` shows another class than the true one.

    An upper estimate: the shortest of two ways, each halved until it just crosses. One follows the gradient of the
    margin `f_y - max_{k≠y} f_k` (`ρ ← ρ - margin · g / ‖g‖²`), one goes to the adversarial latent. An image for which
    neither crosses counts as infinitely far. Measured on the first `SEARCHED` images that the classifier gets right.
    Source: DeepFool, arXiv 1511.04599, from the layer on.
    """
    right = inputs.only(inputs.shown(inputs.images) == inputs.labels, SEARCHED)
    if not len(right.images):
        do = "check the labels and the normalisation"
        raise ConfigError(expected="an image that the classifier gets right", got="none", do=do)
    rows = []
    for y, natural, changed in right.pairs():
        sizes = []
        for place, (z, attacked) in list(enumerate(zip(natural, changed, strict=True)))[1:]:
            lead = partial(_lead, inputs, place, inputs.before(place, z, natural[0]), y)
            sizes.append(_least_change(lead, z, attacked))
        rows.append(torch.stack(sizes))
    found = torch.cat(rows, dim=1)
    return _numpy(found.sort(dim=1).values[:, (found.shape[1] - 1) // 2])


def _lead(inputs: ScoreInputs, place: int, x: Tensor, y: Tensor, latent: Tensor) -> Tensor:
    """By how much the true class leads all others, from a latent on: `[n]`, in doubles."""
    return margins(inputs.logits_from(place, latent, x).double(), y)


def _least_change(lead: Margin, z: Tensor, attacked: Tensor) -> Tensor:
    """The relative length `[n]` of the shortest way from `z` to where the lead is lost, of those that are tried."""
    moved = z.clone()
    for _ in range(NEWTON_STEPS):
        value, gradient = gradient_of(lead, moved)
        length = 1.02 * value.clamp_min(0) / norms(gradient).square().clamp_min(TINY)  # none where it has crossed
        moved = moved - stretched(length, gradient) * gradient
    least = torch.full(z.shape[:1], torch.inf, dtype=torch.float64, device=z.device)
    with torch.no_grad():
        for end in (moved, attacked):
            crosses = lead(end) < 0
            low, high = torch.zeros_like(least), torch.ones_like(least)
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                beyond = lead(z + stretched(middle, z) * (end - z)) < 0
                low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
            size = high * norms(end - z) / norms(z).clamp_min(TINY)
            least = torch.minimum(least, size.masked_fill(~crosses | ~size.isfinite(), torch.inf))
    return least


# --- what the change is worth to the rest of the network ---------------------------------------------------------


def path_alignment(inputs: ScoreInputs) -> Floats:
    """Layer-wise integrated gradients along `z_l → z'_l`, as `c_l - c_{l-1}` with `c_l = E |Σ_k a_lk| / Σ_k |a_lk|`.

    `a_lk = (z'_lk - z_lk) · ∫ ∂m/∂z_lk dt` is what unit `k` contributes to the change of the margin `m = f_y - f_t`, of
    the true class `y` over the class `t` that the network shows for the attacked image. By completeness `Σ_k a_lk` is
    that change itself, the same at every layer, so that the sum alone says nothing of a layer. `c_l` says how far the
    units of a layer pull the same way, and the score how much better than those before. The first
    `SEARCHED` images that the attack turns are counted. Source: integrated gradients, arXiv 1703.01365, at every layer.
    """
    before, after = inputs.shown(inputs.images), inputs.shown(inputs.adversarial)
    turned = inputs.only((before == inputs.labels) & (after != before), SEARCHED)
    if not len(turned.images):
        raise ConfigError(expected="an image that the attack turns", got="none", do="attack harder, or more images")
    rows = []
    for y, natural, changed in turned.pairs():
        classes, shares = torch.stack([y, inputs.shown(changed[0])], dim=1), []
        for place, (z, attacked) in enumerate(zip(natural, changed, strict=True)):
            margin = partial(_margin, inputs, place, inputs.before(place, z, natural[0]), classes)
            each = attributions(margin, z, attacked).flatten(1).double()
            shares.append(each.sum(dim=1).abs() / each.abs().sum(dim=1).clamp_min(TINY))
        rows.append(torch.stack(shares))
    return _numpy(torch.cat(rows, dim=1).mean(dim=1).diff())


def _margin(inputs: ScoreInputs, place: int, x: Tensor, classes: Tensor, latent: Tensor) -> Tensor:
    """The logit of the first of two classes `[n, 2]` minus that of the second, from a latent on: `[n]`."""
    first, second = inputs.logits_from(place, latent, x).gather(1, classes).unbind(dim=1)
    return first - second


def attributions(margin: Margin, z: Tensor, changed: Tensor) -> Tensor:
    """Integrated gradients of a function of latents, on the way from `z` to `changed`: `[n, ...]` as these."""
    total = torch.zeros_like(z)
    for point in range(PATH_POINTS):
        total += gradient_of(margin, z + (point + 0.5) / PATH_POINTS * (changed - z))[1]
    return (changed - z) * total / PATH_POINTS


# --- how much the weights matter ---------------------------------------------------------------------------------


def robust_criticality(inputs: ScoreInputs) -> Floats:
    """Module robust criticality: `max R(θ + Δ) - R(θ)` over `‖Δ‖ ≤ 0.1 ‖θ_l‖`, `R` the mean loss on attacked images.

    The adversarial images are made once and not renewed, as RiFT is coded. Weights (not biases) climb along the
    gradient over all images in ten steps of a quarter of the radius; one that does not climb is taken back, and the
    next is half as long. RiFT takes ten epochs of gradient steps of rate 1, which does not suit every scale. A weight
    belongs to the first layer whose latent depends on it. Those of a layer that has several move together, each within
    its radius. A layer without weights has 0. Source: RiFT, ICCV 2023.
    """

    def climb(weights: dict[str, Tensor]) -> tuple[float, list[Tensor]]:
        """The robust loss, and its gradient."""
        robust, gradients = 0.0, [torch.zeros_like(weight) for weight in weights.values()]
        tensors = (inputs.adversarial, inputs.labels)
        for x, y in zip(*(torch.split(t, inputs.batch_size()) for t in tensors), strict=True):
            with inputs.classifier.borrowed():  # before the weights change places: theirs are not frozen
                named = {f"model.{name}": each for name, each in weights.items()}
                logits = functional_call(inputs.classifier, named, x)
            loss = F.cross_entropy(logits.double(), y, reduction="sum") / len(inputs.labels)
            parts = torch.autograd.grad(loss, list(weights.values()))
            gradients = [total + part for total, part in zip(gradients, parts, strict=True)]
            robust += float(loss.detach())
        return robust, gradients

    found = []
    for weights in weights_of_layers(inputs):
        gained = 0.0
        if weights:
            best, step = weights, ASCENT_RADIUS / 4
            start, uphill = climb({name: weight.clone().requires_grad_() for name, weight in weights.items()})
            for _ in range(ASCENT_STEPS):
                tried = {
                    name: _moved(weights[name], weight, gradient, step).requires_grad_()
                    for (name, weight), gradient in zip(best.items(), uphill, strict=True)
                }
                loss, gradients = climb(tried)
                if loss - start > gained:
                    gained, best, uphill = loss - start, {n: weight.detach() for n, weight in tried.items()}, gradients
                else:
                    step /= 2
        found.append(gained)
    return np.array(found)


def _moved(start: Tensor, weight: Tensor, gradient: Tensor, step: float) -> Tensor:
    """A weight after a step uphill, a share of its norm, brought back into the ball about its start."""
    size = start.norm()
    change = weight + step * size * gradient / gradient.norm().clamp_min(TINY) - start
    moved: Tensor = start + change * (ASCENT_RADIUS * size / change.norm().clamp_min(TINY)).clamp_max(1.0)
    return moved


def weights_of_layers(inputs: ScoreInputs) -> list[dict[str, Tensor]]:
    """For each layer the weights (of two axes or more) that its latent depends on, and none before it does."""
    weights = {
        name: parameter.detach()
        for name, parameter in inputs.classifier.model.named_parameters()
        if parameter.ndim >= 2 and parameter.is_floating_point()
    }
    owned = owned_by_layers(inputs.classifier, inputs.layers, inputs.images[:2], weights)
    return [{name: weights[name].clone() for name in names} for names in owned]


def _numpy(values: Tensor) -> Floats:
    found: Floats = values.detach().double().cpu().numpy()
    return found
