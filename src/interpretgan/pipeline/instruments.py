"""What a job reads its classifier with: the judge, one InterpretGAN per generator seed, and the decoders."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from typing import Any

from interpretgan.classifier import Classifier
from interpretgan.errors import ConfigError
from interpretgan.information import Decoders
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge, measure_judge, train_judge
from interpretgan.layers import Layer
from interpretgan.models import load_classifier, load_weights, read_card, save_weights
from interpretgan.pipeline.subject import Subject, known_weights
from interpretgan.store.files import read_json, write_json
from interpretgan.training import Recipe, judge_recipe

TRAINED = "robust"
"""Name of a recognition network that is trained here."""


class Instruments:
    """Made when they are first asked for, and kept in the run folder.

    Args:
        subject: The classifier that they are for.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject, self.workshop = subject, subject.workshop

    def judge_resolved(self) -> dict[str, Any]:
        """What decides the judge, beside the options: its weights or its training.

        Raises:
            InterpretGANError: The judge or its weights are not as they should be.
        """
        built, weights = self._built_judge, self.workshop.settings.judge.judge_weights
        known = asdict(self._judge_recipe) if weights is None else known_weights(built, weights)
        return {f"judge_{name}": value for name, value in known.items()}

    @property
    def _judge_recipe(self) -> Recipe:
        settings = self.workshop.settings
        recipe, epochs = judge_recipe(self.workshop.train, settings.attack.threat_model()), settings.judge.judge_epochs
        return recipe if epochs is None else replace(recipe, epochs=epochs)

    @cached_property
    def _built_judge(self) -> Classifier:
        """The judge as built, with its weights where there are some."""
        shop = self.workshop
        options = shop.settings.judge
        if options.judge == self.subject.architecture:
            raise ConfigError(
                expected="a judge of another architecture than the classifier's",
                got=f"{options.judge} for both",
                do="choose another --judge: a judge that shares the classifier's blind spots sees nothing",
            )
        model = shop.build(options.judge, shop.settings.run.seed + 1)
        if options.judge_weights is not None:
            load_weights(model, options.judge_weights)
        return Classifier(model.to(shop.device))

    @cached_property
    def judge(self) -> Judge:
        """The judge, trained against the threat model."""
        shop, classifier = self.workshop, self._built_judge
        options, threat_model = shop.settings.judge, shop.settings.attack.threat_model()
        seed = shop.settings.run.seed + 1
        if options.judge_weights is not None:
            return measure_judge(classifier, options.judge, shop.test, threat_model=threat_model, seed=seed)
        file, record = shop.path("judge.safetensors"), shop.path("judge.json")
        if file.exists() and record.exists():
            load_weights(classifier.model, file)
            known = read_json(record)
            return Judge(classifier, known["natural"], known["adversarial"], known["name"])
        judge = self._trained("judge", "an independent classifier, adversarially trained", seed)
        save_weights(judge.classifier.model, file)
        write_json(
            record,
            {"name": judge.name, "natural": judge.natural, "adversarial": judge.adversarial,
             "seconds": shop.seconds["judge"]},
        )  # fmt: skip
        shop.drop("checkpoint-judge.pt")
        shop.say(f"judge: {judge.natural:.1%} right on held-out images, {judge.adversarial:.1%} when attacked itself")
        return judge

    def _trained(self, name: str, what: str, seed: int) -> Judge:
        """A network of the judge's architecture and recipe, trained against the threat model with this seed."""
        shop = self.workshop
        with shop.stage(name, f"training the {name}: {what}") as log:
            return train_judge(
                shop.train,
                shop.test,
                threat_model=shop.settings.attack.threat_model(),
                seed=seed,
                epochs=self._judge_recipe.epochs,
                architecture=shop.settings.judge.judge,
                device=shop.device,
                checkpoint=shop.path(f"checkpoint-{name}.pt"),
                on_progress=log,
            )

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers to explain, of the trained classifier: a branch that training opened is no layer any more."""
        names, anatomy = self.workshop.settings.generator.names(), self.subject.anatomy(self.subject.classifier)
        return anatomy.distinct if names is None else anatomy.select(names)

    @cached_property
    def interpreters(self) -> list[InterpretGAN]:
        """InterpretGAN, once per generator seed."""
        settings = self.workshop.settings
        return [self._interpreter(settings.run.seed + n) for n in range(settings.generator.generator_seeds)]

    def recognition_network_resolved(self, *, attacked: bool) -> dict[str, Any]:
        """What decides the recognition network, beside its name: its weights or its training.

        Args:
            attacked: Whether the job has a threat model, which one is trained against.

        Raises:
            InterpretGANError: There is none of that name, or it does not fit the images or the job.
        """
        name = self.workshop.settings.generator.recognition_network
        if name is None:
            return {}
        if name == TRAINED:
            if not attacked:
                raise ConfigError(
                    expected="a threat model to train a robust recognition network against",
                    got="a command without one",
                    do="say `interpretgan diagnose`, or name a robust classifier of `interpretgan models`",
                )
            return {f"recognition_network_{key}": value for key, value in asdict(self._judge_recipe).items()}
        card, data = read_card(name), self.workshop.train
        if card.eps is None or name == self.workshop.settings.model.model:
            raise ConfigError(
                expected="a recognition network that is robust, and not the classifier under diagnosis",
                got=f"{name}, {'naturally trained' if card.eps is None else 'for both'}",
                do=f"choose another of `interpretgan models`, or --recognition-network {TRAINED} to train one",
            )
        if (card.in_channels, *card.image_size) != data.shape or list(card.classes) != list(data.classes):
            raise ConfigError(
                expected=f"a recognition network of the classes of {self.workshop.data_name}",
                got=f"{name}, of {card.data['name']}",
                do=f"choose another of `interpretgan models`, or --recognition-network {TRAINED} to train one",
            )
        return {"recognition_network_sha256": card.sha256}

    @cached_property
    def recognition_network(self) -> Classifier | None:
        """Who reads explanations while InterpretGAN trains; `None`: the classifier itself."""
        shop, name = self.workshop, self.workshop.settings.generator.recognition_network
        if name is None:
            return None
        if name != TRAINED:
            return load_classifier(name, device=shop.device)
        file, seed = shop.path("recognition_network.safetensors"), shop.settings.run.seed + 2
        if file.exists():
            classifier = Classifier(shop.build(shop.settings.judge.judge, seed).to(shop.device))
            load_weights(classifier.model, file)
            return classifier
        trained = self._trained("recognition_network", "like the judge, with another seed", seed)
        save_weights(trained.classifier.model, file)
        shop.drop("checkpoint-recognition_network.pt")
        shop.say(
            f"recognition network: {trained.natural:.1%} right on held-out images, "
            f"{trained.adversarial:.1%} when attacked"
        )
        return trained.classifier

    def _interpreter(self, seed: int) -> InterpretGAN:
        shop, name = self.workshop, f"generator-{seed}"
        file = shop.path(f"{name}.safetensors")
        if file.exists():
            return InterpretGAN.load(file, self.subject.classifier)
        config = shop.settings.generator.gan()
        interpreter = InterpretGAN(self.subject.classifier, self.layers, config=config, seed=seed)
        label, recognition_network = (
            f"training InterpretGAN for {len(self.layers)} layers at once (seed {seed})",
            self.recognition_network,
        )
        with shop.stage(name, label, total=config.steps) as log:
            interpreter.fit(
                shop.train,
                recognition_network=recognition_network,
                checkpoint=shop.path(f"checkpoint-{name}.pt"),
                on_step=lambda step, losses: log({"step": step, "steps": config.steps, **losses}),
                devices=shop.settings.run.devices,
            )
        interpreter.save(file)
        shop.drop(f"checkpoint-{name}.pt")
        return interpreter

    @cached_property
    def decoders(self) -> Decoders | None:
        """The decoders and probes that measure information; `None` where it is left out."""
        shop = self.workshop
        settings = shop.settings
        config = settings.information.config(settings.generator.precision)
        if config is None:
            return None
        file = shop.path("information.safetensors")
        if file.exists():
            return Decoders.load(file, self.subject.classifier)
        decoders = Decoders(self.subject.classifier, self.layers, config=config, seed=settings.run.seed)
        label = f"measuring information at {len(self.layers)} layers"
        with shop.stage("information", label, total=config.steps) as log:
            decoders.fit(
                shop.train,
                checkpoint=shop.path("checkpoint-information.pt"),
                on_step=lambda step, losses: log({"step": step, "steps": config.steps, **losses}),
            )
        decoders.save(file)
        shop.drop("checkpoint-information.pt")
        return decoders
