"""Explanations as pictures: the grid of the report, the PNG file of it, and the file that keeps the arrays."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from interpretgan.data import class_name
from interpretgan.errors import ConfigError, ImageError, RunFolderError, kind_of
from interpretgan.interpreter import Explanation
from interpretgan.statistics import Floats
from interpretgan.store.files import atomic_write_bytes, read_arrays, write_arrays

Bytes = npt.NDArray[np.uint8]

MORE, LESS = (224, 112, 26), (47, 116, 208)  #: Orange: brighter than in the natural explanation. Blue: darker.
WRONG = "#b43c08"
MAX_SIDE = 96  #: Larger pictures are reduced to this many pixels, or a page would weigh tens of megabytes.
MAX_EXAMPLES = 8
NUMBERS = {field.name for field in dataclasses.fields(Explanation)} - {"layers"}  #: Arrays that are numbers.


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


def save_explanation(path: str | Path, explanation: Explanation) -> None:
    """Write all that an explanation has to one compressed .npz."""
    values = {name: value for name, value in vars(explanation).items() if value is not None}
    write_arrays(path, {name: v.cpu().numpy() if torch.is_tensor(v) else np.array(v) for name, v in values.items()})


def load_explanation(path: str | Path) -> Explanation:
    """Read what `save_explanation` wrote; a `RunFolderError` where the file is missing, damaged or something else."""
    arrays = read_arrays(path, "explanations")
    try:
        found = as_explanation(arrays)
        for name, array in arrays.items():
            if name in NUMBERS and array.dtype.kind not in "fiu":
                raise ValueError(f"{name} of {kind_of(array)}")
        return found
    except (ValueError, KeyError, TypeError, IndexError) as error:
        got, do = f"a damaged file ({error})", "delete it and explain again"
        raise RunFolderError(expected=f"explanations in {path}", got=got, do=do) from error


def load_predictions(folder: Path) -> dict[str, Any] | None:
    """What a run keeps of the judge's predictions, for `write_report`; `None` where there is nothing.

    A `RunFolderError` where the file is damaged or something else.
    """
    path = folder / "predictions.npz"
    if not path.exists():
        return None
    found = read_arrays(path, "predictions")
    kinds = ("labels", "natural", "adversarial")
    arrays = {name: array for name, array in found.items() if name.removesuffix("_all") in kinds}
    known = arrays.keys() >= set(kinds) and arrays["labels"].ndim == 1
    for name, array in arrays.items():
        same = (
            known
            and array.shape[-1:] == arrays["labels"].shape
            and array.ndim == (1 if name == "labels" else 3 if name.endswith("_all") else 2)
        )
        if not same or not np.issubdtype(array.dtype, np.integer) or array.size == 0 or array.min() < 0:
            expected, do = f"classes by layer and image in {path}", "delete it, or run the diagnosis again"
            raise RunFolderError(expected=expected, got=f"{name} of {kind_of(array)}", do=do)
    if not known:
        do = "delete it, or run the diagnosis again"
        raise RunFolderError(expected=f"{', '.join(kinds)} in {path}", got=", ".join(arrays) or "none", do=do)
    return arrays


def as_explanation(explanation: Explanation | Mapping[str, Any]) -> Explanation:
    """An explanation as it is, or made of its arrays under the names of `Explanation`; other arrays are left out."""
    if isinstance(explanation, Explanation):
        return explanation
    names = {field.name for field in dataclasses.fields(Explanation)} & explanation.keys() - {"layers", "bounds"}
    arrays: dict[str, Any] = dict.fromkeys(("adversarial", "adversarial_explanations"))
    arrays |= {name: torch.as_tensor(explanation[name]) for name in names if explanation[name] is not None}
    low, high = (float(bound) for bound in explanation["bounds"])
    return Explanation(layers=tuple(map(str, explanation["layers"])), bounds=(low, high), **arrays)


def grid(
    explanation: Explanation, classes: Sequence[str] = (), examples: int = MAX_EXAMPLES
) -> tuple[list[Example], tuple[float, float]]:
    """The pictures of the first examples, with the judge's predictions where there are some.

    Images have 1 or 3 channels; without names of the classes their numbers stand. Beside the examples come the
    differences that are drawn in full colour: of the images and of their explanations. Without adversarial images there
    is a `ConfigError`, and an `ImageError` where shapes do not fit each other.
    """
    _check_shapes(explanation)
    _ = explanation.difference  # refuses what has no adversarial explanations
    if explanation.adversarial is None:
        do = "pass all arrays as one explanation has them"
        raise ConfigError(expected="the adversarial images of adversarial explanations", got="none", do=do)
    columns, count = ("image", *explanation.layers), len(explanation.images)
    stacks, predictions = {}, {}
    for kind, source in (("natural", "images"), ("adversarial", "adversarial")):
        images, drawn, predicted = (
            getattr(explanation, name) for name in (source, f"{kind}_explanations", f"{kind}_predictions")
        )
        stacks[kind] = torch.cat([images[None], drawn])[:, :examples].double().cpu().numpy()
        predictions[kind] = [[None] * count] * len(columns) if predicted is None else predicted.tolist()
    difference = stacks["adversarial"] - stacks["natural"]
    largest = np.abs(np.nan_to_num(difference).mean(axis=2)).max(axis=(1, 2, 3))
    scales = (float(largest[0]), float(largest[1:].max()))
    labels = [None] * count if explanation.labels is None else explanation.labels.tolist()
    judged = explanation.natural_predictions is not None and explanation.adversarial_predictions is not None
    turns = explanation.turns if judged and explanation.labels is not None else [None] * count

    def name(label: int | None) -> str | None:
        if label is None:
            return None
        return class_name(label, classes)

    numbers = [None] * count if explanation.indices is None else explanation.indices.tolist()
    shown = []
    for example, (label, turn) in enumerate(zip(labels[:examples], turns[:examples], strict=True)):
        rows = {
            kind: [
                Picture(layer, picture(image[example], explanation.bounds), name(predicted[example]),
                        None not in (label, predicted[example]) and predicted[example] != label)
                for layer, image, predicted in zip(columns, stack, predictions[kind], strict=True)
            ]
            for kind, stack in stacks.items()
        }  # fmt: skip
        rows["difference"] = [
            Picture(layer, difference_picture(of_layer[example], scales[min(column, 1)]))
            for column, (layer, of_layer) in enumerate(zip(columns, difference, strict=True))
        ]
        into = None if turn is None else rows["adversarial"][columns.index(turn)].prediction
        shown.append(Example(name(label), turn, into, rows, numbers[example]))
    return shown, scales


def _check_shapes(explanation: Explanation) -> None:
    shape, layers = tuple(explanation.images.shape), len(explanation.layers)
    predicted = (layers + 1, *shape[:1])
    expected = {
        "images": shape if len(shape) == 4 and shape[1] in (1, 3) else ("N", "1 or 3", "H", "W"),
        "adversarial": shape, "labels": shape[:1], "indices": shape[:1],
        "natural_explanations": (layers, *shape), "adversarial_explanations": (layers, *shape),
        "natural_predictions": predicted, "adversarial_predictions": predicted,
    }  # fmt: skip
    for name, wanted in expected.items():
        tensor = getattr(explanation, name)
        if tensor is not None and tuple(tensor.shape) != wanted:
            shapes, do = f"[{', '.join(map(str, wanted))}]", "pass all arrays as one explanation has them"
            raise ImageError(expected=f"{name} of shape {shapes}", got=f"{list(tensor.shape)}", do=do)


def picture(image: Floats, bounds: tuple[float, float]) -> Bytes:
    """An image `[C, H, W]` in the classifier's bounds as RGB bytes `[H, W, 3]`."""
    low, high = bounds
    unit = np.clip((np.nan_to_num(image) - low) / (high - low), 0.0, 1.0)
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


def data_uri(pixels: Bytes) -> str:
    """RGB or RGBA bytes `[H, W, 3 or 4]` as the address of a PNG, no side above `MAX_SIDE` pixels."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((MAX_SIDE, MAX_SIDE))  # never enlarges
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def draw_explanation(explanation: Explanation, path: str | Path, classes: Sequence[str] = ()) -> Path:
    """Write an `explanation_sheet` to a PNG file; its path. A `RunFolderError` where it cannot be written."""
    atomic_write_bytes(path, explanation_sheet(explanation, classes))
    return Path(path)


def explanation_sheet(explanation: Explanation, classes: Sequence[str] = (), examples: int = MAX_EXAMPLES) -> bytes:
    """An explanation as one PNG on white: for each image rows natural, adversarial and difference, a column per layer.

    The judge's predictions stand below the pictures, and the layer is framed at which an image turns. See `grid` for
    the arguments and errors.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    shown, _ = grid(explanation, classes, examples)
    rows = [(example.turn, kind, row) for example in shown for kind, row in example.rows.items()]
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
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
