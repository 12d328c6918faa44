"""One training loop for every classifier, and its accuracy afterwards."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSet
from interpretgan.errors import ConfigError, DataError, ModelError, RunFolderError
from interpretgan.files import atomic_write_bytes
from interpretgan.precision import has_fast_bf16
from interpretgan.training.objectives import Objective

WARMUP_SHARE = 0.2
"""Share of the training in which the learning rate rises; it falls over the rest (one cycle)."""

Progress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingResult:
    """What a training did.

    Attributes:
        steps: Steps in all, those before a resume included.
        loss: Mean loss of the last epoch that was run here (NaN if none was left to run).
        seconds: Wall-clock time of this call.
        images_per_second: Training images per second in this call.
    """

    steps: int
    loss: float
    seconds: float
    images_per_second: float


def train_classifier(
    classifier: Classifier,
    train: ImageSet,
    *,
    objective: Objective,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    weight_decay: float = 5e-4,
    device: torch.device | str | None = None,
    bf16: bool | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_progress: Progress | None = None,
) -> TrainingResult:
    """Train a classifier in place: AdamW, learning rate of one cycle, gradient norm clipped to 1.

    Every random number follows from `seed` and the number of the step, so a training that was interrupted and
    resumed from its checkpoint gives the same weights, bit for bit, as one that was not.

    Args:
        classifier: Its model is changed; its train/eval flags are as before afterwards, and so is the global
            random state.
        train: Training images; a last batch that is not full is left out of the epoch.
        objective: The loss.
        epochs: Passes over the images, at least 1.
        batch_size: Images per step.
        lr: Highest learning rate of the cycle.
        seed: Of the order of the images and of the objective.
        weight_decay: Of AdamW.
        device: Where to train; the model stays there. `None`: where it is.
        bf16: bfloat16 autocast. `None`: where the device is fast in it.
        checkpoint: File of the state, written each epoch and every `checkpoint_seconds`, read if it exists.
        checkpoint_seconds: See there.
        on_progress: Called about twice a second and after each epoch with epoch, epochs, step, steps, loss,
            accuracy (both of the batch), lr, images_per_second and seconds.

    Raises:
        ConfigError: A setting out of range.
        DataError: More classes in the data than logits.
        ModelError: The loss is no longer finite.
        RunFolderError: The checkpoint is damaged or of another training, or cannot be written.
    """
    if epochs < 1 or batch_size < 1 or not lr > 0 or weight_decay < 0:
        raise ConfigError(
            expected="epochs >= 1, batch_size >= 1, lr > 0 and weight_decay >= 0",
            got=f"{epochs}, {batch_size}, {lr} and {weight_decay}",
            do="correct the setting",
        )
    train = train.scaled(classifier.bounds)
    model = classifier.model
    model.to(classifier.device if device is None else device)
    place = classifier.device
    bf16 = has_fast_bf16(place) if bf16 is None else bf16
    batch_size = min(batch_size, len(train))
    steps_per_epoch = len(train) // batch_size
    total = epochs * steps_per_epoch
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ModelError(expected="a model with parameters to train", got="none", do="set requires_grad on them")
    fingerprint = _fingerprint(model, train, objective, epochs, batch_size, lr, weight_decay, seed, bf16)

    flags = [(module, module.training) for module in model.modules()]
    cuda = range(torch.cuda.device_count()) if place.type == "cuda" else ()
    with torch.random.fork_rng(devices=cuda), torch.enable_grad():
        try:
            _check_classes(classifier, train, place)
            model.train()
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
            optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
            step = _load_checkpoint(checkpoint, fingerprint, model, optimizer, place)
            first, began = step, time.perf_counter()
            saved = reported = began
            order = torch.empty(0)
            losses: list[Tensor] = []
            while step < total:
                epoch, position = divmod(step, steps_per_epoch)
                if not position or not len(order):
                    order = torch.randperm(len(train), generator=_generator(seed, "order", epoch))
                    losses = []
                images, labels = train.batch(order[position * batch_size : (position + 1) * batch_size])
                images = images.to(place, memory_format=torch.channels_last)
                labels = labels.to(place)
                rate = lr * _one_cycle(step / total)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                generator = _generator(seed, "step", step)
                torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))  # for dropout
                with torch.autocast(place.type, dtype=torch.bfloat16, enabled=bf16):
                    loss, logits = objective.loss(
                        classifier, images, labels, progress=step / total, generator=generator
                    )
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                step += 1
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
                    if on_progress is not None:
                        on_progress(
                            {
                                "epoch": epoch + 1,
                                "epochs": epochs,
                                "step": step,
                                "steps": total,
                                "loss": value,
                                "accuracy": float((logits.detach().argmax(dim=1) == labels).float().mean()),
                                "lr": rate,
                                "images_per_second": (step - first) * batch_size / (now - began),
                                "seconds": now - began,
                            }
                        )
                if checkpoint is not None and (epoch_ends or now - saved > checkpoint_seconds):
                    _save_checkpoint(checkpoint, fingerprint, model, optimizer, step)
                    saved = time.perf_counter()
            seconds = time.perf_counter() - began
            optimizer.zero_grad(set_to_none=True)
        finally:
            model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # as above
            for module, training in flags:
                module.training = training
    return TrainingResult(
        steps=step,
        loss=float(torch.stack(losses).mean()) if losses else math.nan,
        seconds=seconds,
        images_per_second=(step - first) * batch_size / max(seconds, 1e-9),
    )


def evaluate_accuracy(classifier: Classifier, data: ImageSet, batch_size: int = 512) -> float:
    """Share of the images whose highest logit is the true class, 0 to 1. Full precision."""
    right = 0
    for images, labels in data.scaled(classifier.bounds).batches(batch_size):
        logits = classifier(images)
        right += int((logits.argmax(dim=1).cpu() == labels).sum())
    return right / len(data)


def _one_cycle(done: float) -> float:
    """Learning rate as a share of the highest, `done` from 0 to 1: a linear rise, then a cosine to zero."""
    if done < WARMUP_SHARE:
        return 0.05 + 0.95 * done / WARMUP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (done - WARMUP_SHARE) / (1 - WARMUP_SHARE)))


def _generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """Random numbers that depend on nothing but the arguments."""
    digest = hashlib.sha256(f"{seed} {purpose} {index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def _check_classes(classifier: Classifier, train: ImageSet, place: torch.device) -> None:
    images, _ = train.batch(slice(0, 1))
    logits = classifier(images.to(place))
    if logits.shape[1] < len(train.classes):
        raise DataError(
            expected=f"at most {logits.shape[1]} classes, as the classifier has",
            got=f"{len(train.classes)} in {train.name}",
            do="build the model with num_classes=len(data.classes)",
        )


def _fingerprint(model: nn.Module, train: ImageSet, objective: Objective, *settings: object) -> str:
    shapes = [(key, tuple(value.shape)) for key, value in model.state_dict().items() if isinstance(value, Tensor)]
    return hashlib.sha256(repr((shapes, train.sha256, repr(objective), settings)).encode()).hexdigest()


def _save_checkpoint(
    path: Path, fingerprint: str, model: nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    state = {
        "fingerprint": fingerprint,
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    content = io.BytesIO()
    torch.save(state, content)
    atomic_write_bytes(path, content.getvalue())


def _load_checkpoint(
    path: Path | None,
    fingerprint: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    place: torch.device,
) -> int:
    """Put the saved state back; the number of steps that it has behind it, 0 without a checkpoint."""
    if path is None or not path.exists():
        return 0
    try:
        state = torch.load(path, map_location=place, weights_only=True)
        saved, step = state["fingerprint"], int(state["step"])
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise RunFolderError(
            expected="a complete checkpoint",
            got=f"{path}, which cannot be read",
            do="delete it to start over",
        ) from error
    if saved != fingerprint:
        raise RunFolderError(
            expected="a checkpoint of this training",
            got=f"{path}, of another model, data set or setting",
            do="choose another file, or delete it to start over",
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return step
