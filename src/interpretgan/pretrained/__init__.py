"""Trained classifiers that come with the package, each with a card that says what it is and how it was measured."""

from interpretgan.pretrained.cards import Card, card_names, read_card
from interpretgan.pretrained.loading import load_classifier

__all__ = ["Card", "card_names", "load_classifier", "read_card"]
