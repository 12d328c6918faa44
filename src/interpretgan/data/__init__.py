"""Images: sets by name, folders, and whatever else a user hands in."""

from __future__ import annotations

from interpretgan.data.datasets import (
    ImageSet,
    as_source,
    content_hash,
    content_of,
    describe,
    labelled_source,
    load_data,
)
from interpretgan.data.sources import ImageSource, TensorImages

__all__ = [
    "ImageSet",
    "ImageSource",
    "TensorImages",
    "as_source",
    "content_hash",
    "content_of",
    "describe",
    "labelled_source",
    "load_data",
]
