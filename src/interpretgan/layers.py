"""Find the layers of a network, capture their latents, and replay the network from them.

A *layer* is a module call whose output fixes the logits: `f = f_{>l} ∘ f_{<=l}`. Layers are found by running the
network, not by reading its code, so in-place, reused and functional operations need no special case. All hooks of the
package are in this file.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from interpretgan.classifier import Classifier, check_logits, require_classifier
from interpretgan.data import ImageData, as_source
from interpretgan.errors import LayerError, ModelError, kind_of

PROBE_IMAGES = 4
"""How many images the test of a layer runs on."""
SPREAD_TOLERANCE = 1e-4
"""Logits count as equal when they differ by less than this share of the difference between two inputs' logits."""


@dataclass(frozen=True)
class Layer:
    """A module call whose output fixes the logits.

    Of two that return the same tensor (a container and its last layer, dropout in eval mode, a flatten) one stands for
    both, and is named in `same_as` of the other: explaining one of the two explains both.
    """

    name: str  #: Qualified module name, with `:k` for the k-th call (from 1) of a module that is called more than once.
    module: str  #: Qualified module name alone; empty for the network's own output.
    call: int  #: Which call of the module, from 1.
    kind: str  #: Class of the module, e.g. `Conv2d`.
    shape: tuple[int, ...]  #: Of the latent, without the batch axis.
    same_as: str | None = None


@dataclass(frozen=True)
class Refused:
    """A module call whose output does not fix the logits, the reason, and the nearest layer."""

    name: str
    kind: str
    shape: tuple[int, ...] | None
    reason: str
    nearest: str | None


@dataclass(frozen=True)
class Anatomy:
    """Every module call of a network, in execution order."""

    layers: tuple[Layer, ...]
    """Those that only repeat another one's tensor included."""
    refused: tuple[Refused, ...]
    order: tuple[str, ...]
    """Names of all calls."""
    same_module: dict[str, str]
    """For each further name of a module that has several, its first name."""

    @property
    def distinct(self) -> list[Layer]:
        """One layer for each tensor."""
        return [layer for layer in self.layers if layer.same_as is None]

    def select(self, names: Sequence[str]) -> list[Layer]:
        """The named layers, in execution order; `LayerError` for a name that is unknown, ambiguous or not a layer's."""
        chosen = {self._find(name) for name in names}
        return [layer for layer in self.layers if layer in chosen]

    def _find(self, name: str) -> Layer:
        layers = {layer.name: layer for layer in self.layers}
        if name in layers:
            return layers[name]
        expected, first = "a layer name of the network", self.same_module.get(name, name)
        calls = [other for other in self.order if other.rpartition(":")[0] == first]
        refused = next((call for call in self.refused if call.name == name), None)
        if refused is not None:
            expected, got = "a module call whose output fixes the logits", f"'{name}', where {refused.reason}"
            do = f"use '{refused.nearest}'" if refused.nearest else "choose another layer"
        elif calls:
            expected, got = "one call of a module", f"'{name}', which is called {len(calls)} times"
            do = f"choose one of {', '.join(calls)}"
        elif first != name:
            got, do = f"'{name}', another name of the module '{first}'", f"use '{first}'"
        else:
            close = difflib.get_close_matches(name, list(layers) or list(self.order), n=1, cutoff=0.0)
            got = f"'{name}'"
            do = f"did you mean '{close[0]}'? `interpretgan layers` lists them all" if close else "list the layers"
        raise LayerError(expected=expected, got=got, do=do)


def distinct(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], list[int]]:
    """One layer for each tensor, and for every given layer the index of the one that stands for it."""
    first: dict[str, Layer] = {}
    for layer in layers:
        first.setdefault(layer.same_as or layer.name, layer)
    return tuple(first.values()), [list(first).index(layer.same_as or layer.name) for layer in layers]


# --- hooks -------------------------------------------------------------------------------------------------------

Visit = Callable[[str, int, nn.Module, object], object | None]
"""Called as `visit(module name, call index from 1, module, output)`; what it returns replaces the output."""


@contextmanager
def _visiting(classifier: Classifier, visit: Visit, modules: Sequence[str] | None = None) -> Iterator[None]:
    """Run `visit` after every call of every module, or of the named ones. The name of the whole network is empty."""
    calls: Counter[str] = Counter()

    def hook(name: str, module: nn.Module, _inputs: object, output: object) -> object | None:
        calls[name] += 1
        return visit(name, calls[name], module, output)

    with ExitStack() as hooks:
        # Registered first, so that each pass through the network counts its calls from one.
        hooks.enter_context(classifier.model.register_forward_pre_hook(lambda *_: calls.clear()))
        for name, module in classifier.model.named_modules():
            if modules is None or name in modules:
                hooks.enter_context(module.register_forward_hook(partial(hook, name)))
        yield


def run_visited(classifier: Classifier, images: Tensor, visit: Visit, modules: Sequence[str] | None = None) -> Tensor:
    """Logits `[N, K]` of a pass in which `visit` sees every call of the named modules, or of all; no gradient."""
    with classifier.borrowed(), torch.no_grad(), _visiting(classifier, visit, modules):
        return classifier.run(images)


@contextmanager
def _replacing(classifier: Classifier, module: str, call: int, value: Tensor) -> Iterator[list[int]]:
    """Put a value in the place of a call's output; yields a list that gets an entry whenever that happens."""
    replaced: list[int] = []

    def visit(_name: str, index: int, _module: nn.Module, _output: object) -> Tensor | None:
        if index != call:
            return None
        replaced.append(index)
        return value.clone()

    with _visiting(classifier, visit, [module]):
        yield replaced


@contextmanager
def capturing(
    classifier: Classifier, layers: Sequence[Layer], rows: Mapping[str, slice] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collect the latents of layers in every pass of the classifier.

    A latent is copied when its module returns, so that a later in-place operation cannot change it; gradients flow.

    Yields a dictionary from layer name to latent `[N, *layer.shape]`, which each pass refills. `rows` says for each
    layer of which images the latent is kept; `None`: of all.
    """
    wanted = {(layer.module, layer.call): layer.name for layer in layers}
    latents: dict[str, Tensor] = {}

    def visit(module_name: str, call: int, _module: nn.Module, output: object) -> None:
        name = wanted.get((module_name, call))
        if name is not None:
            assert isinstance(output, Tensor)
            latents[name] = (output if rows is None else output[rows[name]]).clone()

    with _visiting(classifier, visit, [layer.module for layer in layers]):
        yield latents


def capture(classifier: Classifier, images: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits `[N, K]`, and the latents `[N, *layer.shape]` by layer name, of images within the bounds; no gradient."""
    with classifier.borrowed(), torch.no_grad(), capturing(classifier, layers) as latents:
        logits = classifier.run(images)
    return logits, dict(latents)


def replay(classifier: Classifier, layer: Layer, latent: Tensor, images: Tensor) -> Tensor:
    """Logits `[N, K]` of the network when a layer's output is replaced by `latent`: `f_{>l}(latent)`.

    The latent is `[N, *layer.shape]`; gradients flow to it where autograd is on. The images, any
    `[N, C, H, W]`, run the network up to the layer and have no influence on the result.
    """
    with classifier.borrowed(), _replacing(classifier, layer.module, layer.call, latent):
        return classifier.run(images)


def owned_by_layers(
    classifier: Classifier, layers: Sequence[Layer], images: Tensor, weights: Mapping[str, Tensor]
) -> list[list[str]]:
    """For each layer the names of the weights that its latent depends on, and no latent before it.

    Weights are parameters or real buffers of the model, by name; the images `[N, C, H, W]` run through it once. The
    layers are in execution order. Call it with autograd on.
    """
    left, owned = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}, []
    with capturing(classifier, layers) as latents:
        functional_call(classifier.model, left, (classifier.normalise(images),))
    for layer in layers:
        latent, used = latents[layer.name], dict[str, Tensor | None]()
        if left and latent.requires_grad:
            gradients = torch.autograd.grad(latent.sum(), list(left.values()), retain_graph=True, allow_unused=True)
            used = dict(zip(left, gradients, strict=True))
        owned.append([name for name, gradient in used.items() if gradient is not None])
        for name in owned[-1]:
            del left[name]
    return owned


# --- which calls are layers --------------------------------------------------------------------------------------


@dataclass
class _Call:
    module: str
    index: int
    kind: str
    output: object  # kept alive, so that its address stays its own
    value: Tensor | None  # a copy by value, None when the output is not one tensor
    name: str = ""
    follows_batch: bool = True  # whether its first axis becomes shorter with the batch
    reason: str | None = None  # why it is not a layer

    @property
    def shape(self) -> tuple[int, ...] | None:
        return None if self.value is None else tuple(self.value.shape[1:])


def find_layers(classifier: Classifier, images: ImageData) -> list[Layer]:
    """The layers of a network, one for each tensor, in execution order; the logits are the last.

    A module call is a layer exactly when running the network on one input, with the call's output replaced by the one
    that it gave on a second input, gives the second input's logits.

    Args:
        classifier: The classifier.
        images: Images within its bounds, of which four are used: `[N, C, H, W]`, or data (see `as_source`).

    Raises:
        ImageError, ModelError: Images that the classifier refuses, or logits that are none or ignore the image.
    """
    return examine(classifier, images).distinct


def examine(classifier: Classifier, images: ImageData) -> Anatomy:
    """Every module call of a network, sorted into layers and others with the reason; see `find_layers`."""
    require_classifier(classifier)
    source = as_source(images, None, classifier.bounds)
    probe = classifier.check_images(source.batch(torch.arange(min(PROBE_IMAGES, len(source))))[0])
    count, (low, high) = len(probe), classifier.bounds
    noise = low + (high - low) * torch.rand(probe.shape, generator=torch.Generator().manual_seed(0)).to(probe)
    with classifier.borrowed(), torch.no_grad():
        classifier.try_run(probe)
        logits, calls = _trace(classifier, probe)
        check_logits(logits, count)
        again = classifier.run(probe)
        if not torch.allclose(logits, again, rtol=1e-4, atol=1e-5 * float(logits.abs().max())):
            got, do = f"a difference of {_spread(logits, again):.3g}", "remove the randomness that stays in eval mode"
            raise ModelError(expected="the same logits from two passes over the same images", got=got, do=do)
        # Other images and their own logits, where these are others.
        runs = [(other, classifier.run(other)) for other in ([noise] if count == 1 else [noise, probe.roll(1, dims=0)])]
        others = [(other, own) for other, own in runs if _spread(own, logits) > 1e-6 * float(logits.abs().max())]
        if not others:
            got, do = "the same logits on different images", "check the weights and the normalisation"
            raise ModelError(expected="logits that depend on the image", got=got, do=do)
        # An axis that is as long as the batch by chance does not become shorter with it.
        shorter = _trace(classifier, probe[:-1])[1] if count > 1 else []
        lengths = {(call.module, call.index): () if call.value is None else call.value.shape[:1] for call in shorter}
        for call in calls:
            call.follows_batch = lengths.get((call.module, call.index), (count - 1,)) == (count - 1,)
            call.reason = _why_not_a_layer(classifier, call, others, logits)
    return _anatomy(classifier, calls)


def _trace(classifier: Classifier, images: Tensor) -> tuple[Tensor, list[_Call]]:
    """Logits, and every call of a module with its name: with `:k` where there are several, `logits` for the root's."""
    calls: list[_Call] = []

    def visit(name: str, index: int, module: nn.Module, output: object) -> None:
        value = output.detach().clone() if isinstance(output, Tensor) else None
        calls.append(_Call(name, index, type(module).__name__, output, value))

    with _visiting(classifier, visit):
        logits = classifier.run(images)
    counts = Counter(call.module for call in calls)
    for call in calls:
        call.name = call.module + (f":{call.index}" if counts[call.module] > 1 else "")
    calls[-1].name = "output" if "logits" in counts else "logits"
    return logits, calls


def _why_not_a_layer(
    classifier: Classifier, call: _Call, others: Sequence[tuple[Tensor, Tensor]], logits: Tensor
) -> str | None:
    """The reason, or `None` for a layer."""
    value = call.value
    if value is None:
        return f"it returns {kind_of(call.output)}, not one tensor"
    if not value.is_floating_point():
        return f"it returns {value.dtype}, not real numbers"
    if value.ndim < 2 or value.shape[0] != len(logits) or not call.follows_batch:
        return f"its output {tuple(value.shape)} has no batch axis of {len(logits)} in front"
    for other, own in others:
        with _replacing(classifier, call.module, call.index, value) as replaced:
            try:
                swapped = classifier.run(other)
            except RuntimeError as error:
                return f"the network fails when its output is replaced ({str(error).splitlines()[0]})"
        if not replaced:
            return "it is not called on every image"
        if _spread(swapped, logits) > SPREAD_TOLERANCE * _spread(own, logits):
            return "information flows around it (a skip connection or a parallel branch)"
    return None


def _spread(logits: Tensor, other: Tensor) -> float:
    return float((logits - other).abs().max())


def _anatomy(classifier: Classifier, calls: Sequence[_Call]) -> Anatomy:
    same_as = _same_tensor(calls)
    layers: list[Layer] = []
    refused: list[Refused] = []
    for position, call in enumerate(calls):
        if call.reason is not None:
            # The layer that follows, or the one before where none does.
            near = [other.name for other in (*calls[position + 1 :], *calls[:position][::-1]) if other.reason is None]
            nearest = same_as.get(near[0], near[0]) if near else None
            refused.append(Refused(call.name, call.kind, call.shape, call.reason, nearest))
        elif call.module or call.name not in same_as:  # the root only where no other call returns the logits
            assert call.shape is not None
            layers.append(Layer(call.name, call.module, call.index, call.kind, call.shape, same_as.get(call.name)))
    first = {id(module): name for name, module in classifier.model.named_modules()}
    every = classifier.model.named_modules(remove_duplicate=False)
    same_module = {name: first[id(module)] for name, module in every if first[id(module)] != name}
    return Anatomy(tuple(layers), tuple(refused), tuple(call.name for call in calls), same_module)


def _same_tensor(calls: Sequence[_Call]) -> dict[str, str]:
    """For each layer that only repeats another one's tensor, the name that stands for both.

    That is the innermost module that has a refused call inside (a residual block keeps its own name, not that of its
    last ReLU), else the call that returned first (a layer, not the container around it).
    """
    groups: list[tuple[int, Tensor, list[_Call]]] = []  # the same memory with the same content, reshaped or not
    for call in calls:
        if call.reason is None:
            assert isinstance(call.output, Tensor)
            assert call.value is not None
            address, values = call.output.data_ptr(), call.value.flatten(1)
            same = [group for known, content, group in groups if known == address and torch.equal(content, values)]
            if same:
                same[0].append(call)
            else:
                groups.append((address, values, [call]))
    refused = [call.module for call in calls if call.reason is not None]
    same_as: dict[str, str] = {}
    for _, _, group in groups:
        # The root comes last and stays out: a network's own output is named by the layer that returns it.
        blocks = [call for call in group if call.module and any(r.startswith(call.module + ".") for r in refused)]
        kept = max(blocks, key=lambda block: len(block.module)) if blocks else group[0]
        same_as |= {call.name: kept.name for call in group if call is not kept}
    return same_as
