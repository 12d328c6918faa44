"""What a run attacks: test images for a diagnosis, and its classifier by many attacks for an evaluation."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from interpretgan.attacks.named_attacks import AUTOATTACK
from interpretgan.attacks.noise import equal_norm_noise
from interpretgan.diagnosis.predictions import Perturb, attacker, batch_size, given_adversarial
from interpretgan.pipeline.networks import Networks
from interpretgan.robustness import Evaluation, evaluate
from interpretgan.robustness.attack_checks import class_flags
from interpretgan.store.files import write_arrays, write_json, write_npy
from interpretgan.store.progress import Progress


class Attacked(Networks):
    """The networks of a run, and what attacks make of its test images. Arguments as of `Networks`."""

    @property
    def examples(self) -> int:
        """How many test images are attacked, from the first."""
        return min(self.settings.diagnosis.examples, len(self.inputs.test))

    @property
    def perturb(self) -> Perturb:
        """What makes the adversarial images, or hands over those that were made elsewhere."""
        inputs = self.inputs
        if inputs.adversarial is None:
            return attacker(self.classifier, inputs.threat_model, seed=self.seed)
        return given_adversarial(inputs.adversarial, self.classifier, inputs.threat_model)

    def attacked(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first test images, at most so many, their classes, and the same images as the diagnosis attacks them."""
        images, labels = self.inputs.batch(range(min(most, self.examples)))
        return images, labels, self.perturb(images, labels, 0)

    def attack(self) -> dict[str, Any]:
        """Attack the first test images; writes `adversarial.npy` (float32), `labels.npy` and `attack.json`."""
        inputs, classifier, count, threat_model = self.inputs, self.classifier, self.examples, self.inputs.threat_model
        right, predicted = dict.fromkeys(("natural", "adversarial", "noise"), 0), []

        def batches() -> Iterator[npt.NDArray[np.float32]]:
            perturb, at_once = self.perturb, batch_size(inputs.test)
            with self.job.stage("attack") as report:
                for first in range(0, count, at_once):
                    images, labels = inputs.batch(range(first, min(first + at_once, count)))
                    noise = equal_norm_noise(images, threat_model, classifier.bounds, seed=self.seed, first_index=first)
                    versions = (images, perturb(images, labels, first), noise)
                    for name, version in zip(right, versions, strict=True):
                        classes = classifier.logits(version).argmax(dim=1)
                        right[name] += int((classes == labels).sum())
                        if name == "natural":
                            predicted.append(classes.cpu().numpy())
                    yield versions[1].cpu().numpy()
                    report(Progress("attack", first + len(images), count, "image"))

        write_npy(self.path("adversarial.npy"), (count, *inputs.test.shape), batches())
        write_npy(self.path("labels.npy"), (count,), [inputs.test.labels[:count]])
        flags = class_flags(np.concatenate(predicted), inputs.test.labels[:count], inputs.test.classes)
        record = {
            "schema": 2,
            "flags": [asdict(flag) for flag in flags],
            "threat_model": threat_model.to_dict(),
            "examples": count,
            "accuracy": {name: number / count for name, number in right.items()},
        }
        write_json(self.path("attack.json"), record)
        return record

    def evaluation(self) -> Evaluation:
        """Accuracy under several attacks; measured, or read if this folder has it.

        Writes `evaluation.npz`, which examples each attack left right; `autoattack.npy`, the images of AutoAttack,
        float32 `[N, C, H, W]`, which a diagnosis takes; then `evaluation.json`.
        """
        file, checkpoint = self.path("evaluation.json"), self.path("checkpoint-autoattack.pt")
        if file.exists():
            if AUTOATTACK in self.settings.evaluation.names() and not self.path("autoattack.npy").exists():
                self.say(f"AutoAttack's images are not here: delete {file} to have them made again")
            return Evaluation.load(file)

        def keep(examples: dict[str, Tensor]) -> None:
            write_arrays(self.path("evaluation.npz"), {name: right.cpu().numpy() for name, right in examples.items()})

        def keep_images(images: Tensor) -> None:
            write_npy(self.path("autoattack.npy"), tuple(images.shape), [images.cpu().numpy()])

        options, classifier, info = self.settings.evaluation, self.classifier, self.classifier_info()
        result = evaluate(
            classifier, self.inputs.test, threat_model=options.threat_model(self.settings.data.data),
            attacks=options.names(), examples=options.examples, curve_examples=options.curve_examples,
            seed=self.seed, confidence=options.confidence, classifier_info=info, checkpoint=checkpoint,
            say=self.say, on_progress=self.job.on_progress, on_examples=keep,
            on_autoattacked=keep_images,
        )  # fmt: skip
        checkpoint.unlink(missing_ok=True)
        result.save(file)
        return Evaluation.load(file)
