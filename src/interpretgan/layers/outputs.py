"""The tensors in what a module returns: one, or several in tuples, dictionaries and records."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

DEEPEST = 3  # containers inside each other that are looked into


def parts(output: object, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of an output with its place: keys, indices or names of fields with dots between, empty for itself.

    Those inside a transform of torch.func are left out: they mean nothing once it is done.
    """
    if isinstance(output, Tensor):
        if not is_functorch_wrapped_tensor(output):
            yield "", output
    elif depth < DEEPEST:
        for key, value in _items(output):
            if "." not in key:
                for inner, tensor in parts(value, depth + 1):
                    yield f"{key}.{inner}".removesuffix("."), tensor


def part(output: object, place: str) -> Tensor:
    """The tensor at a place that `parts` gave for another output of the same module."""
    for key in place.split(".") if place else ():
        output = dict(_items(output))[key]
    assert isinstance(output, Tensor)
    return output


def with_part(output: object, place: str, value: Tensor) -> object:
    """The same output with another tensor at a place; the given one stays as it is."""
    if not place:
        return value
    key, _, rest = place.partition(".")
    inner = with_part(dict(_items(output))[key], rest, value)
    if isinstance(output, tuple):
        items: list[Any] = [inner if str(number) == key else item for number, item in enumerate(output)]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    changed = copy.copy(output)
    if isinstance(changed, list):
        changed[int(key)] = inner
    elif isinstance(changed, dict):
        changed[key] = inner
    else:
        object.__setattr__(changed, key, inner)  # also in a frozen record
    return changed


def without_history(model: nn.Module) -> dict[int, Any]:
    """A memo for `copy.deepcopy`, which copies no tensor that autograd made.

    A module may keep such tensors as plain attributes: features of its last pass, or weights that a mask or a norm has
    computed.
    """
    kept = (tensor for module in model.modules() for value in vars(module).values() for tensor in _tensors(value))
    return {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf}


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in a value and in the containers inside it."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(list(value.values()))
    elif isinstance(value, (tuple, list, set, frozenset)):
        for each in value:
            yield from _tensors(each)


def _items(output: object) -> Iterator[tuple[str, object]]:
    if isinstance(output, (tuple, list)):
        yield from ((str(number), value) for number, value in enumerate(output))
    elif isinstance(output, Mapping):
        yield from ((key, value) for key, value in output.items() if isinstance(key, str))
    elif is_dataclass(output):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
