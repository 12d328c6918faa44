"""Inside a block: find its parallel branches by trying, and patch some of them with what they do under attack."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier, require_classifier
from interpretgan.data import ImageData, as_source
from interpretgan.errors import LayerError
from interpretgan.interpreter import InterpretGAN, Predictor
from interpretgan.layers import SPREAD_TOLERANCE, Anatomy, Layer, capturing, run_visited
from interpretgan.statistics import Integers

PROBE_IMAGES = 2  #: Images that branches are found on.
MOST = 5  #: Branches that a block is split among, at most: with more, neighbours are taken together.
AROUND = "skip"  #: Name of what flows around all branches of a block.

Call = tuple[str, int]  #: Name of a module, and which of its calls, from 1.


@dataclass(frozen=True)
class Branch:
    """One of the parallel ways through a block: the outputs of some module calls, or what flows around them all."""

    name: str  #: Of the module, without the name of its block in front; `skip` for what flows around.
    calls: tuple[Call, ...]  #: What is patched; empty for what flows around, which is all else that reads the input.


@dataclass(frozen=True)
class Block:
    """A layer whose latent follows from two branches or more, each of which can be patched by itself.

    A branch may read what another one gave, as the MLP of a transformer block reads the attention's output: a branch
    is then what it adds itself, its output.
    """

    layer: Layer
    branches: tuple[Branch, ...]  #: In execution order, what flows around them first.

    @property
    def coalitions(self) -> list[tuple[int, ...]]:
        """Every choice of some branches, but not of none or of all, each as their places."""
        count = len(self.branches)
        return [tuple(i for i in range(count) if chosen >> i & 1) for chosen in range(1, 2**count - 1)]


# --- finding -----------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Trace:
    """The tensors that the calls of one pass returned."""

    order: list[Call] = field(default_factory=list)
    outputs: dict[Call, Tensor] = field(default_factory=dict)  # kept alive, so that their addresses stay their own
    values: dict[Call, Tensor] = field(default_factory=dict)  # copies by value

    def visit(self, module: str, call: int, _module: nn.Module, output: object) -> None:
        self.order.append((module, call))
        if isinstance(output, Tensor) and output.is_floating_point():
            self.outputs[module, call], self.values[module, call] = output, output.clone()


@dataclass(eq=False)
class _Segment:
    """The calls between one layer and the next one: those that may be branches, and those that were found to be."""

    layer: Layer
    calls: list[Call]  # all but those that return the tensor at either end
    end: Call
    candidates: list[Call]
    found: list[Call] = field(default_factory=list)
    around: bool = False


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
    source = as_source(images, None, classifier.bounds)
    probe = classifier.check_images(source.batch(torch.arange(min(PROBE_IMAGES, len(source))))[0])
    low, high = classifier.bounds
    seed = 200708716  # of noise that no image was drawn with
    noise = low + (high - low) * torch.rand(probe.shape, generator=torch.Generator().manual_seed(seed)).to(probe)
    trace, other = _Trace(), _Trace()
    for images_of, kept in ((probe, trace), (noise, other)):
        run_visited(classifier, images_of, kept.visit)
    segments = _segments(anatomy, layers, trace, other, len(probe))
    for depth in range(1, max((len(each.candidates) for each in segments), default=0) + 1):
        targets = {each.candidates[-depth]: each for each in segments if depth <= len(each.candidates)}
        # All later calls stay as they were; those that are no branch would do so by themselves.
        still = {call for each in segments for call in each.candidates[len(each.candidates) - depth + 1 :]}
        usual = {call: trace.values[call] for call in still}

        def changing(chosen: Sequence[Call], usual: Mapping[Call, Tensor] = usual) -> set[Call]:
            """The ends of segments at which patching these calls, one in each at most, changes the latent."""
            patches = {**usual, **{call: other.values[call] for call in chosen}}
            watch = _Watch(segments, patches, trace, other, pass_on=trace)
            run_visited(classifier, probe, watch.visit)
            return watch.changed

        for call, ends in _tried(list(targets), changing):
            if targets[call].end in ends:
                targets[call].found.insert(0, call)
    found = {call: trace.values[call] for each in segments for call in each.found}
    around = _Watch(segments, found, trace, other, pass_on=other)
    run_visited(classifier, noise, around.visit)
    for each in segments:
        each.around = each.end in around.changed
    return tuple(block for each in segments if (block := _block(each, trace)) is not None)


def _tried(calls: list[Call], changing: Callable[[Sequence[Call]], set[Call]]) -> list[tuple[Call, set[Call]]]:
    """What changes with each call: in one pass for all, or where the network does not take one of them, one by one."""
    try:
        together = changing(calls)
        return [(call, together) for call in calls]
    except RuntimeError:
        found = []
        for call in calls:
            with suppress(RuntimeError):  # this one is no branch: what it does flows around
                found.append((call, changing([call])))
        return found


def _segments(anatomy: Anatomy, layers: Sequence[Layer], trace: _Trace, other: _Trace, count: int) -> list[_Segment]:
    places = {call: place for place, call in enumerate(trace.order)}
    same = {(each.module, each.call): each.same_as or each.name for each in anatomy.layers}
    patchable = {
        call
        for call, value in trace.values.items()
        if call in other.values and other.values[call].shape == value.shape and value.shape[:1] == (count,)
    }
    segments, start, before = [], -1, ""
    for layer in layers:
        end = (layer.module, layer.call)
        if end not in places:
            expected, got = "layers of the network, as examine finds them", f"'{layer.name}', which is not called"
            raise LayerError(expected=expected, got=got, do="pass those of its anatomy")
        between = trace.order[start + 1 : places[end]] if end in patchable else []
        here = layer.same_as or layer.name
        between = [call for call in between if same.get(call) not in (before, here)]
        candidates = [call for call in between if call in patchable]
        inside = {call for call in candidates if _around(call, candidates, trace.order, places)}
        segments.append(_Segment(layer, between, end, [call for call in candidates if call not in inside]))
        start, before = places[end], here
    return [each for each in segments if each.end in patchable]


def _around(call: Call, candidates: Sequence[Call], order: Sequence[Call], places: Mapping[Call, int]) -> bool:
    """Whether a call was made inside that of another candidate: the first of an outer module that returns after it."""
    for other in candidates:
        if places[other] > places[call] and call[0].startswith(f"{other[0]}."):
            between = order[places[call] + 1 : places[other]]
            if all(module != other[0] for module, _ in between):
                return True
    return False


@dataclass(eq=False)
class _Watch:
    """Patches calls in a pass, and sees at which ends of segments the latent is another than in `trace`."""

    segments: Sequence[_Segment]
    patches: Mapping[Call, Tensor]
    trace: _Trace
    other: _Trace
    pass_on: _Trace  # whose latents the next segment starts from
    changed: set[Call] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.ends = {each.end for each in self.segments}

    def visit(self, module: str, call: int, _module: nn.Module, output: object) -> Tensor | None:
        key = (module, call)
        if key in self.ends:
            assert isinstance(output, Tensor)
            usual = self.trace.values[key]
            spread = float((self.other.values[key] - usual).abs().max())
            if float((output - usual).abs().max()) > SPREAD_TOLERANCE * spread:
                self.changed.add(key)
            return self.pass_on.values[key].clone()
        return self.patches[key].clone() if key in self.patches else None


def _block(segment: _Segment, trace: _Trace) -> Block | None:
    branches = [Branch(_named(call, segment, trace), (call,)) for call in segment.found]
    room = MOST - segment.around
    if len(branches) > room:
        parts = [list(part) for part in np.array_split(np.arange(len(branches)), room)]
        joined = []
        for part in parts:
            first, last = branches[part[0]], branches[part[-1]]
            name = first.name if first is last else f"{first.name} to {last.name}"
            joined.append(Branch(name, tuple(call for place in part for call in branches[place].calls)))
        branches = joined
    around = [Branch(AROUND, ())] if segment.around else []
    return Block(segment.layer, (*around, *branches)) if len(around + branches) > 1 else None


def _named(call: Call, segment: _Segment, trace: _Trace) -> str:
    """The name of the first outer module that returns the same tensor, else of the call that returned it first."""
    output, value = trace.outputs[call], trace.values[call]
    same = [
        each
        for each in segment.calls[: segment.calls.index(call) + 1]
        if each in trace.outputs
        and trace.outputs[each].data_ptr() == output.data_ptr()
        and torch.equal(trace.values[each].flatten(), value.flatten())
    ]
    outer = [each for each in same if any(module.startswith(f"{each[0]}.") for module, _ in trace.order)]
    module, number = (outer or same or [call])[0]
    several = sum(name == module for name, _ in trace.order) > 1
    name = module.removeprefix(f"{segment.layer.module}.")
    return f"{name}:{number}" if several else name


# --- patching ----------------------------------------------------------------------------------------------------


def patched_latents(
    classifier: Classifier, block: Block, natural: Tensor, adversarial: Tensor
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """For each of `block.coalitions` the latent `[N, *shape]` when these branches do what they do under attack.

    All others do what they do on the natural images. Both are `[N, C, H, W]` within the bounds.
    """
    calls = {call for branch in block.branches for call in branch.calls}
    modules = sorted({module for module, _ in calls})
    outputs: list[dict[Call, Tensor]] = []
    for images in (natural, adversarial):
        kept: dict[Call, Tensor] = {}

        def keep(module: str, call: int, _module: nn.Module, output: object, kept: dict[Call, Tensor] = kept) -> None:
            if (module, call) in calls:
                assert isinstance(output, Tensor)
                kept[module, call] = output.clone()

        run_visited(classifier, images, keep, modules)
        outputs.append(kept)
    usual, attacked = outputs
    for coalition in block.coalitions:
        chosen = [block.branches[place] for place in coalition]
        patches = usual | {call: attacked[call] for branch in chosen for call in branch.calls}

        def patch(
            module: str, call: int, _module: nn.Module, _output: object, patches: dict[Call, Tensor] = patches
        ) -> Tensor | None:
            return patches[module, call].clone() if (module, call) in patches else None

        with classifier.borrowed(), capturing(classifier, [block.layer]) as latents:
            around = any(not branch.calls for branch in chosen)
            run_visited(classifier, adversarial if around else natural, patch, modules)
        yield coalition, latents[block.layer.name]


def predict_patched(
    interpreter: InterpretGAN, judge: Predictor, block: Block, *, natural: Tensor, adversarial: Tensor, noise: Tensor
) -> Integers:
    """What the judge predicts of the block's explanation for each of its `coalitions`, int64 `[2^k - 2, N]`.

    Images are `[N, C, H, W]` within the bounds, and the noise of the explanations is `[N, noise]`.
    """
    latents = patched_latents(interpreter.classifier, block, natural, adversarial)
    predicted = [judge.predict(interpreter.draw_from(block.layer, latent, noise)) for _, latent in latents]
    found: Integers = torch.stack(predicted).cpu().numpy()
    return found
