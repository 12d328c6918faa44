"""How much each layer forgets: of the image, and of its class."""

from __future__ import annotations

from interpretgan.information.decoders import InformationMeter
from interpretgan.information.measure import LayerInformation, Measurement
from interpretgan.information.training import InformationConfig

__all__ = ["InformationConfig", "InformationMeter", "LayerInformation", "Measurement"]
