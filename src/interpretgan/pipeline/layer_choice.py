"""Which layers of a network a run explains: those that are named, by patterns or groups too, or what can be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules import activation, batchnorm, conv, instancenorm, linear, normalization

from interpretgan.errors import LayerError
from interpretgan.layers import Anatomy, Layer

MOST = 15  #: Rows of a diagnosis that a person can read: as many layers are explained where none are named.


def _kinds(*modules: object, without: Sequence[str] = ()) -> frozenset[str]:
    """Names of the module classes of these files of torch."""
    found = {name for module in modules for name, kind in vars(module).items() if isinstance(kind, type)
             and issubclass(kind, nn.Module)}  # fmt: skip
    return frozenset(found - {"Module", *without})


ACTIVATIONS = _kinds(activation, without=("MultiheadAttention",))
STEPS = _kinds(conv, linear, batchnorm, instancenorm, normalization)
"""Linear maps and normalisations: mostly steps towards an activation, which comes next."""


def _is_block(layer: Layer, anatomy: Anatomy) -> bool:
    """Whether there are module calls inside whose outputs do not fix the logits: a block keeps its own name."""
    return any(call.name.startswith(f"{layer.module}.") for call in anatomy.refused)


GROUPS: dict[str, Callable[[Layer, Anatomy], bool]] = {
    "all": lambda _layer, _anatomy: True,
    "blocks": _is_block,
    "activations": lambda layer, _anatomy: layer.kind in ACTIVATIONS,
}
"""Names that stand for many layers, of different tensors each."""


def choose_layers(anatomy: Anatomy, names: Sequence[str] | None = None) -> list[Layer]:
    """Layers of a network by name, pattern or group, in execution order.

    Args:
        anatomy: What `examine` says of the network.
        names: Names of layers; patterns with `*`, `?` and `[...]`, which any part of a name fits, dots too; or groups:
            `blocks` (layers around which, or inside which, information flows in parallel), `activations`, `all`. A
            group goes before a layer of that name, which a pattern like `block[s]` still reaches. `None`: all layers
            up to 15 of them. Of more, convolutions, linear layers and normalisations that an activation follows are
            left out, as it speaks for them; where that is not enough, those as well that any other layer follows. Of
            more than 15 that are left, so many are taken at equal steps, the first and the last among them.

    Raises:
        LayerError: A name that is unknown, ambiguous or not a layer's, or a pattern or group without a layer.
    """
    if names is None:
        return _readable(anatomy.distinct)
    chosen: set[Layer] = set()
    for name in names:
        if name in GROUPS:
            found = [layer for layer in anatomy.distinct if GROUPS[name](layer, anatomy)]
        elif any(sign in name for sign in "*?[") and name not in anatomy.order:
            matched = [layer.same_as or layer.name for layer in anatomy.layers if fnmatchcase(layer.name, name)]
            found = [layer for layer in anatomy.distinct if layer.name in matched]
        else:
            found = anatomy.select([name])
        if not found:
            got = f"'{name}', which has none here"
            raise LayerError(
                expected="a pattern or a group of layers", got=got, do="choose among what `interpretgan layers` lists"
            )
        chosen.update(found)
    return [layer for layer in anatomy.layers if layer in chosen]


def _readable(layers: Sequence[Layer]) -> list[Layer]:
    kept = _without_steps(layers, before=ACTIVATIONS)
    if len(kept) > MOST and len(fewer := _without_steps(layers)) > MOST // 2:
        kept = fewer
    if len(kept) <= MOST:
        return kept
    return [kept[round(place * (len(kept) - 1) / (MOST - 1))] for place in range(MOST)]


def _without_steps(layers: Sequence[Layer], before: frozenset[str] | None = None) -> list[Layer]:
    """The last layer, and all but the steps that another layer follows, of such a kind where that is given.

    They are all kept where there are few enough.
    """
    kept: list[Layer] = []
    follows = ""  # kind of the next layer that is no step
    for layer in reversed(layers if len(layers) > MOST else ()):
        step = layer.kind in STEPS
        if not kept or not step or (before is not None and follows not in before):
            kept.append(layer)
        follows = follows if step else layer.kind
    return kept[::-1] or list(layers)
