"""Which features a perturbation modified: the units of each layer, what their change did, and the proof by patching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interpretgan.classifier import Classifier, require_classifier
from interpretgan.data import ImageData, as_source
from interpretgan.errors import ImageError, LayerError
from interpretgan.features.activation_patching import Bools, Patching, a_tenth, patch
from interpretgan.features.conductance import TOLERANCE, Logits, by_unit, conductance, rest_of_network
from interpretgan.layers import Layer, capture, examine
from interpretgan.statistics import Floats, Integers
from interpretgan.torch_state import as_seed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

BATCH = 250  #: Images that are looked at a time.
REFERENCE = 2000  #: Natural images, at most, that the deviation of a unit is measured on.


@dataclass(frozen=True, eq=False)
class LayerUnits:
    """What the perturbation did to the `U` units of one layer, for `N` images."""

    layer: Layer
    change: Floats  #: Mean of `z' - z` over the places of a unit, `[N, U]`.
    deviation: Floats  #: Of each unit over natural images and places, `[U]`.
    to_true: Floats  #: What the unit's change added to the logit of the true class, `[N, U]`; see `conductance`.
    to_shown: Floats  #: The same for the shown class.
    margin_change: Floats  #: Change of the margin of the true class over the shown one, `[N]`.
    error: Floats  #: Completeness: how far the units' sum is from it, as a share of it, `[N]`.
    patching: Patching | None  #: `None`: it was not asked for.

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.layer.name

    @property
    def units(self) -> int:
        """How many units it has."""
        return len(self.deviation)

    @property
    def promoted(self) -> Floats:
        """Evidence for the shown class that the unit's change added, `[N, U]`, at least 0."""
        return np.maximum(self.to_shown, 0.0)

    @property
    def suppressed(self) -> Floats:
        """Evidence for the true class that the unit's change took away, `[N, U]`, at least 0."""
        return np.maximum(-self.to_true, 0.0)

    @property
    def responsibility(self) -> Floats:
        """By how much the unit's change lowered the margin, `[N, U]`; all units sum to its fall."""
        return self.to_shown - self.to_true

    @property
    def sigmas(self) -> Floats:
        """The change in deviations of the unit, `[N, U]`; 0 of a unit that never moves."""
        return np.divide(self.change, self.deviation, out=np.zeros_like(self.change), where=self.deviation > 0)

    def ranks(self) -> Integers:
        """Place of each unit by its responsibility, from 1, `[N, U]`."""
        order = np.argsort(-self.responsibility, axis=1, kind="stable")
        places: Integers = np.argsort(order, axis=1, kind="stable") + 1
        return places

    def in_first_tenth(self) -> Bools:
        """Whether a unit is in the most responsible tenth of an image, `[N, U]`."""
        return self.ranks() <= a_tenth(self.units)

    def top(self, image: int, count: int = 5) -> list[int]:
        """The units that are most responsible for one image, the first first."""
        return [int(unit) for unit in np.argsort(-self.responsibility[image], kind="stable")[:count]]


@dataclass(frozen=True, eq=False)
class ModifiedFeatures:
    """Which features a perturbation modified in `N` images, layer by layer; made by `modified_features`.

    The shown class of an image is the one, other than the true class, whose logit is highest under attack.
    """

    layers: tuple[LayerUnits, ...]  #: In execution order.
    labels: Integers  #: True classes `[N]`.
    shown: Integers  #: Shown classes `[N]`.
    turned: Bools  #: Whether the classifier was right before the attack, and is wrong after it, `[N]`.
    seed: int  #: Of the random order of units.

    def __repr__(self) -> str:
        names = ", ".join(layer.name for layer in self.layers)
        return f"ModifiedFeatures({len(self.labels)} images, {int(self.turned.sum())} turned, at {names})"

    def __getitem__(self, name: str) -> LayerUnits:
        """The units of one layer; a `KeyError` where there is none of that name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"'{name}', where the layers are {', '.join(layer.name for layer in self.layers)}")

    def to_frame(self) -> pd.DataFrame:
        """A row for each image, layer and unit; `rank` is by responsibility, from 1."""
        import pandas as pd

        frames = []
        for layer in self.layers:
            count, units = layer.change.shape
            columns: dict[str, Any] = {
                "image": np.arange(count).repeat(units), "true": self.labels.repeat(units),
                "shown": self.shown.repeat(units), "turned": self.turned.repeat(units), "layer": layer.name,
                "unit": np.tile(np.arange(units), count),
            }  # fmt: skip
            for name in ("change", "sigmas", "to_true", "to_shown", "promoted", "suppressed", "responsibility"):
                columns[name] = getattr(layer, name).ravel()
            frames.append(pd.DataFrame({**columns, "rank": layer.ranks().ravel()}))
        return pd.concat(frames, ignore_index=True)

    def patching_frame(self, confidence: float = 0.95) -> pd.DataFrame:
        """A row for each layer: what patching showed, with intervals that cover the choice of images.

        `returned` is the share of images whose class is back when the most responsible tenth of the units gets its
        natural values, `turned` that of images whose class turns when this tenth alone is changed.
        """
        import pandas as pd

        rows = []
        for layer in self.layers:
            row: dict[str, Any] = {"layer": layer.name, "units": layer.units, "largest_error": layer.error.max()}
            found = layer.patching
            if found is not None and found.images:
                row |= {"images": found.images, "tenth": found.tenth}
                measured = {
                    "returned": found.share("responsible", found.tenth, confidence=confidence),
                    "returned_most_changed": found.share("most changed", found.tenth, confidence=confidence),
                    "returned_random": found.share("random", found.tenth, confidence=confidence),
                    "turned": found.share("responsible", found.tenth, reverse=True, confidence=confidence),
                    "turned_random": found.share("random", found.tenth, reverse=True, confidence=confidence),
                    "faithfulness": found.faithfulness(confidence=confidence, seed=self.seed),
                }
                for name, interval in measured.items():
                    assert interval is not None
                    row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
                row["smallest_median"] = float(np.median(found.smallest()))
            rows.append(row)
        return pd.DataFrame(rows)

    def often(self, layer: str) -> pd.DataFrame:
        """How often each unit is in the most responsible tenth: units × pairs of (true, shown) class, 0 to 1.

        Of the images that the attack turns; pairs that none of them has are left out.
        """
        import pandas as pd

        units = self[layer]
        among = units.in_first_tenth()
        pairs = sorted(
            {(int(a), int(b)) for a, b in zip(self.labels[self.turned], self.shown[self.turned], strict=True)}
        )
        shares = {
            pair: among[self.turned & (self.labels == pair[0]) & (self.shown == pair[1])].mean(axis=0) for pair in pairs
        }
        columns = pd.MultiIndex.from_tuples(pairs, names=["true", "shown"])
        return pd.DataFrame(shares, index=pd.RangeIndex(units.units, name="unit"), columns=columns)

    def plot(self, layer: str | None = None, *, classes: Sequence[str] = ()) -> Figure:
        """The proof and the units of a layer (by default the first) as a figure of matplotlib."""
        from interpretgan.features.figures import plot_units

        return plot_units(self, self.layers[0].name if layer is None else layer, classes)


def modified_features(
    classifier: Classifier,
    images: Tensor,
    adversarial: Tensor,
    labels: Tensor,
    *,
    layers: Sequence[str | Layer] | None = None,
    reference: ImageData | None = None,
    patching: bool = True,
    tolerance: float = TOLERANCE,
    seed: int = 0,
) -> ModifiedFeatures:
    """Find the units that a perturbation modified, what their change did to the decision, and prove it by patching.

    Args:
        classifier: The classifier; it comes back untouched.
        images: `[N, C, H, W]` within its bounds.
        adversarial: `x'` of each image, likewise.
        labels: True classes `[N]`.
        layers: Layers, or their names. `None`: all, each tensor once.
        reference: Natural images, of which the first 2,000 give the deviation of each unit. `None`: `images`.
        patching: Whether units are put back as a proof.
        tolerance: Completeness of the conductance, as a share of the margin's change.
        seed: Of the random units that patching is compared with.

    Raises:
        ImageError, LabelError, ModelError: Images, labels or logits that are not as they should be.
        LayerError: A name that is no layer's.
    """
    require_classifier(classifier)
    images, adversarial = classifier.check_images(images), classifier.check_images(adversarial)
    if adversarial.shape != images.shape:
        expected, got = f"one adversarial image per image, {tuple(images.shape)}", str(tuple(adversarial.shape))
        raise ImageError(expected=expected, got=got, do="pass x' in the order of x")
    labels, seed = classifier.check_labels(labels, images), as_seed(seed)
    chosen = _chosen(classifier, images, layers)
    with torch.inference_mode(False), torch.enable_grad():
        images, adversarial, labels = images.detach().clone(), adversarial.detach().clone(), labels.clone()
        before, after = (_latents(classifier, x, [])[0] for x in (images, adversarial))
        shown = after.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
        turned = (before.argmax(dim=1) == labels) & (after.argmax(dim=1) != labels)
        deviations = _deviations(classifier, chosen, images if reference is None else reference)
        rows = turned.nonzero()[:, 0]
        found = []
        for layer in chosen:
            z, changed = (_latents(classifier, x, [layer])[1][layer.name] for x in (images, adversarial))
            logits = rest_of_network(classifier, layer, z, images)
            parts = conductance(logits, z, changed, labels, shown, tolerance=tolerance)
            proof = None
            if patching:
                responsibility = (parts.to_shown - parts.to_true)[rows]
                turning = partial(_of_rows, logits, rows)
                proof = patch(turning, z[rows], changed[rows], labels[rows], responsibility, seed=seed)
            change, deviation = by_unit(changed - z).double().mean(dim=2), deviations[layer.name]
            numbers = {
                "change": change, "deviation": deviation, "to_true": parts.to_true, "to_shown": parts.to_shown,
                "margin_change": parts.after - parts.before, "error": parts.error,
            }  # fmt: skip
            arrays = {name: each.detach().cpu().numpy() for name, each in numbers.items()}
            found.append(LayerUnits(layer, patching=proof, **arrays))
    return ModifiedFeatures(tuple(found), labels.cpu().numpy(), shown.cpu().numpy(), turned.cpu().numpy(), seed)


def _of_rows(logits: Logits, rows: Tensor, latents: Tensor, index: Tensor) -> Tensor:
    return logits(latents, rows[index])


def _chosen(classifier: Classifier, images: Tensor, layers: Sequence[str | Layer] | None = None) -> list[Layer]:
    """The layers of those names, in execution order; `None`: all, each tensor once."""
    if layers is not None and not layers:
        raise LayerError(expected="at least one layer", got="none", do="leave layers out for all")
    if layers is not None and all(isinstance(layer, Layer) for layer in layers):
        return [layer for layer in layers if isinstance(layer, Layer)]
    anatomy = examine(classifier, images)
    if layers is None:
        return anatomy.distinct
    return anatomy.select([layer if isinstance(layer, str) else layer.name for layer in layers])


def _latents(classifier: Classifier, images: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and latents of images, a batch at a time."""
    parts = [capture(classifier, batch, layers) for batch in torch.split(images, BATCH)]
    latents = {layer.name: torch.cat([found[layer.name] for _, found in parts]) for layer in layers}
    return torch.cat([logits for logits, _ in parts]), latents


def _deviations(classifier: Classifier, layers: Sequence[Layer], images: ImageData) -> dict[str, Tensor]:
    """The deviation `[units]` of each layer's units over natural images and places."""
    source = as_source(images, None, classifier.bounds)
    sums: dict[str, list[Tensor]] = {}
    for index in torch.split(torch.arange(min(len(source), REFERENCE)), BATCH):
        _, latents = capture(classifier, source.batch(index)[0].to(classifier.device), layers)
        for layer in layers:
            rows = by_unit(latents[layer.name]).double().movedim(1, 0).flatten(1)
            moments = torch.stack(
                [torch.full_like(rows[:, 0], rows.shape[1]), rows.sum(dim=1), rows.square().sum(dim=1)]
            )
            sums.setdefault(layer.name, []).append(moments)
    found = {}
    for name, parts in sums.items():
        count, total, squares = torch.stack(parts).sum(dim=0)
        found[name] = (squares / count - (total / count).square()).clamp_min(0).sqrt()
    return found
