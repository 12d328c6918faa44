"""What a unit looks for: the patches of natural images that excite it most, and what they have in common, in a line."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_source, class_name
from interpretgan.features.conductance import by_unit
from interpretgan.features.modified import LayerUnits
from interpretgan.layers import Layer, capture, capturing
from interpretgan.statistics import Floats

SEARCHED = 2000  #: Images, at most, that are searched.
BATCH = 250
MOST = 0.5  #: A class is named where it is that of at least a half of the patches, two where they share them so.
WHOLE = 0.8  #: A patch at least so long, of the image's side, is in no special place.


@dataclass(frozen=True, eq=False)
class ExcitingPatch:
    """The part of a natural image that a unit sees where it is excited most."""

    image: int  #: Number of the image in the data.
    label: int  #: Its class.
    activation: float  #: Of the unit there.
    box: tuple[int, int, int, int]  #: Top, left, bottom and right of the part, in pixels; the latter two excluded.
    pixels: Floats  #: Of the whole image `[C, H, W]`, within the classifier's bounds.

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole image."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def is_a_part(self) -> bool:
        """Whether the unit sees less than the whole image."""
        return self.box != (0, 0, *self.size)

    @property
    def part(self) -> Floats:
        """The pixels that the unit sees, `[C, h, w]`."""
        top, left, bottom, right = self.box
        return self.pixels[:, top:bottom, left:right]


def exciting_patches(
    classifier: Classifier, units: Mapping[Layer, Sequence[int]], data: ImageData, *, count: int = 6
) -> dict[str, dict[int, tuple[ExcitingPatch, ...]]]:
    """For each layer, by name, and unit the patches of natural images that excite it most, the most exciting first.

    There is at most one patch an image: the smallest box of all pixels that the unit's activation there depends on, by
    its gradient. The first 2,000 images are searched. Source: the images that network dissection shows for a unit
    (arXiv 1704.05796).
    """
    source = as_source(data, None, classifier.bounds)
    highest: dict[str, list[tuple[Tensor, Tensor]]] = {layer.name: [] for layer in units}
    for index in torch.split(torch.arange(min(len(source), SEARCHED)), BATCH):
        _, latents = capture(classifier, source.batch(index)[0].to(classifier.device), list(units))
        for layer, chosen in units.items():
            most = by_unit(latents[layer.name])[:, list(chosen)].max(dim=2)
            highest[layer.name].append((most.values.cpu(), most.indices.cpu()))
    found: dict[str, dict[int, tuple[ExcitingPatch, ...]]] = {}
    for layer, chosen in units.items():
        values, places = (torch.cat(parts) for parts in zip(*highest[layer.name], strict=True))
        of_layer = found.setdefault(layer.name, {})
        for column, unit in enumerate(chosen):
            best = values[:, column].argsort(descending=True, stable=True)[:count]
            images, labels = source.batch(best)
            boxes = _boxes(classifier, layer, unit, places[best, column], images.to(classifier.device))
            of_layer[unit] = tuple(
                ExcitingPatch(int(number), int(label), float(values[number, column]), box, image.double().numpy())
                for number, label, image, box in zip(best, labels, images.cpu(), boxes, strict=True)
            )
    return found


def _boxes(
    classifier: Classifier, layer: Layer, unit: int, place: Tensor, images: Tensor
) -> list[tuple[int, int, int, int]]:
    """The box of pixels that the unit's activation at a place depends on, for each image; all of it if on none."""
    with torch.enable_grad(), classifier.borrowed(), capturing(classifier, [layer]) as latents:
        images = images.detach().clone().requires_grad_()
        classifier.run(images)
        activation = by_unit(latents[layer.name])[:, unit].gather(1, place[:, None].to(images.device))
        (gradient,) = torch.autograd.grad(activation.sum(), images)
    boxes = []
    for seen in (gradient != 0).any(dim=1).cpu():
        rows, columns = (seen.any(dim=axis).nonzero()[:, 0] for axis in (1, 0))
        if len(rows):
            boxes.append((int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))
        else:
            boxes.append((0, 0, seen.shape[0], seen.shape[1]))
    return boxes


def summary(
    layer: LayerUnits,
    unit: int,
    *,
    image: int,
    patches: Sequence[ExcitingPatch],
    names: tuple[str, str],
    classes: Sequence[str],
) -> str:
    """A unit and what the attack on one image did to it, in a line.

    For instance `unit 37, excited most by 8 and 9, at the top: rises by 4.1 σ, which speaks for 9`.

    Args:
        layer: The layer's units.
        unit: Number of the unit.
        image: Number of the image.
        patches: What excites the unit most.
        names: Names of the true class of the image and of its shown class.
        classes: Names of all classes.
    """
    sigmas = float(layer.sigmas[image, unit])
    moves = "hardly moves" if abs(sigmas) < 0.05 else f"{'rises' if sigmas > 0 else 'falls'} by {abs(sigmas):.1f} σ"
    promoted, suppressed = float(layer.promoted[image, unit]), float(layer.suppressed[image, unit])
    speaks = [f"for {names[1]}"] if promoted > suppressed / 3 and promoted > 0 else []
    speaks += [f"against {names[0]}"] if suppressed > promoted / 3 and suppressed > 0 else []
    effect = " and ".join(speaks) or f"for {names[0]}"
    return f"unit {unit}{_liking(patches, classes)}: {moves}, which speaks {effect}"


def _liking(patches: Sequence[ExcitingPatch], classes: Sequence[str]) -> str:
    """Which classes the patches are of, and where they are found: `, excited most by 8 and 9, at the top`."""
    if not patches:
        return ""
    common = Counter(patch.label for patch in patches).most_common(2)
    if common[0][1] < MOST * len(patches) and sum(number for _, number in common) <= MOST * len(patches):
        liked = "by several classes"
    else:
        few = common[:1] if common[0][1] > 2 * len(patches) / 3 else common
        liked = "by " + " and ".join(class_name(label, classes) for label, _ in few)
    return f", excited most {liked}{_place(patches)}"


def _place(patches: Sequence[ExcitingPatch]) -> str:
    """Where in the image most of the patches are: `, at the top left`; empty where they are everywhere, or large."""
    words = []
    for axis, names in ((0, ("top", "bottom")), (1, ("left", "right"))):
        sides = [patch.box[axis + 2] - patch.box[axis] for patch in patches]
        centres = [(patch.box[axis + 2] + patch.box[axis]) / 2 / patch.size[axis] for patch in patches]
        if np.mean(sides) < WHOLE * patches[0].size[axis]:
            shares = [np.mean([centre < 0.45 for centre in centres]), np.mean([centre > 0.55 for centre in centres])]
            words += [name for name, share in zip(names, shares, strict=True) if share > 2 / 3]
    return f", at the {' '.join(words)}" if words else ""
