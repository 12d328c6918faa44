"""The training of every classifier, and its accuracy afterwards."""

import copy
import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack, predicted_right, seed_generators
from interpretgan.classifier import Classifier, require_values
from interpretgan.data import ImageSet, ImageSource, near, sent
from interpretgan.errors import ConfigError, DataError, ModelError
from interpretgan.layers import run_frozen
from interpretgan.store.progress import OnProgress, Progress
from interpretgan.store.training_checkpoint import Checkpoint, fingerprint_of
from interpretgan.torch_state import as_seed
from interpretgan.training.checks import require_finite
from interpretgan.training.objectives import Batch, Objective
from interpretgan.training.precision import fast_convolutions, has_fast_bf16, laid_out
from interpretgan.training.recipes import Recipe, augment
from interpretgan.training.steps import MovingAverage, State, copy_of, resumable, swapped

REPORT_SECONDS = 0.5  # between two reports within an epoch


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training did."""

    steps: int  #: In all, those before a resume included.
    loss: float  #: Mean of the last epoch that was run here (NaN if none was left to run).
    seconds: float  #: Wall-clock time, with that of the epochs that were finished before a resume.
    images_per_second: float  #: Training images per second of it, the time of the validation included.
    #: Per finished epoch: epoch, epochs, step, steps, loss, accuracy (both of its last batch), lr, seconds, and with a
    #: validation the accuracies on the images held out, validation_natural and validation_robust.
    history: tuple[dict[str, float], ...] = ()
    best: dict[str, float] | None = None  #: The epoch whose weights the model has; `None` without a validation.
    last: State | None = None  #: The weights after the last epoch where the model has those of a better one.


def train_classifier(
    classifier: Classifier,
    train: ImageSet,
    *,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_progress: OnProgress | None = None,
) -> TrainingResult:
    """Train a classifier in place; the norm of its gradient is clipped to 1.

    Every random number follows from `seed` and the number of the step, so a training that was resumed from its
    checkpoint gives the same weights, bit for bit, as one that was not interrupted. With a validation in the recipe the
    model ends with the weights of the best epoch: robust networks overfit, and lose robustness while the loss still
    falls (Rice et al. 2020). Averaged weights, where the recipe has them, are what is measured and kept.

    The model stays on the device. Its train/eval flags and the global random state are as before afterwards. `bf16` is
    bfloat16 autocast, by default where the device is fast in it. The checkpoint is written every `checkpoint_seconds`
    and at the end, and read if it exists. `on_progress` is called about twice a second and after each epoch; its values
    are what `TrainingResult.history` has, and images_per_second; the seconds are those of this process.

    Raises:
        ConfigError, DataError: More images held out than there are, more classes in the data than logits.
        ModelError, TrainingError: No parameters to train, none that gradients reach, outputs that are no logits, a loss
            that is not finite.
        RunFolderError: See `Checkpoint`.
    """
    train, seed = train.scaled(classifier.bounds), as_seed(seed)
    model = classifier.model
    require_values(model)
    model.to(classifier.device if device is None else device)
    place = classifier.device
    bf16 = has_fast_bf16(place) if bf16 is None else bf16
    kept, held_out = _split(len(train), recipe.validation, seed)
    batch_size = min(recipe.batch_size, len(kept))
    steps_per_epoch = max(1, len(kept) // batch_size // objective.replays) * objective.replays
    total = recipe.epochs * steps_per_epoch
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError(expected="a model with parameters to train", got="none", do="set requires_grad on them")
    shapes = [(name, getattr(value, "shape", None)) for name, value in model.state_dict().items()]
    fingerprint = fingerprint_of(shapes, classifier.identity(), train.sha256, objective, recipe, seed, bf16)
    _check_classes(classifier, train, place)
    source = near(train, place)

    layout = _layout(classifier, source)
    with _training(model, place, layout), fast_convolutions(bf16=bf16):
        optimizer = _optimizer(recipe, parameters)
        average = MovingAverage(model, recipe.averaging)  # of decay 0: the weights themselves
        epochs, order, losses, steps_here = _Epochs(), torch.empty(0), list[Tensor](), 0
        parts = {
            "model": model, "optimizer": optimizer, "objective": objective, "average": average, "epochs": epochs
        }  # fmt: skip
        began = reported = time.perf_counter()
        for step, _ in resumable(total, parts, Checkpoint(checkpoint, fingerprint, every=checkpoint_seconds)):
            epoch, position = divmod(step, steps_per_epoch)
            if not position or not steps_here:
                order = kept[torch.randperm(len(kept), generator=_generator(seed, "order", epoch))]
                losses = []
            number, replay = divmod(position, objective.replays)
            indices = order[number * batch_size : (number + 1) * batch_size]
            generator = _generator(seed, "step", step)
            images, labels = (sent(tensor, place) for tensor in source.batch(indices))
            # A replayed batch is the same batch, so its augmentation is that of its first step.
            drawn = generator if not replay else _generator(seed, "step", step - replay)
            images = augment(images, recipe.augmentation, drawn, fill=classifier.bounds[0])
            images = images.to(memory_format=layout)
            rate = recipe.rate(step / total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            seed_generators(place, int(torch.randint(2**62, (), generator=generator)))  # for dropout
            with torch.autocast(place.type, dtype=torch.bfloat16, enabled=bf16):
                batch = Batch(images, labels, indices, step / total, replay, generator)
                loss, logits = objective.loss(classifier, batch)
            if not loss.requires_grad:
                expected, got = "a model through which gradients reach its parameters", "a loss that depends on none"
                raise ModelError(expected=expected, got=got, do="remove no_grad, detach or numpy from its forward pass")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            average.update(model, step + 1)
            losses.append(loss.detach())
            steps_here += 1

            now, epoch_ends = time.perf_counter(), position + 1 == steps_per_epoch
            if not epoch_ends and now - reported <= REPORT_SECONDS:
                continue  # a GPU waits where its loss is read
            reported = now
            report: dict[str, Any] = {
                "epoch": epoch + 1, "epochs": recipe.epochs, "step": step + 1, "steps": total,
                "loss": float(loss.detach()),
                "accuracy": float((logits.detach().argmax(dim=1) == labels).float().mean()), "lr": rate,
            }  # fmt: skip
            require_finite({"loss": report["loss"]}, step + 1)
            if epoch_ends:
                if len(held_out):
                    with swapped(model, average.state):
                        report |= _validate(classifier, *source.batch(held_out), objective.selection, seed)
                epochs.add(report, average.state, time.perf_counter() - began)
            spent = time.perf_counter() - began
            if on_progress is not None:
                values = {**report, "images_per_second": steps_here * batch_size / spent, "seconds": spent}
                on_progress(Progress("training", step + 1, total, start=step + 1 - steps_here, values=values))
        optimizer.zero_grad(set_to_none=True)
        model.load_state_dict(average.state)
        last = best = None
        if epochs.best_weights is not None:
            best = max(epochs.history, key=_merit)  # the first of equals
            last = copy_of(model) if best is not epochs.history[-1] else None
            model.load_state_dict(epochs.best_weights)
    seconds = epochs.seconds_before + time.perf_counter() - began
    loss_here, history = float(torch.stack(losses).mean()) if losses else math.nan, tuple(epochs.history)
    return TrainingResult(total, loss_here, seconds, total * batch_size / seconds, history, best, last)


def evaluate_accuracy(classifier: Classifier, data: ImageSet, batch_size: int = 512) -> float:
    """Share of the images whose highest logit is the true class, 0 to 1. Full precision."""
    right = 0
    for images, labels in data.scaled(classifier.bounds).batches(batch_size):
        right += int((classifier.logits(images).argmax(dim=1).cpu() == labels).sum())
    return right / len(data)


def _validate(
    classifier: Classifier, images: Tensor, labels: Tensor, selection: ThreatModel | None, seed: int
) -> dict[str, float]:
    """Accuracy on held-out images, natural and under the attack of the selection if there is one.

    The seed is the same in every epoch, so epochs are compared under the same random starts.
    """
    images, labels = images.to(classifier.device), labels.to(classifier.device)
    versions = {"validation_natural": images}
    if selection is not None:
        versions["validation_robust"] = attack(classifier, images, labels, selection, seed=seed)
    return {name: float(predicted_right(classifier, x, labels).float().mean()) for name, x in versions.items()}


class _Epochs:
    """The epochs that are finished, and the weights after the best of them."""

    def __init__(self) -> None:
        self.history: list[dict[str, float]] = []
        self.best_weights: State | None = None
        self.seconds_before = 0.0  # the resume

    def add(self, report: dict[str, float], weights: State, seconds: float) -> None:
        """Add an epoch that ended `seconds` after the start of this process."""
        if "validation_natural" in report and all(_merit(report) > _merit(earlier) for earlier in self.history):
            self.best_weights = copy.deepcopy(weights)
        self.history.append({**report, "seconds": self.seconds_before + seconds})

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "best_weights": self.best_weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history, self.best_weights = state["history"], state["best_weights"]
        self.seconds_before = self.history[-1]["seconds"] if self.history else 0.0


def _merit(report: dict[str, float]) -> float:
    """What epochs are compared by."""
    return report.get("validation_robust", report["validation_natural"])


def _split(count: int, validation: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices that are trained on, and those that are held out."""
    if validation >= count:
        expected = f"fewer images held out than the {count} there are"
        raise ConfigError(expected=expected, got=f"validation={validation}", do="hold out less")
    if not validation:
        return torch.arange(count), torch.empty(0, dtype=torch.int64)
    order = torch.randperm(count, generator=_generator(seed, "validation", 0))
    return order[validation:], order[:validation]


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **settings)
    return torch.optim.AdamW(parameters, **settings)


def _generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """Random numbers that depend on nothing but the arguments."""
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _check_classes(classifier: Classifier, train: ImageSet, place: torch.device) -> None:
    image = train.batch(slice(0, 1))[0].to(place)
    logits = classifier.logits(image)
    run_frozen(classifier, image)
    if logits.shape[1] < len(train.classes):
        expected = f"at most {logits.shape[1]} classes, as the classifier has"
        do = "build the model with num_classes=len(data.classes)"
        raise DataError(expected=expected, got=f"{len(train.classes)} in {train.name}", do=do)


def _layout(classifier: Classifier, images: ImageSource) -> torch.memory_format:
    """Channels last, where convolutions are faster, unless the model cannot run so: some call `view`."""
    x, _ = images.batch(torch.arange(min(2, len(images))))
    try:
        with laid_out(classifier.model, torch.channels_last), classifier.borrowed(), torch.no_grad():
            for training in (False, True):
                classifier.model.train(training)
                classifier.run(x.to(classifier.device, memory_format=torch.channels_last))
    except Exception:  # noqa: BLE001  # the training itself tells what fails in any layout
        return torch.contiguous_format
    return torch.channels_last


@contextmanager
def _training(model: nn.Module, place: torch.device, layout: torch.memory_format) -> Iterator[None]:
    """The model in train mode in this layout, with gradients; the global random state is kept."""
    flags = [(module, module.training) for module in model.modules()]
    cuda = range(torch.cuda.device_count()) if place.type == "cuda" else ()
    with torch.random.fork_rng(devices=cuda), torch.enable_grad(), laid_out(model, layout):
        try:
            model.train()
            yield
        finally:
            for module, training in flags:
                module.training = training
