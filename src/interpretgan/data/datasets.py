"""Image sets: embedded digits, MNIST and CIFAR-10 as parquet or from the public hub, folders of images.

Encoded images are decoded once, in a stream, to an uncompressed cache that is mapped into memory afterwards.
So memory does not grow with the set, and loading it again takes milliseconds.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interpretgan.data.readers import SPLITS, Example, Source, find_source, hash_of
from interpretgan.data.sources import ImageSource, TensorImages
from interpretgan.errors import DataError, LabelError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

CACHE_VARIABLE = "INTERPRETGAN_CACHE"
CACHE_SCHEMA = 1


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their true classes.

    Attributes:
        name: Name or path that it was loaded by.
        split: `"train"` or `"test"`.
        images: uint8 `[N, C, H, W]`, 0 to 255; possibly a read-only map of a file.
        labels: int64 `[N]`, 0 to K - 1.
        classes: Names of the K classes.
        sha256: Of shape, pixels and labels.
        note: Which files were read and how they are encoded: to be stated beside figures.
        bounds: What 0 and 255 become in `batch`.
    """

    name: str
    split: str
    images: Pixels
    labels: Labels
    classes: tuple[str, ...]
    sha256: str
    note: str = ""
    bounds: tuple[float, float] = (0.0, 1.0)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor | Sequence[int] | npt.NDArray[np.int64] | slice) -> tuple[Tensor, Tensor]:
        """The chosen examples: float32 `[n, C, H, W]` within `bounds`, and int64 `[n]`."""
        chosen = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        images = torch.from_numpy(np.array(self.images[chosen]))  # a copy: the map is read-only
        floats = images.to(torch.float32).div_(255)
        low, high = self.bounds
        if self.bounds != (0.0, 1.0):
            floats.mul_(high - low).add_(low).clamp_(low, high)
        return floats, torch.from_numpy(np.array(self.labels[chosen]))

    def scaled(self, bounds: tuple[float, float]) -> ImageSet:
        """The same images for a classifier that takes pixels within `bounds`."""
        return replace(self, bounds=bounds)

    def batches(self, batch_size: int, *, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Every example once, `batch_size` at a time (the last batch may be smaller).

        Args:
            batch_size: At least 1.
            generator: Shuffles. `None`: in order.
        """
        order = None if generator is None else torch.randperm(len(self), generator=generator)
        for start in range(0, len(self), batch_size):
            chosen = slice(start, start + batch_size)
            yield self.batch(chosen if order is None else order[chosen])

    def head(self, n: int) -> ImageSet:
        """The first `n` examples, or all if there are fewer.

        Raises:
            DataError: `n` is below 1.
        """
        if n < 1:
            raise DataError(expected="at least one example", got=f"{n}", do="ask for more")
        if n >= len(self):
            return self
        images, labels = self.images[:n], self.labels[:n]
        return replace(self, images=images, labels=labels, sha256=content_hash(images, labels))


ImageData = ImageSet


def as_image_set(
    data: ImageData, split: str, *, bounds: tuple[float, float] = (0.0, 1.0), classes: Sequence[str] | None = None
) -> ImageSet:
    """Stands in for the function that other rooms are to get."""
    return data.scaled(bounds)


def as_source(images: Tensor | ImageSource, labels: Tensor | None, bounds: tuple[float, float]) -> ImageSource:
    """Images as a source whose pixels are within `bounds`, whichever way they came.

    Args:
        images: A tensor `[N, C, H, W]` or a source within the bounds, or an `ImageSet`, which is scaled to them.
        labels: int64 `[N]` that belong to a tensor.
        bounds: Range of the classifier's pixels.
    """
    if isinstance(images, ImageSet):
        return images.scaled(bounds)
    return TensorImages(images, labels) if isinstance(images, Tensor) else images


def labelled_source(images: Tensor | ImageSource, labels: Tensor | None, bounds: tuple[float, float]) -> ImageSource:
    """`as_source`, for what needs true classes: they come with a tensor of images, and with nothing else.

    Raises:
        LabelError: They do not.
    """
    if not isinstance(images, Tensor) and labels is not None:
        raise LabelError(
            expected="labels beside a tensor of images only",
            got=f"labels beside a {type(images).__name__}, which has its own",
            do="leave labels out",
        )
    given: object = labels  # whatever a caller without type checks hands in
    if isinstance(images, Tensor) and (not isinstance(given, Tensor) or len(given) != len(images)):
        raise LabelError(
            expected=f"labels [{len(images)}] with a tensor of images",
            got="none" if given is None else f"{getattr(given, 'shape', type(given).__name__)}",
            do="pass them right after the images",
        )
    return as_source(images, labels, bounds)


def content_of(images: ImageSource) -> str:
    """A hash of images and labels that are in memory; of others all that is known of them, their number."""
    if isinstance(images, ImageSet):
        return images.sha256
    if isinstance(images, TensorImages):
        return content_hash(images.images.cpu().numpy(), images.labels.cpu().numpy())
    return str(len(images))


def describe(images: Tensor | ImageSource) -> dict[str, Any]:
    """What is known of images, for the record of a result: nothing, unless they are an `ImageSet`."""
    if not isinstance(images, ImageSet):
        return {}
    return {
        "name": images.name,
        "split": images.split,
        "classes": list(images.classes),
        "sha256": images.sha256,
        "note": images.note,
    }


def load_data(
    name: str,
    split: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    cache_dir: str | Path | None = None,
) -> ImageSet:
    """An image set by name.

    Args:
        name: `digits` (scikit-learn's 1,797 digits, resized to 28x28, 1,347 train and 450 test, stratified:
            needs no file); `mnist` or `cifar10`; or the path of a folder that holds `train/<class>/*` and
            `test/<class>/*`, or `<class>/*`, of which a fixed fifth of each class is the test split.
        split: `train` or `test`.
        data_dir: Folder with `mnist/train-*.parquet` and so on, columns `image` or `img` (encoded bytes) and
            `label`. `None`: the environment variable `INTERPRETGAN_DATA`; without it the public hub, through
            the optional package `datasets`.
        image_size: Height and width to resize to; one number for a square. `None`: the size of the first
            image.
        cache_dir: Where decoded images are kept. `None`: `INTERPRETGAN_CACHE`, else the user's cache folder.

    Returns:
        The set. Grey or RGB as the first image is.

    Raises:
        DataError: Unknown name or split, missing, truncated or empty data, labels out of range.
    """
    if split not in SPLITS:
        raise DataError(expected="a split of train or test", got=repr(split), do="choose one of them")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and min(size) < 1:
        raise DataError(expected="an image size >= 1", got=f"{size[0]}x{size[1]}", do="pass e.g. image_size=28")
    if name == "digits":
        return _load_digits(split, size or (28, 28))
    return _cached(find_source(name, split, data_dir), size, _cache_folder(cache_dir))


def _load_digits(split: str, size: tuple[int, int]) -> ImageSet:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(np.arange(1797), test_size=450, stratify=digits.target, random_state=0)
    chosen = train if split == "train" else test
    images = np.empty((len(chosen), 1, *size), dtype=np.uint8)
    for row, index in enumerate(chosen):
        # 17 grey levels on 8x8: resized as floats, so the interpolation adds the levels in between
        image = Image.fromarray((digits.images[index] * (255 / 16)).astype(np.float32))
        resized = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))
        images[row, 0] = np.rint(resized.clip(0, 255)).astype(np.uint8)
    labels = digits.target[chosen].astype(np.int64)
    return ImageSet(
        name="digits",
        split=split,
        images=images,
        labels=labels,
        classes=tuple(str(digit) for digit in range(10)),
        sha256=content_hash(images, labels),
        note=f"scikit-learn digits, 8x8 resized to {size[0]}x{size[1]} (bicubic)",
    )


def _cached(source: Source, size: tuple[int, int] | None, folder: Path) -> ImageSet:
    """The decoded source, from its cache if that is whole."""
    key = hash_of([str(CACHE_SCHEMA), source.fingerprint, source.split, str(size)])
    stem = f"{Path(source.name).name}-{source.split}-{key[:16]}"
    found = _read_cache(source, folder, stem, key)
    if found is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_cache(source, size, folder, stem, key)
        except OSError as error:
            raise DataError(
                expected=f"a cache folder with room for {source.count:,} images",
                got=str(error),
                do=f"name another one in {CACHE_VARIABLE}",
            ) from error
        found = _read_cache(source, folder, stem, key)
    if found is None:
        raise DataError(
            expected=f"a cache in {folder} that can be read back",
            got=f"a damaged file {stem}",
            do=f"check the disk, or name another folder in {CACHE_VARIABLE}",
        )
    return found


def _read_cache(source: Source, folder: Path, stem: str, key: str) -> ImageSet | None:
    """The cached set, or `None` if it is missing, truncated or stale."""
    try:
        header = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
        images = np.load(folder / f"{stem}-images.npy", mmap_mode="r")
        labels = np.load(folder / f"{stem}-labels.npy")
        whole = (
            header["key"] == key
            and images.dtype == np.uint8
            and list(images.shape) == header["shape"]
            and labels.dtype == np.int64
            and labels.shape == images.shape[:1]
        )
        sha256, note = str(header["sha256"]), str(header["note"])
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    if not whole:
        return None
    return ImageSet(source.name, source.split, images, labels, source.classes, sha256, note)


def _write_cache(source: Source, size: tuple[int, int] | None, folder: Path, stem: str, key: str) -> None:
    """Decode the source in a stream. The header is written last: without it there is no cache."""
    if not source.count:
        raise DataError(
            expected=f"images in the {source.split} split of {source.name}", got="none", do="fetch or copy it again"
        )
    labels = np.empty(source.count, dtype=np.int64)
    digest = hashlib.sha256()
    examples = source.examples()
    first = next(examples, (b"", 0, source.origin))
    with _decodable(first[2]):
        model = _open(source.reference or first[0])
    mode, encoding = ("L" if _is_grey(model) else "RGB"), str(model.format)
    height, width = size or (model.height, model.width)
    shape = (source.count, 1 if mode == "L" else 3, height, width)
    digest.update(str(shape).encode())
    seen = 0
    with _atomic(folder / f"{stem}-images.npy") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for data, label, where in _chain(first, examples):
            if seen == source.count:
                break
            if not 0 <= label < len(source.classes):
                raise DataError(
                    expected=f"labels from 0 to {len(source.classes) - 1}",
                    got=f"{label} at example {seen} of {where}",
                    do="correct the labels or the class names",
                )
            with _decodable(where, seen):
                pixels = _decode(_open(data), mode, height, width).tobytes()
            file.write(pixels)
            digest.update(pixels)
            labels[seen] = label
            seen += 1
        if seen != source.count:
            raise DataError(
                expected=f"{source.count:,} examples in {source.origin}", got=f"{seen:,}", do="fetch or copy it again"
            )
    digest.update(labels.astype("<i8").tobytes())
    with _atomic(folder / f"{stem}-labels.npy") as file:
        np.save(file, labels)
    note = f"{source.origin} ({encoding} images)"
    content = {"key": key, "shape": list(shape), "sha256": digest.hexdigest(), "note": note}
    with _atomic(folder / f"{stem}.json") as file:
        file.write(json.dumps(content).encode())


def _chain(first: Example, rest: Iterable[Example]) -> Iterator[Example]:
    yield first
    yield from rest


def _open(data: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16")


def _decode(image: Image.Image, mode: str, height: int, width: int) -> Pixels:
    """Pixels `[C, height, width]` of an image, grey or RGB."""
    from PIL import Image

    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8, not scale them
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no known range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


@contextmanager
def _decodable(where: str, index: int = 0) -> Iterator[None]:
    """Turns what Pillow raises on a broken image into a DataError."""
    try:
        yield
    except Exception as error:  # its decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise DataError(
            expected="an image that can be decoded",
            got=f"a damaged one, example {index} of {where} ({type(error).__name__}: {error})",
            do="fetch or copy it again",
        ) from error


@contextmanager
def _atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file that appears under its name only when it is whole."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _cache_folder(cache_dir: str | Path | None) -> Path:
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "interpretgan"


def content_hash(images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> str:
    """Hash of the shape and pixels of images, and of their labels: 64 hexadecimal digits."""
    digest = hashlib.sha256(str(tuple(int(n) for n in images.shape)).encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(labels.astype("<i8").tobytes())
    return digest.hexdigest()
