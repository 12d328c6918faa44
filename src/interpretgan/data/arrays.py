"""Arrays of images: which rows are chosen, their hash, what is refused, and files of them by other tools."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interpretgan.errors import DataError, ImageError, in_a_line, kind_of
from interpretgan.store.files import ARRAYS_DAMAGED

SUFFIXES = (".npy", ".npz", ".safetensors")
#: What adversarial images are called in a file of several arrays.
NAMES = (
    "adversarial", "adversarial_images", "adversarial_examples", "x_adversarial", "adv", "adv_images", "adv_examples",
    "images_adv", "x_adv", "adv_x", "xadv",
)  # fmt: skip


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


def content_hash(images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> str:
    """Hash of the shape and pixels of images, and of their labels: 64 hexadecimal digits."""
    digest = hashlib.sha256(str(tuple(int(n) for n in images.shape)).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()


def refuse_channels_last(images: Any) -> None:
    """Refuse (`ImageError`) images `[N, H, W, C]`: few channels at the end, and more than any picture has after N."""
    if images.shape[3] in (1, 3, 4) and images.shape[1] > 4 and images.shape[2] > 4:
        expected = "images [N, C, H, W], channels first"
        raise ImageError(expected=expected, got=kind_of(images), do="permute them: images.permute(0, 3, 1, 2)")


def refuse_scaled_twice(images: Any, low: float, high: float) -> None:
    """Refuse (`ImageError`) images that fill no more than a 255th of the range of their pixels, above its lower end."""
    most = float(images.max()) if len(images) else high
    if low < most <= low + 1.001 * (high - low) / 255:
        expected, got = f"pixels from {low:g} to {high:g}", f"none above {most:.4g} in the first {len(images)} images"
        raise ImageError(expected=expected, got=got, do="do not divide by 255 twice; multiply masks of 0 and 1 by 255")


def read_images(path: str | Path) -> Tensor:
    """Floating point images `[N, C, H, W]` from a file of arrays; nothing in it is run.

    Of several arrays in an .npz or .safetensors file the one is taken that has one of `NAMES`. Where it is the only one
    with the axes of images, it may be called anything.

    Raises `DataError` for a file that is missing, damaged or holds something else, such as images of 8 bits: rounding
    undoes part of an adversarial perturbation. Also where several arrays could be meant.
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
            return torch.from_numpy(np.array(saved[_name({name: saved[name].ndim for name in saved.files}, path)]))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            axes = {name: len(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # no mapping
            tensor: Tensor = file.get_tensor(_name(axes, path))
            return tensor
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _name(axes: dict[str, int], path: Path) -> str:
    """Of the array that is meant, by how many axes each has."""
    names, images = [*axes], [name for name, count in axes.items() if count == 4]
    named = [name for name in names if name.lower() in NAMES]  # without four axes they are refused for that
    found = [name for name in named if name in images] or images or named
    if len(names) != 1 and len(found) != 1:
        some = ", ".join(sorted(names)[:6]) + (", ..." if len(names) > 6 else "")
        got, do = f"{len(names)} in {path}: {some}", "save the adversarial images alone, or give them alone that name"
        raise DataError(expected="one array that is called adversarial, adv or x_adv", got=got, do=do)
    return (found or names)[0]
