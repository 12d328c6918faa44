"""The whole job in one run folder: what is there is used, what is missing is made, and each step says so."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from interpretgan.attacks import attack, require_gradient
from interpretgan.classifier import Classifier
from interpretgan.config import Settings
from interpretgan.cuts import Anatomy, Cut, examine
from interpretgan.data import ImageSet, load_data
from interpretgan.diagnosis import Diagnosis, diagnose
from interpretgan.errors import ConfigError
from interpretgan.explanation import Explanation, InterpretGAN
from interpretgan.files import file_sha256, read_json, write_json, write_npy
from interpretgan.judge import Judge, measure_judge, train_judge
from interpretgan.models import MODELS, build_model, load_weights, save_weights
from interpretgan.progress import Progress, duration, stage_seconds
from interpretgan.readings import BATCH, Readings, attacker, batch_size, noise_control
from interpretgan.report import draw_explanation, write_report
from interpretgan.report.examples import examples_of, load_examples, save_arrays
from interpretgan.runs import MetricsLog, RunFolder
from interpretgan.training import Natural, Recipe, default_recipe, evaluate_accuracy, train_classifier

SHOWN = 6
"""Examples in the report's explanation grid."""

Say = Callable[[str], None]
Floats = npt.NDArray[np.float32]


class Job:
    """One run of the tool.

    Args:
        settings: What to do.
        sections: The parts of the settings that this command depends on; the folder must agree on them.
        folder: The run folder. `None`: nothing is written, and nothing can be trained.
        say: Told in a line what happens.
    """

    def __init__(self, settings: Settings, sections: tuple[str, ...], folder: Path | None, say: Say) -> None:
        self.settings, self.say = settings, say
        self.seconds: dict[str, float] = {}
        self.device = _device(settings.run.device)
        # A wrong setting, model, weights file or layer is told before a folder is claimed for it.
        self.config = self._resolved(settings.resolve(sections))
        self.folder = None if folder is None else RunFolder(folder).open(self.config)

    def _resolved(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration with all that the data and the models decide, and hashes of what comes from outside."""
        names, model = self.settings.generator.names(), self.settings.model
        config["device"] = str(self.device)
        config["data"] |= {"sha256": self.train.sha256, "test_sha256": self.test.sha256}
        given = model.pretrained or model.weights is not None
        config["model"] |= _known_weights(self.built, model.weights) if given else asdict(self._recipe)
        if "attack" in config or "generator" in config:
            self._check_classes()
            require_gradient(self.built, self._probe)
        if "judge" in config:
            judge = self._built_judge
            given = self.settings.judge.judge_weights is not None
            config["judge"] |= (
                _known_weights(judge, self.settings.judge.judge_weights, "judge_")
                if given
                else {f"judge_{name}": value for name, value in asdict(self._judge_recipe).items()}
            )
        if "generator" in config and names is not None:
            # Asked of the network as built: the answer is wanted now. It is asked again once it is trained.
            config["generator"]["cuts"] = [cut.name for cut in self.anatomy(self.built).select(names)]
        return config

    def close(self) -> None:
        """Release the run folder."""
        if self.folder is not None:
            self.folder.close()

    # --- data and models -------------------------------------------------------------------------------------

    @cached_property
    def train(self) -> ImageSet:
        """Training images."""
        return self._load("train")

    @cached_property
    def test(self) -> ImageSet:
        """Held-out images."""
        return self._load("test")

    def _load(self, split: str) -> ImageSet:
        options = self.settings.data
        with stage_seconds(self.seconds, "data"):
            return load_data(options.data, split, data_dir=options.data_dir, image_size=options.image_size)

    @cached_property
    def built(self) -> Classifier:
        """The classifier as built, with its weights where there are some."""
        options, data = self.settings.model, self.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.run.seed)
            model = build_model(
                options.model,
                in_channels=data.shape[0],
                num_classes=len(data.classes),
                image_size=data.shape[1:],
                **({"pool": options.pool} if options.model in MODELS else {}),
            )
        if options.weights is not None:
            load_weights(model, options.weights)
        return Classifier(model.to(self.device), mean=options.mean, std=options.std)

    @property
    def _recipe(self) -> Recipe:
        return _with_epochs(default_recipe(self.train, "natural"), self.settings.model.epochs)

    @property
    def _judge_recipe(self) -> Recipe:
        return _with_epochs(default_recipe(self.train, "adversarial"), self.settings.judge.judge_epochs)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier, trained."""
        classifier, options = self.built, self.settings.model
        if options.weights is not None or options.pretrained:
            return classifier
        file = self._path("classifier.safetensors")
        if file.exists():
            load_weights(classifier.model, file)
            return classifier
        recipe = self._recipe
        with self._stage("classifier", f"training the classifier {options.model} on {self._data_name()}") as log:
            train_classifier(
                classifier,
                self.train,
                objective=Natural(),
                epochs=recipe.epochs,
                batch_size=recipe.batch_size,
                lr=recipe.lr,
                seed=self.settings.run.seed,
                device=self.device,
                checkpoint=self._path("checkpoint-classifier.pt"),
                on_progress=log,
            )
        accuracy = evaluate_accuracy(classifier, self.test)
        save_weights(classifier.model, file)
        record = {"model": options.model, "accuracy": accuracy, **asdict(recipe), "seconds": self.seconds["classifier"]}
        write_json(self._path("classifier.json"), record)
        self._drop("checkpoint-classifier.pt")
        self.say(f"classifier: {accuracy:.1%} right on held-out images")
        return classifier

    def _check_classes(self) -> None:
        logits = self.built(self._probe)
        if logits.shape[1] < len(self.test.classes):
            raise ConfigError(
                expected=f"a model with {len(self.test.classes)} classes, as {self._data_name()} has",
                got=f"{logits.shape[1]} logits",
                do="diagnose it on the data that it was trained for",
            )

    @property
    def _probe(self) -> Tensor:
        """A few images to run networks on."""
        return self.test.batch(list(range(min(4, len(self.test)))))[0].to(self.device)

    def anatomy(self, classifier: Classifier) -> Anatomy:
        """All module calls of a classifier, cuts and others."""
        return examine(classifier, self._probe)

    @cached_property
    def cuts(self) -> list[Cut]:
        """The cuts to explain, of the trained classifier: a branch that training opened is no cut any more."""
        names, anatomy = self.settings.generator.names(), self.anatomy(self.classifier)
        return anatomy.distinct if names is None else anatomy.select(names)

    @cached_property
    def _built_judge(self) -> Classifier:
        """The judge as built, with its weights where there are some."""
        options = self.settings.judge
        if options.judge == self.settings.model.model:
            raise ConfigError(
                expected="a judge of another architecture than the classifier's",
                got=f"{options.judge} for both",
                do="choose another --judge: a judge that shares the classifier's blind spots sees nothing",
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.run.seed + 1)
            model = build_model(
                options.judge,
                in_channels=self.train.shape[0],
                num_classes=len(self.train.classes),
                image_size=self.train.shape[1:],
            )
        if options.judge_weights is not None:
            load_weights(model, options.judge_weights)
        return Classifier(model.to(self.device))

    @cached_property
    def judge(self) -> Judge:
        """The judge, trained against the threat model."""
        options, threat_model = self.settings.judge, self.settings.attack.threat_model()
        seed, classifier = self.settings.run.seed + 1, self._built_judge
        if options.judge_weights is not None:
            return measure_judge(classifier, options.judge, self.test, threat_model=threat_model, seed=seed)
        file, record = self._path("judge.safetensors"), self._path("judge.json")
        if file.exists() and record.exists():
            load_weights(classifier.model, file)
            known = read_json(record)
            return Judge(classifier, known["natural"], known["adversarial"], known["name"])
        with self._stage("judge", "training the judge: an independent classifier, adversarially trained") as log:
            judge = train_judge(
                self.train,
                self.test,
                threat_model=threat_model,
                seed=seed,
                epochs=self._judge_recipe.epochs,
                architecture=options.judge,
                device=self.device,
                checkpoint=self._path("checkpoint-judge.pt"),
                on_progress=log,
            )
        save_weights(judge.classifier.model, file)
        write_json(
            record,
            {"name": judge.name, "natural": judge.natural, "adversarial": judge.adversarial,
             "seconds": self.seconds["judge"]},
        )  # fmt: skip
        self._drop("checkpoint-judge.pt")
        self.say(f"judge: {judge.natural:.1%} right on held-out images, {judge.adversarial:.1%} when attacked itself")
        return judge

    @cached_property
    def interpreters(self) -> list[InterpretGAN]:
        """InterpretGAN, once per generator seed."""
        first = self.settings.run.seed
        return [self._interpreter(first + number) for number in range(self.settings.generator.generator_seeds)]

    def _interpreter(self, seed: int) -> InterpretGAN:
        file = self._path(f"generator-{seed}.safetensors")
        if file.exists():
            return InterpretGAN.load(file, self.classifier)
        config = self.settings.generator.gan()
        interpreter = InterpretGAN(self.classifier, self.cuts, config=config, seed=seed)
        name = f"generator-{seed}"
        label = f"training InterpretGAN for {len(self.cuts)} layers at once (seed {seed})"
        with self._stage(name, label, total=config.steps) as log:
            interpreter.fit(
                self.train,
                checkpoint=self._path(f"checkpoint-{name}.pt"),
                on_step=lambda step, losses: log({"step": step, "steps": config.steps, **losses}),
            )
        interpreter.save(file)
        self._drop(f"checkpoint-{name}.pt")
        return interpreter

    # --- results ---------------------------------------------------------------------------------------------

    def attack(self) -> dict[str, Any]:
        """Attack the first test images; writes `adversarial.npy` (float32), `labels.npy` and `attack.json`."""
        threat_model, seed = self.settings.attack.threat_model(), self.settings.run.seed
        classifier, count = self.classifier, min(self.settings.reading.examples, len(self.test))
        names = ("natural", "adversarial", "noise")
        right = dict.fromkeys(names, 0)

        def batches() -> Iterator[Floats]:
            perturb = attacker(classifier, threat_model, seed=seed), noise_control(classifier, threat_model, seed=seed)
            with Progress(count, "attacking", unit="image") as progress:
                for first in range(0, count, BATCH):
                    images, labels = self._batch(range(first, min(first + BATCH, count)))
                    versions = (images, *(make(images, labels, first) for make in perturb))
                    for name, version in zip(names, versions, strict=True):
                        right[name] += int((classifier(version).argmax(dim=1) == labels).sum())
                    yield versions[1].cpu().numpy()
                    progress.update(first + len(images))

        with stage_seconds(self.seconds, "attack"):
            write_npy(self._path("adversarial.npy"), (count, *self.test.shape), batches())
        write_npy(self._path("labels.npy"), (count,), [self.test.labels[:count]])
        record = {
            "threat_model": threat_model.to_dict(),
            "examples": count,
            "accuracy": {name: right[name] / count for name in names},
        }
        write_json(self._path("attack.json"), record)
        return record

    def diagnosis(self) -> Diagnosis:
        """The diagnosis; made, or read if this folder has it."""
        file = self._path("diagnosis.json")
        if file.exists():
            return Diagnosis.load(file)
        began = time.perf_counter()
        classifier, judge, interpreters = self.classifier, self.judge, self.interpreters
        count = min(self.settings.reading.examples, len(self.test))
        self.say(f"reading {count} images, natural, adversarial and noisy, at {len(self.cuts)} layers")
        with stage_seconds(self.seconds, "reading"), Progress(count, "reading", unit="image") as progress:
            result = diagnose(
                interpreters,
                judge,
                self.test,
                threat_model=self.settings.attack.threat_model(),
                examples=count,
                seed=self.settings.run.seed,
                bootstrap=self.settings.reading.bootstrap,
                confidence=self.settings.reading.confidence,
                classifier_info=self._classifier_info(classifier),
                data_info={
                    "name": self._data_name(), "split": "test", "classes": list(self.test.classes),
                    "sha256": self.test.sha256, "note": self.test.note,
                },
                on_batch=progress.update,
                on_readings=self._keep_readings,
            )  # fmt: skip
        self.seconds["total"] = time.perf_counter() - began + self.seconds.get("data", 0.0)
        provenance = {**result.provenance, "seconds": dict(self.seconds), "peak_memory_mib": peak_memory_mib()}
        result = replace(result, provenance=provenance)
        result.save(file)
        return result

    def explain(self, indices: list[int]) -> Explanation:
        """Explain test images by index, natural and adversarial."""
        wrong = [index for index in indices if not 0 <= index < len(self.test)]
        if wrong or not indices:
            raise ConfigError(
                expected=f"indices of test images, 0 to {len(self.test) - 1}",
                got=str(wrong or "none"),
                do="choose others",
            )
        images, labels = self._batch(indices)
        seed = self.settings.run.seed
        adversarial = attack(self.classifier, images, labels, self.settings.attack.threat_model(), seed=seed)
        return self.interpreters[0].explain(images, adversarial, labels=labels, judge=self.judge, seed=seed)

    def draw(self, explanation: Explanation) -> Path:
        """Write the pictures of an explanation to figures/explained.png."""
        return draw_explanation(explanation, self._path("figures/explained.png"), self.test.classes)

    def telling_explanation(self) -> Explanation:
        """Examples of the diagnosis for its report: one a class, fooled by the attack, read right while natural."""
        count = min(batch_size(self.test, len(self.cuts)), self.settings.reading.examples, len(self.test))
        images, labels = self._batch(range(count))
        # The first batch of the diagnosis once more: the same attack from the same starts.
        perturb = attacker(self.classifier, self.settings.attack.threat_model(), seed=self.settings.run.seed)
        adversarial, chosen = perturb(images, labels, 0), self._telling(count)
        return self.interpreters[0].explain(
            images[chosen], adversarial[chosen], labels=labels[chosen], judge=self.judge, seed=self.settings.run.seed
        )

    def _telling(self, count: int) -> list[int]:
        """Of the first images, those that show most."""
        file = self._path("readings.npz")
        if not file.exists():
            return list(range(min(SHOWN, count)))
        with np.load(file, allow_pickle=False) as saved:
            labels, natural, adversarial, model = (
                saved[name][..., :count] for name in ("labels", "natural", "adversarial", "model")
            )
        clear = (natural == labels).all(axis=0) & (adversarial[0] == labels) & (model[0] == labels)
        fooled = model[1] != labels
        # Best first: fooled and clear, then fooled at all, then the rest.
        order = np.argsort(-(2 * (fooled & clear) + fooled), kind="stable")
        chosen: dict[int, int] = {}
        for index in order:
            chosen.setdefault(int(labels[index]), int(index))
        return list(chosen.values())[:SHOWN]

    def report(self, result: Diagnosis) -> Path:
        """Write report.html and its figures."""
        assert self.folder is not None
        file = self._path("explanations.npz")
        if not file.exists():
            save_arrays(file, examples_of(self.telling_explanation()))
        return write_report(result.to_dict(), load_examples(file, result.data["classes"]), self.folder.path)

    # --- parts -----------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise ConfigError(expected="a run folder", got="none", do="name one with --out")
        return self.folder / name

    def _drop(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    def _data_name(self) -> str:
        name = self.settings.data.data
        return Path(name).name if "/" in name else name

    def _batch(self, indices: range | list[int]) -> tuple[Tensor, Tensor]:
        images, labels = self.test.batch(torch.tensor(list(indices)))
        return images.to(self.device), labels.to(self.device)

    def _classifier_info(self, classifier: Classifier) -> dict[str, Any]:
        options = self.settings.model
        accuracy = evaluate_accuracy(classifier, self.test)
        weights = options.weights or (None if options.pretrained else self._path("classifier.safetensors"))
        return {
            "name": options.model,
            **({"pool": options.pool} if options.model in MODELS else {}),
            "weights_sha256": None if weights is None else file_sha256(weights),
            "state_sha256": classifier.state_sha256(),
            "test_accuracy": accuracy,
        }

    def _keep_readings(self, readings: list[Readings]) -> None:
        """All readings, class numbers per cut and image, so that other statistics need no new attack."""
        first, several = readings[0], len(readings) > 1
        names = ("natural", "adversarial", "noise")
        tables = {name: np.stack([getattr(one, name) for one in readings]) for name in names}
        save_arrays(
            self._path("readings.npz"),
            {
                "labels": first.labels, "model": first.model, "cuts": np.array(["image", *(c.name for c in self.cuts)]),
                **{name: getattr(first, name) for name in names},
                **({f"{name}_all": table for name, table in tables.items()} if several else {}),
            },
        )  # fmt: skip

    @contextmanager
    def _stage(self, name: str, label: str, total: int | None = None) -> Iterator[Callable[[dict[str, Any]], None]]:
        """A training: announced, timed, its metrics logged and its progress shown."""
        self.say(label)
        log: MetricsLog | None = None
        progress: Progress | None = None

        def record(values: dict[str, Any]) -> None:
            nonlocal log, progress
            values = dict(values)
            step, steps = int(values.pop("step")), int(values.pop("steps"))
            if log is None:
                log = MetricsLog(self._path(f"metrics-{name}.jsonl"), from_step=step)
                progress = Progress(total or steps, name, start=step - 1)
            assert progress is not None
            log.write(step, **values)
            progress.update(
                step, "  ".join(f"{key} {value:.3g}" for key, value in values.items() if key in SHOWN_METRICS)
            )

        try:
            with stage_seconds(self.seconds, name):
                yield record
        finally:
            if log is not None and progress is not None:
                log.close()
                progress.close()


SHOWN_METRICS = ("loss", "accuracy", "loss_d", "information", "latent")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            expected="a device of this machine",
            got=f"{name} ({str(error).splitlines()[0]})",
            do="use --device cpu or auto",
        ) from error
    return device


def _known_weights(classifier: Classifier, file: Path | None, prefix: str = "") -> dict[str, Any]:
    """What weights that come from outside are: the name of their file, and a hash of what was loaded."""
    return {f"{prefix}weights": None if file is None else file.name, f"{prefix}state_sha256": classifier.state_sha256()}


def _with_epochs(recipe: Recipe, epochs: int | None) -> Recipe:
    return recipe if epochs is None else replace(recipe, epochs=epochs)


def peak_memory_mib() -> int:
    """The most memory that this process has held so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def took(seconds: dict[str, float]) -> str:
    """The stages with their durations, for a closing line."""
    return ", ".join(f"{name} {duration(value)}" for name, value in seconds.items() if name != "total")
