"""Proof that calls are layers: latents of some images are put in the place of those of others."""

from collections.abc import Mapping
from contextlib import suppress

from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.errors import in_a_line
from interpretgan.layers.hooks import Layer, replacing, visiting

ROWS = 4
"""How many images the proof runs on."""
SPREAD_TOLERANCE = 1e-4
"""Values count as equal when they differ by less than this share of the difference between two images' values."""
MOVES = 1e-6
"""A logit moves between images when it does by more than this share of its size."""
LIKE_SIZE = 1e3
"""Logits that are more than so many times as large as others are another matter: masks."""
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

        What looks suspicious is tried alone. Where it is refused, so is what is flown around with it, and the others
        are tried together again, as what flows around it may flow around those before it too.
        """
        reasons, proved = dict[Layer, str](), set[Layer]()
        while True:
            left = {layer: latent for layer, latent in latents.items() if layer not in reasons}
            layers = list(left)
            suspects = [number for number in self._suspects(left) if layers[number] not in proved]
            if not suspects:
                return reasons
            for number in sorted(suspects, reverse=True):
                layer = layers[number]
                reason = None if layer in reasons else self.alone(layer, left[layer])
                if reason is not None:
                    first = self._first_flown_around(left, number) if reason == AROUND else number
                    reasons |= {other: reason for other in layers[first : number + 1] if other not in proved}
                elif layer not in reasons:
                    proved.add(layer)

    def _suspects(self, latents: Mapping[Layer, Tensor]) -> set[int]:
        """Numbers of the calls that may be no layers.

        In a pass every latent is replaced by that of other images: its rows are rolled by a digit of its number. If it
        holds all that goes on, then the next one is as it is for the images that these rows come from. For any two
        latents there is a pass in which their digits differ, so that nothing gets from before the first to behind the
        second unseen.
        """
        suspects, base = set[int](), 1
        while base <= len(latents):
            shifts = [(number // base + 1) % ROWS for number in range(len(latents) + 1)]  # of images, then of layers
            try:
                suspects |= self._exchange(latents, shifts)
            except Exception:  # noqa: BLE001  # the user's code may raise anything
                suspects |= {*range(len(latents))}
            base *= ROWS
        return suspects

    def _first_flown_around(self, latents: Mapping[Layer, Tensor], number: int) -> int:
        """The first call such that something gets from before it to behind that of this number, around all between.

        Then it also gets there from before every later one: the first is found by steps that double, then halve.
        """
        first, step, doubling = number, 1, True
        while step:
            tried = first - step
            # Up to there all is of some images, and from there on of others.
            shifts = [1] * (tried + 1) + [2] * (len(latents) - tried)
            with suppress(Exception):  # the user's code may raise anything; the others are tried by themselves
                if tried >= 0 and number in self._exchange(latents, shifts):
                    first, step = tried, 2 * step if doubling else step // 2
                    continue
            step, doubling = step // 2, False
        layer = list(latents)[first]  # what gets there may be too little to matter for the logits
        return first if first < number and self.alone(layer, latents[layer]) == AROUND else number

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


def size_of_logits(logits: Tensor) -> float:
    """What a difference of some images' logits `[N, K]` is large or small beside: the largest of those of like size.

    That is like the smallest but one of those that move most between images: one may be near zero by chance. The logit
    of a masked class is as far from them as can be; that of a class that is certain, or unused, is tiny, hardly moving.
    """
    rows = logits.detach().double()
    sizes, moved = rows.abs().amax(dim=0), rows.amax(dim=0) - rows.amin(dim=0)
    moving = moved > MOVES * sizes  # else it is rounding
    like = sizes.max()
    if moving.any():
        like = sizes[moving & (moved >= moved[moving].max() / 10)].sort().values[:2].max()
    return float(sizes[~(sizes > LIKE_SIZE * like)].max())  # NaN where one is
