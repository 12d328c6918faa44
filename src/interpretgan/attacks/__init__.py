"""The adversary: the threat model, how it is searched, and random noise of the same size as a control."""

from __future__ import annotations

from interpretgan.attacks.gradient import Logits, Run, Search, attack, input_gradient, require_gradient, search
from interpretgan.attacks.noise import equal_norm_noise, seed_generators, seeded
from interpretgan.attacks.threat_model import (
    Bounds,
    ThreatModel,
    check_perturbation,
    fraction,
    iterated,
    largest_eps,
    perturbation_size,
    require_eps_within_range,
    resized,
)

__all__ = [
    "Bounds",
    "Logits",
    "Run",
    "Search",
    "ThreatModel",
    "attack",
    "check_perturbation",
    "equal_norm_noise",
    "fraction",
    "input_gradient",
    "iterated",
    "largest_eps",
    "perturbation_size",
    "require_eps_within_range",
    "require_gradient",
    "resized",
    "search",
    "seed_generators",
    "seeded",
]
