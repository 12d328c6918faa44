"""Information loss of each layer, from what decoders and probes do on held-out images: pure arithmetic.

`L` layers, `C` controls, `N` images. Row 0 is the image, row `l` layer `l`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interpretgan.errors import Flag, FlagKind
from interpretgan.statistics import Floats, Interval, Weights, falls, intervals

ROUNDED = 5e-4  # what is shown as zero is none below it
NEGATIVE_INFORMATION = FlagKind("negative_information", "warning",  # a figure that cannot be negative
    "{figure} below zero by more than its interval: {value:.4f} [{low:.4f}, {high:.4f}]")  # fmt: skip


@dataclass(frozen=True)
class LayerInformation:
    """What one row of a diagnosis says about information: the image itself, or a layer."""

    unexplained: Interval  #: `u_l`, the share of the image's variance that the layer no longer explains.
    information_loss: Interval  #: `u_l - u_{l-1}`, as measured, also where it is negative; 0 for the image.
    class_information: Interval  #: What a probe of fixed capacity finds out about the class, in bits.
    class_information_loss: Interval  #: How far it falls; negative where the class becomes easier to predict.
    class_accuracy: Interval  #: Share of the images of which the probe predicts the true class.
    information_control: Interval | None = None  #: Loss of a random projection to this size, if smaller than before.
    flags: tuple[Flag, ...] = ()  #: Reasons to doubt them.


@dataclass(frozen=True)
class Measurement:
    """What decoders and probes do on `N` held-out images, number by number."""

    errors: Floats  #: `‖x - D_l(z_l)‖²` of each decoder, `[L + 1, N]`; zeros in row 0.
    control_errors: Floats  #: The same of each control's decoder, `[C, N]`.
    controls: npt.NDArray[np.int64]  #: The row that each control belongs to, `[C]`.
    variance: Floats  #: `‖x - x̄‖²` `[N]`, `x̄` being the mean training image.
    bits: Floats  #: `log2 q_l(y|z_l) - log2 p(y)` of each probe, `[L + 1, N]`; `p(y)`: of the class in training.
    right: npt.NDArray[np.bool_]  #: Whether the true class is the probe's first choice, `[L + 1, N]`.
    layers: tuple[str, ...]  #: Names of the layers, `L`.
    settings: Mapping[str, Any]  #: Of the training, and its seed.

    @property
    def left_open(self) -> dict[str, float]:
        """Of an image by each layer, in the mean: `E‖x - D_l(z_l)‖²`, in squared pixels. See `InterpretGAN.fit`."""
        return dict(zip(self.layers, self.errors[1:].mean(axis=1).tolist(), strict=True))

    def rows(self, weights: Weights, confidence: float) -> list[LayerInformation]:
        """The figures of each row with bootstrap intervals, paired over images, from `statistics.bootstrap_weights`."""
        each = np.ones_like(self.variance)
        unexplained, bits = _ratio(weights, self.errors, self.variance), _ratio(weights, self.bits, each)
        projected = _ratio(weights, self.control_errors, self.variance) - unexplained[:, self.controls - 1]
        columns = {
            "unexplained": unexplained, "information_loss": falls(1 - unexplained), "class_information": bits,
            "class_information_loss": falls(bits), "class_accuracy": _ratio(weights, self.right, each),
        }  # fmt: skip
        found = {name: intervals(replicates, confidence) for name, replicates in columns.items()}
        controls = dict(zip(self.controls.tolist(), intervals(projected, confidence), strict=True))
        rows = []
        for row, layer in enumerate(("image", *self.layers)):
            figures, control = {name: column[row] for name, column in found.items()}, controls.get(row)
            not_negative = {
                "information loss": figures["information_loss"], "class information": figures["class_information"],
                "information loss of a random projection": control,
            }  # fmt: skip
            flags = tuple(
                NEGATIVE_INFORMATION(layer=layer, value=ci.value, threshold=0.0, figure=name, low=ci.low, high=ci.high)
                for name, ci in not_negative.items()
                if ci is not None and ci.high < -ROUNDED
            )
            rows.append(LayerInformation(**figures, information_control=control, flags=flags))
        return rows


def _ratio(weights: Weights, above: Floats | npt.NDArray[np.bool_], below: Floats) -> Floats:
    """`Σ w·above / Σ w·below` of each replicate and row: `[R, N]`, `[N]` → `[1 + B, R]`."""
    return np.stack([weights @ row for row in (*above, below)], axis=1)[:, :-1] / (weights @ below)[:, None]
