"""Natural and adversarial training of classifiers and judges."""

from interpretgan.training.loop import TrainingResult, evaluate_accuracy, train_classifier
from interpretgan.training.objectives import (
    OBJECTIVES,
    AdversarialTraining,
    Batch,
    Natural,
    Objective,
    Trades,
    build_objective,
    fast_training,
)
from interpretgan.training.recipes import Recipe, adversarial_objective, default_recipe, judge_recipe

__all__ = [
    "OBJECTIVES", "AdversarialTraining", "Batch", "Natural", "Objective", "Recipe", "Trades", "TrainingResult",
    "adversarial_objective", "build_objective", "default_recipe", "evaluate_accuracy", "fast_training",
    "judge_recipe", "train_classifier",
]  # fmt: skip
