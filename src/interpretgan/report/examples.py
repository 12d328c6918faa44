"""Explanations as the arrays that the report draws, and the files that keep them."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interpretgan.errors import RunFolderError
from interpretgan.report.figures import check_examples, explanation_sheet, grid
from interpretgan.store.files import atomic_write_bytes, write_arrays

if TYPE_CHECKING:
    from interpretgan.interpreter import Explanation


save_arrays = write_arrays


def examples_of(explanation: Explanation) -> dict[str, Any]:
    """An explanation as the arrays that the report draws; labels and predictions where there are some.

    Raises:
        ConfigError: It has no adversarial images.
    """
    _ = explanation.difference  # raises where there is nothing to compare with
    tensors = (
        "images", "adversarial", "natural_explanations", "adversarial_explanations", "labels", "natural_predictions",
        "adversarial_predictions",
    )  # fmt: skip
    found = {name: getattr(explanation, name) for name in tensors}
    arrays = {name: tensor.cpu().numpy() for name, tensor in found.items() if tensor is not None}
    read = explanation.labels is not None and explanation.adversarial_predictions is not None
    turns = explanation.turns if read else [None] * len(explanation.images)
    return {
        "layers": np.array(explanation.layers),
        "turns": np.array([layer or "" for layer in turns]),
        "bounds": np.array(explanation.bounds),
        **arrays,
    }


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
        RunFolderError: The file cannot be written.
    """
    shown = grid(check_examples(for_report(examples_of(explanation), classes)))
    atomic_write_bytes(path, explanation_sheet(shown))
    return path


def load_examples(path: Path, classes: Iterable[str]) -> dict[str, Any]:
    """What `save_arrays(path, examples_of(...))` wrote, with the names of the classes."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise RunFolderError(
            expected=f"explanations in {path}", got=f"a damaged file ({error})", do="delete it and explain again"
        ) from error
    return for_report(arrays, classes)


def for_report(arrays: dict[str, Any], classes: Iterable[str]) -> dict[str, Any]:
    """The arrays of `examples_of`, with their names as lists, as `write_report` takes them."""
    return {
        **arrays,
        "layers": [str(name) for name in arrays["layers"]],
        "turns": [str(name) or None for name in arrays["turns"]],
        "bounds": tuple(float(v) for v in arrays["bounds"]),
        "classes": list(classes),
    }
