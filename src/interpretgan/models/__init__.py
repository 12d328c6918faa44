"""Classifiers by name, their weights on disk, and the trained ones that come with the package."""

from interpretgan.models.build import MODELS as MODELS
from interpretgan.models.build import POOLS as POOLS
from interpretgan.models.build import build_model as build_model
from interpretgan.models.build import published_pool as published_pool
from interpretgan.models.build import source_file as source_file
from interpretgan.models.weights import load_weights as load_weights
from interpretgan.models.weights import save_weights as save_weights
from interpretgan.models.zoo.cards import Card as Card
from interpretgan.models.zoo.cards import card_names as card_names
from interpretgan.models.zoo.cards import load_classifier as load_classifier
from interpretgan.models.zoo.cards import read_card as read_card
