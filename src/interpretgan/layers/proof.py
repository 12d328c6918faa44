"""Proof that calls are layers: latents of some images are put in the place of those of others."""

from collections.abc import Mapping

from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.errors import in_a_line
from interpretgan.layers.hooks import Layer, replacing, visiting

ROWS = 4
"""How many images the proof runs on."""
SPREAD_TOLERANCE = 1e-4
"""Values count as equal when they differ by less than this share of the difference between two images' values."""
AROUND = "information flows around it (a skip connection or a parallel branch)"
NOT_CALLED = "it is not called on every image"


class Proof:
    """What happens to `ROWS` images `[ROWS, C, H, W]` with these logits when latents are exchanged between them."""

    def __init__(self, classifier: Classifier, images: Tensor, logits: Tensor) -> None:
        self.classifier, self.images, self.logits = classifier, images, logits

    def alone(self, layer: Layer, latent: Tensor) -> str | None:
        """Why a call with this latent is no layer, or `None`: the definition, at the cost of two passes."""
        for shift in (1, 2):
            own = self.logits.roll(shift, dims=0)
            with replacing(self.classifier, layer, latent) as replaced:
                try:
                    swapped = self.classifier.run(self.images.roll(shift, dims=0))
                except Exception as error:  # noqa: BLE001  # the user's code may raise anything
                    return f"the network fails when its output is replaced ({in_a_line(error)})"
            if not replaced:
                return NOT_CALLED
            if not _equal(swapped, self.logits, float((own - self.logits).abs().max())):
                return AROUND
        return None

    def together(self, latents: Mapping[Layer, Tensor]) -> dict[Layer, str]:
        """Why some of these calls, given in execution order, are no layers: all are tried in few passes.

        In a pass every latent is replaced by that of other images: its rows are rolled by a digit of its number. If it
        holds all that goes on, then the next one is as it is for the images that these rows come from. For any two
        latents there is a pass in which their digits differ, so that nothing gets from before the first to behind the
        second unseen. What looks suspicious is tried alone.
        """
        layers, suspects, base = list(latents), set[int](), 1
        while base <= len(layers):
            shifts = [(number // base + 1) % ROWS for number in range(len(layers) + 1)]  # of images, then of layers
            try:
                suspects |= self._exchange(latents, shifts)
            except Exception:  # noqa: BLE001  # the user's code may raise anything
                suspects |= {*range(len(layers))}
            base *= ROWS
        reasons: dict[Layer, str] = {}
        last = -1  # of those that are refused: what flows around it may flow around those before it
        for number in sorted(suspects, reverse=True):
            reason = self.alone(layers[number], latents[layers[number]])
            if reason is not None:
                reasons[layers[number]], last = reason, max(last, number)
        for number in {*range(last)} - suspects:
            reason = self.alone(layers[number], latents[layers[number]])
            if reason is not None:
                reasons[layers[number]] = reason
        return reasons

    def _exchange(self, latents: Mapping[Layer, Tensor], shifts: list[int]) -> set[int]:
        """One pass. Numbers of the layers after which something is not as it should be, or that are not called."""
        layers, values = list(latents), list(latents.values())
        by_module: dict[str, list[int]] = {}
        for number, layer in enumerate(layers):
            by_module.setdefault(layer.module, []).append(number)
        suspects, missing = set[int](), {*range(len(layers))}

        def visit(name: str, index: int, _module: nn.Module, output: object) -> object | None:
            for number in by_module[name]:
                layer, value, start = layers[number], values[number], current.seen[layers[number].name]
                if not layer.is_call(index) or start >= ROWS:
                    continue
                found = layer.take(output)
                current.seen[layer.name] = end = start + len(found)
                missing.discard(number)
                expected = value.roll(shifts[number], dims=0)[start:end]
                spread = float((value.amax(dim=0) - value.amin(dim=0)).max())
                if not _equal(found, expected, spread):
                    suspects.add(max(number - 1, 0))
                return layer.put(output, value.roll(shifts[number + 1], dims=0)[start:end])
            return None

        with visiting(self.classifier, visit, list(by_module)) as current:
            self.classifier.run(self.images.roll(shifts[0], dims=0))
        return suspects | missing


def _equal(found: Tensor, expected: Tensor, spread: float) -> bool:
    if found.shape != expected.shape:
        return False
    return bool((found - expected).abs().max() <= SPREAD_TOLERANCE * spread)
