"""Images as pictures to look at: bytes for a page, and a sheet of them as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from interpretgan.statistics import Floats

Bytes: TypeAlias = npt.NDArray[np.uint8]

MORE, LESS = (224, 112, 26), (47, 116, 208)  #: Orange: brighter than in the natural explanation. Blue: darker.
WRONG = "#b43c08"


@dataclass(frozen=True)
class Picture:
    """One cell of the grid: RGB or RGBA `[H, W, 3 or 4]`, and the judge's prediction where there is one."""

    layer: str
    pixels: Bytes
    prediction: str | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Example:
    """One image of the grid: its class, the layer where its explanation turns, and into which class.

    Its rows `natural`, `adversarial` and `difference` have a picture of the image and of every layer.
    """

    label: str | None
    turn: str | None
    into: str | None
    rows: Mapping[str, Sequence[Picture]]
    number: int | None = None  #: Of the test image.


def picture(image: Floats, bounds: tuple[float, float]) -> Bytes:
    """An image `[C, H, W]` in the classifier's bounds as RGB bytes `[H, W, 3]`.

    Of more than three channels the first three are shown, as red, green and blue; of two their mean, in grey.
    """
    low, high = bounds
    unit = np.clip((np.nan_to_num(image) - low) / (high - low), 0.0, 1.0)
    unit = unit.mean(axis=0, keepdims=True) if len(unit) == 2 else unit[:3]
    rgb = np.broadcast_to(unit, (3, *unit.shape[1:])).transpose(1, 2, 0)
    return np.round(255 * rgb).astype(np.uint8)


def difference_picture(difference: Floats, scale: float) -> Bytes:
    """A signed difference `[C, H, W]` as RGBA bytes `[H, W, 4]`: orange up, blue down, transparent at zero.

    The square root of the mean over channels sets the opacity, full at ±`scale`, so that the picture suits any
    background and small differences are seen as well.
    """
    mean = np.nan_to_num(difference).mean(axis=0)
    rgba = np.empty((*mean.shape, 4), dtype=np.uint8)
    rgba[..., :3] = np.where((mean >= 0)[..., None], np.array(MORE), np.array(LESS))
    rgba[..., 3] = np.round(255 * np.sqrt(np.clip(np.abs(mean) / max(scale, 1e-12), 0.0, 1.0)))
    return rgba


def sheet(examples: Sequence[Example]) -> Figure:
    """Examples on white as a figure of matplotlib: kinds of pictures in rows, a column for the image and each layer.

    The judge's predictions stand below the pictures, and the layer is framed at which an image turns.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows = [(example.turn, kind, row) for example in examples for kind, row in example.rows.items()]
    columns = [cell.layer for cell in rows[0][2]]
    side, letter = 0.96, 0.1  # inches, as all lengths here
    captions = max(len(cell.prediction or "") for _, _, row in rows for cell in row)
    step = max(side + 0.1, letter * (captions + 2))
    longest = letter * max(map(len, columns))
    upright = longest > step  # the names of the columns
    head = longest + 0.2 if upright else 0.4
    width, height = 1.5 + step * len(columns), head + 1.3 * len(rows)
    figure = Figure(figsize=(width, height), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for place, name in enumerate(columns):
        at = 1.5 + place * step + side / 2
        axes.text(at, head - 0.1, name, ha="center", va="bottom", rotation=90 if upright else 0, size=12)
    for number, (turn, kind, row) in enumerate(rows):
        top = head + 1.3 * number
        axes.text(1.4, top + side / 2, kind, ha="right", va="center", size=12, color="#5c6670")
        for place, cell in enumerate(row):
            left = 1.5 + place * step
            axes.imshow(cell.pixels, extent=(left, left + side, top + side, top), interpolation="nearest")
            if cell.layer == turn:
                axes.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=WRONG, linewidth=3))
            if cell.prediction is not None:
                text, colour = (f"✗ {cell.prediction}", WRONG) if cell.wrong else (cell.prediction, "#1b1f24")
                axes.text(left + side / 2, top + side + 0.15, text, ha="center", va="center", size=12, color=colour)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
    return figure
