"""Encoded images as pixels: one size and one number of channels for a whole set, decoded in a stream to a file."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interpretgan.data.readers import Source, readable
from interpretgan.errors import DataError, ImageError
from interpretgan.store.files import write_npy

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]

CHANNELS = {1: "L", 3: "RGB"}
DARK = 64  #: Where no pixel of a set is as bright, of 255, that is told.
GREY_MODES = ("1", "L", "LA", "La", "I", "F")  #: And all that start with `I;16`.
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)  #: The tag, and its values that swap width and height.
SIZES_DO = "bring them to one size with --image-size (image_size=... in Python), or resize the files"


def decode_all(source: Source, size: tuple[int, int] | None, channels: int | None, file: Path) -> dict[str, Any]:
    """Decode the source to a file in a stream; what else there is to keep of it.

    Images are grey where all of them are, else RGB, or have so many `channels`. Without a `size` all must have one.
    What is transparent is laid on white, and the orientation that a camera noted is honoured.
    """
    mode, (height, width) = _common(source, size, channels)
    shape = (source.count, 1 if mode == "L" else 3, height, width)
    digest, labels, told = hashlib.sha256(str(shape).encode()), list[int](), Counter[str]()
    formats, brightest = Counter[str](), list[int]()

    def decoded() -> Iterator[Pixels]:
        for data, label, where in itertools.islice(source.examples(), source.count):
            if not 0 <= label < len(source.classes):
                got = f"{label} at example {len(labels)} of {where}"
                expected = f"labels from 0 to {len(source.classes) - 1}"
                raise DataError(expected=expected, got=got, do="correct the labels or the class names")
            with _decodable(where, len(labels)):
                image = _open(data)
                image.load()
                formats[str(image.format)] += 1
                several = getattr(image, "is_animated", False) and image.format != "MPO"
            _require_range(image, where)
            with _decodable(where, len(labels)):
                image = _upright(image, told)
            if image.size != (width, height):
                if size is None:
                    got = f"{width}x{height}, and {image.width}x{image.height} in {where}"
                    raise DataError(expected="images of one size", got=got, do=SIZES_DO)
                told[f"resized to {width}x{height}, whatever their proportions"] += 1
            told["with several frames, of which the first is taken"] += bool(several)
            with _decodable(where, len(labels)):
                pixels = _decode(image, mode, height, width)
            digest.update(pixels.tobytes())
            brightest.append(int(pixels.max()))
            labels.append(label)
            yield pixels
        if len(labels) != source.count:
            expected = f"{source.count:,} examples in {source.origin}"
            raise DataError(expected=expected, got=f"{len(labels):,}", do="fetch or copy it again")

    write_npy(file, shape, decoded())
    digest.update(np.array(labels, dtype="<i8").tobytes())
    more = "".join(f"; {count:,} {what}" for what, count in told.items() if count)
    if max(brightest) < DARK:  # as of 12 bits that were saved in 16
        more += f"; no pixel brighter than {max(brightest)} of 255"
    note = f"{source.origin} ({', '.join(sorted(formats))} images{more})"
    return {"shape": shape, "labels": labels, "sha256": digest.hexdigest(), "note": note}


def decode_files(files: Sequence[Path], shape: tuple[int, int, int], bounds: tuple[float, float]) -> Tensor:
    """Image files as float32 `[N, *shape]` within the bounds, decoded as those of a set are.

    A `DataError` for a file that is no image or has 32-bit pixels, an `ImageError` for one of another size.
    """
    (channels, height, width), (low, high), pixels = shape, bounds, []
    for file in files:
        damaged = f"a missing or damaged one, {file}"
        with readable("an image that can be decoded", damaged, Exception):
            image = _open(file, whole=True)
            image.load()
        _require_range(image, str(file))
        with readable("an image that can be decoded", damaged, Exception):
            image = _upright(image, Counter())
        if image.size != (width, height):
            expected, got = f"images of {width}x{height} pixels", f"{image.width}x{image.height} in {file}"
            raise ImageError(expected=expected, got=got, do="bring the file to that size")
        pixels.append(_decode(image, CHANNELS[channels], height, width))
    return low + (high - low) * torch.from_numpy(np.stack(pixels)).float() / 255


def _common(source: Source, size: tuple[int, int] | None, channels: int | None) -> tuple[str, tuple[int, int]]:
    """The mode of a whole set, `L` or `RGB`, and its height and width; a `DataError` where there is none."""
    from PIL import ImageOps

    first, colour = None, False
    for number, (content, where) in enumerate(_headers(source)):
        with _decodable(where, number), _open(content) as image:
            here = (image.height, image.width)
            # Of a PNG the orientation may follow the pixels, which are decoded for it: only where it matters.
            if size is None and here[0] != here[1] and image.getexif().get(ORIENTATION) in TURNED:
                here = ImageOps.exif_transpose(_open(content, whole=True)).size[::-1]  # as it is decoded afterwards
            colour |= image.mode not in GREY_MODES and not image.mode.startswith("I;16")
        if first is None:
            first = here, where
        if size is None and here != first[0]:
            got = f"{first[0][1]}x{first[0][0]} in {first[1]} and {here[1]}x{here[0]} in {where}"
            raise DataError(expected="images of one size", got=got, do=SIZES_DO)
    if first is None:
        raise DataError(expected=f"images in {source.name}, {source.split}", got="none", do="fetch or copy it again")
    return CHANNELS[channels or (3 if colour else 1)], size or first[0]


def _headers(source: Source) -> Iterator[tuple[bytes | Path, str]]:
    """All images of the set, of which no more is read than says what they are."""
    if source.files is not None:
        yield from ((file, str(file)) for file in source.files)
        return
    yield from ((data, where) for data, _, where in itertools.islice(source.examples(), source.count))


def _open(content: bytes | Path, *, whole: bool = False) -> Image.Image:
    from PIL import Image

    if isinstance(content, Path) and not content.is_file():  # a pipe might never end
        raise FileNotFoundError(content)
    if isinstance(content, Path) and whole:  # of a TIFF that it maps into memory Pillow 13 mixes up the sides
        content = content.read_bytes()
    return Image.open(content if isinstance(content, Path) else io.BytesIO(content))


def _decodable(where: str, index: int) -> AbstractContextManager[None]:
    # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
    return readable("an image that can be decoded", f"a damaged one, example {index} of {where}", Exception)


def _require_range(image: Image.Image, where: str) -> None:
    if image.mode in ("I", "F") and image.format != "PPM":
        got, do = f"32-bit pixels (mode {image.mode}) in {where}", "save them with 8 or 16 bits"
        raise DataError(expected="pixels of a known range", got=got, do=do)


def _upright(image: Image.Image, told: Counter[str]) -> Image.Image:
    """The image as people see it: turned as its camera noted, 16 bits as 8, what is transparent laid on white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8, not scale
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        layered = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        if int(np.asarray(layered.getchannel("A")).min()) < 255:
            told["with transparency, laid on white"] += 1
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), layered)
    return image


def _decode(image: Image.Image, mode: str, height: int, width: int) -> Pixels:
    """Pixels `[C, height, width]` of an image, grey or RGB."""
    from PIL import Image

    image = image.convert(mode)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)
