"""Information loss of each layer: of the image, and of its class."""

from __future__ import annotations

from interpretgan.information.decoders import Decoders, InformationConfig
from interpretgan.information.measure import LayerInformation, Measurement

__all__ = ["Decoders", "InformationConfig", "LayerInformation", "Measurement"]
