"""Explanations as pictures: the grid of the report, the PNG file of it, and the file that keeps the arrays."""

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from interpretgan.data import class_name
from interpretgan.data.pictures import Bytes, Example, sheet
from interpretgan.errors import ImageError, RunFolderError, kind_of
from interpretgan.interpreter import Explanation
from interpretgan.store.files import atomic_write_bytes, read_arrays, write_arrays

MAX_SIDE = 96  #: Larger pictures are reduced to this many pixels, or a page would weigh tens of megabytes.
MAX_EXAMPLES = 8
NUMBERS = {field.name for field in dataclasses.fields(Explanation)} - {"layers"}  #: Arrays that are numbers.


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


def no_turn(explanation: Explanation, row: int, classes: Sequence[str]) -> str:
    """What the judge sees of an attacked image whose class turns at no layer for good: `7 stays 7 at every layer`."""
    assert explanation.labels is not None
    assert explanation.natural_predictions is not None
    assert explanation.adversarial_predictions is not None
    label, names = int(explanation.labels[row]), ("image", *explanation.layers)
    true, seen = class_name(label, classes), explanation.adversarial_predictions[:, row].tolist()
    counted = [place for place, natural in enumerate(explanation.natural_predictions[:, row]) if natural == label]
    wrong = [place for place in counted if seen[place] != label]
    if not counted:
        return f"not even the natural {true} is predicted right, as an image or at a layer"
    if not wrong:
        return f"{true} stays {true} at every layer" + " that can be read" * (len(counted) < len(names))
    more = f" and {len(wrong) - 1} more" if wrong[1:] else ""
    into, back = class_name(seen[wrong[0]], classes), names[counted[-1]]
    return f"{true} turns for a while, into {into} at {names[wrong[0]]}{more}, and is {true} again at {back}"


def load_predictions(folder: Path, rows: int | None = None) -> dict[str, Any] | None:
    """What a run keeps of the judge's predictions, for `write_report`; `None` where there is nothing.

    A `RunFolderError` where the file is damaged or something else, or has not so many rows, one for the image and one
    for each layer.
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
            and (rows is None or name == "labels" or array.shape[-2] == rows)
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
    """The `Explanation.pictures` of the first examples.

    Without adversarial images there is a `ConfigError`, and an `ImageError` where shapes do not fit each other.
    """
    _check_shapes(explanation)
    _ = explanation.difference  # refuses what has no adversarial images
    return explanation.pictures(classes, examples)


def _check_shapes(explanation: Explanation) -> None:
    shape, layers = tuple(explanation.images.shape), len(explanation.layers)
    predicted = (layers + 1, *shape[:1])
    expected = {
        "images": shape if len(shape) == 4 and all(shape) else ("N", "C", "H", "W"),
        "adversarial": shape, "labels": shape[:1], "indices": shape[:1],
        "natural_explanations": (layers, *shape), "adversarial_explanations": (layers, *shape),
        "natural_predictions": predicted, "adversarial_predictions": predicted,
    }  # fmt: skip
    for name, wanted in expected.items():
        tensor = getattr(explanation, name)
        if tensor is not None and tuple(tensor.shape) != wanted:
            shapes, do = f"[{', '.join(map(str, wanted))}]", "pass all arrays as one explanation has them"
            raise ImageError(expected=f"{name} of shape {shapes}", got=f"{list(tensor.shape)}", do=do)


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
    """`Explanation.plot` as one PNG; see `grid` for the arguments and errors."""
    buffer = io.BytesIO()
    sheet(grid(explanation, classes, examples)[0]).savefig(buffer, format="png")
    return buffer.getvalue()
