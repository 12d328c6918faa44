"""The networks of a run: what the folder has is loaded, what is missing is trained there, in the order of this file.

classifier → layers → judge → recognition network → generators → decoders
"""

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from interpretgan.baselines.explainers import EXPLAINERS, Explainer
from interpretgan.baselines.patterns import pattern_explainers
from interpretgan.classifier import Classifier
from interpretgan.data import shared_images
from interpretgan.errors import ConfigError
from interpretgan.information import Decoders
from interpretgan.information.inversion import inversion_by_decoder
from interpretgan.interpreter import InterpretGAN
from interpretgan.judge import Judge, measure_judge, train_judge
from interpretgan.layers import Anatomy, Layer, distinct
from interpretgan.layers.branches import Block
from interpretgan.models import load_weights, save_weights
from interpretgan.pipeline.inputs import TRAINED, Inputs
from interpretgan.pipeline.model_preset import require_another
from interpretgan.pipeline.price import StagePrice, is_long, options_of, price, table
from interpretgan.pipeline.run_folder import WEIGHTS_FILE, RunFolder
from interpretgan.pipeline.time_budget import budget_flags, within_budget
from interpretgan.robustness.attack_checks import listed
from interpretgan.store.files import file_sha256, read_json, write_json
from interpretgan.store.metrics import MetricsLog
from interpretgan.store.progress import Job, OnProgress, Progress, stage_seconds
from interpretgan.store.provenance import package_version
from interpretgan.training import TrainingResult, evaluate_accuracy, train_classifier
from interpretgan.training.precision import quick_layout

Say = Callable[[str], None]
Made = TypeVar("Made")
MEASURED = 1000  # training images on which it is measured what layers leave open


class Networks:
    """The networks of a run; each is made when it is first asked for, and kept in the run folder.

    Where the settings have a time budget, options are lowered to fit it.

    Args:
        inputs: What is given: images, classifier, judge.
        sections: The parts of the settings that this command depends on; the folder must agree on them.
        folder: The run folder. `None`: nothing is written.
        say: Called with a line that says what happens. `None`: it goes to stderr.
        on_progress: Told how far it is; see `interpretgan.store.progress.OnProgress`.
    """

    def __init__(
        self,
        inputs: Inputs,
        sections: Sequence[str],
        folder: Path | None = None,
        say: Say | None = None,
        on_progress: OnProgress | bool = True,
    ) -> None:
        if inputs.settings.generator.diversity and "generator" in sections:
            sections = tuple(dict.fromkeys((*sections, "information")))  # what layers leave open is measured
        self.job, self.say, self._layouts = Job(on_progress), say or say_to_stderr, ExitStack()
        self.seconds = self.job.seconds
        with stage_seconds(self.seconds, "data"):
            _ = inputs.train, inputs.test
        # A wrong setting, model, weights file or layer is told before a folder is claimed for it, or a price measured.
        self.config = inputs.config(sections)
        self._prices: list[StagePrice] = []  # that were measured for a budget
        if "generator" in sections and inputs.settings.diagnosis.time_budget is not None:
            with stage_seconds(self.seconds, "price"):
                inputs, self._prices = within_budget(inputs, folder)
            self.config = inputs.config(sections)
        self.inputs, self.settings, self.seed = inputs, inputs.settings, inputs.settings.run.seed
        self.folder = None if folder is None else RunFolder(folder).open(self.config)
        self.flags = [*budget_flags(inputs), *shared_images(inputs.train, inputs.test)]  #: Of what is given.
        for line in (*(flag.message for flag in self.flags), *inputs.model_lines()):
            self.say(line)
        if self.folder is not None and Path(inputs.train.name).is_dir():  # what was made of a folder of the user's
            self.say(f"data: {inputs.train.note}; {inputs.test.note}; classes {listed(inputs.train.classes)}")

    def __enter__(self) -> Self:
        """The run itself."""
        self._layouts.enter_context(quick_layout(self.inputs.classifier))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the run folder, and what was lent."""
        self._layouts.close()
        if self.folder is not None:
            self.folder.close()

    def tell_price(self) -> None:
        """Say what a long run will cost, stage by stage, measured on a few steps of each."""
        if not self._prices and not is_long(self.inputs):
            return
        values = options_of(self.inputs)
        with stage_seconds(self.seconds, "price"):
            prices = self._prices or price(self.inputs, self.folder.path if self.folder else None)
        prices = [each for each in prices if each.seconds(values)]  # what was given up for a budget is no stage
        self.say("\n".join(table(prices, values)))
        self.job.plan({each.stage: each.seconds(values) for each in prices})

    def path(self, name: str) -> Path:
        """A file of the run folder; a `ConfigError` where there is none."""
        if self.folder is None:
            raise ConfigError(expected="a run folder", got="none", do="name one with --out")
        return self.folder / name

    def made(
        self,
        name: str,
        label: str,
        train: Callable[[Path | None, OnProgress], Made],
        load: Callable[[Path], Made],
        save: Callable[[Made, Path], None],
        *,
        summary: Callable[[Made], str] | None = None,
    ) -> Made:
        """What a training makes: loaded where the folder has NAME.safetensors, else trained, and saved there.

        `label` says what the training is. `train` is called with the file of its checkpoint and the function that its
        metrics are passed to; `save` writes the file as the last of all that belongs to it; `summary` is said after it.
        """
        file = checkpoint = None
        if self.folder is not None:
            file, checkpoint = self.path(f"{name}.safetensors"), self.path(f"checkpoint-{name}.pt")
            if file.exists():
                return load(file)
        with self._stage(name, label) as log, quick_layout(self.inputs.classifier, training=True):
            result = train(checkpoint, log)
        if file is not None and checkpoint is not None:
            save(result, file)
            checkpoint.unlink(missing_ok=True)
        if summary is not None:
            self.say(f"{name.replace('_', ' ')}: {summary(result)}")
        return result

    @contextmanager
    def _stage(self, name: str, label: str) -> Iterator[OnProgress]:
        """A training: announced, timed, its metrics logged and its progress told."""
        self.say(label)
        log: MetricsLog | None = None
        with self.job.stage(name) as report:

            def record(progress: Progress) -> None:
                nonlocal log
                if log is None and self.folder is not None:
                    log = MetricsLog(self.path(f"metrics-{name}.jsonl"), from_step=progress.done)
                if log is not None:
                    log.write(progress.done, **{k: v for k, v in progress.values.items() if k not in ("step", "steps")})
                report(progress)

            try:
                yield record
            finally:
                if log is not None:
                    log.close()

    # --- the classifier --------------------------------------------------------------------------------------

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, trained."""
        inputs, classifier = self.inputs, self.inputs.classifier
        if inputs.is_trained:
            return classifier
        objective = self.settings.training.objective
        aim = "" if objective == "natural" else f" for robustness ({objective})"

        def train(checkpoint: Path | None, log: OnProgress) -> Classifier:
            result = train_classifier(
                classifier, inputs.train, objective=self.settings.training.build(), recipe=inputs.recipe,
                seed=self.seed, device=inputs.device, checkpoint=checkpoint, on_progress=log,
            )  # fmt: skip
            if self.folder is not None:
                write_json(self.path("classifier.json"), _training_record(inputs, result, self._test_accuracy))
                if result.last is not None:
                    last = copy.deepcopy(classifier.model)
                    last.load_state_dict(result.last)
                    save_weights(last, self.path("classifier-last.safetensors"))
            return classifier

        def load(file: Path) -> Classifier:
            load_weights(classifier.model, file)
            return classifier

        return self.made(
            "classifier",
            f"training the classifier {inputs.name} on {inputs.data_name}{aim}",
            train,
            load,
            lambda trained, file: save_weights(trained.model, file),
            summary=lambda _: f"{self._test_accuracy:.1%} right on held-out images",
        )

    @cached_property
    def _test_accuracy(self) -> float:
        """Natural accuracy of the classifier on all test images, once it is trained."""
        return evaluate_accuracy(self.inputs.classifier, self.inputs.test)

    def classifier_info(self) -> dict[str, Any]:
        """What the trained classifier is and how well it does on natural test images, for a result."""
        classifier, options, card = self.classifier, self.settings.model, self.inputs.card
        weights, checkpoint, file = None, None, options.file
        if card is not None:
            weights, checkpoint = card.sha256, card.training.get("checkpoint")
        elif not self.inputs.is_trained and self.folder is not None:
            file = self.path(WEIGHTS_FILE)
            do = f"restore it, or delete {file} too and run the same command again"
            checkpoint = read_json(self.path("classifier.json"), do)["training"]["checkpoint"]
        of_the_user = self.inputs.given_classifier is not None or options.external
        return {
            "name": self.inputs.name,
            **({} if of_the_user else {"pool": self.inputs.pool, "width": self.inputs.width}),
            "weights_sha256": weights if file is None else file_sha256(file),
            "checkpoint": checkpoint,
            "state_sha256": classifier.state_sha256(),
            "test_accuracy": self._test_accuracy,
        }

    @cached_property
    def anatomy(self) -> Anatomy:
        """All module calls of the trained classifier: training may open a branch that bypasses a layer."""
        return self.inputs.anatomy(self.classifier)

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers to explain."""
        chosen, found = self.inputs.layers(self.classifier), self.anatomy.distinct
        if self.settings.generator.layers is None and len(chosen) < len(found):
            self.say(f"of {len(found)} layers {len(chosen)} are explained, chosen by depth (all with --layers all)")
        return chosen

    def layers_record(self) -> dict[str, Any]:
        """How many layers are explained, of how many, and who chose them, for a result."""
        chosen = "by depth" if self.settings.generator.layers is None else "by the user"
        found, layers = len(self.anatomy.distinct), len(distinct(self.layers)[0])
        return {"explained": layers, "of": found, "chosen": "all" if layers == found else chosen}

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Those of them that are split, among their branches or groups of channels."""
        return self.inputs.blocks(self.classifier, distinct(self.layers)[0])

    # --- the judge, and the recognition network --------------------------------------------------------------

    @cached_property
    def judge(self) -> Judge:
        """The judge, trained against the threat model."""
        inputs, options = self.inputs, self.settings.judge
        if inputs.given_judge is not None:
            judge = inputs.given_judge
        elif options.comes_trained:
            network, threat_model, seed = inputs.judge_network, inputs.threat_model, inputs.judge_seed
            with self.job.stage("judge"):
                judge = measure_judge(network, inputs.judge_name, inputs.test, threat_model=threat_model, seed=seed)
        else:
            label = "training the judge: an independent classifier, adversarially trained"
            judge = self._robust_network("judge", label, inputs.judge_seed)
        require_another(inputs.recognition_network, judge.classifier, "judge")
        self._layouts.enter_context(quick_layout(judge.classifier))
        return judge

    @cached_property
    def recognition_network(self) -> Classifier | None:
        """What classifies explanations while InterpretGAN trains; `None`: the classifier itself."""
        if self.settings.generator.recognition_network != TRAINED:
            require_another(self.inputs.recognition_network, self.classifier, "classifier")
            return self.inputs.recognition_network
        label = "training the recognition network, adversarially"
        return self._robust_network("recognition_network", label, self.inputs.judge_seed + 1).classifier

    def _robust_network(self, name: str, label: str, seed: int) -> Judge:
        """A network of the judge's architecture and recipe, trained against the threat model with this seed."""
        inputs, architecture, bounds = self.inputs, self.inputs.robust_architecture, self.inputs.classifier.bounds
        return self.made(
            name,
            label,
            lambda checkpoint, log: train_judge(
                inputs.train,
                inputs.test,
                threat_model=inputs.threat_model,
                seed=seed,
                epochs=inputs.judge_recipe.epochs,
                architecture=architecture,
                bounds=bounds,
                device=inputs.device,
                checkpoint=checkpoint,
                on_progress=log,
            ),
            lambda file: Judge.load(file, Classifier(inputs.build(architecture, seed), bounds=bounds)),
            Judge.save,
            summary=lambda made: (
                f"{made.natural:.1%} right on held-out images, {made.adversarial:.1%} when attacked itself"
            ),
        )

    # --- generators and decoders -----------------------------------------------------------------------------

    @cached_property
    def interpreters(self) -> list[InterpretGAN]:
        """InterpretGAN, once per generator seed."""
        seeds = range(self.seed, self.seed + self.settings.generator.generator_seeds)
        found = [self._interpreter(seed) for seed in seeds]
        undecided = self.settings.generator.image_noise is None and self.inputs.train.shape[0] == 1
        if undecided and not found[0].network.image_noise:
            self.say("without noise in its images, which changes more than a tenth of the predictions")
        return found

    def _interpreter(self, seed: int) -> InterpretGAN:
        config = self.settings.generator.config(self.inputs.train.shape[0])
        there = self.folder is not None and self.path(f"generator-{seed}.safetensors").exists()
        # Their trainings are stages of their own, before this one.
        recognition_network, left_open = self.recognition_network, None if there else self._left_open
        return self.made(
            f"generator-{seed}",
            f"training InterpretGAN for {len(self.layers)} layers at once (seed {seed})",
            lambda checkpoint, log: InterpretGAN(self.classifier, self.layers, config=config, seed=seed).fit(
                self.inputs.train,
                recognition_network=recognition_network,
                left_open=left_open,
                checkpoint=checkpoint,
                on_progress=log,
                devices=self.settings.run.devices,
            ),
            lambda file: InterpretGAN.load(file, self.classifier),
            InterpretGAN.save,
        )

    @cached_property
    def _left_open(self) -> dict[str, float] | None:
        """What layers leave open of training images, where explanations are to vary by it and it is measured."""
        if not self.settings.generator.diversity:
            return None
        if self.decoders is None:
            self.say("explanations are not held to what layers leave open, which is not measured without information")
            return None
        return self.decoders.measure(self.inputs.train.sample(MEASURED, self.seed), on_progress=False).left_open

    @property
    def explainers(self) -> tuple[Explainer, ...]:
        """Other explainers for `look_closely`; inversion by a decoder refuses where this run has trained none."""
        trained = self.folder is not None and self.path("information.safetensors").exists()
        decoders = self.decoders if trained else None
        return (*EXPLAINERS, *pattern_explainers(self.inputs.train), inversion_by_decoder(decoders))

    @cached_property
    def decoders(self) -> Decoders | None:
        """The decoders and probes that measure information; `None` where information is left out."""
        config = self.settings.information.config(self.settings.generator.precision)
        if config is None:
            return None
        # That of InterpretGAN is of the same layers, images and seed; but with diversity it comes after them.
        start = None if self.settings.generator.diversity else self.interpreters[0].natural_start
        return self.made(
            "information",
            f"training decoders and probes for {len(self.layers)} layers",
            lambda checkpoint, log: Decoders(self.classifier, self.layers, config=config, seed=self.seed).fit(
                self.inputs.train, start=start, checkpoint=checkpoint, on_progress=log
            ),
            lambda file: Decoders.load(file, self.classifier),
            Decoders.save,
        )


def _training_record(inputs: Inputs, result: TrainingResult, accuracy: float) -> dict[str, Any]:
    """What classifier.json says: all that a card of the zoo needs, and the course of the training."""
    data, classifier, recipe = inputs.train, inputs.classifier, inputs.training
    return {
        "schema": 2,
        "model": inputs.settings.model.model,
        **{name: getattr(inputs, name) for name in ("pool", "width")},
        "in_channels": data.shape[0], "num_classes": len(data.classes), "image_size": list(data.shape[1:]),
        **{name: getattr(classifier, name) for name in ("bounds", "mean", "std")},
        "classes": list(data.classes),
        "data": {"name": inputs.data_name, "sha256": data.sha256, "note": data.note},
        "objective": recipe.pop("objective"), "recipe": recipe, "seed": inputs.settings.run.seed,
        "training": {
            **{name: getattr(result, name) for name in ("steps", "seconds", "images_per_second", "best")},
            "checkpoint": "last" if result.last is None else "best",
        },
        "accuracy": accuracy,
        "history": list(result.history),
        "versions": {name: package_version(name) for name in ("interpretgan", "torch")},
    }  # fmt: skip


def say_to_stderr(line: str) -> None:
    """Print a line to stderr at once."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
