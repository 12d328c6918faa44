"""Classifiers by name, their weights on disk, and the trained ones that come with the package."""

from __future__ import annotations

from interpretgan.models.build import MODELS, POOLS, ModelSpec, build_model, published_pool, source_file
from interpretgan.models.cards import Card, card_names, read_card
from interpretgan.models.pretrained import load_classifier
from interpretgan.models.weights import load_weights, save_weights

__all__ = [
    "MODELS",
    "POOLS",
    "Card",
    "ModelSpec",
    "build_model",
    "card_names",
    "load_classifier",
    "load_weights",
    "published_pool",
    "read_card",
    "save_weights",
    "source_file",
]
