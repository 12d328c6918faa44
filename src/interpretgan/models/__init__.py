"""Classifiers by name, their weights on disk, and the trained ones that come with the package."""

from interpretgan.models.build import (
    MODELS as MODELS,
    POOLS as POOLS,
    build_model as build_model,
    published_pool as published_pool,
    source_file as source_file,
)
from interpretgan.models.named import NamedModel as NamedModel, find_named as find_named, is_named as is_named
from interpretgan.models.weights import load_weights as load_weights, save_weights as save_weights
from interpretgan.models.zoo.cards import (
    Card as Card,
    card_names as card_names,
    load_classifier as load_classifier,
    read_card as read_card,
)
