"""Which calls of a network are layers: read from the paths of gradients, and proved by exchanging latents."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from interpretgan.classifier import Classifier, check_logits, require_classifier
from interpretgan.data import ImageData, as_source
from interpretgan.errors import ModelError, kind_of
from interpretgan.layers.anatomy import Anatomy, Refused
from interpretgan.layers.bottlenecks import Flow, Vertex, vertex
from interpretgan.layers.hooks import Layer, capturing, class_of, named_modules, run_frozen, visiting
from interpretgan.layers.outputs import parts, with_part
from interpretgan.layers.proof import AROUND, MOVES, NOT_CALLED, ROWS, Proof, size_of_logits
from interpretgan.torch_state import plain_torch

LOCAL = 0.1
"""By how much more of a local change must be in the first half of both axes of the map than in that of the channels."""


@dataclass
class _Tensor:
    """One tensor of what a call returns for a single image."""

    place: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    vertex: Vertex | None


@dataclass
class _Call:
    """One call of a module."""

    module: str
    index: int
    kind: str
    output: str  # what it returns, in words
    tensors: list[_Tensor]
    name: str = ""
    chosen: _Tensor | None = None  # what may be a latent
    reason: str | None = None  # why it is no layer
    layer: Layer | None = None  # how it is a layer
    pieces: list[Tensor] = field(default_factory=list)  # what it returned for `ROWS` images, kept alive
    latents: list[Tensor] = field(default_factory=list)  # copies of these by value


def find_layers(classifier: Classifier, images: ImageData) -> list[Layer]:
    """The layers of a network, one for each tensor, in execution order; the logits are the last.

    A module call is a layer exactly when running the network on one input, with the call's output replaced by the one
    that it gave on a second input, gives the second input's logits. A branch that has no effect at the present weights
    alone, as its last scale is zero, counts as one that has.

    Args:
        classifier: The classifier.
        images: Images within its bounds, of which two are used: `[N, C, H, W]`, or data (see `as_source`).

    Raises:
        ImageError, ModelError: Images that the classifier refuses; logits that are none, that ignore the image or that
            depend on the images beside it or on earlier passes; a network whose calls cannot be seen.
    """
    return examine(classifier, images).distinct


@plain_torch()
def examine(classifier: Classifier, images: ImageData) -> Anatomy:
    """Every module call of a network, sorted into layers and others with the reason; see `find_layers`."""
    require_classifier(classifier)
    if any(isinstance(module, torch.jit.ScriptModule) for module in classifier.model.modules()):
        do = "pass the nn.Module that it was made from, with the same weights"
        raise ModelError(expected="a network in Python", got="a TorchScript program, which nobody sees into", do=do)
    source = as_source(images, None, classifier.bounds)
    rows = _rows(classifier.check_images(source.batch(torch.arange(min(2, len(source))))[0]), classifier.bounds)
    with classifier.borrowed(), torch.no_grad():
        calls, flow = _trace(classifier, rows[:1])
        first = classifier.try_run(rows[:1])
        check_logits(first, 1)
        again = run_frozen(classifier, rows[:1])  # at once: what a network keeps may end with another number of images
        for call in calls:
            _choose(call, flow)
        logits = _collect(classifier, rows, calls)
        check_logits(logits, ROWS)
        _check_logits_of_an_image(first, again, logits)
        _channels_to_the_front(classifier, rows, calls)
        proof = Proof(classifier, rows, logits)
        found = {call.layer: torch.cat(call.latents) for call in calls if call.layer is not None}
        certain = {call.layer for call in calls if call.chosen is not None and call.chosen.vertex in flow.bottlenecks}
        reasons = proof.together({layer: latent for layer, latent in found.items() if layer in certain})
        for call in calls:
            if call.layer is not None:
                call.reason = reasons.get(call.layer)
                if call.layer not in certain:
                    call.reason = proof.alone(call.layer, found[call.layer])
    return _anatomy(classifier, calls)


def _rows(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """`ROWS` different images: those given, of which there are one or two, and noise."""
    low, high = bounds
    noise = low + (high - low) * torch.rand((ROWS, *images.shape[1:]), generator=torch.Generator().manual_seed(0))
    kept = images[:1] if len(images) > 1 and torch.equal(images[0], images[1]) else images
    return torch.cat([kept, noise.to(images)[len(kept) :]])


def _trace(classifier: Classifier, image: Tensor) -> tuple[list[_Call], Flow]:
    """Every call with its name, and the paths of gradients, of a pass of one image, which keeps no tensor.

    The name has `:k` where there are several calls of a module, that of the root is `logits`.
    """
    calls: list[_Call] = []

    def visit(name: str, index: int, module: nn.Module, output: object) -> object:
        output = _copied(output)
        tensors = [_Tensor(place, tuple(t.shape), t.dtype, vertex(t)) for place, t in parts(output)]
        what = "a value inside torch.func" if isinstance(output, Tensor) and not tensors else kind_of(output)
        calls.append(_Call(name, index, class_of(module), what, tensors))
        return output

    leaf = image.detach().clone().requires_grad_()
    with visiting(classifier, visit):
        try:
            with torch.enable_grad(), saved_tensors_hooks(_nothing, lambda saved: saved):  # the graph alone
                logits = classifier.run(leaf)
        except Exception:  # noqa: BLE001  # it works without gradients, or the next line says what is wrong
            calls.clear()
            logits = classifier.try_run(image)
    if len(calls) == 1:
        got = f"one whose only call is that of the whole {calls[0].kind}"
        do = "make its steps modules, or mark them with nn.Identity(); of torch.export pass the ExportedProgram"
        raise ModelError(expected="a network whose modules are called", got=got, do=do)
    counts = Counter(call.module for call in calls)
    for call in calls:
        call.name = call.module + (f":{call.index}" if counts[call.module] > 1 else "")
    calls[-1].name = "output" if "logits" in counts else "logits"
    return calls, Flow(leaf, logits)


def _copied(output: object) -> object:
    """What a call returned, as copies of its tensors.

    Where a network uses a tensor beside the call that returned it, as a block does whose shortcut is `nn.Identity()`,
    the paths of gradients fork in front of the copy, and lead around it.
    """
    copies: dict[int, Tensor] = {}
    for place, tensor in parts(output):
        if tensor.grad_fn is not None:
            if id(tensor) not in copies:  # it may be there more than once
                copies[id(tensor)] = tensor.clone()
            output = with_part(output, place, copies[id(tensor)])
    return output


def _nothing(saved: Tensor) -> Tensor:
    return saved.new_empty(0)


def _choose(call: _Call, flow: Flow) -> None:
    """What of a call may be a latent, or the reason why nothing may be."""
    real = [tensor for tensor in call.tensors if tensor.dtype.is_floating_point]
    if not call.tensors:
        call.reason = f"it returns {call.output}, not a tensor"
    elif not real:
        call.reason = f"it returns {call.tensors[0].dtype}, not real numbers"
    else:
        bottlenecks = [tensor for tensor in real if tensor.vertex in flow.bottlenecks]
        if not bottlenecks and any(tensor.vertex in flow.order for tensor in real):
            call.reason = AROUND
        else:  # where gradients say nothing, it is tried
            call.chosen = (bottlenecks or real)[0]


def _collect(classifier: Classifier, rows: Tensor, calls: Sequence[_Call]) -> Tensor:
    """Logits of all rows; each call that may be a layer gets its latents."""
    known = {(call.module, call.index): call for call in calls}
    counts = Counter(call.module for call in calls)

    def visit(name: str, index: int, _module: nn.Module, output: object) -> None:
        call = known.get((name, (index - 1) % counts[name] + 1)) if counts[name] else None
        if call is not None and call.chosen is not None:
            tensors = dict(parts(output))
            if call.chosen.place in tensors and sum(map(len, call.latents)) < ROWS:
                call.pieces.append(tensors[call.chosen.place])
                call.latents.append(call.pieces[-1].detach().clone())

    with visiting(classifier, visit):
        logits = classifier.run(rows)
    for call in calls:
        if call.chosen is not None:
            axis = batch_axis(call.chosen.shape, [tuple(piece.shape) for piece in call.pieces], ROWS)
            if not call.pieces:
                call.reason = NOT_CALLED
            elif axis is None:
                call.reason = f"no axis of its output {call.chosen.shape} follows the number of images"
            else:
                shape, axes = as_latent(call.chosen.shape, axis)
                place, called = call.chosen.place, counts[call.module]
                call.layer = Layer(
                    call.name, call.module, call.index, call.kind, shape, calls=called, part=place, axes=axes
                )
                call.latents = [piece.permute(axes) if axes else piece for piece in call.latents]
            if call.layer is None:
                call.pieces, call.latents = [], []
    return logits


def _channels_to_the_front(classifier: Classifier, rows: Tensor, calls: Sequence[_Call]) -> None:
    """Let maps that a network keeps as `[N, H, W, C]` be latents `[N, C, H, W]`."""
    maps = {call.layer: call for call in calls if call.layer is not None and len(call.layer.shape) == 3}
    with capturing(classifier, list(maps)) as latents:
        classifier.run(first_quarter_changed(rows))
    for layer, call in maps.items():
        latent = torch.cat(call.latents)
        if channels_are_last(latents[layer.name] - latent[:1]):
            batch, first, second, channels = layer.axes or range(4)
            shape = (layer.shape[2], *layer.shape[:2])
            call.layer = replace(layer, shape=shape, axes=(batch, channels, first, second))
            call.latents = [latent.permute(0, 3, 1, 2)]


def first_quarter_changed(rows: Tensor) -> Tensor:
    """The first of some images with the first quarter of the second, `[1, C, H, W]`."""
    height, width = (size // 2 for size in rows.shape[2:])
    changed = rows[:1].clone()
    changed[:, :, :height, :width] = rows[1:2, :, :height, :width]
    return changed


def channels_are_last(change: Tensor) -> bool:
    """Whether a map `[1, A, B, C]` has its channels in its last axis, by how it changes with `first_quarter_changed`.

    That is in the first half of a map's rows and columns, and in any channel.
    """
    moved = change.double().square()[0]
    total = float(moved.sum())
    halves = [float(moved.narrow(axis, 0, moved.shape[axis] // 2).sum()) / total if total else 0 for axis in (0, 1, 2)]
    return min(halves[:2]) > halves[2] + LOCAL


def as_latent(shape: tuple[int, ...], axis: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of a latent without the batch axis, and the axes in their order `[N, ...]`; none if they are in it."""
    others = [other for other in range(len(shape)) if other != axis]
    return tuple(shape[other] for other in others), () if axis == 0 else (axis, *others)


def batch_axis(one: tuple[int, ...], pieces: Sequence[tuple[int, ...]], images: int) -> int | None:
    """The axis that is 1 for one image, and adds up to `images` over the pieces in which that many run."""
    for axis, length in enumerate(one):
        alike = all(piece[:axis] + piece[axis + 1 :] == one[:axis] + one[axis + 1 :] for piece in pieces)
        if len(one) > 1 and 0 not in one and length == 1 and alike and sum(piece[axis] for piece in pieces) == images:
            return axis
    return None


def _check_logits_of_an_image(first: Tensor, again: Tensor, logits: Tensor) -> None:
    """Refuse a network whose logits change from pass to pass, from image to image not, or with the images beside it."""
    scale = size_of_logits(logits)
    tolerance = max(1e-4, 8 * torch.finfo(logits.dtype).eps)

    def same(one: Tensor, other: Tensor) -> bool:
        return torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale)

    if not same(first, again):
        got, do = f"a difference of {_spread(first, again):.3g}", "remove what is random or kept from pass to pass"
        raise ModelError(expected="the same logits from two passes over the same images", got=got, do=do)
    if not same(again, logits[:1]):
        got, do = f"a difference of {_spread(again, logits[:1]):.3g}", "let the network treat every image by itself"
        raise ModelError(expected="logits that do not depend on the other images of a batch", got=got, do=do)
    if _spread(logits, logits.roll(1, dims=0)) <= MOVES * scale:
        got, do = "the same logits on different images", "check the weights and the normalisation"
        raise ModelError(expected="logits that depend on the image", got=got, do=do)


def _spread(logits: Tensor, other: Tensor) -> float:
    return float((logits - other).abs().max())


def _anatomy(classifier: Classifier, calls: Sequence[_Call]) -> Anatomy:
    same_as = _same_tensor(calls)
    layers: list[Layer] = []
    refused: list[Refused] = []
    for position, call in enumerate(calls):
        if call.reason is not None or call.layer is None:
            # The layer that follows, or the one before where none does.
            near = [other.name for other in (*calls[position + 1 :], *calls[:position][::-1]) if other.reason is None]
            nearest = same_as.get(near[0], near[0]) if near else None
            shape = call.tensors[0].shape[1:] if [tensor.place for tensor in call.tensors] == [""] else None
            refused.append(Refused(call.name, call.kind, shape, call.reason or AROUND, nearest))
        elif call.module or call.name not in same_as:  # the root only where no other call returns the logits
            layers.append(replace(call.layer, same_as=same_as.get(call.name)))
    modules = list(classifier.model.named_modules(remove_duplicate=False))
    first = {id(module): name for name, module in named_modules(classifier.model)}
    same_module = {name: first[id(module)] for name, module in modules if first.get(id(module), name) != name}
    return Anatomy(tuple(layers), tuple(refused), tuple(call.name for call in calls), same_module)


def _axes(call: _Call) -> tuple[int, ...]:
    return () if call.layer is None else call.layer.axes


def _same_tensor(calls: Sequence[_Call]) -> dict[str, str]:
    """For each layer that only repeats another one's tensor, the name that stands for both.

    That is the innermost module that has a refused call inside (a residual block keeps its own name, not that of its
    last ReLU), else the call that returned first (a layer, not the container around it).
    """
    # The same memory with the same content, reshaped or not, or the same content whole and in the pieces of a batch.
    groups: list[tuple[Tensor, Tensor, list[_Call]]] = []
    for call in calls:
        if call.reason is None:
            first, values = call.pieces[0], torch.cat(call.latents).flatten(1)
            for known, content, group in groups:
                of_a_kind = known.data_ptr() == first.data_ptr() or len(group[0].pieces) != len(call.pieces)
                if of_a_kind and _axes(group[0]) == _axes(call) and torch.equal(content, values):
                    group.append(call)
                    break
            else:
                groups.append((first, values, [call]))
    refused = [call.module for call in calls if call.reason is not None]
    same_as: dict[str, str] = {}
    for _, _, group in groups:
        # The root comes last and stays out: a network's own output is named by the layer that returns it.
        blocks = [call for call in group if call.module and any(r.startswith(call.module + ".") for r in refused)]
        kept = max(blocks, key=lambda block: len(block.module)) if blocks else group[0]
        same_as |= {call.name: kept.name for call in group if call is not kept}
    return same_as
