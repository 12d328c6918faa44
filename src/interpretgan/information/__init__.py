"""Information loss of each layer: of the image, and of its class."""

from interpretgan.information.decoders import Decoders as Decoders
from interpretgan.information.decoders import InformationConfig as InformationConfig
from interpretgan.information.measure import LayerInformation as LayerInformation
from interpretgan.information.measure import Measurement as Measurement
