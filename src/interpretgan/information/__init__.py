"""Information loss of each layer: of the image, and of its class."""

from interpretgan.information.decoders import Decoders as Decoders, InformationConfig as InformationConfig
from interpretgan.information.measure import LayerInformation as LayerInformation, Measurement as Measurement
