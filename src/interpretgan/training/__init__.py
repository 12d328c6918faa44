"""Natural and adversarial training of classifiers and judges."""

from interpretgan.training.loop import (
    TrainingResult as TrainingResult,
    evaluate_accuracy as evaluate_accuracy,
    train_classifier as train_classifier,
)
from interpretgan.training.objectives import (
    OBJECTIVES as OBJECTIVES,
    AdversarialTraining as AdversarialTraining,
    Batch as Batch,
    Natural as Natural,
    Objective as Objective,
    Trades as Trades,
    build_objective as build_objective,
    fast_training as fast_training,
)
from interpretgan.training.recipes import (
    Recipe as Recipe,
    adversarial_objective as adversarial_objective,
    default_recipe as default_recipe,
    judge_recipe as judge_recipe,
)
