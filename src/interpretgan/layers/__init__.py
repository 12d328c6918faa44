"""Find the layers of a network, capture their latents, and replay the network from them.

A *layer* is a module call whose output fixes the logits: `f = f_{>l} ∘ f_{<=l}`. Layers are found by running the
network, not by reading its code, so in-place, reused and functional operations need no special case.
"""

from interpretgan.layers.anatomy import Anatomy as Anatomy, Refused as Refused, distinct as distinct
from interpretgan.layers.find import examine as examine, find_layers as find_layers
from interpretgan.layers.hooks import (
    Layer as Layer,
    capture as capture,
    capturing as capturing,
    owned_by_layers as owned_by_layers,
    replay as replay,
    run_frozen as run_frozen,
)
