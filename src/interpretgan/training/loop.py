"""One training loop for every classifier, and its accuracy afterwards."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.attacks import ThreatModel, attack, seed_generators
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError, DataError, ModelError
from interpretgan.store.checkpoints import fingerprint_of, load_checkpoint, save_checkpoint
from interpretgan.training.augmentation import augment
from interpretgan.training.averaging import AveragedWeights, State, copy_of, swapped, tensors_of
from interpretgan.training.objectives import Batch, Objective
from interpretgan.training.precision import has_fast_bf16
from interpretgan.training.recipes import Recipe

MOMENTUM = 0.9
"""Of SGD."""

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """What a training did.

    Attributes:
        steps: Steps in all, those before a resume included.
        loss: Mean loss of the last epoch that was run here (NaN if none was left to run).
        seconds: Wall-clock time, with that of the epochs that were finished before a resume.
        images_per_second: Training images per second of it, the validation's time included.
        history: Per finished epoch: epoch, epochs, step, steps, loss, accuracy (both of its last batch), lr, seconds,
            and with a validation the accuracies on the images held out, natural and robust.
        best: The epoch of `history` whose weights the model has; `None` without a validation.
        last: The weights after the last epoch where the model has those of a better one, else `None`.
    """

    steps: int
    loss: float
    seconds: float
    images_per_second: float
    history: tuple[dict[str, float], ...] = ()
    best: dict[str, float] | None = None
    last: State | None = None


def train_classifier(
    classifier: Classifier,
    train: ImageSet,
    *,
    objective: Objective,
    recipe: Recipe,
    seed: int,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_progress: Progress | None = None,
) -> TrainingResult:
    """Train a classifier in place; the norm of its gradient is clipped to 1.

    Every random number follows from `seed` and the number of the step, so a training that was interrupted and
    resumed from its checkpoint gives the same weights, bit for bit, as one that was not.

    With a validation in the recipe, each epoch is measured on images that are never trained on, and the model
    ends with the weights of the best: robust networks overfit, and lose robustness while the loss still falls
    (Rice et al. 2020). Averaged weights, where the recipe has them, are what is measured and kept.

    Args:
        classifier: Its model is changed; its train/eval flags are as before afterwards, and so is the global
            random state.
        train: Training images; a last batch that is not full is left out of the epoch.
        objective: The loss.
        recipe: Everything else that decides the result.
        seed: Of the order of the images, their augmentation, the split, and the objective.
        device: Where to train; the model stays there. `None`: where it is.
        bf16: bfloat16 autocast. `None`: where the device is fast in it.
        checkpoint: File of the state, written each epoch and every `checkpoint_seconds`, read if it exists.
        checkpoint_seconds: See there.
        on_progress: Called about twice a second and after each epoch with epoch, epochs, step, steps, loss,
            accuracy (both of the batch), lr, images_per_second and seconds; after a validation with
            validation_natural and validation_robust as well.

    Raises:
        ConfigError: More images held out than there are.
        DataError: More classes in the data than logits.
        ModelError: The loss is no longer finite.
        RunFolderError: The checkpoint is damaged or of another training, or cannot be written.
    """
    train = train.scaled(classifier.bounds)
    model = classifier.model
    model.to(classifier.device if device is None else device)
    place = classifier.device
    bf16 = has_fast_bf16(place) if bf16 is None else bf16
    kept, held = _split(len(train), recipe.validation, seed)
    batch_size = min(recipe.batch_size, len(kept))
    batches = max(1, len(kept) // batch_size // objective.replays)
    steps_per_epoch = batches * objective.replays
    total = recipe.epochs * steps_per_epoch
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError(expected="a model with parameters to train", got="none", do="set requires_grad on them")
    shapes = [(name, tuple(value.shape)) for name, value in tensors_of(model).items()]
    fingerprint = fingerprint_of(shapes, classifier.identity(), train.sha256, objective, recipe, seed, bf16)

    flags = [(module, module.training) for module in model.modules()]
    cuda = range(torch.cuda.device_count()) if place.type == "cuda" else ()
    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        try:
            _check_classes(classifier, train, place)
            model.train()
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
            optimizer = _optimizer(recipe, parameters)
            average = AveragedWeights(model, recipe.averaging) if recipe.averaging else None
            best: State | None = None
            history: list[dict[str, float]] = []
            step = 0
            if checkpoint is not None and checkpoint.exists():
                saved_state = load_checkpoint(checkpoint, fingerprint, place)
                model.load_state_dict(saved_state["model"])
                optimizer.load_state_dict(saved_state["optimizer"])
                objective.restore(saved_state["objective"])
                step, history, best = saved_state["step"], saved_state["history"], saved_state["best"]
                if average is not None:
                    average.state = saved_state["average"]
            earlier = history[-1]["seconds"] if history else 0.0
            first, began = step, time.perf_counter()
            saved = reported = began
            order = torch.empty(0)
            losses: list[Tensor] = []
            while step < total:
                epoch, position = divmod(step, steps_per_epoch)
                if not position or not len(order):
                    order = kept[torch.randperm(len(kept), generator=_generator(seed, "order", epoch))]
                    losses = []
                number, replay = divmod(position, objective.replays)
                indices = order[number * batch_size : (number + 1) * batch_size]
                generator = _generator(seed, "step", step)
                images, labels = train.batch(indices)
                # a replayed batch is the same batch, so its augmentation is that of its first step
                drawn = generator if not replay else _generator(seed, "step", step - replay)
                images = augment(images, recipe.augmentation, drawn, fill=classifier.bounds[0])
                images = images.to(place, memory_format=torch.channels_last)
                labels = labels.to(place)
                rate = recipe.rate(step / total)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                seed_generators(place, int(torch.randint(2**62, (), generator=generator)))  # for dropout
                with torch.autocast(place.type, dtype=torch.bfloat16, enabled=bf16):
                    loss, logits = objective.loss(
                        classifier, Batch(images, labels, indices, step / total, replay, generator)
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                step += 1
                if average is not None:
                    average.update(model, step)
                losses.append(loss.detach())
                now, epoch_ends = time.perf_counter(), step % steps_per_epoch == 0
                if epoch_ends or now - reported > 0.5:
                    reported = now
                    value = float(loss.detach())
                    if not math.isfinite(value):
                        raise ModelError(
                            expected="a finite training loss",
                            got=f"{value} at step {step}",
                            do="lower the learning rate",
                        )
                    report: dict[str, Any] = {
                        "epoch": epoch + 1,
                        "epochs": recipe.epochs,
                        "step": step,
                        "steps": total,
                        "loss": value,
                        "accuracy": float((logits.detach().argmax(dim=1) == labels).float().mean()),
                        "lr": rate,
                    }
                    if epoch_ends:
                        if len(held):
                            weights = tensors_of(model) if average is None else average.state
                            with swapped(model, weights):
                                measured = validate(classifier, *train.batch(held), objective.selection, seed=seed)
                            report |= {f"validation_{name}": value for name, value in measured.items()}
                            if all(_merit(report) > _merit(earlier) for earlier in history):
                                best = copy_of(weights)
                        history.append({**report, "seconds": earlier + time.perf_counter() - began})
                    spent = time.perf_counter() - began
                    report |= {"images_per_second": (step - first) * batch_size / spent, "seconds": spent}
                    if on_progress is not None:
                        on_progress(report)
                if checkpoint is not None and (epoch_ends or now - saved > checkpoint_seconds):
                    state = {
                        "step": step,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "objective": objective.state(),
                        "average": None if average is None else average.state,
                        "best": best,
                        "history": history,
                    }
                    save_checkpoint(checkpoint, fingerprint, state)
                    saved = time.perf_counter()
            seconds = earlier + time.perf_counter() - began
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                model.load_state_dict(average.state)
            last: State | None = None
            if best is not None:
                chosen = max(history, key=_merit)  # the first of equals, as above
                if chosen is not history[-1]:
                    last = copy_of(tensors_of(model))
                model.load_state_dict(best)
        finally:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
            for module, training in flags:
                module.training = training
    return TrainingResult(
        steps=step,
        loss=float(torch.stack(losses).mean()) if losses else math.nan,
        seconds=seconds,
        images_per_second=step * batch_size / seconds,
        history=tuple(history),
        best=None if best is None else chosen,
        last=last,
    )


def evaluate_accuracy(classifier: Classifier, data: ImageSet, batch_size: int = 512) -> float:
    """Share of the images whose highest logit is the true class, 0 to 1. Full precision."""
    right = 0
    for images, labels in data.scaled(classifier.bounds).batches(batch_size):
        logits = classifier.logits(images)
        right += int((logits.argmax(dim=1).cpu() == labels).sum())
    return right / len(data)


def validate(
    classifier: Classifier, images: Tensor, labels: Tensor, selection: ThreatModel | None, *, seed: int
) -> dict[str, float]:
    """Accuracy on held-out images, 0 to 1: `natural`, and `robust` under the selection's attack if there is one.

    The same seed in every epoch: epochs are compared under the same random starts. Full precision.
    """

    def accuracy(inputs: Tensor) -> float:
        return float((classifier.logits(inputs).argmax(dim=1) == labels).float().mean())

    images, labels = images.to(classifier.device), labels.to(classifier.device)
    measured = {"natural": accuracy(images)}
    if selection is not None:
        measured["robust"] = accuracy(attack(classifier, images, labels, selection, seed=seed))
    return measured


def _merit(report: dict[str, float]) -> float:
    """What epochs are compared by."""
    return report.get("validation_robust", report["validation_natural"])


def _split(count: int, validation: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices that are trained on, and those that are held out."""
    if validation >= count:
        raise ConfigError(
            expected=f"fewer images held out than the {count} there are",
            got=f"validation={validation}",
            do="hold out less",
        )
    if not validation:
        return torch.arange(count), torch.empty(0, dtype=torch.int64)
    order = torch.randperm(count, generator=_generator(seed, "validation", 0))
    return order[validation:], order[:validation]


def _optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=MOMENTUM, nesterov=True, **settings)
    return torch.optim.AdamW(parameters, **settings)


def _generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """Random numbers that depend on nothing but the arguments."""
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _check_classes(classifier: Classifier, train: ImageSet, place: torch.device) -> None:
    images, _ = train.batch(slice(0, 1))
    logits = classifier.logits(images.to(place))
    if logits.shape[1] < len(train.classes):
        raise DataError(
            expected=f"at most {logits.shape[1]} classes, as the classifier has",
            got=f"{len(train.classes)} in {train.name}",
            do="build the model with num_classes=len(data.classes)",
        )
