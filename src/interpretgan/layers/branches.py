"""Inside a block: find its parallel branches by trying, and patch some of them with what they do under attack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import compress
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier, require_classifier
from interpretgan.data import ImageData, as_source
from interpretgan.errors import LayerError
from interpretgan.layers.anatomy import Anatomy
from interpretgan.layers.find import as_latent, batch_axis
from interpretgan.layers.hooks import Layer, by_module, capture, capturing, class_of, replacing, visiting
from interpretgan.layers.outputs import parts
from interpretgan.layers.proof import SPREAD_TOLERANCE
from interpretgan.torch_state import plain_torch

PROBE_IMAGES = 2  #: Images that branches are found on.
MOST = 5  #: Branches that a block is split among, at most: with more, neighbours are taken together.
SKIP = "skip"  #: Name of what flows around all branches of a block.

Item = TypeVar("Item")


@dataclass(frozen=True)
class Group:
    """Some of the channels of what a module call returns or is given, see `interpretgan.layers.groups`."""

    name: str
    call: Layer
    axis: int  #: Of the channels in the call's latent, whose first axis is the batch.
    start: int  #: Its first channel,
    stop: int  #: and the one behind its last.

    def move(self, source: Tensor, target: Tensor) -> None:
        """Put these channels of one latent into another one, in place."""
        size = self.stop - self.start
        target.narrow(self.axis, self.start, size).copy_(source.narrow(self.axis, self.start, size))


@dataclass(frozen=True)
class Branch:
    """One of the parallel ways through a block: the outputs of some module calls, or what flows around them all."""

    name: str  #: Of the module, without the name of its block in front; `skip` for what flows around.
    calls: tuple[Layer, ...]  #: What is patched; empty for what flows around, which is all else that reads the input.
    groups: tuple[Group, ...] = ()  #: All channels of one call, which fix the branch: it is split among them, too.


@dataclass(frozen=True)
class Block:
    """A layer whose latent follows from two branches or more, each of which can be patched by itself.

    A branch may read what another one gave, as the MLP of a transformer block reads the attention's output: a branch
    is then what it adds itself, its output.
    """

    layer: Layer
    branches: tuple[Branch, ...]  #: In execution order, what flows around them first.

    @property
    def members(self) -> list[tuple[int, ...]]:
        """For each branch the places of its groups, or that of itself where it has none: the players of the split."""
        found, start = [], 0
        for branch in self.branches:
            count = max(1, len(branch.groups))
            found.append(tuple(range(start, start + count)))
            start += count
        return found

    @property
    def coalitions(self) -> list[tuple[int, ...]]:
        """The choices of players that are patched, each as their places.

        They are every choice of some branches, but not of none or of all; and with each choice of other branches every
        choice of some groups of one branch, but not of none or of all.
        """
        members, found = self.members, []
        for chosen in subsets(members)[1:-1]:
            found.append(tuple(place for places in chosen for place in places))
        for own in members:
            for others in subsets([places for places in members if places != own]):
                rest = [place for places in others for place in places]
                found += [tuple(sorted((*rest, *some))) for some in subsets(own)[1:-1]]
        return found


def subsets(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    """Every choice of some of the items, from none to all, in the order of a binary number."""
    return [tuple(each for i, each in enumerate(items) if chosen >> i & 1) for chosen in range(2 ** len(items))]


# --- finding -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Call:
    """One call of a module in a pass of one image, and how it can be patched."""

    module: str
    index: int
    kind: str
    place: str = ""  # of the first real tensor that it returns
    output: Tensor | None = None  # that tensor, kept alive, so that its address stays its own
    value: Tensor | None = None  # a copy by value
    pieces: list[tuple[int, ...]] = field(default_factory=list)  # its shapes where several images run
    layer: Layer | None = None


@dataclass(eq=False)
class _Segment:
    """The calls between one layer and the next one: those that may be branches, and those that were found to be."""

    end: Layer
    calls: list[Call]  # all but those that return the tensor at either end
    candidates: list[Layer]
    found: list[Layer] = field(default_factory=list)
    around: bool = False


@plain_torch()
def find_branches(
    classifier: Classifier, anatomy: Anatomy, layers: Sequence[Layer], images: ImageData
) -> tuple[Block, ...]:
    """The blocks among some layers, with their branches; found by running the network, not by names.

    A module call between a layer and the next of `layers` is a branch where patching it changes the latent of the next
    one although all later calls between them stay as they were. So of a chain of modules its last call is the branch,
    and an outer module stands for those inside it. What reads the layer before in any other way flows around the
    branches (the skip of a residual block), and is one branch more. Together they fix the latent, whatever they are.

    Of more than five branches neighbours are taken together, for the exact split needs all choices of some of them.

    Args:
        classifier: The classifier.
        anatomy: What `examine` says of it.
        layers: Some of its layers, of different tensors, in execution order.
        images: Images within its bounds, of which two are used.

    Raises:
        LayerError: A layer of another network.
    """
    require_classifier(classifier)
    probe, noise = probe_and_noise(classifier, images)
    with classifier.borrowed(), torch.no_grad():
        calls = module_calls(classifier, probe, noise)
        known = list(dict.fromkeys([*layers, *(call.layer for call in calls if call.layer is not None)]))
        usual, other = (_values(classifier, known, version) for version in (probe, noise))
        patchable = {layer for layer in usual if layer in other}
        if strangers := [layer.name for layer in layers if layer not in usual]:
            expected, got = "layers of the network, as examine finds them", f"'{strangers[0]}', which is not called"
            raise LayerError(expected=expected, got=got, do="pass those of its anatomy")
        segments = _segments(anatomy, layers, calls, patchable)
        for depth in range(1, max((len(each.candidates) for each in segments), default=0) + 1):
            targets = {each.candidates[-depth]: each for each in segments if depth <= len(each.candidates)}
            # All later calls stay as they were; those that are no branch would do so by themselves.
            later = [call for each in segments for call in each.candidates[len(each.candidates) - depth + 1 :]]
            still = {call: usual[call] for call in later}

            def changing(chosen: Sequence[Layer], still: Mapping[Layer, Tensor] = still) -> set[Layer]:
                """The ends of segments at which patching these calls, one in each at most, changes the latent."""
                patches = {**still, **{call: other[call] for call in chosen}}
                return _changed(classifier, probe, segments, patches, (usual, other), pass_on=usual)

            for call, ends in _tried(list(targets), changing):
                if targets[call].end in ends:
                    targets[call].found.insert(0, call)
        found = {call: usual[call] for each in segments for call in each.found}
        around = _changed(classifier, noise, segments, found, (usual, other), pass_on=other)
    for each in segments:
        each.around = each.end in around
    return tuple(block for each in segments if (block := _block(each, calls)) is not None)


def probe_and_noise(classifier: Classifier, images: ImageData) -> tuple[Tensor, Tensor]:
    """A few of the images `[N, C, H, W]`, and as much noise."""
    source = as_source(images, None, classifier.bounds)
    probe = classifier.check_images(source.batch(torch.arange(min(PROBE_IMAGES, len(source))))[0])
    low, high = classifier.bounds
    seed = 200708716  # of noise that no image was drawn with
    return probe, low + (high - low) * torch.rand(probe.shape, generator=torch.Generator().manual_seed(seed)).to(probe)


def module_calls(classifier: Classifier, probe: Tensor, noise: Tensor) -> list[Call]:
    """Every call of a pass of one image, in the order of their returns."""
    calls: list[Call] = []

    def see(name: str, index: int, module: nn.Module, output: object) -> None:
        call = Call(name, index, class_of(module))
        call.place, call.output = next(((p, t) for p, t in parts(output) if t.is_floating_point()), ("", None))
        call.value = None if call.output is None else call.output.clone()
        calls.append(call)

    with visiting(classifier, see):
        classifier.run(probe[:1])
    counts, known = Counter(call.module for call in calls), {(call.module, call.index): call for call in calls}

    def measure(name: str, index: int, _module: nn.Module, output: object) -> None:
        call = known.get((name, (index - 1) % counts[name] + 1)) if counts[name] else None
        if call is not None and (tensor := dict(parts(output)).get(call.place)) is not None:
            call.pieces.append(tuple(tensor.shape))

    many = torch.cat([probe, noise])  # more than one in any case
    with visiting(classifier, measure):
        classifier.run(many)
    for call in calls:
        axis = None if call.output is None else batch_axis(tuple(call.output.shape), call.pieces, len(many))
        if axis is not None and call.output is not None:
            shape, axes = as_latent(tuple(call.output.shape), axis)
            called = counts[call.module]
            name = f"{call.module}:{call.index}" if called > 1 else call.module
            call.layer = Layer(
                name, call.module, call.index, call.kind, shape, calls=called, part=call.place, axes=axes
            )
    return calls


def _values(classifier: Classifier, layers: Sequence[Layer], images: Tensor) -> dict[Layer, Tensor]:
    """The latents `[N, *shape]` of a pass of those layers that see every image."""
    wanted, found = by_module(layers), dict[Layer, list[Tensor]]()

    def keep(name: str, index: int, _module: nn.Module, output: object) -> None:
        for layer in wanted[name]:
            if layer.is_call(index):
                found.setdefault(layer, []).append(layer.take(output).clone())

    with visiting(classifier, keep, list(wanted)):
        classifier.run(images)
    whole = {layer: torch.cat(pieces) for layer, pieces in found.items()}
    return {layer: value for layer, value in whole.items() if len(value) == len(images)}


def _segments(
    anatomy: Anatomy, layers: Sequence[Layer], calls: Sequence[Call], patchable: set[Layer]
) -> list[_Segment]:
    order = [(call.module, call.index) for call in calls]
    places = {call: place for place, call in enumerate(order)}
    same = {(each.module, each.call): each.same_as or each.name for each in anatomy.layers}
    segments, start, before = [], -1, ""
    for layer in layers:
        end, here = places[layer.module, layer.call], layer.same_as or layer.name
        between = [call for call in calls[start + 1 : end] if same.get((call.module, call.index)) not in (before, here)]
        candidates = [call for call in between if call.layer in patchable]
        inside = {id(call) for call in candidates if _within(call, candidates, order, places)}
        outer = [call.layer for call in candidates if call.layer is not None and id(call) not in inside]
        segments.append(_Segment(layer, between, outer))
        start, before = end, here
    return segments


def _within(
    call: Call, candidates: Sequence[Call], order: Sequence[tuple[str, int]], places: Mapping[tuple[str, int], int]
) -> bool:
    """Whether a call was made inside that of another candidate: the first of an outer module that returns after it."""
    place = places[call.module, call.index]
    for other in candidates:
        end = places[other.module, other.index]
        outer = end > place and call.module.startswith(f"{other.module}.")
        if outer and all(module != other.module for module, _ in order[place + 1 : end]):
            return True
    return False


def _changed(
    classifier: Classifier,
    images: Tensor,
    segments: Sequence[_Segment],
    patches: Mapping[Layer, Tensor],
    values: tuple[Mapping[Layer, Tensor], Mapping[Layer, Tensor]],
    *,
    pass_on: Mapping[Layer, Tensor],
) -> set[Layer]:
    """The ends of segments whose latents are not the usual ones in a pass that patches calls.

    `values` are the usual and other latents, and the next segment starts from those of `pass_on`.
    """
    usual, other = values
    ends, changed = {each.end for each in segments}, set[Layer]()
    wanted = by_module([*ends, *patches])

    def patch(name: str, index: int, _module: nn.Module, output: object) -> object | None:
        replaced = None
        for layer in wanted[name]:
            start = current.seen[layer.name]
            if not layer.is_call(index) or start >= len(images):
                continue
            latent = layer.take(output)
            current.seen[layer.name] = stop = start + len(latent)
            if layer in ends:
                spread = float((other[layer] - usual[layer]).abs().max())
                if float((latent - usual[layer][start:stop]).abs().max()) > SPREAD_TOLERANCE * spread:
                    changed.add(layer)
            value = pass_on[layer] if layer in ends else patches[layer]
            output = replaced = layer.put(output, value[start:stop].clone())
        return replaced

    with visiting(classifier, patch, list(wanted)) as current:
        classifier.run(images)
    return changed


def _tried(calls: list[Layer], changing: Callable[[Sequence[Layer]], set[Layer]]) -> list[tuple[Layer, set[Layer]]]:
    """What changes with each call: in one pass for all, or where the network does not take one of them, one by one."""
    try:
        together = changing(calls)
        return [(call, together) for call in calls]
    except Exception:  # noqa: BLE001  # the user's code may raise anything
        found = []
        for call in calls:
            with suppress(Exception):  # this one is no branch: what it does flows around
                found.append((call, changing([call])))
        return found


def _block(segment: _Segment, calls: Sequence[Call]) -> Block | None:
    branches = [Branch(_named(call, segment, calls), (call,)) for call in segment.found]
    room = MOST - segment.around
    if len(branches) > room:
        joined = []
        for part in np.array_split(np.arange(len(branches)), room):
            first, last = branches[part[0]], branches[part[-1]]
            name = first.name if first is last else f"{first.name} to {last.name}"
            joined.append(Branch(name, tuple(call for place in part for call in branches[place].calls)))
        branches = joined
    around = [Branch(SKIP, ())] if segment.around else []
    return Block(segment.end, (*around, *branches)) if len(around + branches) > 1 else None


def _named(branch: Layer, segment: _Segment, calls: Sequence[Call]) -> str:
    """The name of the first outer module that returns the same tensor, else of the call that returned it first."""
    (call,) = [each for each in segment.calls if each.layer == branch]
    same = [each for each in segment.calls[: segment.calls.index(call) + 1] if _same(each, call)]
    outer = [each for each in same if any(other.module.startswith(f"{each.module}.") for other in calls)]
    named = (outer or same)[0]
    several = sum(other.module == named.module for other in calls) > 1
    name = named.module.removeprefix(f"{segment.end.module}.")
    return f"{name}:{named.index}" if several else name


def _same(call: Call, other: Call) -> bool:
    if call.output is None or other.output is None or call.value is None or other.value is None:
        return False
    if call.output.data_ptr() != other.output.data_ptr():
        return False
    return torch.equal(call.value.flatten(), other.value.flatten())


# --- patching ----------------------------------------------------------------------------------------------------


def patched_latents(
    classifier: Classifier, block: Block, natural: Tensor, adversarial: Tensor
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """For each of `block.coalitions` the latent `[N, *shape]` when these branches and groups do as under attack.

    All others do what they do on the natural images. Both are `[N, C, H, W]` within the bounds.
    """
    patched = {call for branch in block.branches for call in (*branch.calls, *(group.call for group in branch.groups))}
    usual, attacked = (capture(classifier, images, list(patched))[1] for images in (natural, adversarial))
    for coalition in block.coalitions:
        patches, around = dict[Layer, Tensor](), False
        for branch, places in zip(block.branches, block.members, strict=True):
            chosen = [place in coalition for place in places]
            if all(chosen) or not any(chosen):
                patches |= {call: (attacked if all(chosen) else usual)[call.name] for call in branch.calls}
                around |= all(chosen) and not branch.calls
            else:  # what the branch returns follows from the groups
                call = branch.groups[0].call
                patches[call] = usual[call.name].clone()
                for group in compress(branch.groups, chosen):
                    group.move(attacked[call.name], patches[call])
        with classifier.borrowed(), torch.no_grad(), ExitStack() as patching:
            for call, latent in patches.items():
                patching.enter_context(replacing(classifier, call, latent))
            with capturing(classifier, [block.layer]) as latents:
                classifier.run(adversarial if around else natural)
        yield coalition, latents[block.layer.name]
