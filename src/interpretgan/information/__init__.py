"""How much each layer forgets: of the image, and of its class."""

from __future__ import annotations

from interpretgan.information.measurement import LayerInformation, Measurement
from interpretgan.information.meter import InformationMeter
from interpretgan.information.training import InformationConfig

__all__ = ["InformationConfig", "InformationMeter", "LayerInformation", "Measurement"]
