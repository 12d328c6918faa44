"""How robust a classifier is: attacks, the worst case per example, curves, and whether the figures can be trusted."""

from __future__ import annotations

from interpretgan.attacks.autoattack import AutoAttacked, autoattack
from interpretgan.robustness.evaluate import Evaluation, evaluate

__all__ = ["AutoAttacked", "Evaluation", "autoattack", "evaluate"]
