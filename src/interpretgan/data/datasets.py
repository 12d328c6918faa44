"""Image sets by name: embedded digits, MNIST and CIFAR-10 as parquet or from the public hub, folders of images.

Encoded images are decoded once, in a stream, to an uncompressed cache that is mapped into memory afterwards.
So memory does not grow with the set, and loading it again takes milliseconds.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np

from interpretgan.data.decoding import decode_all
from interpretgan.data.folders import ClassNames, class_names, folder_source
from interpretgan.data.readers import HUB_SETS, SPLITS, Source, hash_of, named_source
from interpretgan.data.sources import ImageSet
from interpretgan.errors import DataError, InputError, RunFolderError
from interpretgan.store.files import read_json, write_json

CACHE_VARIABLE = "INTERPRETGAN_CACHE"
CACHE_SCHEMA = 3


def load_data(
    name: str | Path,
    split: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    classes: ClassNames | None = None,
    cache_dir: str | Path | None = None,
) -> ImageSet:
    """An image set by name.

    Args:
        name: `digits` (scikit-learn's 1,797 digits, resized to 28x28, 1,347 train and 450 test, stratified:
            needs no file); `mnist` or `cifar10`; or the path of a folder that holds `train/<class>/*` and
            `test/<class>/*` (or `val/`, `dev/`), or `<class>/*`, of which a fixed fifth of each class is the test
            split.
        split: `train` or `test`.
        data_dir: Folder with `mnist/train-*.parquet` and so on, columns `image` or `img` (encoded bytes) and
            `label`. `None`: the environment variable `INTERPRETGAN_DATA`; without it the public hub, through
            the optional package `datasets`.
        image_size: Height and width to resize to; one number for a square. `None`: as they are, all of one size.
        channels: 1 for grey, 3 for RGB. `None`: RGB where any image has colour.
        classes: Names of the classes of a folder in the order of a network's logits, a file with one a line, or a
            dictionary of their numbers, as a `class_to_idx`; some may have no images. `None`: all that it has, by name,
            or by size where all of them are whole numbers.
        cache_dir: Where decoded images are kept. `None`: `INTERPRETGAN_CACHE`, else the user's cache folder.

    Raises:
        DataError: Unknown name or split, missing, truncated or empty data, labels out of range, images of several
            sizes without `image_size`.
    """
    if split not in SPLITS:
        raise DataError(expected="a split of train or test", got=repr(split), do="choose one of them")
    name, size = str(name), (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is not None and not _is_size(size):
        do = "pass e.g. image_size=28, or (28, 28)"
        raise DataError(expected="an image size in whole numbers", got=f"{image_size!r}", do=do)
    if size is not None and min(size) < 1:
        raise DataError(expected="an image size >= 1", got=f"{size[0]}x{size[1]}", do="pass e.g. image_size=28")
    if channels not in (None, 1, 3) or isinstance(channels, bool):
        raise DataError(expected="1 channel, grey, or 3, RGB", got=f"{channels}", do="choose one of them")
    if classes is not None and not Path(name).is_dir():
        got, do = f"classes with {name!r}", "leave classes out: the set has its own"
        raise DataError(expected="classes with a folder of images", got=got, do=do)
    if name == "digits":
        return _load_digits(split, size or (28, 28), channels or 1)
    folder = Path(name).is_dir() and name not in HUB_SETS
    source = folder_source(name, split, class_names(classes)) if folder else named_source(name, split, data_dir)
    return _cached(source, size, channels, _cache_folder(cache_dir))


def _is_size(given: object) -> bool:
    if not isinstance(given, tuple | list) or len(given) != 2:
        return False
    return all(isinstance(side, int) and not isinstance(side, bool) for side in given)


def _load_digits(split: str, size: tuple[int, int], channels: int) -> ImageSet:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train, test = train_test_split(np.arange(1797), test_size=450, stratify=digits.target, random_state=0)
    chosen = train if split == "train" else test
    images = np.empty((len(chosen), channels, *size), dtype=np.uint8)
    for row, index in enumerate(chosen):
        # 17 grey levels on 8x8: resized as floats, so the interpolation adds the levels in between
        image = Image.fromarray((digits.images[index] * (255 / 16)).astype(np.float32))
        resized = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))
        images[row] = np.rint(resized.clip(0, 255)).astype(np.uint8)
    note = f"scikit-learn digits, 8x8 resized to {size[0]}x{size[1]} (bicubic)"
    return ImageSet("digits", split, images, digits.target[chosen], tuple(map(str, range(10))), note=note)


def _cache_folder(cache_dir: str | Path | None) -> Path:
    chosen = cache_dir or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    places = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("", "Library/Caches")}
    variable, usual = places.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    return Path(os.environ.get(variable) or Path.home() / usual) / "interpretgan"


def _cached(source: Source, size: tuple[int, int] | None, channels: int | None, folder: Path) -> ImageSet:
    """The decoded source, from its cache, which is made again where it is missing, damaged or stale.

    The cache is an array of images and a header with the labels, which is written last: without it there is no cache.
    """
    key = hash_of([str(CACHE_SCHEMA), source.fingerprint, source.split, f"{size} {channels}"])
    stem = folder / f"{Path(source.name).name}-{source.split}-{key[:16]}"
    images_file, header_file = Path(f"{stem}-images.npy"), Path(f"{stem}.json")
    for made in (False, True):
        # Once it is made anew, what is wrong with its content is wrong with the images.
        with suppress(RunFolderError if made else InputError, OSError, ValueError, EOFError, KeyError, TypeError):
            header, images = read_json(header_file), np.load(images_file, mmap_mode="r")
            if header["key"] == key and list(images.shape) == header["shape"]:
                labels, sha256, note = np.array(header["labels"], dtype=np.int64), header["sha256"], header["note"]
                return ImageSet(source.name, source.split, images, labels, source.classes, sha256, note)
        if not made:
            try:
                header = decode_all(source, size, channels, images_file)
                write_json(header_file, {"key": key, **header})
            except RunFolderError as error:
                expected = f"a cache folder with room for {source.count:,} images"
                do = f"name another one in {CACHE_VARIABLE}"
                raise DataError(expected=expected, got=error.got, do=do) from error
    do = f"check the disk, or name another folder in {CACHE_VARIABLE}"
    raise DataError(expected=f"a cache in {folder} that can be read back", got=f"a damaged {stem.name}", do=do)
