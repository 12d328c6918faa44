"""Arrays of images: their files, as other tools save them in .npy, .npz or .safetensors, and which rows are chosen."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interpretgan.errors import DataError, in_a_line, kind_of
from interpretgan.store.files import ARRAYS_DAMAGED

SUFFIXES = (".npy", ".npz", ".safetensors")
NAMES = ("adversarial", "x_adv", "images", "x")  #: Of the array, where a file has several: the first of these counts.


def rows_of(indices: object, count: int) -> npt.NDArray[np.int64]:
    """The numbers of chosen examples of so many, whole numbers or a mask of all; a `DataError` for anything else."""
    try:
        chosen = np.asarray(indices)
    except (TypeError, ValueError, RuntimeError):  # ragged, or a tensor that numpy does not take
        chosen = np.asarray(str(indices)[:40])
    if chosen.dtype == bool and chosen.shape == (count,):
        return np.flatnonzero(chosen)
    whole = np.issubdtype(chosen.dtype, np.integer) and chosen.ndim == 1
    if chosen.size and not (whole and -count <= chosen.min() and chosen.max() < count):
        expected = f"numbers of examples from 0 to {count - 1}, or a mask [{count}]"
        got, do = f"{kind_of(chosen)}: {chosen.ravel()[:5].tolist()}", "choose whole numbers of that range"
        raise DataError(expected=expected, got=got, do=do)
    return chosen.astype(np.int64).reshape(-1)


def read_images(path: str | Path) -> Tensor:
    """Floating point images `[N, C, H, W]` from a file of arrays; nothing in it is run.

    An .npz or .safetensors file has one array, or names the images as one of `NAMES`.

    Raises `DataError` for a file that is missing, damaged or holds something else, such as images of 8 bits: rounding
    undoes part of an adversarial perturbation.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES or not path.is_file():
        got = f"{path}" if path.is_file() else f"no file {path}"
        raise DataError(expected=f"a file of images, {', '.join(SUFFIXES)}", got=got, do="check the path")
    try:
        images = _array(path)
    except ARRAYS_DAMAGED as error:
        got, do = f"{path}, which cannot be read ({in_a_line(error)})", "save a plain array of floats again"
        raise DataError(expected="a complete file of arrays alone", got=got, do=do) from error
    if images.ndim != 4 or not images.is_floating_point() or not len(images):
        expected, got = "floating point images [N, C, H, W], N >= 1", f"{kind_of(images)} in {path}"
        raise DataError(expected=expected, got=got, do="save them as floats within the bounds, channels first")
    return images.to(torch.float32)


def _array(path: Path) -> Tensor:
    if path.suffix == ".npy":
        return torch.from_numpy(np.array(np.load(path, allow_pickle=False)))
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as saved:
            return torch.from_numpy(np.array(saved[_name(list(saved.files))]))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensor: Tensor = file.get_tensor(_name(list(file.keys())))
            return tensor
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _name(names: list[str]) -> str:
    known = [name for name in NAMES if name in names]
    if len(names) != 1 and not known:
        raise KeyError(f"none of {', '.join(NAMES)} among {len(names)} arrays {', '.join(sorted(names)[:4])}")
    return known[0] if known else names[0]
