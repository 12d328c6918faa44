"""What a run is given: images, a classifier, a judge, a recognition network. Loaded or built, checked, and identified.

All of this happens before anything is trained or written, so a wrong setting costs nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, require_eps_within_range, require_gradient
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet, content_hash, read_images
from interpretgan.diagnosis.predictions import check_adversarial
from interpretgan.errors import ConfigError
from interpretgan.gan.multi_device import check_team
from interpretgan.judge import Judge
from interpretgan.layers import Anatomy, Layer, distinct, examine
from interpretgan.layers.branches import Block
from interpretgan.layers.groups import find_blocks, parse_groups
from interpretgan.models import (
    Card,
    NamedModel,
    build_model,
    find_named,
    is_named,
    load_classifier,
    load_weights,
    published_pool,
    source_file,
)
from interpretgan.pipeline import model_preset
from interpretgan.pipeline.devices import find_device
from interpretgan.pipeline.layer_choice import choose_layers
from interpretgan.pipeline.options import JudgeOptions
from interpretgan.pipeline.run_folder import ANSWERS
from interpretgan.pipeline.settings import Settings
from interpretgan.robustness.evaluate import require_attackable
from interpretgan.store.files import file_sha256
from interpretgan.training import Recipe, judge_recipe

TRAINED = "robust"  #: Name of a recognition network that the run trains itself.
PROBE_IMAGES = 4  # that networks are tried on


class Inputs:
    """What a run is given: trained networks, images and an attack as objects, or as the settings name them.

    `device` is where networks run; a `ConfigError` where there is none of that name.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        classifier: Classifier | None = None,
        train: ImageSet | None = None,
        test: ImageSet | None = None,
        threat_model: ThreatModel | None = None,
        judge: Judge | None = None,
        adversarial: Tensor | str | Path | None = None,
    ) -> None:
        self.settings, self.given_classifier, self.given_judge = settings, classifier, judge
        self.time_budget: dict[str, Any] | None = None  #: What was given up for one.
        self._anatomies: dict[str, Anatomy] = {}  # by the hash of the classifier's state
        self._train, self._test, self._threat_model, self._adversarial = train, test, threat_model, adversarial
        self.device = find_device(settings.run.device) if classifier is None else classifier.device

    # --- images ----------------------------------------------------------------------------------------------

    @cached_property
    def train(self) -> ImageSet:
        """Training images."""
        return model_preset.load_split(self.settings, "train", self.named) if self._train is None else self._train

    @cached_property
    def test(self) -> ImageSet:
        """Held-out images."""
        return model_preset.load_split(self.settings, "test", self.named) if self._test is None else self._test

    @property
    def data_name(self) -> str:
        """Name of the data, of a folder its last part."""
        return Path(self.test.name).name if "/" in self.test.name else self.test.name

    def batch(self, indices: range | list[int]) -> tuple[Tensor, Tensor]:
        """Test images and their classes, on the device."""
        images, labels = self.test.scaled(self.classifier.bounds).batch(torch.tensor(list(indices)))
        return images.to(self.device), labels.to(self.device)

    @property
    def probe(self) -> Tensor:
        """A few images to run networks on."""
        return self.batch(range(min(PROBE_IMAGES, len(self.test))))[0]

    @property
    def threat_model(self) -> ThreatModel:
        """The attack of a diagnosis."""
        given = self._threat_model
        return self.settings.attack.threat_model(self.settings.data.data) if given is None else given

    @cached_property
    def adversarial(self) -> Tensor | None:
        """Adversarial images of the first test images that were made elsewhere; `None`: they are made here."""
        given = self.settings.attack.adversarial if self._adversarial is None else self._adversarial
        if isinstance(given, str | Path):
            return read_images(given)
        return None if given is None else self.classifier.check_images(given).cpu().float()

    def build(self, name: str, seed: int, *, pool: str | None = None, width: float = 1.0) -> nn.Module:
        """A network for the images, its weights drawn from the seed; see `build_model`."""
        channels, *size = self.train.shape
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            sizes: dict[str, Any] = {"in_channels": channels, "image_size": tuple(size), "pool": pool, "width": width}
            return build_model(name, num_classes=len(self.train.classes), **sizes).to(self.device)

    # --- the classifier --------------------------------------------------------------------------------------

    @cached_property
    def named(self) -> NamedModel | None:
        """The classifier before it is loaded, if it is one that comes with its weights by name."""
        options = self.settings.model
        return find_named(options.model) if self.given_classifier is None and options.named else None

    @property
    def is_trained(self) -> bool:
        """Whether the classifier comes with its weights, so that nothing is trained."""
        return self.given_classifier is not None or self.settings.model.given

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier as given or built, with its weights where there are some."""
        options = self.settings.model
        if self.given_classifier is not None:
            return self.given_classifier
        if self.card is not None:
            return load_classifier(self.card.name, device=self.device)
        if self.named is not None:
            with torch.random.fork_rng(devices=[]):
                return model_preset.normalised(self.named, self.settings, len(self.train.classes)).to(self.device)
        model = self.build(options.model, self.settings.run.seed, pool=options.pool, width=self.width)
        if options.file is not None:
            stated = options.mean is not None or options.std is not None
            model_preset.load_own(model, options.file, stated=stated)
        classifier = Classifier(model, mean=options.mean, std=options.std)
        torch.set_default_dtype(torch.float32)  # the user's module may have set another; the classifier remembers it
        return classifier

    def model_lines(self) -> list[str]:
        """What a model by name brought along, see `model_preset.model_lines`."""
        if self.named is None:
            return []
        logits = self.classifier.logits(self.probe)
        return model_preset.model_lines(self.settings, self.named, self.test, logits.shape[1])

    @cached_property
    def card(self) -> Card | None:
        """The card of a classifier that comes with the package, checked against the options and the data."""
        if self.given_classifier is not None:
            return None
        return model_preset.shipped_card(self.settings.model, self.train, self.data_name)

    @property
    def name(self) -> str:
        """Name of the classifier."""
        if self.named is not None:
            return self.named.name
        return self.settings.model.model if self.given_classifier is None else self.given_classifier.name

    @property
    def architecture(self) -> str:
        """Name of its architecture."""
        return self.name if self.card is None else self.card.architecture

    @property
    def pool(self) -> str | None:
        """Its pooling; `None` where a network of the user's is left to itself."""
        if self.card is not None:
            return self.card.pool
        return self.settings.model.pool or published_pool(self.architecture)

    @property
    def width(self) -> float:
        """What its channels are multiplied by."""
        chosen = self.settings.model.width if self.card is None else self.card.width
        return 1.0 if chosen is None else chosen

    @property
    def recipe(self) -> Recipe:
        """How the classifier is trained, if it is."""
        return self.settings.training.recipe(self.train, self.settings.model.epochs)

    @property
    def training(self) -> dict[str, Any]:
        """Objective and recipe of that training as plain values, checked."""
        objective = self.settings.training.build()
        values = {
            key: value.to_dict() if isinstance(value, ThreatModel) else value for key, value in vars(objective).items()
        }
        return {"objective": {"name": self.settings.training.objective, **values}, **asdict(self.recipe)}

    def anatomy(self, classifier: Classifier) -> Anatomy:
        """All module calls of the classifier, as built or trained; found once for its weights."""
        state = classifier.state_sha256()
        if state not in self._anatomies:
            self._anatomies[state] = examine(classifier, self.probe)
        return self._anatomies[state]

    def layers(self, classifier: Classifier) -> list[Layer]:
        """The layers of the classifier to explain, see `choose_layers`."""
        return choose_layers(self.anatomy(classifier), self.settings.generator.names())

    def blocks(self, classifier: Classifier, layers: Sequence[Layer]) -> tuple[Block, ...]:
        """Those of these layers that are split, among their branches or groups of channels."""
        options, groups = self.settings.diagnosis, parse_groups(self.settings.diagnosis.groups or "")
        anatomy = self.anatomy(classifier)
        return find_blocks(classifier, anatomy, layers, self.probe, branches=options.branches, groups=groups)

    # --- judge and recognition network -----------------------------------------------------------------------

    @cached_property
    def judge_network(self) -> Classifier:
        """The judge's network as built, with its weights where there are some; of another architecture."""
        options = self.settings.judge
        if options.judge in (self.architecture, self.settings.model.model):
            expected = "a judge of another architecture than the classifier's"
            do = "choose another --judge: a judge that shares the classifier's blind spots sees nothing"
            raise ConfigError(expected=expected, got=f"{options.judge} for both", do=do)
        if is_named(options.judge):
            judge = model_preset.named_judge(options, self.train, self.classifier.bounds).to(self.device)
            model_preset.require_judge(judge, self.classifier, self.train, self.probe)
            return judge
        return self._robust(options.judge_weights, self.judge_seed)

    def _robust(self, weights: Path | None, seed: int) -> Classifier:
        model = self.build(self.robust_architecture, seed)
        if weights is not None:
            load_weights(model, weights)
        return Classifier(model, bounds=self.classifier.bounds)

    @property
    def judge_name(self) -> str:
        """Name of the judge, of a folder its last part."""
        name = self.settings.judge.judge
        return find_named(name).name if is_named(name) else name

    @property
    def robust_architecture(self) -> str:
        """Architecture of robust networks that the run trains: the judge's, or the usual one where it has a name."""
        name = self.settings.judge.judge
        return JudgeOptions.judge if is_named(name) else name

    @property
    def judge_seed(self) -> int:
        """Seed of the judge, another one than the classifier's."""
        return self.settings.run.seed + 1

    @property
    def judge_recipe(self) -> Recipe:
        """How the judge is trained, and so is a recognition network that the run trains."""
        recipe, epochs = judge_recipe(self.train, self.threat_model), self.settings.judge.judge_epochs
        return recipe if epochs is None else replace(recipe, epochs=epochs)

    def _judge_identity(self) -> dict[str, Any]:
        if self.given_judge is not None:
            judge = self.given_judge.classifier
            model_preset.require_judge(judge, self.classifier, self.train, self.probe)
            known: dict[str, Any] = {"state_sha256": judge.state_sha256()}
        elif self.settings.judge.comes_trained:
            weights = self.settings.judge.judge_weights
            known = {"state_sha256": self.judge_network.state_sha256()}
            known |= {"name": self.judge_name} | ({} if weights is None else {"weights": weights.name})
        else:
            _ = self.judge_network  # it is refused now
            known = asdict(self.judge_recipe)
        return {f"judge_{name}": value for name, value in known.items()}

    @cached_property
    def recognition_network(self) -> Classifier | None:
        """The recognition network that comes trained, from a file or by its name; `None`: there is none."""
        name, file = self.settings.generator.recognition_network, self.settings.generator.recognition_file
        if name is None or name == TRAINED:
            return None
        return load_classifier(name, device=self.device) if file is None else self._robust(file, self.judge_seed + 1)

    def _recognition_identity(self, sections: Sequence[str]) -> dict[str, Any]:
        """What decides the recognition network beside its name; it must exist, and fit classifier and images."""
        name, file = self.settings.generator.recognition_network, self.settings.generator.recognition_file
        if name is None:
            return {}
        if file is not None and (network := self.recognition_network) is not None:
            if "judge" in sections and self.settings.judge.comes_trained:
                model_preset.require_another(network, self.judge_network, "judge")
            return model_preset.recognition_identity(network, file, self.probe)
        if name == TRAINED:
            if "attack" not in sections:
                expected = "a threat model to train a robust recognition network against"
                do = "say `interpretgan diagnose`, or name a robust classifier of `interpretgan models`"
                raise ConfigError(expected=expected, got="a command without one", do=do)
            return {f"recognition_network_{key}": value for key, value in asdict(self.judge_recipe).items()}
        do = f"choose another of `interpretgan models`, or --recognition-network {TRAINED} to train one"
        card = model_preset.robust_card(name, self.name, self.train, self.data_name, do)
        return {"recognition_network_sha256": card.sha256}

    # --- the configuration -----------------------------------------------------------------------------------

    def config(self, sections: Sequence[str]) -> dict[str, Any]:
        """The settings of these sections (see `Settings.resolve`) with all that data and networks decide, and hashes.

        Raises:
            InterpretGANError: Something is not as it should be.
        """
        settings, classifier = self.settings, self.classifier
        self._check_sets()
        config = settings.resolve(sections, self.train.shape[0]) | {"device": str(self.device)}
        config["data"] |= {"name": self.data_name, "sha256": self.train.sha256, "test_sha256": self.test.sha256}
        config["model"] |= self._classifier_identity()
        if not {"attack", "generator", "evaluation"}.isdisjoint(sections):
            self._check_classifier()
        if "attack" in sections:
            config["attack"] = self.threat_model.to_dict()
            require_eps_within_range(self.threat_model, classifier.bounds, self.test.shape)
            config["attack"] |= self._adversarial_identity(sections)
        if "evaluation" in sections:
            evaluation = settings.evaluation
            require_attackable(classifier, self.probe, evaluation.threat_model(settings.data.data), evaluation.names())
        if "judge" in sections:
            config["judge"] |= self._judge_identity()
        if "generator" in sections:
            config["generator"] |= self._recognition_identity(sections)
            check_team(settings.run.devices, settings.generator.images_per_layer, self.device)
            if settings.generator.names() is not None:
                # Asked of the network as built: the answer is wanted now. It is asked again once it is trained.
                config["generator"]["layers"] = [layer.name for layer in self.layers(classifier)]
            if "diagnosis" in sections and settings.diagnosis.groups:
                self.blocks(classifier, distinct(self.layers(classifier))[0])
        return config if self.time_budget is None else config | {"time_budget": self.time_budget}

    def _check_sets(self) -> None:
        """Refuse training and test images of other shapes or classes than each other."""
        train, test = self.train, self.test
        for what, wanted, found in (
            ("shape", model_preset.in_words(train.shape), model_preset.in_words(test.shape)),
            ("classes", ", ".join(train.classes), ", ".join(test.classes)),
        ):
            if wanted != found:
                expected, do = f"test images of the {what} {wanted:.200}, as in training", "load both splits of one set"
                raise ConfigError(expected=expected, got=f"{found:.200}", do=do)

    def _adversarial_identity(self, sections: Sequence[str]) -> dict[str, Any]:
        """The hash of adversarial images that were made elsewhere; there must be enough, that keep to the attack."""
        given, most = self.adversarial, len(self.test)
        if given is None:
            return {}
        count = min(self.settings.diagnosis.examples, most) if "diagnosis" in sections else min(len(given), most)
        if not count <= len(given) <= most:
            expected = f"adversarial images of the first {count} of {most} test images"
            do = f"say --examples {len(given)}" if len(given) < count else "pass theirs, in their order"
            raise ConfigError(expected=expected, got=f"{len(given)}", do=do)
        images = self.test.scaled(self.classifier.bounds)
        check_adversarial(given, images, count, self.classifier, self.threat_model)
        return {"adversarial_sha256": content_hash(given.numpy(), self.test.labels[:count])}

    def _classifier_identity(self) -> dict[str, Any]:
        options, classifier = self.settings.model, self.classifier
        modules = hashlib.sha256(str(classifier.identity()[0]).encode()).hexdigest()
        # What the user's own code makes of images: it may lie in many files.
        computed = {"modules_sha256": modules, ANSWERS: classifier.answers(self.probe)}
        if self.given_classifier is not None:
            pixels = {"bounds": classifier.bounds, "mean": classifier.mean, "std": classifier.std}
            return {"model": self.name, **pixels, "state_sha256": classifier.state_sha256(), **computed}
        found: dict[str, Any] = {"pool": self.pool, "width": self.width} | (computed if options.external else {})
        if self.named is not None:  # a folder may be moved
            found |= {"model": self.name, "preset": self.named.preset()}
        if (file := source_file(options.model)) is not None:
            found["model_sha256"] = file_sha256(file)
        if not options.given:
            return found | {"epochs": self.recipe.epochs, "training": self.training}
        weights = {} if options.file is None else {"weights": options.file.name}
        return found | weights | {"state_sha256": classifier.state_sha256()}

    def _check_classifier(self) -> None:
        """Refuse a network of too few or of other classes than the data, or that no gradient gets through."""
        model_preset.require_its_classes(self.settings, self.named, self.test)
        logits = self.classifier.logits(self.probe)
        if logits.shape[1] < len(self.test.classes):
            expected = f"a model with {len(self.test.classes)} classes, as {self.data_name} has"
            do = "diagnose it on the data that it was trained for"
            raise ConfigError(expected=expected, got=f"{logits.shape[1]} logits", do=do)
        require_gradient(self.classifier, self.probe)
