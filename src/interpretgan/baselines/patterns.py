"""PatternNet and PatternAttribution: the signal that a network of linear layers and ReLUs reads, not its filters.

Source: Kindermans et al. 2018, Learning how to explain neural networks (arXiv 1705.05598). A filter must cancel what
distracts, so that it points elsewhere than the signal. The pattern of a unit is the direction in its input that its
output tells of, estimated on natural images. Both methods go back from a logit as the gradient does: PatternNet with
patterns in place of the filters, PatternAttribution with the product of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode

from interpretgan.baselines.explainers import Explainer, ExplainerError
from interpretgan.baselines.nonlinearities import nonlinearities
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_source
from interpretgan.layers import Layer

IMAGES, BATCH = 1000, 50  #: Natural images, at most, that patterns are estimated on.
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm)
Linear = Callable[..., Tensor]


@dataclass
class _Sums:
    """What a pattern follows from, summed over all places of all images where a unit is above zero, and over all."""

    x: Tensor  #: `[out, in]`, as all but the last three: sums of the inputs where the unit is above zero,
    xy: Tensor  #: of their products with the output,
    above: Tensor  #: and how often it is, `[out]`.
    all_x: Tensor  #: The same whatever the output is, `[in]`,
    all_xy: Tensor  #: `[out, in]`,
    y: Tensor  #: of the output `[out]`,
    count: int

    def pattern(self, weight: Tensor, *, two_component: bool) -> Tensor:
        """The direction `a` of each unit, `[out, in]`, with `w·a = 1`; zero of a unit that never tells anything.

        Two-component: `(E₊[xy] - E₊[x] E[y]) / (w·E₊[xy] - w·E₊[x] E[y])`. Else linear, with the means over all.
        """
        mean = self.y[:, None] / self.count
        if two_component:
            above = self.above[:, None].clamp_min(1)
            found = self.xy / above - self.x / above * mean
        else:
            found = self.all_xy / self.count - self.all_x / self.count * mean
        size = (weight.flatten(1).double() * found).sum(dim=1, keepdim=True)
        useless = size.abs() <= 1e-12 * found.abs().amax(dim=1, keepdim=True).clamp_min(1e-300)
        return torch.where(useless, 0.0, found / size.masked_fill(useless, 1)).view(weight.shape)


class _Watching(TorchFunctionMode):
    """Sums up what each linear operation is given and gives, by its weights: modules and functions, reused or not."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[Tensor, _Sums] = {}
        self.last: Tensor | None = None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function in (F.linear, F.conv2d):
            call = _Call.of(function, args, kwargs or {})
            with torch.no_grad():
                self._add(call, found - call.bias_like(found))
            self.last = call.weight
        return found

    def _add(self, call: _Call, output: Tensor) -> None:
        x, y = call.rows(call.x).double(), output.movedim(1, -1) if output.ndim == 4 else output
        y = y.reshape(-1, y.shape[-1]).double()
        above = (y > -call.shift(y)).double()
        new = _Sums(above.T @ x, (above * y).T @ x, above.sum(dim=0), x.sum(dim=0), y.T @ x, y.sum(dim=0), len(x))
        known = self.sums.get(call.weight)
        if known is not None:
            new = _Sums(*(a + b for a, b in zip(vars(known).values(), vars(new).values(), strict=True)))
        self.sums[call.weight] = new


@dataclass(frozen=True)
class _Call:
    """One linear operation: what it is, its input and its weights."""

    function: Linear
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    more: Mapping[str, Any]  #: Of a convolution: stride, padding, dilation and groups.

    @classmethod
    def of(cls, function: Linear, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Call:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
        given = {"bias": None, **dict(zip(names, args, strict=False)), **kwargs}
        more = {name: given[name] for name in names[3:] if name in given}
        if more.get("groups", 1) != 1 or isinstance(more.get("padding", 0), str):
            got = f"{more.get('groups', 1)} groups, padding {more.get('padding', 0)}"
            expected = "convolutions of all channels with their padding in numbers, for patterns"
            raise ExplainerError(expected=expected, got=got, do="use integrated gradients")
        return cls(function, given["input"], given["weight"], given["bias"], more)

    def again(self, weight: Tensor) -> Tensor:
        """The same operation with other weights and without a bias."""
        return self.function(self.x, weight.to(self.x.dtype), None, **self.more)

    def rows(self, x: Tensor) -> Tensor:
        """What each output is a product with, `[places, in]`."""
        if self.function is F.linear:
            return x.reshape(-1, x.shape[-1])
        settings = {name: self.more[name] for name in ("stride", "padding", "dilation") if name in self.more}
        unfolded = F.unfold(x, self.weight.shape[2:], **settings)
        return unfolded.transpose(1, 2).reshape(-1, unfolded.shape[1])

    def bias_like(self, output: Tensor) -> Tensor:
        if self.bias is None:
            return torch.zeros((), device=output.device)
        return self.bias.detach()[:, None, None] if output.ndim == 4 else self.bias.detach()

    def shift(self, y: Tensor) -> Tensor:
        return y.new_zeros(()) if self.bias is None else self.bias.detach().to(y.dtype)


class _Backwards(TorchFunctionMode):
    """The network as it is, but for the way back through each linear operation: through these weights."""

    def __init__(self, weights: Mapping[Tensor, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function not in (F.linear, F.conv2d):
            return found
        call = _Call.of(function, args, kwargs or {})
        way = call.again(self.weights[call.weight])
        return way + (found - way).detach()


def pattern_explainers(reference: ImageData) -> tuple[Explainer, Explainer]:
    """PatternNet and PatternAttribution, with patterns of the first `IMAGES` natural images.

    They are estimated when a classifier is first explained. An `ExplainerError` says what is not explained: networks
    with other nonlinear operations than ReLUs and max pooling, with normalisation, or with other weights than those of
    linear layers and convolutions.
    """
    known: list[tuple[Classifier, str, dict[Tensor, Tensor]]] = []  # of the last classifier, for both

    def explain(with_weights: bool, classifier: Classifier, _layer: Layer, images: Tensor, targets: Tensor) -> Tensor:
        _require_rectifiers(classifier, images)
        state = classifier.state_sha256()
        if not known or known[0][0] is not classifier or known[0][1] != state:
            known[:] = [(classifier, state, _patterns(classifier, reference))]
        weights = {w: a * w.detach() if with_weights else a for w, a in known[0][2].items()}
        images.requires_grad_()
        with _Backwards(weights):
            logits = classifier.run(images).gather(1, targets[:, None])
        (found,) = torch.autograd.grad(logits.sum(), images)
        return found

    source = "arXiv 1705.05598"
    return (
        Explainer("PatternNet", "the signal in the image that the logit reads", source, partial(explain, False),
                  captum=False),
        Explainer("PatternAttribution", "the same, weighted by how much of it is read", source, partial(explain, True),
                  captum=False),
    )  # fmt: skip


def _require_rectifiers(classifier: Classifier, images: Tensor) -> None:
    found = nonlinearities(classifier, images)
    others = [name for name in found.modules | found.functions if name not in ("relu", "max pooling")]
    others += [type(module).__name__ for module in classifier.model.modules() if isinstance(module, NORMS)]
    if others:
        expected = "a network of linear layers, ReLUs and max pooling, for patterns"
        raise ExplainerError(expected=expected, got=", ".join(dict.fromkeys(others)), do="use integrated gradients")


def _patterns(classifier: Classifier, reference: ImageData) -> dict[Tensor, Tensor]:
    """The patterns of all weights: two-component before a ReLU, linear of the last, which gives the logits."""
    source, watching = as_source(reference, None, classifier.bounds), _Watching()
    for index in torch.split(torch.arange(min(len(source), IMAGES)), BATCH):
        images = classifier.check_images(source.batch(index)[0])
        with torch.no_grad(), watching:
            classifier.run(images)
    if unread := [name for name, p in classifier.model.named_parameters() if p.ndim > 1 and p not in watching.sums]:
        expected, got = "weights of linear layers and convolutions, for patterns", f"'{unread[0]}'"
        raise ExplainerError(expected=expected, got=got, do="use integrated gradients")
    last = watching.last
    return {
        weight: sums.pattern(weight.detach(), two_component=weight is not last).to(weight.dtype)
        for weight, sums in watching.sums.items()
    }
