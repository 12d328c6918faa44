"""Other explanations of an image, behind one interface: what a reader would hold beside ours.

    for explainer in EXPLAINERS:
        maps = explainer.explain(classifier, layer, images, targets)

Most are Captum's (extra `captum`). What a method cannot do on a network, or would do wrongly without a word, is refused
with an `ExplainerError` that names the reason.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from interpretgan.baselines.inversion import invert
from interpretgan.baselines.nonlinearities import KINDS, Nonlinearities, nonlinearities
from interpretgan.classifier import Classifier
from interpretgan.errors import InputError, in_a_line
from interpretgan.layers import Layer, capture, find_layers, replay

Explain = Callable[[Classifier, Layer, Tensor, Tensor], Tensor]

STEPS = 64  #: Of the path of integrated gradients.
LIME_SAMPLES, LIME_CELLS = 400, 7  #: Pictures with cells switched off, and cells a side.
WINDOW = 7  #: Windows a side that occlusion moves over the image, half a window at a time.
COMPLETE = 0.01  #: How far the sum of DeepLIFT may be from the logit's change, as a share of it.


class ExplainerError(InputError):
    """A method that this network, or this layer, does not allow."""


@dataclass(frozen=True)
class Explainer:
    """A method that explains an image, as a map over its pixels or as a picture.

    `explain(classifier, layer, images, targets)` takes images `[N, C, H, W]` within the bounds, and the classes `[N]`
    whose logits are explained. A map is `[N, H, W]`, high where the pixel speaks for the class; a picture is
    `[N, C, H, W]` within the bounds.
    """

    name: str
    what: str  #: What it shows, in half a sentence.
    source: str
    method: Explain
    kind: Literal["map", "picture"] = "map"
    signed: bool = True  #: Whether values below zero speak against the class.
    uses_layer: bool = False  #: Whether the answer depends on the layer; else the image is explained as a whole.
    needs_maps: bool = False  #: Whether that layer must have maps `[C, H, W]`.
    captum: bool = True  #: Whether it needs the extra `captum`.

    def explain(self, classifier: Classifier, layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
        """The maps or pictures, without gradient.

        Raises:
            ExplainerError: Captum is not installed, or the network or the layer does not allow this method.
            ImageError, LabelError: Images, or targets, that the classifier refuses.
        """
        if self.captum:
            _require_captum()
        images = classifier.check_images(images)
        classes = classifier.check_labels(targets, images)
        with torch.inference_mode(False), torch.enable_grad(), classifier.borrowed(), _quiet():
            try:
                found = self.method(classifier, layer, images.detach().clone(), classes.clone()).detach()
            except (AssertionError, NotImplementedError) as error:
                if not self.captum:
                    raise
                expected, got = f"a network that Captum's {self.name} can explain", in_a_line(error)
                raise ExplainerError(expected=expected, got=got, do="use integrated gradients") from error
        if not bool(found.isfinite().all()):
            raise ExplainerError(expected="finite numbers", got=f"NaN or infinity of {self.name}", do="leave it out")
        return found.sum(dim=1) if self.kind == "map" and found.ndim == 4 else found


def _require_captum() -> None:
    try:
        import captum.attr  # noqa: F401  (only whether it is there)
    except ImportError as error:
        do = "pip install '.[captum]' in a clone"
        raise ExplainerError(expected="Captum for this method", got="none", do=do) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Captum's remarks that it sets hooks and gradients, which it takes back."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        warnings.filterwarnings("ignore", message="Setting (backward|forward)|Input Tensor")
        yield


# --- gradients ---------------------------------------------------------------------------------------------------


def _saliency(classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    from captum.attr import Saliency

    gradients: Tensor = Saliency(classifier).attribute(images, target=targets, abs=False)
    return gradients.abs().amax(dim=1)


def _of_relus(method: str, classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    """Guided backpropagation or deconvolution: both change the gradient of every ReLU that is a module."""
    from captum import attr

    found_in = nonlinearities(classifier, images)
    _refuse_functions(found_in, method, ("relu", "hardtanh"))
    if not found_in.modules["relu"]:
        got = f"{', '.join(found_in.modules) or 'none'}, with which it is the plain gradient"
        raise ExplainerError(expected=f"a network with ReLUs, for {method}", got=got, do="use integrated gradients")
    with _out_of_place(classifier):
        found: Tensor = getattr(attr, method)(classifier).attribute(images, target=targets)
    return found


@contextmanager
def _out_of_place(classifier: Classifier) -> Iterator[None]:
    """In-place modules as others meanwhile: they would change what a hook has seen."""
    modules: list[Any] = [module for module in classifier.model.modules() if getattr(module, "inplace", False)]
    try:
        for module in modules:
            module.inplace = False
        yield
    finally:
        for module in modules:
            module.inplace = True


def _integrated_gradients(classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(classifier)
    found: Tensor = method.attribute(
        images, _black(classifier, images), target=targets, n_steps=STEPS, internal_batch_size=256
    )
    return found


def _deep_lift(classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    from captum.attr import DeepLift

    found_in = nonlinearities(classifier, images)
    _refuse_functions(found_in, "DeepLIFT", tuple(KINDS))
    if found_in.reused:
        got = f"'{found_in.reused[0]}', which is called several times"
        raise ExplainerError(
            expected="a network that calls each module once, for DeepLIFT", got=got, do="use integrated gradients"
        )
    black = _black(classifier, images)
    with _out_of_place(classifier):
        found: Tensor = DeepLift(classifier).attribute(images, black, target=targets)
    with torch.no_grad():
        change = (classifier.run(images) - classifier.run(black)).gather(1, targets[:, None])[:, 0]
    missing = (found.detach().flatten(1).sum(dim=1) - change.detach()).abs()
    if bool((missing > COMPLETE * change.abs().clamp_min(0.1 * float(change.abs().mean()))).any()):
        pools = [m for m in classifier.model.modules() if "MaxPool" in type(m).__name__]
        got = f"a sum that misses it by up to {float(missing.max()):.3g}"
        got += ", which Captum's rule for max pooling can cause" if pools else ""
        expected = "attributions of DeepLIFT that sum to the change of the logit"
        raise ExplainerError(expected=expected, got=got, do="use integrated gradients")
    return found


def _grad_cam(classifier: Classifier, layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    """Captum's takes a module, and so mixes up the calls of one that is called twice; a layer is one call."""
    if len(layer.shape) != 3:
        expected, got = "a layer of maps [C, H, W] for Grad-CAM", f"{layer.name} of shape {list(layer.shape)}"
        raise ExplainerError(expected=expected, got=got, do="choose a layer before the maps become a vector")
    maps = capture(classifier, images, [layer])[1][layer.name].detach().clone().requires_grad_()
    logits = replay(classifier, layer, maps, images).gather(1, targets[:, None])
    (gradients,) = torch.autograd.grad(logits.sum(), maps)
    weighted = (gradients.mean(dim=(2, 3), keepdim=True) * maps.detach()).sum(dim=1, keepdim=True).relu()
    return F.interpolate(weighted, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def _cam(classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    """The last maps, weighted by what the logit reads of their means: defined where it reads nothing else of them."""
    maps = [
        layer for layer in find_layers(classifier, images) if len(layer.shape) == 3 and math.prod(layer.shape[1:]) > 1
    ]
    if maps:
        latent = capture(classifier, images, [maps[-1]])[1][maps[-1].name].detach()

        def gradient(at: Tensor) -> Tensor:
            at = at.clone().requires_grad_()
            logits = replay(classifier, maps[-1], at, images).gather(1, targets[:, None])
            return torch.autograd.grad(logits.sum(), at)[0]

        # One linear layer after a mean over places: the same gradient everywhere, whatever the maps are. Those far from
        # zero, and their opposites, leave no unit of a further layer on its side.
        slopes = gradient(latent)
        weights = slopes.sum(dim=(2, 3), keepdim=True)
        means = (weights / math.prod(maps[-1].shape[1:])).expand_as(slopes)
        close = 1e-4 * float(means.abs().max())
        torch.manual_seed(0)  # the random state is given back with the classifier
        far = (
            1e3 * float(latent.abs().max()) * (torch.randn_like(latent[:, :, :1, :1]) + 0.3 * torch.randn_like(latent))
        )
        if all(torch.allclose(each, means, rtol=0, atol=close) for each in (slopes, gradient(far), gradient(-far))):
            return F.interpolate(
                (weights * latent).sum(dim=1, keepdim=True), size=images.shape[2:], mode="bilinear", align_corners=False
            )[:, 0]
    expected = "a network that ends in global average pooling and one linear layer, for CAM"
    raise ExplainerError(expected=expected, got="another end", do="use Grad-CAM")


# --- what is missing when a part of the image is taken away ------------------------------------------------------


def _lime(classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) * LIME_CELLS // height
    columns = torch.arange(width, device=images.device) * LIME_CELLS // width
    cells = (rows[:, None] * LIME_CELLS + columns)[None, None]
    maps = []
    for image, target in zip(images, targets, strict=True):  # a linear model of its own for each image
        torch.manual_seed(0)  # the random state is given back with the classifier
        maps.append(
            Lime(classifier, interpretable_model=SkLearnRidge(alpha=1.0)).attribute(
                image[None], _black(classifier, image[None]), target=target[None], feature_mask=cells,
                n_samples=LIME_SAMPLES, perturbations_per_eval=100,
            )[:, 0]
        )  # fmt: skip
    return torch.cat(maps)


def _occlusion(classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
    from captum.attr import Occlusion

    channels, height, width = images.shape[1:]
    window = (channels, max(1, height // WINDOW), max(1, width // WINDOW))
    strides = (channels, max(1, window[1] // 2), max(1, window[2] // 2))
    method = Occlusion(classifier)
    found: Tensor = method.attribute(images, window, strides, _black(classifier, images), targets)
    return found[:, 0]


def _black(classifier: Classifier, images: Tensor) -> Tensor:
    """What an absent pixel is: the lowest value."""
    return torch.full_like(images, classifier.bounds[0])


def _refuse_functions(found: Nonlinearities, method: str, kinds: tuple[str, ...]) -> None:
    """Refuse a network that calls operations of these kinds as functions: hooks on modules do not see them."""
    named = Counter({kind: count for kind, count in found.functions.items() if kind in kinds})
    for name, count in named.most_common(1):
        expected = f"a network whose nonlinear operations are modules, for {method}"
        got = f"{count} of {name} called as a function"
        raise ExplainerError(expected=expected, got=got, do="use integrated gradients, or make it a module")


def _inversion(classifier: Classifier, layer: Layer, images: Tensor, _targets: Tensor) -> Tensor:
    return invert(classifier, layer, images)


EXPLAINERS = (
    Explainer("saliency", "the size of the logit's gradient", "arXiv 1312.6034", _saliency, signed=False),
    Explainer("guided backpropagation", "its gradient, at each ReLU what is above zero alone", "arXiv 1412.6806",
              partial(_of_relus, "GuidedBackprop")),
    Explainer("deconvolution", "the same, whatever the ReLUs let through", "arXiv 1311.2901",
              partial(_of_relus, "Deconvolution")),
    Explainer("integrated gradients", "its gradient along the way from black", "arXiv 1703.01365",
              _integrated_gradients),
    Explainer("DeepLIFT", "differences to black, carried back layer by layer", "arXiv 1704.02685", _deep_lift),
    Explainer("Grad-CAM", "the layer's maps, weighted by their mean gradient", "arXiv 1610.02391", _grad_cam,
              signed=False, uses_layer=True, needs_maps=True, captum=False),
    Explainer("CAM", "the last maps, weighted by what the logit reads of their means", "arXiv 1512.04150", _cam,
              captum=False),
    Explainer("LIME", "a linear model of cells that are switched off", "arXiv 1602.04938", _lime),
    Explainer("occlusion", "what the logit loses when a window is black", "arXiv 1311.2901", _occlusion),
    Explainer("inversion", "a smooth image with the latent of the layer", "arXiv 1412.0035", _inversion, "picture",
              signed=False, uses_layer=True, captum=False),
)  # fmt: skip
