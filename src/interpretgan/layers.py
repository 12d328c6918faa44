"""Find the layers of a network, capture their latents, and replay the network from them.

A *layer* is a module call whose output alone fixes the logits: `f = f_{>l} ∘ f_{<=l}`. Layers are found by running the
network, never by reading its code, so in-place, reused and functional layers need no special case. All hooks of
this package live in this file.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier, check_logits
from interpretgan.errors import LayerError, ModelError

PROBE_IMAGES = 4
"""How many images the complete-cut test runs on."""

SPREAD_TOLERANCE = 1e-4
"""Logits count as equal when they differ by less than this share of the difference between two inputs' logits."""


@dataclass(frozen=True)
class Layer:
    """A place in the network whose tensor fixes the logits.

    Attributes:
        name: Qualified module name, with `:k` for the k-th call (from 1) of a module that is called more than once.
        module: Qualified module name alone; empty for the network's own output.
        call: Which call of the module, from 1.
        kind: Class of the module, e.g. `Conv2d`.
        shape: Shape of the latent without the batch axis.
        same_as: Name of another layer that holds the very same tensor (a container and its last layer, dropout in eval
            mode, a flatten), or `None`. Explaining one of the two explains both.
    """

    name: str
    module: str
    call: int
    kind: str
    shape: tuple[int, ...]
    same_as: str | None = None


@dataclass(frozen=True)
class Refused:
    """A module call that does not fix the logits, with the reason and the nearest layer that can stand in for it."""

    name: str
    kind: str
    shape: tuple[int, ...] | None
    reason: str
    nearest: str | None


@dataclass(frozen=True)
class Anatomy:
    """Every module call of a network, sorted into layers and refused calls, both in execution order."""

    layers: tuple[Layer, ...]
    refused: tuple[Refused, ...]
    order: tuple[str, ...]
    same_module: dict[str, str]

    @property
    def distinct(self) -> list[Layer]:
        """The layers that hold different tensors: one name for each."""
        return [layer for layer in self.layers if layer.same_as is None]

    def select(self, names: Sequence[str]) -> list[Layer]:
        """The named layers, in execution order.

        Raises:
            LayerError: A name that does not exist, that is ambiguous, or that is no layer.
        """
        return [layer for layer in self.layers if layer.name in {self._find(name).name for name in names}]

    def _find(self, name: str) -> Layer:
        layers = {layer.name: layer for layer in self.layers}
        if name in layers:
            return layers[name]
        for refused in self.refused:
            if refused.name == name:
                raise LayerError(
                    expected="a layer whose output fixes the logits",
                    got=f"'{name}', a module call that does not: {refused.reason}",
                    do=f"use '{refused.nearest}'" if refused.nearest else "pick another layer",
                )
        calls = [other for other in self.order if other.rpartition(":")[0] == self.same_module.get(name, name)]
        if calls:
            raise LayerError(
                expected="one call of a module",
                got=f"'{name}', which is called {len(calls)} times",
                do=f"pick one of {', '.join(calls)}",
            )
        if name in self.same_module:
            raise LayerError(
                expected="a layer name of the network",
                got=f"'{name}', another name of the module '{self.same_module[name]}'",
                do=f"use '{self.same_module[name]}'",
            )
        close = difflib.get_close_matches(name, list(layers) or list(self.order), n=1, cutoff=0.0)
        raise LayerError(
            expected="a layer name of the network",
            got=f"'{name}'",
            do=f"did you mean '{close[0]}'? `interpretgan layers` lists them all" if close else "list the layers",
        )


def distinct(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], list[int]]:
    """The layers that hold different tensors, and for every given layer the index of the one that holds its tensor."""
    first: dict[str, Layer] = {}
    for layer in layers:
        first.setdefault(layer.same_as or layer.name, layer)
    return tuple(first.values()), [list(first).index(layer.same_as or layer.name) for layer in layers]


# --- hooks -------------------------------------------------------------------------------------------------------


Visit = Callable[[str, int, nn.Module, object], object | None]
"""Called as `visit(module name, call index from 1, module, output)`; what it returns replaces the output."""


@contextmanager
def _visiting(classifier: Classifier, visit: Visit, modules: Sequence[str] | None = None) -> Iterator[None]:
    """Run `visit` after every call of every module (or of the named ones), the root's name being empty."""
    calls: Counter[str] = Counter()
    handles = []

    def attach(name: str, module: nn.Module) -> None:
        def hook(module: nn.Module, _inputs: object, output: object) -> object | None:
            calls[name] += 1
            return visit(name, calls[name], module, output)

        handles.append(module.register_forward_hook(hook))

    try:
        # Registered first, so that each pass through the network counts its calls from one.
        handles.append(classifier.model.register_forward_pre_hook(lambda *_: calls.clear()))
        for name, module in classifier.model.named_modules():
            if modules is None or name in modules:
                attach(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def capturing(
    classifier: Classifier, layers: Sequence[Layer], rows: Mapping[str, slice] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collect the latents of the given layers in every pass of the classifier.

    Each latent is copied when its module returns, so that a later in-place layer cannot change it; gradients flow.

    Args:
        classifier: The classifier.
        layers: Where to look.
        rows: For each layer the images whose latent is kept. `None`: all of them.

    Yields:
        A dictionary from layer name to latent `[N, *layer.shape]`, refilled by each pass.
    """
    wanted = {(layer.module, layer.call): layer.name for layer in layers}
    latents: dict[str, Tensor] = {}

    def visit(name: str, call: int, _module: nn.Module, output: object) -> None:
        layer_name = wanted.get((name, call))
        if layer_name is not None:
            assert isinstance(output, Tensor)
            latents[layer_name] = (output if rows is None else output[rows[layer_name]]).clone()

    with _visiting(classifier, visit, [layer.module for layer in layers]):
        yield latents


def capture(classifier: Classifier, images: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and latents of one batch, without gradient.

    Args:
        classifier: The classifier.
        images: `[N, C, H, W]` within the classifier's bounds.
        layers: Where to look.

    Returns:
        Logits `[N, K]`, and a dictionary from layer name to latent `[N, *layer.shape]`.
    """
    with classifier.borrowed(), torch.no_grad(), capturing(classifier, layers) as latents:
        logits = classifier.run(images)
    return logits, dict(latents)


def replay(classifier: Classifier, layer: Layer, latent: Tensor, images: Tensor) -> Tensor:
    """Logits of the network when the layer's output is replaced: `f_{>l}(latent)`.

    Args:
        classifier: The classifier.
        layer: The layer to replay from.
        latent: `[N, *layer.shape]`.
        images: Any `[N, C, H, W]`; they run the network up to the layer and have no influence on the result.

    Returns:
        Logits `[N, K]`, with gradient to `latent` where autograd is on.
    """

    def visit(_name: str, call: int, _module: nn.Module, _output: object) -> Tensor | None:
        return latent.clone() if call == layer.call else None

    with classifier.borrowed(), _visiting(classifier, visit, [layer.module]):
        return classifier.run(images)


# --- the complete-cut test ---------------------------------------------------------------------------------------


@dataclass
class _Call:
    module: str
    index: int
    kind: str
    output: object  # kept alive, so that its address stays its own
    value: Tensor | None  # a copy by value, None when the output is not one tensor

    @property
    def shape(self) -> tuple[int, ...] | None:
        return tuple(self.value.shape[1:]) if self.value is not None else None


def find_layers(classifier: Classifier, images: Tensor) -> list[Layer]:
    """All layers of a network, in execution order, the logits last.

    A module call is a layer exactly when running the network on one input, with the call's output replaced by the one
    it gave on a second input, gives the second input's logits.

    Args:
        classifier: The classifier.
        images: A few images `[N, C, H, W]` within its bounds (four are used).

    Raises:
        ImageError: Images that the classifier refuses.
        ModelError: A model whose output is not logits, or whose logits do not depend on the image.
    """
    return list(examine(classifier, images).layers)


def examine(classifier: Classifier, images: Tensor) -> Anatomy:
    """Like `find_layers`, with the refused module calls and the reason for each."""
    images = classifier.check_images(images[:PROBE_IMAGES])
    low, high = classifier.bounds
    generator = torch.Generator().manual_seed(0)
    noise = low + (high - low) * torch.rand(images.shape, generator=generator).to(images)
    others = [noise] if len(images) == 1 else [noise, images.roll(1, dims=0)]
    with classifier.borrowed(), torch.no_grad():
        classifier.try_run(images)
        logits, calls = _trace(classifier, images)
        check_logits(logits, len(images))
        # An axis that is as long as the batch by chance does not follow it.
        fewer = len(images) - 1
        shorter = _trace(classifier, images[:fewer])[1] if fewer else []
        first = {(one.module, one.index): () if one.value is None else one.value.shape[:1] for one in shorter}
        fixed = {place for place, length in first.items() if length != (fewer,)}
        again = classifier.run(images)
        if not torch.allclose(logits, again, rtol=1e-4, atol=1e-5 * float(logits.abs().max())):
            raise ModelError(
                expected="the same logits from two passes over the same images",
                got=f"a difference of {float((logits - again).abs().max()):.3g}",
                do="remove the randomness that stays on in eval mode",
            )
        plain = [(other, classifier.run(other)) for other in others]
        telling = [(other, own) for other, own in plain if _differ(own, logits)]
        if not telling:
            raise ModelError(
                expected="logits that depend on the image",
                got="the same logits on different images",
                do="check the weights and the normalisation",
            )
        names = _qualify(calls)
        reasons = [
            _no_batch_axis(call.value, len(images))
            if call.value is not None and (call.module, call.index) in fixed
            else _why_not_a_layer(classifier, call, len(images), telling, logits)
            for call in calls
        ]
    return _sort(classifier, calls, names, reasons)


def _trace(classifier: Classifier, images: Tensor) -> tuple[Tensor, list[_Call]]:
    calls: list[_Call] = []

    def visit(name: str, index: int, module: nn.Module, output: object) -> None:
        value = output.detach().clone() if isinstance(output, Tensor) else None
        calls.append(_Call(name, index, type(module).__name__, output, value))

    with _visiting(classifier, visit):
        logits = classifier.run(images)
    return logits, calls


def _qualify(calls: Sequence[_Call]) -> list[str]:
    """Names of the calls: the module's, with `:k` where it is called more than once; `logits` for the root's."""
    counts = Counter(call.module for call in calls)
    names = [call.module + (f":{call.index}" if counts[call.module] > 1 else "") for call in calls]
    names[-1] = "logits" if "logits" not in names else "output"
    return names


def _why_not_a_layer(
    classifier: Classifier, call: _Call, count: int, others: Sequence[tuple[Tensor, Tensor]], logits: Tensor
) -> str | None:
    """`None` for a layer, else the reason."""
    value = call.value
    if value is None:
        return f"it returns a {type(call.output).__name__}, not one tensor"
    if not value.is_floating_point():
        return f"it returns {value.dtype}, not real numbers"
    if value.ndim < 2 or value.shape[0] != count:
        return _no_batch_axis(value, count)
    for other, plain in others:
        replaced = False

        def visit(_name: str, index: int, _module: nn.Module, _output: object) -> Tensor | None:
            nonlocal replaced
            if index != call.index:
                return None
            replaced = True
            assert value is not None
            return value.clone()

        with _visiting(classifier, visit, [call.module]):
            try:
                swapped = classifier.run(other)
            except RuntimeError as error:
                return f"the network fails when its output is replaced ({str(error).splitlines()[0]})"
        if not replaced:
            return "it is not called on every image"
        if float((swapped - logits).abs().max()) > SPREAD_TOLERANCE * float((plain - logits).abs().max()):
            return "information flows around it (a skip connection or a parallel branch)"
    return None


def _no_batch_axis(value: Tensor, count: int) -> str:
    return f"its output {tuple(value.shape)} has no batch axis of {count} in front"


def _differ(some: Tensor, other: Tensor) -> bool:
    return float((some - other).abs().max()) > 1e-6 * float(other.abs().max())


def _sort(
    classifier: Classifier, calls: Sequence[_Call], names: Sequence[str], reasons: Sequence[str | None]
) -> Anatomy:
    same_as = _same_tensor(calls, names, reasons)
    layers: list[Layer] = []
    refused: list[Refused] = []
    for position, (call, name, reason) in enumerate(zip(calls, names, reasons, strict=True)):
        if reason is not None:
            refused.append(Refused(name, call.kind, call.shape, reason, _nearest(position, names, reasons, same_as)))
        elif call.module or same_as.get(name) is None:  # the root only where no other call returns the logits
            assert call.shape is not None
            layers.append(Layer(name, call.module, call.index, call.kind, call.shape, same_as.get(name)))
    first = {id(module): name for name, module in classifier.model.named_modules()}
    every = classifier.model.named_modules(remove_duplicate=False)
    same_module = {name: first[id(module)] for name, module in every if first[id(module)] != name}
    return Anatomy(tuple(layers), tuple(refused), tuple(names), same_module)


def _same_tensor(calls: Sequence[_Call], names: Sequence[str], reasons: Sequence[str | None]) -> dict[str, str]:
    """For each layer that only repeats another one's tensor, the name that stands for both.

    The name kept is the innermost module that has a refused call inside (a residual block is called by its own name,
    not by its last ReLU's), else the call that returned first (a layer, not the container around it).
    """
    groups: list[list[int]] = []
    for position, call in enumerate(calls):
        if reasons[position] is not None:
            continue
        for group in groups:
            if _shares(calls[group[-1]], call):
                group.append(position)
                break
        else:
            groups.append([position])
    refused = [call.module for call, reason in zip(calls, reasons, strict=True) if reason is not None]
    same_as: dict[str, str] = {}
    for group in groups:
        # The root comes last and stays out: a network's own output is named by the layer that returns it.
        blocks = [p for p in group if calls[p].module and any(r.startswith(calls[p].module + ".") for r in refused)]
        kept = max(blocks, key=lambda p: (len(calls[p].module), -p)) if blocks else group[0]
        same_as |= {names[p]: names[kept] for p in group if p != kept}
    return same_as


def _shares(earlier: _Call, later: _Call) -> bool:
    """Whether two calls returned one and the same memory with the same content (reshaped or not)."""
    a, b = earlier.value, later.value
    assert isinstance(earlier.output, Tensor)
    assert isinstance(later.output, Tensor)
    assert a is not None
    assert b is not None
    return (
        earlier.output.data_ptr() == later.output.data_ptr()
        and a.numel() == b.numel()
        and torch.equal(a.flatten(1), b.flatten(1))
    )


def _nearest(position: int, names: Sequence[str], reasons: Sequence[str | None], same_as: dict[str, str]) -> str | None:
    """The layer that follows a refused call, or the one before it where none follows."""
    after = [i for i in range(position + 1, len(names)) if reasons[i] is None]
    before = [i for i in range(position) if reasons[i] is None]
    found = after[0] if after else before[-1] if before else None
    return None if found is None else same_as.get(names[found], names[found])
