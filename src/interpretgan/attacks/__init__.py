"""The adversary: the threat model, how it is searched, and random noise of the same size as a control."""

from interpretgan.attacks.gradient import (
    attack as attack,
    input_gradient as input_gradient,
    require_gradient as require_gradient,
    search as search,
)
from interpretgan.attacks.named_attacks import (
    check_names as check_names,
    predicted_right as predicted_right,
    survivors as survivors,
)
from interpretgan.attacks.noise import equal_norm_noise as equal_norm_noise, seed_generators as seed_generators
from interpretgan.attacks.threat_model import (
    SMALL as SMALL,
    ThreatModel as ThreatModel,
    check_perturbation as check_perturbation,
    fraction as fraction,
    iterated as iterated,
    largest_eps as largest_eps,
    perturbation_size as perturbation_size,
    require_eps_within_range as require_eps_within_range,
    resized as resized,
    usual_eps as usual_eps,
)
