"""What there is to know about the calls of a network: its layers, and what is none, with the reason."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from interpretgan.errors import LayerError
from interpretgan.layers.hooks import Layer


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
            close = difflib.get_close_matches(name, list(layers) or list(self.order), n=1)
            got = f"'{name}'"
            do = f"did you mean '{close[0]}'? " if close else ""
            do += "`interpretgan layers` lists them all"
        raise LayerError(expected=expected, got=got, do=do)


def distinct(layers: Sequence[Layer]) -> tuple[tuple[Layer, ...], list[int]]:
    """One layer for each tensor, and for every given layer the index of the one that stands for it."""
    first: dict[str, Layer] = {}
    for layer in layers:
        first.setdefault(layer.same_as or layer.name, layer)
    return tuple(first.values()), [list(first).index(layer.same_as or layer.name) for layer in layers]
