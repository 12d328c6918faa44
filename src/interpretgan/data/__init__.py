"""Images: sets by name, folders, and whatever else a user hands in."""

from interpretgan.data.arrays import content_hash as content_hash, read_images as read_images
from interpretgan.data.datasets import load_data as load_data
from interpretgan.data.on_device import ImagesOnDevice as ImagesOnDevice, near as near, sent as sent
from interpretgan.data.sources import (
    DatasetImages as DatasetImages,
    ImageData as ImageData,
    ImageSet as ImageSet,
    ImageSource as ImageSource,
    TensorImages as TensorImages,
    as_image_set as as_image_set,
    as_image_sets as as_image_sets,
    as_source as as_source,
    class_name as class_name,
    class_order as class_order,
    content_of as content_of,
    describe as describe,
    renumbered as renumbered,
    shared_images as shared_images,
)
