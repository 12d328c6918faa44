"""Groups of channels, and the heads of an attention: what a layer or a branch is split among where a user names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.data import ImageData
from interpretgan.errors import ConfigError, LayerError
from interpretgan.layers.anatomy import Anatomy
from interpretgan.layers.branches import Block, Branch, Call, Group, find_branches, module_calls, probe_and_noise
from interpretgan.layers.find import as_latent, batch_axis, channels_are_last, first_quarter_changed
from interpretgan.layers.hooks import (
    INPUT,
    PROJECTION,
    Layer,
    capture,
    class_of,
    is_torchs_attention,
    named_modules,
    replacing,
    visiting,
)
from interpretgan.layers.proof import SPREAD_TOLERANCE
from interpretgan.torch_state import plain_torch

MOST_GROUPS = 8  #: That a layer or a branch is split among.
HEADS = "heads"  #: In place of a number of groups: one for each head of an attention.
CHANNELS_LAST = (0, 3, 1, 2)  #: The axes of a layer in a network that keeps its maps as `[N, H, W, C]`.
HEAD_COUNTS = ("num_heads", "heads", "num_attention_heads", "n_heads", "n_head")  #: Attributes that say how many.


def parse_groups(text: str) -> dict[str, str]:
    """`relu3=4,blocks.*.attention=heads` as a dictionary from each name to its groups; a `ConfigError` for others."""
    found: dict[str, str] = {}
    for item in (item.strip() for item in text.split(",") if item.strip()):
        name, _, groups = (part.strip() for part in item.rpartition("="))
        number = groups.removeprefix(f"{HEADS}:")
        if not name or name in found or not (groups == HEADS or (number.isascii() and number.isdigit())):
            expected = f"groups as NAME=NUMBER, NAME={HEADS} or NAME={HEADS}:NUMBER with commas between, each name once"
            raise ConfigError(expected=expected, got=f"'{item}'", do="e.g. --groups relu3=4")
        found[name] = groups
    return found


@plain_torch()
def find_blocks(
    classifier: Classifier,
    anatomy: Anatomy,
    layers: Sequence[Layer],
    images: ImageData,
    *,
    branches: bool = True,
    groups: Mapping[str, int | str] | None = None,
) -> tuple[Block, ...]:
    """What the vulnerability of some layers can be split among: branches of blocks, and groups of channels.

    A name of `groups` is one of these layers, or a module call that fixes one branch of a block among them or else a
    layer, which is found by trying; or a pattern of such names. Its channels are taken in so many equal groups,
    neighbours together. A layer that they fix is split among these groups, not among its branches.

    A head is a group of the channels that enter the last linear layer of an attention, its output projection. `heads`
    makes a group of each, `heads:4` four groups of neighbours; where no attribute of the attention's modules says how
    many heads it has (`num_heads`, `heads`, `num_attention_heads`, `n_heads`, `n_head`), these are the heads.

    Args:
        classifier: The classifier.
        anatomy: What `examine` says of it.
        layers: Some of its layers, of different tensors, in execution order.
        images: Images within its bounds, of which two are used.
        branches: Whether blocks are split among their branches: see `find_branches`.
        groups: For each name a number of groups from 2 to 8, `heads` or `heads:NUMBER`.

    Raises:
        LayerError: A name of no such call, or a number of groups that cannot be made.
        ConfigError: Groups that are neither a number nor heads.
    """
    blocks = find_branches(classifier, anatomy, layers, images) if branches else ()
    if not groups:
        return blocks
    wanted = parse_groups(",".join(f"{name}={number}" for name, number in groups.items()))
    grouping = _Grouping(classifier, anatomy, layers, blocks, images)
    for name, number in wanted.items():
        grouping.add(name, number)
    found = {block.layer: block for block in grouping.blocks}
    return tuple(found[layer] for layer in layers if layer in found)


class _Grouping:
    """Blocks, some of which get groups."""

    def __init__(
        self,
        classifier: Classifier,
        anatomy: Anatomy,
        layers: Sequence[Layer],
        blocks: Sequence[Block],
        images: ImageData,
    ) -> None:
        self.same = {layer.name: layer.same_as for layer in anatomy.layers if layer.same_as}
        self.classifier, self.layers = classifier, {layer.name: layer for layer in layers}
        self.given, self.blocks = blocks, list(blocks)  # before anything is split, and now
        self.probe, self.noise = probe_and_noise(classifier, images)
        with classifier.borrowed(), torch.no_grad():
            self.calls = {
                call.layer.name if call.layer else call.module: call
                for call in module_calls(classifier, self.probe, self.noise)
            }
        self.modules = dict(named_modules(classifier.model))
        self.linears = self._linear_calls()
        given = [call for block in blocks for branch in block.branches for call in branch.calls]
        self.ends = list(dict.fromkeys([*given, *layers]))  # of branches, and layers

    def add(self, name: str, number: str) -> None:
        """Split what the name stands for, each that a pattern stands for."""
        if name in self.layers or name in self.calls or not any(sign in name for sign in "*?["):
            return self._add(name, number)
        matched = [call for call in self.calls if fnmatchcase(call, name)]
        outer = [call for call in matched if not any(call.startswith(f"{other}.") for other in matched)]
        error = LayerError(
            expected="a pattern of layers or module calls", got=f"'{name}', which has none here",
            do="choose among what `interpretgan layers` lists",
        )  # fmt: skip
        added = False
        for call in dict.fromkeys(outer if number.startswith(HEADS) else map(self._layer_or_call, outer)):
            try:
                self._add(call, number, alone=False)
                added = True
            except _NothingToSplit as nothing:  # blocks that are not explained
                error = nothing
        if not added:
            raise error
        return None

    def _layer_or_call(self, name: str) -> str:
        """The name of the explained layer that returns the same tensor, or this one."""
        return name if name in self.layers else self.same.get(name, name)

    def _add(self, name: str, number: str, *, alone: bool = True) -> None:
        """Split a layer, or what a call fixes; a call that a pattern found (not `alone`), branches only."""
        if number.startswith(HEADS):
            call, heads = self._projection(name, number)
            return self._split(name, call, heads)
        name = self._layer_or_call(name)
        if name in self.layers:
            layer = self.layers[name]
            self._split_layer(name, layer, _groups(name, layer, int(number), _axis(layer)))
        else:
            if name not in self.calls:
                near = get_close_matches(name, list(self.calls), n=1)
                do = (f"did you mean '{near[0]}'? " if near else "") + "`interpretgan layers` lists them all"
                raise LayerError(expected="a layer or a module call of the network", got=f"'{name}'", do=do)
            found = self.calls[name].layer
            if found is None:
                expected, do = "a module call that returns real numbers for each image", "name the call before it"
                raise LayerError(expected=expected, got=f"'{name}', which does not", do=do)
            self._split(name, found, int(number), whole=alone)
        return None

    def _split(self, name: str, call: Layer, number: int | tuple[int, int], *, whole: bool = True) -> None:
        """Split what a call fixes, a branch or else a layer, among groups of its channels, or of so many heads."""
        fixes = self._fixed(call)
        layer = next((each for each in self.layers.values() if each in fixes), None)
        for place, block in enumerate(self.blocks):
            fixed = [i for i, each in enumerate(block.branches) if each.calls and fixes.issuperset(each.calls)]
            if block.layer in fixes:
                break
            if not fixed:
                continue
            branch = block.branches[fixed[0]]
            if branch.groups:
                got = f"'{name}' beside {branch.groups[0].call.name}"
                expected = f"one name for the branch {branch.name} of {block.layer.name}"
                raise LayerError(expected=expected, got=got, do="leave one of them out of --groups")
            branches = list(block.branches)
            branches[fixed[0]] = replace(branch, groups=self._groups_of(name, call, block.layer, number))
            self.blocks[place] = replace(block, branches=tuple(branches))
            return
        for block in self.given:
            known = any(branch.calls and fixes.issuperset(branch.calls) for branch in block.branches)
            if known and block.layer not in fixes:  # its branches have made place for groups of the whole
                raise _twice(name, block.layer, _NothingToSplit)
        if layer is None:
            expected = "channels of an explained layer, or of a call that fixes one or a branch of one"
            do = "explain that layer or block too (--layers, and no --no-branches), or choose another name"
            raise _NothingToSplit(expected=expected, got=f"'{name}', which is neither", do=do)
        if not whole:
            expected, do = "a pattern of explained layers", "explain it too (--layers), or name it without a pattern"
            raise _NothingToSplit(expected=expected, got=f"'{name}', which is not explained", do=do)
        self._split_layer(name, layer, self._groups_of(name, call, layer, number))

    def _split_layer(self, name: str, layer: Layer, groups: tuple[Group, ...]) -> None:
        if any(branch.groups for each in self.blocks if each.layer == layer for branch in each.branches):
            raise _twice(name, layer)
        block = Block(layer, (Branch(layer.name, (layer,), groups),))
        self.blocks = [each for each in self.blocks if each.layer != layer] + [block]

    def _groups_of(self, name: str, call: Layer, layer: Layer, number: int | tuple[int, int]) -> tuple[Group, ...]:
        axis = len(call.shape) if self._has_channels_last(call, layer) else 1
        if isinstance(number, tuple):
            return _heads(name, call, axis, *number)
        return _groups(name.removeprefix(f"{layer.module}."), call, number, axis)

    def _fixed(self, call: Layer) -> set[Layer]:
        """The branches, and the layers, that are as usual on other images where the call gives as usual."""
        usual, other = (capture(self.classifier, images, [call, *self.ends])[1] for images in (self.probe, self.noise))
        with self.classifier.borrowed(), torch.no_grad(), replacing(self.classifier, call, usual[call.name]):
            replaced = capture(self.classifier, self.noise, self.ends)[1]
        found = set()
        for layer in self.ends:
            spread = float((other[layer.name] - usual[layer.name]).abs().max())
            changed = float((replaced[layer.name] - usual[layer.name]).abs().max())
            if spread > 0 and changed <= SPREAD_TOLERANCE * spread:
                found.add(layer)
        return found

    def _has_channels_last(self, call: Layer, layer: Layer) -> bool:
        """By how it changes with a part of the image; where that does not tell, as in the layer that is split."""
        if call.module.startswith(INPUT) or self._is_linear(call.module) or len(call.shape) != 3:
            return True
        rows = torch.cat([self.probe[:1], self.noise[:1]])
        usual, other = (
            capture(self.classifier, images, [call])[1][call.name] for images in (rows[:1], first_quarter_changed(rows))
        )
        change = other - usual
        if channels_are_last(change):
            return True
        return layer.axes == CHANNELS_LAST and not channels_are_last(change.movedim(1, 3))

    def _is_linear(self, module: str) -> bool:
        return isinstance(self.modules.get(module), nn.Linear)

    def _linear_calls(self) -> list[Call]:
        """The calls of linear layers, with those that torch's own attention does not make but can be made to."""
        found = []
        for call in self.calls.values():
            module = self.modules.get(call.module)
            if module is not None and is_torchs_attention(module):
                found.append(Call(f"{call.module}.{PROJECTION}", call.index, class_of(module.out_proj)))
            elif self._is_linear(call.module):
                found.append(call)
        return found

    def _projection(self, name: str, number: str) -> tuple[Layer, tuple[int, int]]:
        """What enters the last linear layer of an attention, its number of heads, and how many groups they make."""
        if name not in self.modules:
            near = get_close_matches(name, list(self.modules), n=1)
            do = f"did you mean '{near[0]}'?" if near else "name a module of the network"
            raise LayerError(expected="an attention of the network", got=f"'{name}'", do=do)
        inside = [call for call in self.linears if call.module == name or call.module.startswith(f"{name}.")]
        if not inside:
            got, do = f"'{name}', which calls none", "leave it out, or give it a linear layer of its own at the end"
            raise LayerError(expected="an attention that calls its output projection", got=got, do=do)
        call = self._entering(inside[-1])
        owner, known = next(
            (
                (f"{name}.{path}" if path else name, count)
                for path, module in self.modules[name].named_modules()
                for count in (getattr(module, each, None) for each in HEAD_COUNTS)
                if isinstance(count, int) and count > 0
            ),
            (name, None),
        )
        beside = [call.module for call in inside if call.module != owner and not call.module.startswith(f"{owner}.")]
        # The output projection may stand beside what has the heads, and nothing else; torch's own has it in it.
        if len(beside) > (0 if is_torchs_attention(self.modules[owner]) else 1):
            got = f"'{name}', which calls {', '.join(beside)} as well"
            raise LayerError(expected="an attention", got=got, do=f"name the attention in it, as {owner}")
        if known is None and number == HEADS:
            do = f"say how many, e.g. {name}={HEADS}:4"
            raise LayerError(expected="an attention that says how many heads it has", got=f"'{name}'", do=do)
        groups = known if number == HEADS else int(number.removeprefix(f"{HEADS}:"))
        return call, (known or groups or 0, groups or 0)

    def _entering(self, linear: Call) -> Layer:
        """What a call of a linear layer is given."""
        name, count = f"{INPUT}{linear.module}", sum(call.module == linear.module for call in self.linears)
        many = torch.cat([self.probe, self.noise])
        shapes: list[tuple[int, ...]] = []

        def see(_name: str, index: int, _module: nn.Module, given: object) -> None:
            if (index - 1) % count + 1 == linear.index and isinstance(given, Tensor):
                shapes.append(tuple(given.shape))

        with self.classifier.borrowed(), torch.no_grad(), visiting(self.classifier, see, [name]):
            self.classifier.run(self.probe[:1])
            self.classifier.run(many)
        axis = batch_axis(shapes[0], shapes[1:], len(many)) if shapes else None
        if axis is None:
            expected, got = "an attention whose output projection is given each image by itself", f"'{linear.module}'"
            raise LayerError(expected=expected, got=got, do="leave its heads out")
        shape, axes = as_latent(shapes[0], axis)
        return Layer(name, name, linear.index, linear.kind, shape, calls=count, axes=axes)


class _NothingToSplit(LayerError):
    """A call that no explained layer's branch follows from."""


def _twice(name: str, layer: Layer, kind: type[LayerError] = LayerError) -> LayerError:
    expected, got = f"'{layer.name}', or a part of it, once", f"'{name}' and another, or one of them twice"
    return kind(expected=expected, got=got, do="leave one of them out of --groups")


def _axis(layer: Layer) -> int:
    """The axis of a latent's channels: the first of a map's, the last of tokens'."""
    return 1 if len(layer.shape) == 3 else len(layer.shape)


def _equal(name: str, channels: int, number: int, what: str, prefix: str = "") -> range:
    """Where each of so many equal groups starts."""
    if not 2 <= number <= MOST_GROUPS or channels % number:
        fitting = [each for each in range(2, MOST_GROUPS + 1) if channels % each == 0]
        expected = f"2 to {MOST_GROUPS} groups that divide the {channels} {what} of {name}"
        do = f"try {name}={prefix}{fitting[-1]}" if fitting else f"leave {name} out of --groups"
        raise LayerError(expected=expected, got=str(number), do=do)
    return range(0, channels, channels // number)


def _groups(name: str, call: Layer, number: int, axis: int) -> tuple[Group, ...]:
    starts = _equal(call.name, call.shape[axis - 1], number, "channels")
    return tuple(
        Group(f"{name}[{start}:{start + starts.step}]", call, axis, start, start + starts.step) for start in starts
    )


def _heads(name: str, call: Layer, axis: int, heads: int, number: int) -> tuple[Group, ...]:
    """So many groups of neighbouring heads."""
    channels = call.shape[axis - 1]
    if not heads or channels % heads:
        expected, got = f"a number of heads that divides the {channels} channels of {call.name}", str(heads)
        raise LayerError(expected=expected, got=got, do=f"say how many, e.g. {name}={HEADS}:4")
    starts, width = _equal(name, heads, number, HEADS, f"{HEADS}:"), channels // heads
    found = []
    for start in starts:
        last = start + starts.step - 1
        words = f"head {start}" if last == start else f"heads {start} to {last}"
        found.append(Group(words, call, axis, start * width, (last + 1) * width))
    return tuple(found)
