"""Networks with a known fragile layer: made by seed, and verified by intervention."""

from __future__ import annotations

from benchmarks.planted.networks import (
    KINDS as KINDS,
    Planted as Planted,
    Verification as Verification,
    plant as plant,
    verify as verify,
)
from benchmarks.planted.plants import (
    NETWORKS as NETWORKS,
    Plan as Plan,
    plans as plans,
    plants as plants,
    setting as setting,
)
