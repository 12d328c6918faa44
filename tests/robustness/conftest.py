"""The sound network and the images that the attacks are tested on."""

from __future__ import annotations

from tests.attacks.conftest import digits, net, sound

__all__ = ["digits", "net", "sound"]
