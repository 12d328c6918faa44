"""How much each layer forgets, from what decoders and probes do on held-out images: pure arithmetic.

`L` layers, `C` controls, `N` images. Row 0 is the image, row `l` layer `l`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from interpretgan.diagnosis import vulnerability as vul
from interpretgan.statistics import Floats, Interval, Weights, intervals


@dataclass(frozen=True)
class LayerInformation:
    """What one row of a diagnosis says about information: the image itself, or a layer and the layer that ends there.

    Attributes:
        unexplained: `u_l`, the share of the image's variance that the layer no longer explains; 0 for the image.
        information_loss: `u_l - u_{l-1}`, as measured, also where it is negative; 0 for the image.
        class_information: What a probe of fixed capacity tells of the class, in bits.
        class_information_loss: By how many bits it falls; negative where the layer makes the class easier to read.
        class_accuracy: Share of the images of which the probe tells the true class.
        information_control: Information loss of a random projection of the layer before to the size of this one; `None`
            where this one is not smaller.
        flags: Reasons to distrust them.
    """

    unexplained: Interval
    information_loss: Interval
    class_information: Interval
    class_information_loss: Interval
    class_accuracy: Interval
    information_control: Interval | None = None
    flags: tuple[str, ...] = ()


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
            weights: `[1 + B, N]`, ones first: see `interpretgan.diagnosis.vulnerability.bootstrap_weights`.
            confidence: Level of the intervals.
        """
        unexplained = _ratio(weights, self.errors, self.variance)
        bits = _ratio(weights, self.bits, np.ones_like(self.variance))
        projected = _ratio(weights, self.control_errors, self.variance) - unexplained[:, self.controls - 1]
        found = {
            "unexplained": intervals(unexplained, confidence),
            "information_loss": intervals(vul.vulnerability(1 - unexplained), confidence),
            "class_information": intervals(bits, confidence),
            "class_information_loss": intervals(vul.vulnerability(bits), confidence),
            "class_accuracy": intervals(_ratio(weights, self.right, np.ones_like(self.variance)), confidence),
        }
        controls = dict(zip(self.controls.tolist(), intervals(projected, confidence), strict=True))
        return [
            LayerInformation(
                **{name: rows[row] for name, rows in found.items()},
                information_control=controls.get(row),
                flags=_flags(
                    {
                        "information loss": found["information_loss"][row],
                        "information loss of a random projection": controls.get(row),
                        "class information": found["class_information"][row],
                    }
                ),
            )
            for row in range(len(self.errors))
        ]


def _ratio(weights: Weights, above: Floats | npt.NDArray[np.bool_], below: Floats) -> Floats:
    """`Σ w·above / Σ w·below` of each replicate and row: `[R, N]`, `[N]` → `[1 + B, R]`."""
    return np.stack([weights @ row for row in (*above, below)], axis=1)[:, :-1] / (weights @ below)[:, None]


def _flags(found: dict[str, Interval | None]) -> tuple[str, ...]:
    """What cannot be negative, and was measured to be by more than its interval."""
    return tuple(
        f"{name} below zero by more than its interval: {value.value:.4f} [{value.low:.4f}, {value.high:.4f}]"
        for name, value in found.items()
        if value is not None and value.high < 0
    )
