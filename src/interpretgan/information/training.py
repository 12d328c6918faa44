"""Train decoders and probes of all layers at once, with the classifier frozen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource, content_of
from interpretgan.errors import ConfigError, TrainingError
from interpretgan.information.network import Gauge
from interpretgan.layers import Layer, capture
from interpretgan.store.checkpoints import fingerprint_of, load_checkpoint, save_checkpoint
from interpretgan.training.averaging import AveragedWeights
from interpretgan.training.precision import autocast

MEAN_IMAGES = 10_000
"""Training images at most from which the mean image and the frequencies of the classes are taken."""
CALIBRATION_IMAGES = 512
"""Training images at most over which the latents are standardised."""
NUMBERS = 2**26
"""Numbers, of all latents of a batch, that are in memory at a time."""

CHECKPOINT_SECONDS = 20.0
"""Time between two checkpoints."""

OnStep = Callable[[int, dict[str, float]], None]
"""Called after each step with the number of finished steps and the step's losses."""


@dataclass(frozen=True)
class InformationConfig:
    """Settings of decoders and probes.

    Attributes:
        steps: Training steps.
        batch: Training images per step; every probe sees all of them (fewer where their latents are very large).
        images_per_layer: How many of these each decoder sees.
        learning_rate: Peak of the decoders' AdamW (after a short warm-up, falling along a cosine).
        probe_rate: The same of the probes.
        weight_decay: Of the probes.
        width: Channels of the decoders' trunk.
        blocks: Residual blocks of the trunk.
        features: Numbers of a latent that its probe sees.
        hidden: Units of a probe's hidden layer.
        ema: Decay per step of the moving average of all weights, which is what measures.
        precision: `auto` (bf16 where the processor is fast at it), `bf16` or `fp32`; the probes are in fp32.
    """

    steps: int = 400
    batch: int = 128
    images_per_layer: int = 8
    learning_rate: float = 3e-3
    probe_rate: float = 3e-3
    weight_decay: float = 0.1
    width: int = 96
    blocks: int = 2
    features: int = 256
    hidden: int = 128
    ema: float = 0.98
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "images_per_layer", "width", "blocks", "features", "hidden"):
            if getattr(self, name) < 1:
                raise ConfigError(expected=f"{name} >= 1", got=str(getattr(self, name)), do=f"raise {name}")
        for name in ("learning_rate", "probe_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(expected=f"{name} > 0", got=str(getattr(self, name)), do="try 0.003")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(expected="weight_decay >= 0", got=str(self.weight_decay), do="try 0.1")
        if not 0 <= self.ema < 1:
            raise ConfigError(expected="0 <= ema < 1", got=str(self.ema), do="try 0.98")


def batch_size(layers: Sequence[Layer], most: int) -> int:
    """As many images, `most` at most, as leave their latents at all layers below `NUMBERS`."""
    return max(1, min(most, NUMBERS // sum(math.prod(layer.shape) for layer in layers)))


def build_gauge(
    layers: Sequence[Layer],
    image_shape: tuple[int, int, int],
    classes: int,
    config: InformationConfig,
    *,
    bounds: tuple[float, float],
    seed: int,
) -> Gauge:
    """An untrained `Gauge`; its weights and projections are drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Gauge(
            layers,
            image_shape,
            classes,
            bounds=bounds,
            width=config.width,
            blocks=config.blocks,
            features=config.features,
            hidden=config.hidden,
            random=torch.Generator().manual_seed(seed),
        )


def train_gauge(
    classifier: Classifier,
    layers: Sequence[Layer],
    images: ImageSource,
    config: InformationConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> Gauge:
    """Train the decoders and probes of all layers.

    min  mean over decoders of log E‖x - D_l(z_l)‖²  +  mean over places of E[-log q_l(y|z_l)]

    The logarithm weighs each decoder by the inverse of its own error, so that the layers which explain nearly
    everything are trained as well as those which explain little.

    Args:
        classifier: The frozen classifier; it comes back untouched.
        layers: Layers with different latents.
        images: Training images with their true classes.
        config: Settings.
        seed: Of the weights, the projections and the order of the images: the same seed gives the same gauge.
        checkpoint: File for the state, written every `CHECKPOINT_SECONDS`. Where it exists the training goes on from
            there, to the weights that no interruption would have given.
        on_step: See `OnStep`.

    Returns:
        The moving average of the gauge, in eval mode with frozen parameters.

    Raises:
        LabelError: Labels that do not fit.
        TrainingError: A loss is not finite.
        RunFolderError: The checkpoint is damaged or of another training.
    """
    device = classifier.device
    random = torch.Generator().manual_seed(seed)
    batch = batch_size(layers, config.batch)
    some = torch.randperm(len(images), generator=random)[: max(2, batch_size(layers, CALIBRATION_IMAGES))]
    x = classifier.check_images(_batch(classifier, images, some)[0])
    logits, latents = capture(classifier, x, layers)
    classes, image_shape = logits.shape[1], (x.shape[1], x.shape[2], x.shape[3])
    gauge = build_gauge(layers, image_shape, classes, config, bounds=classifier.bounds, seed=seed).to(device)
    gauge.calibrate([x, *(latents[layer.name] for layer in layers)])
    mean_image, class_bits = _averages(classifier, images, classes, random)
    gauge.mean_image.copy_(mean_image)
    gauge.class_bits.copy_(class_bits)
    average = AveragedWeights(gauge, config.ema)
    probes = list(gauge.probes.parameters())
    adam = torch.optim.AdamW(
        [
            {"params": list(gauge.decoder.parameters()), "weight_decay": 0.0, "peak": config.learning_rate},
            {"params": probes, "weight_decay": config.weight_decay, "peak": config.probe_rate},
        ],
        betas=(0.9, 0.99),
        fused=True,
    )
    fingerprint = fingerprint_of(
        config, seed, [(layer.name, layer.shape) for layer in layers], content_of(images), image_shape,
        classifier.identity(), classifier.state_sha256(),
    )  # fmt: skip
    step = 0
    if checkpoint is not None and checkpoint.exists():
        state = load_checkpoint(checkpoint, fingerprint, device)
        gauge.load_state_dict(state["gauge"])
        average.state = state["average"]
        adam.load_state_dict(state["adam"])
        random.set_state(state["random"].cpu())
        step = state["step"]

    saved_at = time.monotonic()
    while step < config.steps:
        for group in adam.param_groups:
            group["lr"] = group["peak"] * _schedule(step, config.steps)
        x, y = _batch(classifier, images, torch.randint(len(images), (batch,), generator=random))
        _, latents = capture(classifier, x, layers)
        places = [x, *(latents[layer.name] for layer in layers)]
        standardised = gauge.standardise(places)
        inputs = gauge.decoder_inputs(places, standardised)
        rows = [_rows(number, config.images_per_layer, batch, device) for number in range(len(inputs))]
        with autocast(device, config.precision):
            decoded = gauge.decode([z[chosen] for z, chosen in zip(inputs, rows, strict=True)])
        errors = (decoded - x[torch.cat(rows)]).square().mean(dim=(1, 2, 3)).view(len(rows), -1).mean(dim=1)
        said = gauge.classify(standardised)
        probe_loss = F.cross_entropy(said.flatten(0, 1), y.repeat(len(places)))
        loss = errors.clamp_min(1e-8).log().mean() + probe_loss
        adam.zero_grad()
        torch.autograd.backward(loss)
        adam.step()
        step += 1
        average.update(gauge, step)
        values = {"loss": float(errors.detach().mean()), "probe_loss": float(probe_loss.detach())}
        if not all(map(math.isfinite, values.values())):
            raise TrainingError(expected="finite losses", got=f"{values} at step {step}", do="lower the learning rate")
        if on_step is not None:
            on_step(step, values)
        if checkpoint is not None and time.monotonic() - saved_at > CHECKPOINT_SECONDS:
            state = {
                "gauge": gauge.state_dict(), "average": average.state, "adam": adam.state_dict(),
                "random": random.get_state(), "step": step,
            }  # fmt: skip
            save_checkpoint(checkpoint, fingerprint, state)
            saved_at = time.monotonic()
    gauge.load_state_dict(average.state)
    return gauge.eval().requires_grad_(False)


def _batch(classifier: Classifier, images: ImageSource, indices: Tensor) -> tuple[Tensor, Tensor]:
    x, y = images.batch(indices)
    return x.to(classifier.device), y.to(classifier.device)


def _rows(number: int, count: int, batch: int, device: torch.device) -> Tensor:
    """Which images of a batch a decoder sees: the next `count` after those of the decoder before it."""
    return (torch.arange(count, device=device) + number * count) % batch


def _averages(
    classifier: Classifier, images: ImageSource, classes: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The mean training image, and `-log2` of the frequency of each class (a class never seen being counted once)."""
    chosen = torch.randperm(len(images), generator=random)[:MEAN_IMAGES]
    total: Tensor | None = None
    counts = torch.zeros(classes, device=classifier.device)
    for first in range(0, len(chosen), 500):
        x, y = _batch(classifier, images, chosen[first : first + 500])
        y = classifier.check_labels(y, x)
        total = x.sum(dim=0) + (0 if total is None else total)
        counts += torch.bincount(y, minlength=classes)
    assert total is not None
    return total / len(chosen), -(counts.clamp_min(1) / counts.sum()).log2()


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: up over 20 steps, then along half a cosine to a fiftieth."""
    return min(1.0, (step + 1) / 20) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))
