"""Natural and adversarial training of classifiers and judges."""

from interpretgan.training.loop import TrainingResult as TrainingResult
from interpretgan.training.loop import evaluate_accuracy as evaluate_accuracy
from interpretgan.training.loop import train_classifier as train_classifier
from interpretgan.training.objectives import OBJECTIVES as OBJECTIVES
from interpretgan.training.objectives import AdversarialTraining as AdversarialTraining
from interpretgan.training.objectives import Batch as Batch
from interpretgan.training.objectives import Natural as Natural
from interpretgan.training.objectives import Objective as Objective
from interpretgan.training.objectives import Trades as Trades
from interpretgan.training.objectives import build_objective as build_objective
from interpretgan.training.objectives import fast_training as fast_training
from interpretgan.training.recipes import Recipe as Recipe
from interpretgan.training.recipes import adversarial_objective as adversarial_objective
from interpretgan.training.recipes import default_recipe as default_recipe
from interpretgan.training.recipes import judge_recipe as judge_recipe
