"""Images: sets by name, folders, and whatever else a user hands in."""

from interpretgan.data.datasets import load_data as load_data
from interpretgan.data.sources import DatasetImages as DatasetImages
from interpretgan.data.sources import ImageData as ImageData
from interpretgan.data.sources import ImageSet as ImageSet
from interpretgan.data.sources import ImageSource as ImageSource
from interpretgan.data.sources import TensorImages as TensorImages
from interpretgan.data.sources import as_image_set as as_image_set
from interpretgan.data.sources import as_source as as_source
from interpretgan.data.sources import content_hash as content_hash
from interpretgan.data.sources import content_of as content_of
from interpretgan.data.sources import describe as describe
