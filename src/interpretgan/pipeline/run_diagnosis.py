"""The whole job in one run folder: what is there is used, what is missing is made, and each step says so."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from interpretgan.attacks import attack, require_eps_within_range
from interpretgan.classifier import Classifier
from interpretgan.diagnosis.diagnose import diagnose
from interpretgan.diagnosis.predictions import BATCH, Predictions, attacker, batch_size, noise_control
from interpretgan.diagnosis.result import Diagnosis
from interpretgan.errors import ConfigError, RunFolderError
from interpretgan.gan.multi_device import check_team
from interpretgan.information import Measurement
from interpretgan.interpreter import Explanation
from interpretgan.pipeline.config import Settings
from interpretgan.pipeline.instruments import Instruments
from interpretgan.pipeline.run_folder import CONFIG_FILE, RunFolder, differences
from interpretgan.pipeline.subject import Subject
from interpretgan.pipeline.workshop import Say, Workshop
from interpretgan.report import draw_explanation, write_report
from interpretgan.report.examples import examples_of, load_examples, save_arrays
from interpretgan.robustness import Evaluation, evaluate, require_attackable
from interpretgan.store.files import plain, read_json, write_json, write_npy
from interpretgan.store.progress import Progress, duration, stage_seconds
from interpretgan.training.precision import channels_last

SHOWN = 6
"""Examples in the report's explanation grid."""

Floats = npt.NDArray[np.float32]


class Job:
    """One run of the tool.

    Args:
        settings: What to do.
        sections: The parts of the settings that this command depends on; the folder must agree on them.
        folder: The run folder. `None`: nothing is written, and nothing can be trained.
        say: Told in a line what happens.

    Attributes:
        workshop: Images, device and run folder.
        subject: The classifier.
        instruments: Judge and generators.
        config: The settings, with all that the data and the networks decide.
    """

    def __init__(self, settings: Settings, sections: tuple[str, ...], folder: Path | None, say: Say) -> None:
        self.settings, self.say = settings, say
        self.workshop = Workshop(settings, say)
        self.subject = Subject(self.workshop)
        self.instruments = Instruments(self.subject)
        # A wrong setting, model, weights file or layer is told before a folder is claimed for it.
        self.config = self._resolved(settings.resolve(sections))
        self.folder = None if folder is None else self._opened(folder)
        self.workshop.folder = self.folder

    def _opened(self, folder: Path) -> RunFolder:
        """The run folder; where its classifier was only trained otherwise, the refusal says how that can be used."""
        try:
            return RunFolder(folder).open(self.config)
        except RunFolderError as error:
            weights = folder / "classifier.safetensors"
            if " model.training." not in error.got or not weights.exists():
                raise
            found = read_json(folder / CONFIG_FILE)["model"]
            different = differences(found, plain(self.config["model"]), "model")
            if not all(line.startswith(("model.training.", "model.epochs ")) for line in different):
                raise
            do = f"use the old settings to resume it, or take its classifier to a new folder with --weights {weights}"
            raise RunFolderError(expected=error.expected, got=error.got, do=do) from error

    def _resolved(self, config: dict[str, Any]) -> dict[str, Any]:
        """The configuration with all that the data and the networks decide, and hashes of what comes from outside."""
        names, shop = self.settings.generator.names(), self.workshop
        config["device"] = str(shop.device)
        config["data"] |= {"sha256": shop.train.sha256, "test_sha256": shop.test.sha256}
        config["model"] |= self.subject.resolved()
        if not config.keys().isdisjoint(("attack", "generator", "evaluation")):
            self.subject.check()
        if "attack" in config:
            require_eps_within_range(self.settings.attack.threat_model(), self.subject.built.bounds, shop.test.shape)
        if "evaluation" in config:
            options = self.settings.evaluation
            require_attackable(self.subject.built, shop.probe, options.threat_model(), options.names())
        if "judge" in config:
            config["judge"] |= self.instruments.judge_resolved()
        if "generator" in config:
            config["generator"] |= self.instruments.recognition_network_resolved(attacked="attack" in config)
            # The settings' own check did not know the device.
            check_team(self.settings.run.devices, config["generator"]["images_per_layer"], shop.device)
        if "generator" in config and names is not None:
            # Asked of the network as built: the answer is wanted now. It is asked again once it is trained.
            config["generator"]["layers"] = [
                layer.name for layer in self.subject.anatomy(self.subject.built).select(names)
            ]
        return config

    def close(self) -> None:
        """Release the run folder."""
        if self.folder is not None:
            self.folder.close()

    def attack(self) -> dict[str, Any]:
        """Attack the first test images; writes `adversarial.npy` (float32), `labels.npy` and `attack.json`."""
        threat_model, seed = self.settings.attack.threat_model(), self.settings.run.seed
        classifier, count = self.subject.classifier, min(self.settings.diagnosis.examples, len(self.workshop.test))
        names = ("natural", "adversarial", "noise")
        right = dict.fromkeys(names, 0)

        def batches() -> Iterator[Floats]:
            perturb = attacker(classifier, threat_model, seed=seed), noise_control(classifier, threat_model, seed=seed)
            with Progress(count, "attacking", unit="image") as progress:
                for first in range(0, count, BATCH):
                    images, labels = self.workshop.batch(range(first, min(first + BATCH, count)))
                    versions = (images, *(make(images, labels, first) for make in perturb))
                    for name, version in zip(names, versions, strict=True):
                        right[name] += int((classifier.logits(version).argmax(dim=1) == labels).sum())
                    yield versions[1].cpu().numpy()
                    progress.update(first + len(images))

        with stage_seconds(self.workshop.seconds, "attack"):
            write_npy(self.workshop.path("adversarial.npy"), (count, *self.workshop.test.shape), batches())
        write_npy(self.workshop.path("labels.npy"), (count,), [self.workshop.test.labels[:count]])
        record = {
            "threat_model": threat_model.to_dict(),
            "examples": count,
            "accuracy": {name: right[name] / count for name in names},
        }
        write_json(self.workshop.path("attack.json"), record)
        return record

    def evaluation(self) -> Evaluation:
        """The evaluation; made, or read if this folder has it. Writes `evaluation.npz`, then `evaluation.json`."""
        file, shop = self.workshop.path("evaluation.json"), self.workshop
        if file.exists():
            return Evaluation.load(file)
        result = evaluate_subject(self.subject.classifier, shop, self.subject.info())
        result.save(file)
        return result

    def diagnosis(self) -> Diagnosis:
        """The diagnosis; made, or read if this folder has it."""
        file = self.workshop.path("diagnosis.json")
        if file.exists():
            return Diagnosis.load(file)
        began = time.perf_counter()
        classifier_info = self.subject.info()
        judge, interpreters = self.instruments.judge, self.instruments.interpreters
        count = min(self.settings.diagnosis.examples, len(self.workshop.test))
        information = self._information(count)
        self.say(f"reading {count} images, natural, adversarial and noisy, at {len(self.instruments.layers)} layers")
        with stage_seconds(self.workshop.seconds, "diagnosis"), Progress(count, "prediction", unit="image") as progress:
            result = diagnose(
                interpreters,
                judge,
                self.workshop.test,
                threat_model=self.settings.attack.threat_model(),
                examples=count,
                seed=self.settings.run.seed,
                bootstrap=self.settings.diagnosis.bootstrap,
                confidence=self.settings.diagnosis.confidence,
                classifier_info=classifier_info,
                data_info=self.workshop.data_info,
                information=information,
                on_batch=progress.update,
                on_predictions=self._keep_predictions,
            )
        self.workshop.seconds["total"] = time.perf_counter() - began + self.workshop.seconds.get("data", 0.0)
        provenance = {**result.provenance, "seconds": dict(self.workshop.seconds), "peak_memory_mib": peak_memory_mib()}
        result = replace(result, provenance=provenance)
        result.save(file)
        return result

    def _information(self, count: int) -> Measurement | None:
        """What each layer still holds of the first test images and of their classes; writes `information.npz`."""
        decoders, shop = self.instruments.decoders, self.workshop
        if decoders is None:
            return None
        with stage_seconds(shop.seconds, "information"), Progress(count, "information", unit="image") as progress:
            found = decoders.measure(shop.test, examples=count, on_batch=progress.update)
        arrays = {name: value for name, value in vars(found).items() if isinstance(value, np.ndarray)}
        save_arrays(shop.path("information.npz"), {"layers": np.array(["image", *found.layers]), **arrays})
        return found

    def explain(self, indices: list[int]) -> Explanation:
        """Explain test images by index, natural and adversarial."""
        wrong = [index for index in indices if not 0 <= index < len(self.workshop.test)]
        if wrong or not indices:
            raise ConfigError(
                expected=f"indices of test images, 0 to {len(self.workshop.test) - 1}",
                got=str(wrong or "none"),
                do="choose others",
            )
        images, labels = self.workshop.batch(indices)
        seed = self.settings.run.seed
        adversarial = attack(self.subject.classifier, images, labels, self.settings.attack.threat_model(), seed=seed)
        return self.instruments.interpreters[0].explain(
            images, adversarial, labels=labels, judge=self.instruments.judge, seed=seed
        )

    def draw(self, explanation: Explanation) -> Path:
        """Write the pictures of an explanation to figures/explained.png."""
        return draw_explanation(explanation, self.workshop.path("figures/explained.png"), self.workshop.test.classes)

    def telling_explanation(self) -> Explanation:
        """Examples of the diagnosis for its report: one a class, fooled by the attack, read right while natural."""
        count = min(
            batch_size(self.workshop.test, len(self.instruments.layers)),
            self.settings.diagnosis.examples,
            len(self.workshop.test),
        )
        images, labels = self.workshop.batch(range(count))
        # The first batch of the diagnosis once more: the same attack from the same starts.
        perturb = attacker(self.subject.classifier, self.settings.attack.threat_model(), seed=self.settings.run.seed)
        adversarial, chosen = perturb(images, labels, 0), self._telling(count)
        return self.instruments.interpreters[0].explain(
            images[chosen],
            adversarial[chosen],
            labels=labels[chosen],
            judge=self.instruments.judge,
            seed=self.settings.run.seed,
        )

    def _telling(self, count: int) -> list[int]:
        """Of the first images, those that show most."""
        file = self.workshop.path("predictions.npz")
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
        file = self.workshop.path("explanations.npz")
        if not file.exists():
            save_arrays(file, examples_of(self.telling_explanation()))
        return write_report(result.to_dict(), load_examples(file, result.data["classes"]), self.folder.path)

    def _keep_predictions(self, predictions: list[Predictions]) -> None:
        """All predictions, class numbers per layer and image, so that other statistics need no new attack."""
        first, several = predictions[0], len(predictions) > 1
        names = ("natural", "adversarial", "noise")
        tables = {name: np.stack([getattr(one, name) for one in predictions]) for name in names}
        save_arrays(
            self.workshop.path("predictions.npz"),
            {
                "labels": first.labels,
                "model": first.model,
                "layers": np.array(["image", *(layer.name for layer in self.instruments.layers)]),
                **{name: getattr(first, name) for name in names},
                **({f"{name}_all": table for name, table in tables.items()} if several else {}),
            },
        )


def evaluate_subject(classifier: Classifier, shop: Workshop, info: Mapping[str, Any] | None = None) -> Evaluation:
    """`evaluate` as the workshop's settings say; which examples each attack left right goes to `evaluation.npz`.

    Args:
        classifier: The classifier.
        shop: Where.
        info: What is known of the classifier.
    """
    options = shop.settings.evaluation

    def keep(examples: dict[str, Tensor]) -> None:
        save_arrays(shop.path("evaluation.npz"), {name: right.cpu().numpy() for name, right in examples.items()})

    with _autoattack_progress() as on_batch, channels_last(classifier.model):
        result = evaluate(
            classifier,
            shop.test,
            threat_model=options.threat_model(),
            attacks=options.names(),
            examples=options.examples,
            curve_examples=options.curve_examples,
            seed=shop.settings.run.seed,
            confidence=options.confidence,
            classifier_info=info,
            data_info=shop.data_info,
            checkpoint=shop.path("checkpoint-autoattack.pt"),
            say=shop.say,
            on_batch=on_batch,
            on_examples=keep,
        )
    shop.drop("checkpoint-autoattack.pt")
    return result


@contextmanager
def _autoattack_progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress line for each stage of AutoAttack."""
    line: Progress | None = None

    def on_batch(stage: str, done: int, total: int) -> None:
        nonlocal line
        line = line or Progress(total, f"autoattack {stage}", unit="image")
        line.update(done)
        if done == total:
            line.close()
            line = None

    try:
        yield on_batch
    finally:
        if line is not None:
            line.close()


def peak_memory_mib() -> int:
    """The most memory that this process has held so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def took(seconds: dict[str, float]) -> str:
    """The stages with their durations, for a closing line."""
    return ", ".join(f"{name} {duration(value)}" for name, value in seconds.items() if name != "total")
