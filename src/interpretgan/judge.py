"""The judge: an independent, adversarially trained classifier that predicts the class which an explanation shows.

The classifier under diagnosis cannot judge its own explanations: it recognises its own adversarial artefacts in them.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from interpretgan.attacks import ThreatModel, attack
from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, ImageSet, as_image_sets
from interpretgan.errors import ConfigError, DataError, RunFolderError, in_a_line
from interpretgan.models import build_model, load_weights, save_weights
from interpretgan.store.files import read_json, write_json
from interpretgan.store.progress import OnProgress, reporting
from interpretgan.torch_state import as_seed, plain_torch
from interpretgan.training import adversarial_objective, judge_recipe
from interpretgan.training.loop import evaluate_accuracy, train_classifier
from interpretgan.training.precision import quick_layout

ATTACKED = 1000  # held-out images that the judge itself is attacked on


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier that predicts what explanations show, with its own reliability."""

    classifier: Classifier  #: Another architecture and seed than the classifier under diagnosis.
    natural: float  #: Its accuracy on held-out natural images, 0 to 1.
    adversarial: float  #: Its accuracy on held-out images attacked against the judge itself.
    name: str  #: Of its architecture.

    def predict(self, images: Tensor, *, batch_size: int = 512) -> Tensor:
        """The class of each image `[N, C, H, W]`, N >= 0, within the judge's bounds: int64 `[N]`, on their device."""
        batches = [part for part in torch.split(images, batch_size) if len(part)]
        classes = [self.classifier.logits(part).argmax(dim=1).to(images.device) for part in batches]
        return torch.cat([torch.empty(0, dtype=torch.int64, device=images.device), *classes])

    def save(self, file: str | Path) -> None:
        """Write its accuracy to a JSON file beside `file`, then its weights to `file`, each atomically."""
        record = {"name": self.name, "natural": self.natural, "adversarial": self.adversarial}
        write_json(Path(file).with_suffix(".json"), record)
        save_weights(self.classifier.model, file)

    @classmethod
    def load(cls, file: str | Path, network: Classifier) -> Self:
        """Read what `save` wrote into a network of its architecture."""
        load_weights(network.model, file)
        about = Path(file).with_suffix(".json")
        do = f"restore it, or delete {file} too and train the judge again"
        known = read_json(about, do)
        try:
            shares = float(known["natural"]), float(known["adversarial"])
            return cls(network, *shares, str(known["name"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(expected=f"a judge's accuracy in {about}", got=in_a_line(error), do=do) from error


def require_same_pixels(judge: Judge, classifier: Classifier) -> None:
    """Refuse, by a `ConfigError`, a judge of other bounds than the classifier's: it would see images wrongly scaled."""
    if judge.classifier.bounds != classifier.bounds:
        expected = f"a judge of pixels within {classifier.bounds}, as the classifier's are"
        raise ConfigError(expected=expected, got=f"{judge.classifier.bounds}", do="train it with the same bounds")


@plain_torch()
def train_judge(
    train: ImageData,
    test: ImageData,
    *,
    threat_model: ThreatModel,
    seed: int,
    epochs: int | None = None,
    architecture: str = "judge",
    bounds: tuple[float, float] = (0.0, 1.0),
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    checkpoint: str | Path | None = None,
    on_progress: OnProgress | bool = True,
) -> Judge:
    """Train a judge against the threat model, with PGD of few steps, and measure it on held-out images.

    Args:
        train: Training images with their true classes.
        test: Held-out images, likewise.
        threat_model: The judge is trained at its norm and eps, and measured under all of it.
        seed: Of weights, order and attacks. Use another one than the classifier's.
        epochs: Passes over `train`. `None`: `judge_recipe`.
        architecture: See `build_model`; another one than the classifier's.
        bounds: Range of the pixels: that of the classifier under diagnosis.
        device: Where to train and keep it. `None`: the CPU.
        bf16: See `train_classifier`.
        checkpoint: See `train_classifier`; a finished one is read and not trained again.
        on_progress: Told how far it is; see `interpretgan.store.progress.OnProgress`.

    Raises:
        DataError, ImageError, LabelError: See `interpretgan.data.as_image_sets`; or the sets do not belong together.
        ConfigError, ModelError, TrainingError, RunFolderError: See `train_classifier`.
    """
    seed, (train, test) = as_seed(seed), as_image_sets(train, test, bounds=bounds)
    if train.shape != test.shape or train.classes != test.classes:
        expected = f"test images of shape {train.shape} with {len(train.classes)} classes, as in training"
        got = f"shape {test.shape} with {len(test.classes)} classes"
        raise DataError(expected=expected, got=got, do="load both splits of one set with the same image_size")
    recipe = judge_recipe(train, threat_model)
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: models are built there
        model = build_model(
            architecture, in_channels=train.shape[0], num_classes=len(train.classes), image_size=train.shape[1:]
        )
    classifier = Classifier(model, bounds=bounds)
    with reporting(on_progress, "judge") as report:
        train_classifier(
            classifier, train, objective=adversarial_objective(train, threat_model), recipe=recipe, seed=seed,
            device=device, bf16=bf16, checkpoint=checkpoint, on_progress=report,
        )  # fmt: skip
    model.eval()
    return measure_judge(classifier, architecture, test, threat_model=threat_model, seed=seed)


@plain_torch()
def measure_judge(classifier: Classifier, name: str, test: ImageSet, *, threat_model: ThreatModel, seed: int) -> Judge:
    """A trained classifier of an architecture `name` as a judge, with its accuracy on held-out images.

    The first `ATTACKED` are attacked under the threat model, with one restart: the judge's own robustness is a caption,
    not the result.
    """
    images, labels = test.scaled(classifier.bounds).batch(slice(0, ATTACKED))
    with quick_layout(classifier):
        adversarial = attack(classifier, images, labels, replace(threat_model, restarts=1), seed=seed)
        right = int((classifier.logits(adversarial).argmax(dim=1).cpu() == labels).sum())
        return Judge(classifier, evaluate_accuracy(classifier, test), right / len(labels), name)
