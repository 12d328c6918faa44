"""Explanations as pictures: the grid of the report, the PNG file of it, and the file that keeps the arrays."""

from __future__ import annotations

import base64
import dataclasses
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from interpretgan.errors import ImageError, RunFolderError
from interpretgan.interpreter import Explanation
from interpretgan.statistics import Floats
from interpretgan.store.files import atomic_write_bytes

Bytes = npt.NDArray[np.uint8]

MORE = (224, 112, 26)
"""Colour of what is brighter than in the natural explanation: orange."""
LESS = (47, 116, 208)
"""Colour of what is darker: blue."""
MAX_SIDE = 96
"""Larger pictures are reduced to this many pixels, or a page would weigh tens of megabytes."""
MAX_EXAMPLES = 8


@dataclass(frozen=True)
class Picture:
    """One cell of the grid: RGB or RGBA `[H, W, 3 or 4]`, and the judge's prediction where there is one."""

    layer: str
    pixels: Bytes
    prediction: str | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Example:
    """One image of the grid: its class, the layer where its explanation turns, into which class, and three rows.

    The rows are `natural`, `adversarial` and `difference`, each with a picture of the image and of every layer.
    """

    label: str | None
    turn: str | None
    into: str | None
    rows: Mapping[str, Sequence[Picture]]


@dataclass(frozen=True)
class Grid:
    """The examples that are shown, out of `total`, and the differences of full colour: of the image, of the layers."""

    examples: Sequence[Example]
    total: int
    scales: tuple[float, float]
    in_colour: bool
    judged: bool


def save_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays to one compressed .npz, atomically and without pickles."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    atomic_write_bytes(path, buffer.getvalue())


def save_explanation(path: Path, explanation: Explanation) -> None:
    """Write all that an explanation has to one compressed .npz."""
    values = {name: value for name, value in vars(explanation).items() if value is not None}
    save_arrays(path, {name: v.cpu().numpy() if torch.is_tensor(v) else np.array(v) for name, v in values.items()})


def load_explanation(path: Path) -> Explanation:
    """Read what `save_explanation` wrote.

    Raises:
        RunFolderError: The file is missing, damaged or something else.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
            return as_explanation({name: saved[name] for name in saved.files})
    except (OSError, ValueError, EOFError, ImageError, zipfile.BadZipFile) as error:
        raise RunFolderError(
            expected=f"explanations in {path}", got=f"a damaged file ({error})", do="delete it and explain again"
        ) from error


def as_explanation(explanation: Explanation | Mapping[str, Any]) -> Explanation:
    """An explanation as it is, or made of its arrays under the names of `Explanation`, of which others are left out.

    Raises:
        ImageError: An array that every explanation has is missing.
    """
    if isinstance(explanation, Explanation):
        return explanation
    arrays = {field.name: explanation.get(field.name) for field in dataclasses.fields(Explanation)}
    missing = [name for name in ("layers", "images", "natural_explanations", "bounds") if arrays[name] is None]
    if missing:
        raise ImageError(
            expected="all arrays of an explanation",
            got=f"none for {', '.join(missing)}",
            do="pass what InterpretGAN.explain returns",
        )
    low, high = (float(bound) for bound in arrays.pop("bounds"))
    layers = tuple(str(name) for name in arrays.pop("layers"))
    tensors: dict[str, Any] = {name: None if v is None else torch.as_tensor(v) for name, v in arrays.items()}
    return Explanation(layers=layers, bounds=(low, high), **tensors)


def grid(explanation: Explanation, classes: Sequence[str] = (), examples: int = MAX_EXAMPLES) -> Grid:
    """The pictures of the first examples, with the judge's predictions where there are some.

    Args:
        explanation: With adversarial images of 1 or 3 channels.
        classes: Names of the classes. Empty: their numbers.
        examples: How many at most.

    Raises:
        ConfigError: There are no adversarial images.
        ImageError: Tensors whose shapes do not fit each other.
    """
    _check_shapes(explanation)
    _ = explanation.difference  # refuses what has no adversarial images
    columns = ("image", *explanation.layers)
    labels = None if explanation.labels is None else explanation.labels.tolist()
    stacks, predictions = {}, {}
    for kind, images in (("natural", explanation.images), ("adversarial", explanation.adversarial)):
        drawn = getattr(explanation, f"{kind}_explanations")
        stacks[kind] = torch.cat([images[None], drawn])[:, :examples].double().cpu().numpy()
        predictions[kind] = getattr(explanation, f"{kind}_predictions")
    difference = stacks["adversarial"] - stacks["natural"]
    largest = np.abs(np.nan_to_num(difference).mean(axis=2)).max(axis=(1, 2, 3))
    scales = (float(largest[0]), float(largest[1:].max()))
    judged = predictions["adversarial"] is not None
    turns = explanation.turns if judged and labels else (None,) * len(explanation.images)

    def name(label: int) -> str:
        return classes[label] if 0 <= label < len(classes) else str(label)

    def row(kind: str, example: int) -> list[Picture]:
        pixels = [picture(image[example], explanation.bounds) for image in stacks[kind]]
        if predictions[kind] is None:
            return [Picture(layer, drawn) for layer, drawn in zip(columns, pixels, strict=True)]
        shown = predictions[kind][:, example].tolist()
        return [
            Picture(layer, drawn, name(label), labels is not None and label != labels[example])
            for layer, drawn, label in zip(columns, pixels, shown, strict=True)
        ]

    made = []
    for example, turn in enumerate(turns[:examples]):
        differences = [
            Picture(layer, difference_picture(difference[column, example], scales[min(column, 1)]))
            for column, layer in enumerate(columns)
        ]
        rows = {kind: row(kind, example) for kind in stacks}
        into = None if turn is None else rows["adversarial"][columns.index(turn)].prediction
        label = None if labels is None else name(labels[example])
        made.append(Example(label, turn, into, {**rows, "difference": differences}))
    return Grid(made, len(explanation.images), scales, explanation.images.shape[1] == 3, judged)


def _check_shapes(explanation: Explanation) -> None:
    images, layers = explanation.images, len(explanation.layers)
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ImageError(
            expected="images of shape [N, C, H, W] with 1 or 3 channels",
            got=f"shape {list(images.shape)}",
            do="pass the images as the classifier takes them",
        )
    drawn, predicted = (layers, *images.shape), (layers + 1, len(images))
    expected = {"adversarial": tuple(images.shape), "natural_explanations": drawn, "adversarial_explanations": drawn,
                "labels": (len(images),), "natural_predictions": predicted, "adversarial_predictions": predicted}  # fmt: skip
    for name, shape in expected.items():
        tensor = getattr(explanation, name)
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ImageError(
                expected=f"{name} of shape {list(shape)}",
                got=f"shape {list(tensor.shape)}",
                do="take all arrays from one explanation",
            )


def picture(image: Floats, bounds: tuple[float, float]) -> Bytes:
    """An image `[C, H, W]` in the classifier's bounds as RGB bytes `[H, W, 3]`."""
    low, high = bounds
    unit = np.clip((np.nan_to_num(image) - low) / (high - low), 0.0, 1.0)
    rgb = np.broadcast_to(unit, (3, *unit.shape[1:])).transpose(1, 2, 0)
    return np.round(255 * rgb).astype(np.uint8)


def difference_picture(difference: Floats, scale: float) -> Bytes:
    """A signed difference `[C, H, W]` as RGBA bytes `[H, W, 4]`: orange up, blue down, transparent at zero.

    The mean over channels sets the opacity, full at ±`scale`, so that the picture suits any background.
    """
    mean = np.nan_to_num(difference).mean(axis=0)
    rgba = np.empty((*mean.shape, 4), dtype=np.uint8)
    rgba[..., :3] = np.where((mean >= 0)[..., None], np.array(MORE), np.array(LESS))
    rgba[..., 3] = np.round(255 * np.clip(np.abs(mean) / max(scale, 1e-12), 0.0, 1.0))
    return rgba


def data_uri(pixels: Bytes) -> str:
    """RGB or RGBA bytes `[H, W, 3 or 4]` as the address of a PNG, no side above `MAX_SIDE` pixels."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))  # never enlarges
    return f"data:image/png;base64,{base64.b64encode(_png(image)).decode('ascii')}"


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def draw_explanation(explanation: Explanation, path: Path, classes: Iterable[str] = ()) -> Path:
    """Draw an explanation as one PNG: for each image rows natural, adversarial and difference, a column per layer.

    Args:
        explanation: With adversarial images; with labels and a judge's predictions these stand below each picture.
        path: The file to write.
        classes: Names of the classes. Empty: their numbers.

    Returns:
        The path.

    Raises:
        ConfigError: There are no adversarial images.
        ImageError: Tensors whose shapes do not fit each other.
        RunFolderError: The file cannot be written.
    """
    atomic_write_bytes(path, explanation_sheet(grid(explanation, list(classes)).examples))
    return path


def explanation_sheet(examples: Sequence[Example]) -> bytes:
    """At least one example of a grid as one PNG on white, for slides and README files."""
    import matplotlib as mpl  # for its font, which has most alphabets
    from PIL import Image, ImageDraw, ImageFont

    cell, caption, side, between = 96, 26, 150, 20
    ink, quiet, wrong = (27, 31, 36), (92, 102, 112), (180, 60, 8)
    font = ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 17)
    columns = [entry.layer for entry in examples[0].rows["natural"]]
    captions = {entry.prediction or "" for example in examples for row in example.rows.values() for entry in row}
    gap = max(10, int(max(font.getlength(f"✗ {text}") for text in captions)) + 8 - cell)
    widest = max(font.getlength(name) for name in columns)
    turned = widest > cell + gap - 8  # long names stand upright
    head = int(widest) + 20 if turned else 40
    row_height = cell + caption + 4
    size = (side + len(columns) * (cell + gap) + gap, head + len(examples) * (3 * row_height + between))
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    lefts = [side + column * (cell + gap) for column in range(len(columns))]
    for left, name in zip(lefts, columns, strict=True):
        if turned:
            strip = Image.new("RGB", (head - 12, 24), (255, 255, 255))
            ImageDraw.Draw(strip).text((0, 1), name, fill=ink, font=font)
            sheet.paste(strip.rotate(90, expand=True), (left + cell // 2 - 12, 0))
        else:
            draw.text((left + cell / 2, head / 2), name, fill=ink, font=font, anchor="mm")
    for number, example in enumerate(examples):
        for place, (kind, row) in enumerate(example.rows.items()):
            top = head + number * (3 * row_height + between) + place * row_height
            draw.text((side - 14, top + cell / 2), kind, fill=quiet, font=font, anchor="rm")
            for left, entry in zip(lefts, row, strict=True):
                pixels = Image.fromarray(entry.pixels).convert("RGBA")
                base = Image.new("RGBA", (cell, cell), (246, 246, 244, 255))
                base.alpha_composite(pixels.resize((cell, cell), Image.Resampling.NEAREST))
                sheet.paste(base.convert("RGB"), (left, top))
                if example.turn == entry.layer:
                    draw.rectangle((left - 4, top - 4, left + cell + 3, top + cell + 3), outline=wrong, width=3)
                if entry.prediction is not None:
                    text, colour = (f"✗ {entry.prediction}", wrong) if entry.wrong else (entry.prediction, ink)
                    middle = (left + cell / 2, top + cell + caption / 2)
                    draw.text(middle, text, fill=colour, font=font, anchor="mm")
    return _png(sheet)
