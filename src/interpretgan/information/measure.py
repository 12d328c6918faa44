"""Information loss of each layer, from what decoders and probes do on held-out images: pure arithmetic.

`L` layers, `C` controls, `N` images. Row 0 is the image, row `l` layer `l`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interpretgan.errors import Flag, FlagKind
from interpretgan.statistics import Floats, Interval, Weights, intervals

NEGATIVE_INFORMATION = FlagKind(
    "negative_information",
    "warning",
    "{figure} below zero by more than its interval: {value:.4f} [{low:.4f}, {high:.4f}]",
)
"""A figure that cannot be negative was measured to be so."""


@dataclass(frozen=True)
class LayerInformation:
    """What one row of a diagnosis says about information: the image itself, or a layer.

    Attributes:
        unexplained: `u_l`, the share of the image's variance that the layer no longer explains; 0 for the image.
        information_loss: `u_l - u_{l-1}`, as measured, also where it is negative; 0 for the image.
        class_information: What a probe of fixed capacity finds out about the class, in bits.
        class_information_loss: By how many bits it falls; negative where the layer makes the class easier to predict.
        class_accuracy: Share of the images of which the probe predicts the true class.
        information_control: Information loss of a random projection of the layer before to the size of this one; `None`
            where this one is not smaller.
        flags: Reasons to doubt them.
    """

    unexplained: Interval
    information_loss: Interval
    class_information: Interval
    class_information_loss: Interval
    class_accuracy: Interval
    information_control: Interval | None = None
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """What decoders and probes do on `N` held-out images, number by number.

    Attributes:
        errors: `‖x - D_l(z_l)‖²` of each decoder, `[L + 1, N]`; zeros in row 0.
        control_errors: The same of each control's decoder, `[C, N]`.
        controls: The row that each control belongs to, `[C]`.
        variance: `‖x - x̄‖²` `[N]`, `x̄` being the mean training image.
        bits: `log2 q_l(y|z_l) - log2 p(y)` of each probe, `[L + 1, N]`, `p(y)` being the frequency of the class in the
            training images.
        right: Whether the true class is the probe's first choice, `[L + 1, N]`.
        layers: Names of the layers, `L`.
        settings: Of the training, and its seed.
    """

    errors: Floats
    control_errors: Floats
    controls: npt.NDArray[np.int64]
    variance: Floats
    bits: Floats
    right: npt.NDArray[np.bool_]
    layers: tuple[str, ...]
    settings: Mapping[str, Any]

    def rows(self, weights: Weights, confidence: float) -> list[LayerInformation]:
        """The figures of each row with bootstrap intervals, paired over images.

        Args:
            weights: `[1 + B, N]`, ones first: see `interpretgan.statistics.bootstrap_weights`.
            confidence: Level of the intervals.
        """
        each = np.ones_like(self.variance)
        unexplained, bits = _ratio(weights, self.errors, self.variance), _ratio(weights, self.bits, each)
        projected = _ratio(weights, self.control_errors, self.variance) - unexplained[:, self.controls - 1]
        columns = {
            "unexplained": intervals(unexplained, confidence),
            "information_loss": intervals(_fall(1 - unexplained), confidence),
            "class_information": intervals(bits, confidence),
            "class_information_loss": intervals(_fall(bits), confidence),
            "class_accuracy": intervals(_ratio(weights, self.right, each), confidence),
        }
        controls = dict(zip(self.controls.tolist(), intervals(projected, confidence), strict=True))
        rows = []
        for row, layer in enumerate(("image", *self.layers)):
            figures, control = {name: column[row] for name, column in columns.items()}, controls.get(row)
            not_negative = {
                "information loss": figures["information_loss"],
                "information loss of a random projection": control,
                "class information": figures["class_information"],
            }
            flags = tuple(
                NEGATIVE_INFORMATION(layer=layer, value=it.value, threshold=0.0, figure=name, low=it.low, high=it.high)
                for name, it in not_negative.items()
                if it is not None and it.high < 0
            )
            rows.append(LayerInformation(**figures, information_control=control, flags=flags))
        return rows


def _ratio(weights: Weights, above: Floats | npt.NDArray[np.bool_], below: Floats) -> Floats:
    """`Σ w·above / Σ w·below` of each replicate and row: `[R, N]`, `[N]` → `[1 + B, R]`."""
    return np.stack([weights @ row for row in (*above, below)], axis=1)[:, :-1] / (weights @ below)[:, None]


def _fall(figures: Floats) -> Floats:
    """By how much each column is below the one before; 0 in the first."""
    return np.concatenate([np.zeros_like(figures[:, :1]), figures[:, :-1] - figures[:, 1:]], axis=1)
