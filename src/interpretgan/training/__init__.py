"""Natural and adversarial training of classifiers and judges."""

from interpretgan.training.loop import TrainingResult, evaluate_accuracy, train_classifier
from interpretgan.training.objectives import AdversarialTraining, Natural, Objective
from interpretgan.training.recipes import Recipe, adversarial_objective, default_recipe

__all__ = [
    "AdversarialTraining",
    "Natural",
    "Objective",
    "Recipe",
    "TrainingResult",
    "adversarial_objective",
    "default_recipe",
    "evaluate_accuracy",
    "train_classifier",
]
