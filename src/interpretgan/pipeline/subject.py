"""The classifier that a job is about: one that comes with the package, one with weights, or one trained here."""

from __future__ import annotations

import copy
from dataclasses import asdict
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from interpretgan.attacks import ThreatModel, require_gradient
from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.layers import Anatomy, examine
from interpretgan.models import (
    Card,
    card_names,
    load_classifier,
    load_weights,
    published_pool,
    read_card,
    save_weights,
    source_file,
)
from interpretgan.pipeline.workshop import Workshop
from interpretgan.store.files import file_sha256, read_json, write_json
from interpretgan.training import Objective, Recipe, TrainingResult, evaluate_accuracy, train_classifier


class Subject:
    """The classifier under study, made when it is first asked for.

    Args:
        workshop: Where it is made.
    """

    def __init__(self, workshop: Workshop) -> None:
        self.workshop = workshop
        self.options = workshop.settings.model

    def resolved(self) -> dict[str, Any]:
        """What decides the classifier, beside the options: pooling, width, and its weights or its training.

        Raises:
            InterpretGANError: The network, its weights or its training is not as it should be.
        """
        built, config = self.built, {"pool": self.pool, "width": self.width}
        if (file := source_file(self.options.model)) is not None:
            config["model_sha256"] = file_sha256(file)
        if self.options.given:
            return config | known_weights(built, self.options.file)
        return config | {"epochs": self.recipe.epochs, "training": self._training()}

    def check(self) -> None:
        """Refuse a network that has too few classes for the data, or that no gradient gets through.

        Raises:
            ConfigError, ModelError: It is one.
        """
        data = self.workshop.test
        logits = self.built.logits(self.workshop.probe)
        if logits.shape[1] < len(data.classes):
            raise ConfigError(
                expected=f"a model with {len(data.classes)} classes, as {self.workshop.data_name} has",
                got=f"{logits.shape[1]} logits",
                do="diagnose it on the data that it was trained for",
            )
        require_gradient(self.built, self.workshop.probe)

    @cached_property
    def card(self) -> Card | None:
        """The card of a classifier that comes with the package, checked against the options and the data."""
        options, data = self.options, self.workshop.train
        if not options.shipped:
            if options.model in card_names():
                card = read_card(options.model)
                raise ConfigError(
                    expected=f"--weights pretrained with {card.name}",
                    got=f"--weights {options.weights}" if options.weights else "no weights",
                    do=f"add --weights pretrained, or name the architecture alone: "
                    f"--model {card.architecture} --pool {card.pool}",
                )
            return None
        card = read_card(options.model)
        for name in ("pool", "width"):
            given, true = getattr(options, name), getattr(card, name)
            if given not in (None, true):
                raise ConfigError(
                    expected=f"--{name} {true}, as {card.name} was trained",
                    got=f"--{name} {given}",
                    do="leave it out, or choose another of `interpretgan models`",
                )
        wanted = (card.in_channels, *card.image_size)
        if data.shape != wanted or len(data.classes) != card.num_classes:
            raise ConfigError(
                expected=f"images {_size(wanted)} of {card.num_classes} classes for {card.name}",
                got=f"{_size(data.shape)} of {len(data.classes)} classes in {self.workshop.data_name}",
                do=f"say --data {card.data['name']}, or bring the images to that size with --image-size",
            )
        return card

    @property
    def architecture(self) -> str:
        """Name of its architecture."""
        return self.options.model if self.card is None else self.card.architecture

    @property
    def pool(self) -> str | None:
        """Its pooling; `None` where a network of the user's is left to itself."""
        if self.card is not None:
            return self.card.pool
        return self.options.pool or published_pool(self.architecture)

    @property
    def width(self) -> float:
        """What its channels are multiplied by."""
        if self.card is not None:
            return self.card.width
        return 1.0 if self.options.width is None else self.options.width

    @cached_property
    def built(self) -> Classifier:
        """The classifier as built, with its weights where there are some."""
        options, workshop = self.options, self.workshop
        if self.card is not None:
            return load_classifier(self.card.name, device=workshop.device)
        model = workshop.build(options.model, workshop.settings.run.seed, pool=options.pool, width=self.width)
        if options.file is not None:
            load_weights(model, options.file)
        return Classifier(model.to(workshop.device), mean=options.mean, std=options.std)

    @property
    def recipe(self) -> Recipe:
        """How it is trained, if it is."""
        return self.workshop.settings.training.recipe(self.workshop.train, self.options.epochs)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, trained."""
        classifier, workshop = self.built, self.workshop
        if self.options.given:
            return classifier
        file = workshop.path("classifier.safetensors")
        if file.exists():
            load_weights(classifier.model, file)
            return classifier
        training = workshop.settings.training
        aim = "" if training.objective == "natural" else f" for robustness ({training.objective})"
        with workshop.stage(
            "classifier", f"training the classifier {self.options.model} on {workshop.data_name}{aim}"
        ) as log:
            result = train_classifier(
                classifier,
                workshop.train,
                objective=training.build(),
                recipe=self.recipe,
                seed=workshop.settings.run.seed,
                device=workshop.device,
                checkpoint=workshop.path("checkpoint-classifier.pt"),
                on_progress=log,
            )
        accuracy = evaluate_accuracy(classifier, workshop.test)
        write_json(workshop.path("classifier.json"), self._record(result, accuracy))
        if result.last is not None:
            last = copy.deepcopy(classifier.model)
            last.load_state_dict(result.last)
            save_weights(last, workshop.path("classifier-last.safetensors"))
        save_weights(classifier.model, file)  # last of all: where this file is, the others are complete
        workshop.drop("checkpoint-classifier.pt")
        workshop.say(f"classifier: {accuracy:.1%} right on held-out images")
        return classifier

    def _training(self) -> dict[str, Any]:
        """Objective and recipe as plain values, checked."""
        training = self.workshop.settings.training
        return {"objective": describe_objective(training.objective, training.build()), **asdict(self.recipe)}

    def _record(self, result: TrainingResult, accuracy: float) -> dict[str, Any]:
        """What classifier.json says: all that a card needs, and the course of the training."""
        workshop, recipe = self.workshop, self._training()
        data = workshop.train
        return {
            "model": self.options.model,
            "pool": self.pool,
            "width": self.width,
            "in_channels": data.shape[0],
            "num_classes": len(data.classes),
            "image_size": list(data.shape[1:]),
            "bounds": list(self.built.bounds),
            "mean": self.built.mean,
            "std": self.built.std,
            "classes": list(data.classes),
            "data": {"name": workshop.data_name, "sha256": data.sha256, "note": data.note},
            "objective": recipe.pop("objective"),
            "recipe": recipe,
            "seed": workshop.settings.run.seed,
            "training": {
                "steps": result.steps,
                "seconds": result.seconds,
                "images_per_second": result.images_per_second,
                "checkpoint": "last" if result.last is None else "best",
                "best": result.best,
            },
            "accuracy": accuracy,
            "history": list(result.history),
            "versions": {"interpretgan": version("interpretgan"), "torch": torch.__version__},
        }

    def info(self) -> dict[str, Any]:
        """What the trained classifier is and how well it does on natural test images, for a result."""
        classifier = self.classifier
        if self.card is not None:
            weights: str | None = self.card.sha256
        elif self.options.as_returned:
            weights = None
        else:
            weights = file_sha256(self.options.file or self.workshop.path("classifier.safetensors"))
        return {
            "name": self.options.model,
            **({} if self.options.own else {"pool": self.pool, "width": self.width}),
            "weights_sha256": weights,
            "checkpoint": self._checkpoint(),
            "state_sha256": classifier.state_sha256(),
            "test_accuracy": evaluate_accuracy(classifier, self.workshop.test),
        }

    def _checkpoint(self) -> str | None:
        """Whether the weights are those of the `best` or of the `last` epoch; `None` where that is not known."""
        if self.card is not None:
            training = self.card.training
        elif self.options.given or not (record := self.workshop.path("classifier.json")).exists():
            return None
        else:
            training = read_json(record).get("training", {})
        found: str | None = training.get("checkpoint")
        return found

    def anatomy(self, classifier: Classifier) -> Anatomy:
        """All module calls of the classifier, as built or trained, layers and others."""
        return examine(classifier, self.workshop.probe)


def describe_objective(name: str, objective: Objective) -> dict[str, Any]:
    """An objective as plain values: its name and every setting."""
    settings = {
        key: value.to_dict() if isinstance(value, ThreatModel) else value for key, value in vars(objective).items()
    }
    return {"name": name, **settings}


def known_weights(classifier: Classifier, file: Path | None) -> dict[str, Any]:
    """What weights that come from outside are: the name of their file, and a hash of what was loaded."""
    return {**({} if file is None else {"weights": file.name}), "state_sha256": classifier.state_sha256()}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
