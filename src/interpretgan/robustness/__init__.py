"""How robust a classifier is: attacks, the worst case per example, curves, and whether the figures can be trusted."""

from interpretgan.robustness.curves import Sample as Sample
from interpretgan.robustness.evaluate import Evaluation as Evaluation, evaluate as evaluate
