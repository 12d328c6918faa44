"""Image sets by name: embedded digits, MNIST and CIFAR-10 as parquet or from the public hub, folders of images.

Encoded images are decoded once, in a stream, to an uncompressed cache that is mapped into memory afterwards.
So memory does not grow with the set, and loading it again takes milliseconds.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from interpretgan.data.readers import SPLITS, Source, find_source, hash_of, readable
from interpretgan.data.sources import ImageSet
from interpretgan.errors import DataError, InputError, RunFolderError
from interpretgan.store.files import read_json, write_json, write_npy

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

CACHE_VARIABLE = "INTERPRETGAN_CACHE"
CACHE_SCHEMA = 2


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
        image_size: Height and width to resize to; one number for a square. `None`: the size of the first image,
            which also decides whether the set is grey or RGB.
        cache_dir: Where decoded images are kept. `None`: `INTERPRETGAN_CACHE`, else the user's cache folder.

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
    note = f"scikit-learn digits, 8x8 resized to {size[0]}x{size[1]} (bicubic)"
    return ImageSet("digits", split, images, digits.target[chosen], tuple(map(str, range(10))), note=note)


def _cache_folder(cache_dir: str | Path | None) -> Path:
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    places = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("", "Library/Caches")}
    variable, usual = places.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    return Path(os.environ.get(variable) or Path.home() / usual) / "interpretgan"


def _cached(source: Source, size: tuple[int, int] | None, folder: Path) -> ImageSet:
    """The decoded source, from its cache, which is made again where it is missing, damaged or stale.

    The cache is an array of images and a header with the labels, which is written last: without it there is no cache.
    """
    key = hash_of([str(CACHE_SCHEMA), source.fingerprint, source.split, str(size)])
    stem = folder / f"{Path(source.name).name}-{source.split}-{key[:16]}"
    images_file, header_file = Path(f"{stem}-images.npy"), Path(f"{stem}.json")
    for made in (False, True):
        with suppress(InputError, OSError, ValueError, EOFError, KeyError, TypeError):
            header, images = read_json(header_file), np.load(images_file, mmap_mode="r")
            if header["key"] == key and list(images.shape) == header["shape"]:
                labels, sha256, note = np.array(header["labels"], dtype=np.int64), header["sha256"], header["note"]
                return ImageSet(source.name, source.split, images, labels, source.classes, sha256, note)
        if not made:
            try:
                header = _decode_all(source, size, images_file)
                write_json(header_file, {"key": key, **header})
            except RunFolderError as error:
                expected = f"a cache folder with room for {source.count:,} images"
                do = f"name another one in {CACHE_VARIABLE}"
                raise DataError(expected=expected, got=error.got, do=do) from error
    do = f"check the disk, or name another folder in {CACHE_VARIABLE}"
    raise DataError(expected=f"a cache in {folder} that can be read back", got=f"a damaged {stem.name}", do=do)


def _decode_all(source: Source, size: tuple[int, int] | None, file: Path) -> dict[str, Any]:
    """Decode the source to a file in a stream; what else there is to keep of it."""
    examples = source.examples()
    first = next(examples, None)
    if first is None:
        raise DataError(expected=f"images in {source.name}, {source.split}", got="none", do="fetch or copy it again")
    with _decodable(first[2], 0):
        model = _open(source.reference or first[0])
    grey = model.mode in ("1", "L", "LA", "La") or model.mode.startswith("I;16")
    mode, (height, width) = "L" if grey else "RGB", size or (model.height, model.width)
    shape = (source.count, 1 if mode == "L" else 3, height, width)
    digest, labels = hashlib.sha256(str(shape).encode()), list[int]()

    def decoded() -> Iterator[Pixels]:
        for data, label, where in itertools.islice(itertools.chain([first], examples), source.count):
            if not 0 <= label < len(source.classes):
                got = f"{label} at example {len(labels)} of {where}"
                expected = f"labels from 0 to {len(source.classes) - 1}"
                raise DataError(expected=expected, got=got, do="correct the labels or the class names")
            with _decodable(where, len(labels)):
                pixels = _decode(_open(data), mode, height, width)
            digest.update(pixels.tobytes())
            labels.append(label)
            yield pixels
        if len(labels) != source.count:
            expected = f"{source.count:,} examples in {source.origin}"
            raise DataError(expected=expected, got=f"{len(labels):,}", do="fetch or copy it again")

    write_npy(file, shape, decoded())
    digest.update(np.array(labels, dtype="<i8").tobytes())
    note = f"{source.origin} ({model.format} images)"
    return {"shape": shape, "labels": labels, "sha256": digest.hexdigest(), "note": note}


def _open(data: bytes) -> Image.Image:
    from PIL import Image

    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _decodable(where: str, index: int) -> AbstractContextManager[None]:
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    return readable("an image that can be decoded", f"a damaged one, example {index} of {where}", Exception)


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
