"""The adversary: the threat model, how it is searched, and random noise of the same size as a control."""

from interpretgan.attacks.gradient import attack as attack
from interpretgan.attacks.gradient import input_gradient as input_gradient
from interpretgan.attacks.gradient import require_gradient as require_gradient
from interpretgan.attacks.gradient import search as search
from interpretgan.attacks.named_attacks import check_names as check_names
from interpretgan.attacks.named_attacks import predicted_right as predicted_right
from interpretgan.attacks.named_attacks import survivors as survivors
from interpretgan.attacks.noise import equal_norm_noise as equal_norm_noise
from interpretgan.attacks.noise import seed_generators as seed_generators
from interpretgan.attacks.threat_model import SMALL as SMALL
from interpretgan.attacks.threat_model import ThreatModel as ThreatModel
from interpretgan.attacks.threat_model import check_perturbation as check_perturbation
from interpretgan.attacks.threat_model import fraction as fraction
from interpretgan.attacks.threat_model import iterated as iterated
from interpretgan.attacks.threat_model import largest_eps as largest_eps
from interpretgan.attacks.threat_model import perturbation_size as perturbation_size
from interpretgan.attacks.threat_model import require_eps_within_range as require_eps_within_range
from interpretgan.attacks.threat_model import resized as resized
