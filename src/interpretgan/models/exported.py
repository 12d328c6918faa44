"""Programs of torch.export in files: checked, so that reading one runs no code of its own, and taken apart."""

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.classifier import EXPORT_ANY_BATCH, unwrapped
from interpretgan.errors import ModelError
from interpretgan.models.named import NamedModel, loading

OBJECTS = ("custom_obj_", "opaque_obj_")  # files of a program that hold pickled objects
LIBRARIES = (".so", ".dylib", ".dll", ".pyd")  # compiled parts
EXPRESSION = "expr_str"  # the key of sizes as formulas, which torch has sympy evaluate
QUOTED = re.compile(r"'(?:[a-z]+\d+|[\d.e+-]+)'")  # names of sizes, and numbers
FORMULA = re.compile(
    r"(?:[A-Z][A-Za-z]*\(|[a-z]+\d+\b|[a-z_]+=(?!=)|True|False|oo|int_oo|\.?\d[\d.]*|[\s()+*/%<>=!,-])*+"
)
"""Classes of sympy that are called, sizes, keywords and numbers: no function is called, no attribute asked for."""


def find_program(path: Path) -> NamedModel:
    """The classifier in a file of `torch.export.save`, with the size of images that it was exported for.

    Raises `ModelError` for a file that is missing, damaged, could run code, or takes batches of one size alone.
    """
    do = "save the ExportedProgram with torch.export.save"
    if not path.is_file():
        raise ModelError(expected="a file of torch.export", got=f"no file at {path}", do="check the path")
    with loading(path.name, do):
        if not zipfile.is_zipfile(path):
            raise ModelError(expected="a file of torch.export", got=f"{path}, which is none, or damaged", do=do)
        _refuse_code(path)
        program = torch.export.load(path)
        shape = _input_shape(program, path.name)
    batch, channels, *size = shape
    if isinstance(batch, int):
        expected, got = "a program for batches of any size", f"one for {batch} image{'s' * (batch != 1)} in {path.name}"
        raise ModelError(expected=expected, got=got, do=EXPORT_ANY_BATCH)
    fixed = all(isinstance(side, int) for side in size)

    def load(num_classes: int | None) -> nn.Module:
        if num_classes is not None:
            expected, got = "a program with the weights that it was saved with", f"others beside {path.name}"
            raise ModelError(expected=expected, got=got, do="leave --weights out")
        with loading(path.name, do):
            return unwrapped(program)

    return NamedModel(
        path.name,
        load,
        image_size=(size[0], size[1]) if fixed else None,
        channels=channels if isinstance(channels, int) else None,
    )


def _input_shape(program: Any, name: str) -> tuple[Any, ...]:
    """Shape of the images that a program takes: numbers where it is fixed; a `ModelError` for other inputs."""
    inputs = set(program.graph_signature.user_inputs)
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs]
    if len(values) != 1 or not isinstance(values[0], Tensor) or values[0].ndim != 4:
        shapes = [list(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in values]
        do = "wrap the model in a module that takes images alone, and export that"
        raise ModelError(expected="a program of images [N, C, H, W] alone", got=f"{name} of {shapes}", do=do)
    return tuple(values[0].shape)


def _refuse_code(path: Path) -> None:
    """Refuse (`ModelError`) a program whose reading would run code: pickled objects, libraries, words in formulas."""
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            last = entry.rpartition("/")[2]
            if last.startswith(OBJECTS) or last.endswith(LIBRARIES):
                do = "export the model without custom or compiled objects"
                raise ModelError(expected="a program of tensors and torch's operations", got=f"{last} in {path}", do=do)
            if last.endswith(".json"):
                for formula in _formulas(json.loads(archive.read(entry))):
                    if not FORMULA.fullmatch(QUOTED.sub("0", formula)):
                        do = "export the model again: no size is computed like this"
                        raise ModelError(
                            expected="sizes as formulas of numbers", got=f"{formula!r:.60} in {path}", do=do
                        )


def _formulas(content: Any) -> Iterator[str]:
    """All expressions of a program in JSON that torch evaluates, however deep: also the names of its ranges."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key == EXPRESSION:
                yield str(value)
            elif key == "range_constraints" and isinstance(value, Mapping):
                yield from map(str, value)
            else:
                yield from _formulas(value)
    elif isinstance(content, list):
        for value in content:
            yield from _formulas(value)
