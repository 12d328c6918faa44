"""Single image files, as pixels that fit an image set."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from interpretgan.data.readers import readable
from interpretgan.data.sources import ImageSet
from interpretgan.errors import ImageError


def read_images(files: Sequence[Path], like: ImageSet) -> Tensor:
    """Image files as float32 `[N, C, H, W]` within the bounds of an image set, of its size and number of channels.

    What is transparent is laid on white, and the orientation that a camera noted is honoured. A `DataError` for a file
    that is no image, an `ImageError` for one of another size.
    """
    from PIL import Image, ImageOps

    (channels, height, width), (low, high), pixels = like.shape, like.bounds, []
    for file in files:
        with readable("an image that can be decoded", f"a missing or damaged one, {file}", Exception):
            image: Image.Image = ImageOps.exif_transpose(Image.open(file))
            if "A" in image.getbands() or "transparency" in image.info:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            array = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
        if array.shape[:2] != (height, width):
            expected, got = f"images of {width}x{height} pixels", f"{array.shape[1]}x{array.shape[0]} in {file}"
            raise ImageError(expected=expected, got=got, do="bring the file to that size")
        pixels.append(array[None] if channels == 1 else array.transpose(2, 0, 1))
    return low + (high - low) * torch.from_numpy(np.stack(pixels))
