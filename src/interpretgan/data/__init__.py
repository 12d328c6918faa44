"""Images: sets by name, folders, and whatever else a user hands in."""

from __future__ import annotations

from interpretgan.data.datasets import (
    ImageData,
    ImageSet,
    as_image_set,
    as_source,
    content_hash,
    content_of,
    describe,
    labelled_source,
    load_data,
)
from interpretgan.data.sources import ImageSource, TensorImages

__all__ = [
    "ImageData",
    "ImageSet",
    "ImageSource",
    "TensorImages",
    "as_image_set",
    "as_source",
    "content_hash",
    "content_of",
    "describe",
    "labelled_source",
    "load_data",
]
