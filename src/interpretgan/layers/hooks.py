"""See what the modules of a network return, and put something else in its place. All hooks of the package are here."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.func import functional_call

from interpretgan.classifier import COMPILED, Classifier, is_exported
from interpretgan.errors import LayerError, ModelError
from interpretgan.layers.outputs import part, parts, with_part


def class_of(module: nn.Module) -> str:
    """Name of a module's class; of a part of an exported program, that of the class that it was exported from."""
    type_name: Any = getattr(module, "type_name", None) if is_exported(module) else None
    return str((type_name and type_name()) or type(module).__name__).rpartition(".")[2]


@dataclass(frozen=True)
class Layer:
    """A module call whose output fixes the logits.

    Of two that return the same tensor (a container and its last layer, dropout in eval mode, a flatten) one stands for
    both, and is named in `same_as` of the other: explaining one of the two explains both.

    A latent has the batch in front, whatever the module returns: `part` and `axes` say how it is taken from there.
    """

    name: str  #: Qualified module name, with `:k` for the k-th call (from 1) of a module that is called more than once.
    module: str  #: Qualified module name alone; empty for the network's own output.
    call: int  #: Which call of the module, from 1.
    kind: str  #: Class of the module, e.g. `Conv2d`.
    shape: tuple[int, ...]  #: Of the latent, without the batch axis.
    same_as: str | None = None
    calls: int = 1  #: How often the module is called for an image.
    part: str = ""  #: Place of the tensor in a tuple, dictionary or record that the module returns.
    axes: tuple[int, ...] = ()  #: The axes of that tensor in the order of the latent's; none: as they are.

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))  # lists, where they come from JSON
        object.__setattr__(self, "axes", tuple(self.axes))

    def take(self, output: object) -> Tensor:
        """The latent `[n, *shape]` in what the module returned, without a copy."""
        tensor = part(output, self.part)
        return tensor.permute(self.axes) if self.axes else tensor

    def put(self, output: object, latent: Tensor) -> object:
        """What the module returned, with another latent `[n, *shape]`."""
        if self.axes:
            latent = latent.permute(sorted(range(latent.ndim), key=self.axes.__getitem__))
        own = part(output, self.part)
        for place in [place for place, tensor in parts(output) if tensor is own]:  # it may be there more than once
            output = with_part(output, place, latent)
        return output

    def is_call(self, number: int) -> bool:
        """Whether the module's call of that number is this layer's: a network that runs a batch in pieces repeats."""
        return (number - 1) % self.calls + 1 == self.call


PROJECTION = "out_proj"  #: Name of the output projection in torch's own attention.
INPUT = "input of "  #: In front of the name of a module: its calls' first input, visited before they run.

Visit = Callable[[str, int, nn.Module, object], object | None]
"""Called as `visit(module name, call index from 1, module, output)`; what it returns replaces the output."""


@dataclass
class Pass:
    """One pass through the network: how many images it has, and how many of them each layer has seen so far."""

    images: int
    seen: Counter[str]


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Each module once with its name; what `torch.compile` puts around a module is not there."""
    for name, module in model.named_modules():
        if not isinstance(getattr(module, COMPILED, None), nn.Module):
            yield name.replace(f"{COMPILED}.", "").removesuffix(f".{COMPILED}"), module


@contextmanager
def visiting(classifier: Classifier, visit: Visit, modules: Sequence[str] | None = None) -> Iterator[Pass]:
    """Run `visit` after every call of every module, or of the named ones. The name of the whole network is empty.

    Calls of `module.forward(...)` are calls too, though torch runs no hook in them. A name behind `INPUT` stands for
    what the module is given; what `visit` returns then replaces that. So does that of the output projection of torch's
    own attention, which otherwise is never called.
    """
    calls, current, called, depth = Counter[str](), Pass(0, Counter()), set[str](), 0

    def enter(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal depth
        if depth == 0:  # a network may call itself
            calls.clear()
            current.seen.clear()
            current.images = len(inputs[0])
        depth += 1

    def leave(*_: object) -> None:
        nonlocal depth
        depth -= 1

    def see(name: str, module: nn.Module, _inputs: object, output: object) -> object | None:
        calls[name] += 1
        return visit(name, calls[name], module, output)

    def forward(name: str, module: nn.Module, own: Callable[..., object], *args: Any, **kwargs: Any) -> object:
        if name in called:  # through the module, so that its hook sees the output
            called.discard(name)
            return own(*args, **kwargs)
        output = own(*args, **kwargs)
        replaced = see(name, module, args, output)
        return output if replaced is None else replaced

    def entered(name: str, module: nn.Module, own: Callable[..., object], *args: Any, **kwargs: Any) -> object:
        first = args[0] if args else next(iter(kwargs.values()))
        replaced = see(f"{INPUT}{name}", module, args, first)
        if replaced is not None and args:
            args = (replaced, *args[1:])
        elif replaced is not None:
            kwargs[next(iter(kwargs))] = replaced
        return own(*args, **kwargs)

    with ExitStack() as hooks:
        # First of all, so that each pass counts its calls from one, and its images before hooks of the user's add any.
        hooks.enter_context(classifier.model.register_forward_pre_hook(enter, prepend=True))
        for name, module in named_modules(classifier.model):
            if modules is not None and f"{INPUT}{name}.{PROJECTION}" in modules and is_torchs_attention(module):
                hooks.enter_context(_calling_its_projection(module))
            if modules is None or name in modules:
                hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: called.add(name)))
                hooks.enter_context(module.register_forward_hook(partial(see, name)))
                hooks.enter_context(_instead_of_forward(module, partial(forward, name, module, module.forward)))
            if modules is not None and f"{INPUT}{name}" in modules:
                hooks.enter_context(_instead_of_forward(module, partial(entered, name, module, module.forward)))
        hooks.enter_context(classifier.model.register_forward_hook(leave, always_call=True))
        yield current


@contextmanager
def _instead_of_forward(module: nn.Module, forward: Callable[..., object]) -> Iterator[None]:
    own = module.__dict__.get("forward")
    module.__dict__["forward"] = forward
    try:
        yield
    finally:
        if own is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = own


def is_torchs_attention(module: nn.Module) -> TypeGuard[nn.MultiheadAttention]:
    """Whether it is torch's own attention, which hands the weights of its output projection to a function."""
    if not isinstance(module, nn.MultiheadAttention) or type(module).forward is not nn.MultiheadAttention.forward:
        return False
    return type(module.out_proj).forward is nn.Linear.forward  # else calling it would give something else


@contextmanager
def _calling_its_projection(attention: nn.MultiheadAttention) -> Iterator[None]:
    """Torch's attention gives what it always gave, but calls its output projection like any module."""
    own: Callable[..., Any] = attention.forward
    size = attention.embed_dim
    handed_on = nn.Linear(size, size, bias=False, device="meta")
    handed_on.weight = nn.Parameter(torch.eye(size).to(attention.out_proj.weight), requires_grad=False)

    def forward(*args: Any, **kwargs: Any) -> object:
        projection = attention.out_proj
        attention._modules[PROJECTION] = handed_on
        try:
            output = own(*args, **kwargs)
        finally:
            attention._modules[PROJECTION] = projection
        # Not `projection(...)`: hooks that never ran do not run now.
        if isinstance(output, Tensor):  # of a `forward` that a user put in the place of torch's
            return projection.forward(output)
        heads, *others = output
        return (projection.forward(heads), *others)

    with _instead_of_forward(attention, forward):
        yield


@contextmanager
def replacing(classifier: Classifier, layer: Layer, latent: Tensor) -> Iterator[list[int]]:
    """Put a latent `[N, *shape]` in the place of a layer's; yields a list that gets an entry whenever that happens."""
    replaced: list[int] = []

    def visit(_name: str, index: int, _module: nn.Module, output: object) -> object | None:
        start = current.seen[layer.name]
        if not layer.is_call(index) or start >= len(latent):
            return None
        replaced.append(index)
        # Other images than the latent's, e.g. a single one: they have run in vain, and all of the latent goes on.
        rows = len(layer.take(output)) if current.images == len(latent) else len(latent)
        current.seen[layer.name] = end = start + rows
        return layer.put(output, latent[start:end].clone())

    with visiting(classifier, visit, [layer.module]) as current:
        yield replaced


def by_module(layers: Iterable[Layer]) -> dict[str, list[Layer]]:
    """The layers by the names of their modules."""
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        found.setdefault(layer.module, []).append(layer)
    return found


@contextmanager
def capturing(
    classifier: Classifier, layers: Sequence[Layer], rows: Mapping[str, slice] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Collect the latents of layers in every pass of the classifier.

    A latent is copied when its module returns, so that a later in-place operation cannot change it; gradients flow.

    Yields a dictionary from layer name to latent `[N, *layer.shape]`, which each pass refills. `rows` says for each
    layer of which images the latent is kept; `None`: of all. A network that runs a large batch in pieces has the
    pieces joined; a `LayerError` afterwards where a layer has not seen every image of the last pass.
    """
    wanted, latents = by_module(layers), dict[str, Tensor]()

    def visit(module_name: str, call: int, _module: nn.Module, output: object) -> None:
        for layer in wanted[module_name]:
            start = current.seen[layer.name]
            if not layer.is_call(call) or start >= current.images:
                continue
            latent = layer.take(output)
            current.seen[layer.name] = end = start + len(latent)
            if rows is not None:
                first, last, _ = rows[layer.name].indices(current.images)
                latent = latent[max(first - start, 0) : max(min(last, end) - start, 0)]
            # In the layout of its axes only where these are the module's own.
            latent = latent.clone(memory_format=torch.contiguous_format if layer.axes else torch.preserve_format)
            latents[layer.name] = latent if start == 0 else torch.cat([latents[layer.name], latent])

    with visiting(classifier, visit, list(wanted)) as current:
        yield latents
    for layer in layers if current.images else ():
        if current.seen[layer.name] < current.images:
            expected = f"call {layer.call} of the module {layer.module} for each of {current.images} images"
            do = "find the layers of this very network with find_layers"
            raise LayerError(expected=expected, got=f"it for {current.seen[layer.name]}", do=do)


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
    with classifier.borrowed(), replacing(classifier, layer, latent):
        return classifier.run(images)


def run_frozen(classifier: Classifier, images: Tensor) -> Tensor:
    """Logits `[N, K]` of checked images, without gradient, while all weights that the model knows are frozen.

    A parameter that still learns is none of them (`ModelError`): the model neither saves it nor puts the module that
    has it in eval mode.
    """
    with torch.inference_mode(False), torch.enable_grad(), classifier.borrowed():
        logits = classifier.try_run(images.detach().clone())
    known, seen, waiting = {id(own) for own in classifier.model.parameters()}, set[Any](), [logits.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        if isinstance(weight := getattr(node, "variable", None), nn.Parameter) and id(weight) not in known:
            got = f"one of shape {list(weight.shape)} that learns beside them"
            do = "keep its modules in nn.ModuleList or nn.ModuleDict, not in a list or dict"
            raise ModelError(expected="a model that knows all its weights", got=got, do=do)
        seen.add(node)
        waiting += [before for before, _ in node.next_functions]
    return logits.detach()


def owned_by_layers(
    classifier: Classifier, layers: Sequence[Layer], images: Tensor, weights: Mapping[str, Tensor]
) -> list[list[str]]:
    """For each layer the names of the weights that its latent depends on, and no latent before it.

    Weights are parameters or real buffers of the model, by name; the images `[N, C, H, W]` run through it once. The
    layers are in execution order. Call it with autograd on.
    """
    left, owned = {name: weight.detach().clone().requires_grad_() for name, weight in weights.items()}, []
    with classifier.borrowed(), capturing(classifier, layers) as latents:
        functional_call(classifier, {f"model.{name}": weight for name, weight in left.items()}, images)
    for layer in layers:
        latent, used = latents[layer.name], dict[str, Tensor | None]()
        if left and latent.requires_grad:
            gradients = torch.autograd.grad(latent.sum(), list(left.values()), retain_graph=True, allow_unused=True)
            used = dict(zip(left, gradients, strict=True))
        owned.append([name for name, gradient in used.items() if gradient is not None])
        for name in owned[-1]:
            del left[name]
    return owned
