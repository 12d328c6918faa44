"""Programs of torch.export in files: checked, so that reading one runs no code of its own, and taken apart."""

import io
import json
import logging
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

ENTRY = re.compile(
    r"[^/]+/(?:models/model\.json|data/(?:weights/(?:weight_\d+|model_weights_config\.json)"
    r"|constants/(?:tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    r"|archive_format|archive_version|version|byteorder|\.data/(?:version|serialization_id))"
)
"""Files of a program that hold tensors and torch's operations alone: no pickled object, nothing compiled."""
TENSOR = re.compile(r"(?:weight|tensor)_\d+")  # a file that the lists of tensors may name
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
        program = _read(path)
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


def _read(path: Path) -> Any:
    """The program in a file, of which torch sees only what was checked, and each file of it once.

    Refused (`ModelError`) is what would run code: pickled objects, libraries, words in formulas.
    """
    checked, names = io.BytesIO(), set[str]()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(checked, "w", zipfile.ZIP_STORED) as copy:
        for entry in archive.infolist():
            name = entry.filename
            if not ENTRY.fullmatch(name) or name.lower() in names:
                do = "export the model without custom or compiled objects, and save it with torch.export.save"
                expected = "a program of tensors and torch's operations"
                raise ModelError(expected=expected, got=f"{name.rpartition('/')[2]!r:.60} in {path}", do=do)
            names.add(name.lower())
            content = archive.read(entry)
            if name.endswith(".json"):
                _refuse_code(json.loads(content), path)
            copy.writestr(name, content)
    checked.seek(0)
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it says of a file that is no program, we say in a line
    try:
        return torch.export.load(checked)
    finally:
        logger.setLevel(level)


def _refuse_code(content: Any, path: Path) -> None:
    for formula in _formulas(content):
        if not FORMULA.fullmatch(QUOTED.sub("0", formula)):
            do = "export the model again: no size is computed like this"
            raise ModelError(expected="sizes as formulas of numbers", got=f"{formula!r:.60} in {path}", do=do)
    config = content.get("config") if isinstance(content, Mapping) else None
    for tensor in config.values() if isinstance(config, Mapping) else ():
        named = isinstance(tensor, Mapping) and isinstance(tensor.get("path_name"), str)
        if not named or not TENSOR.fullmatch(tensor["path_name"]) or tensor.get("use_pickle"):
            do = "export the model with plain tensors as weights"
            raise ModelError(expected="a program of plain tensors", got=f"{tensor!r:.60} in {path}", do=do)


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
