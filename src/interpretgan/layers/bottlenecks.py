"""Which tensors of a pass all information goes through, read from the graph that autograd keeps of it."""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

Vertex: TypeAlias = tuple[torch.autograd.graph.Node, int]
"""A tensor of the graph: what made it, and which of that one's outputs it is."""


def vertex(tensor: Tensor) -> Vertex | None:
    """The place of a tensor in the graph; `None` where no gradient flows through it."""
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


class Flow:
    """The paths on which gradients flow between two tensors: `source`, a leaf that requires one, and `target`.

    Attributes:
        order: All vertices of these paths, in topological order; empty where there is no path.
        bottlenecks: Those that every path goes through: with the others in this order, no edge jumps over them.
    """

    def __init__(self, source: Tensor, target: Tensor) -> None:
        first = vertex(target)
        self.order = {} if first is None else _order(source, first)
        farthest, bottlenecks = dict.fromkeys(self.order, 0), set[Vertex]()
        for found, place in self.order.items():
            for used in _inputs(found):
                if used in farthest:
                    farthest[used] = place
        reached = 0
        for found, place in self.order.items():
            if reached <= place:
                bottlenecks.add(found)
            reached = max(reached, farthest[found])
        self.bottlenecks = frozenset(bottlenecks)


def _order(source: Tensor, target: Vertex) -> dict[Vertex, int]:
    """The vertices that a path from source to target has, and the place of each; what makes another comes first."""
    reaches: dict[Vertex, bool] = {}  # whether the source is before a vertex, once all before it are done
    order: dict[Vertex, int] = {}
    waiting = [(target, False)]
    while waiting:
        found, done = waiting.pop()
        if done:
            reaches[found] = getattr(found[0], "variable", None) is source or any(map(reaches.get, _inputs(found)))
            if reaches[found]:
                order[found] = len(order)
        elif found not in reaches:
            reaches[found] = False
            waiting.append((found, True))
            waiting += [(used, False) for used in _inputs(found) if used not in reaches]
    return order


def _inputs(found: Vertex) -> Sequence[Vertex]:
    return [(node, index) for node, index in found[0].next_functions if node is not None]
