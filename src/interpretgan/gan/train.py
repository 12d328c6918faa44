"""Train the generator of all layers: one flat loop, on natural images only, with the classifier frozen.

min_G max_D   L_adv(G, D) - λ_I · L_I(G) + λ_z · L_z(G)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from interpretgan.attacks import require_gradient
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource, content_of
from interpretgan.errors import ConfigError, TrainingError
from interpretgan.gan.discriminator import Discriminator
from interpretgan.gan.generator import Generator
from interpretgan.gan.losses import (
    discriminator_hinge,
    generator_hinge,
    information_bound,
    latent_consistency,
    latent_size,
)
from interpretgan.gan.multi_device import Team, check_team, gathered
from interpretgan.layers import Layer, capture, capturing
from interpretgan.store.checkpoints import fingerprint_of, load_checkpoint, save_checkpoint
from interpretgan.training.precision import autocast

CALIBRATION_IMAGES = 512
"""Natural images over which the latents' mean and deviation are taken,"""
CALIBRATION_PIXELS = 2**22
"""fewer where this many pixels are reached before: all their latents are in memory at once."""

OnStep = Callable[[int, dict[str, float]], None]
"""Called after each step with the number of finished steps and the step's losses."""


@dataclass(frozen=True)
class GANConfig:
    """Settings of InterpretGAN's training.

    Attributes:
        steps: Generator steps; each draws `images_per_layer` explanations at every layer.
        images_per_layer: Natural images per layer and step.
        learning_rate: Peak of both Adams (after a short warm-up, falling along a cosine).
        realism: Weight of the hinge term `L_adv`.
        information: Weight λ_I of the information bound.
        latent: Weight λ_z of the latent consistency; 0 is the plain method.
        recognition_noise: Deviation of the noise through which the recognition network reads explanations in the
            information bound, as a share of the bounds' width; 0 is the plain method.
        width: Channels of the trunk and of the discriminator.
        blocks: Residual blocks of the trunk, convolutions of the discriminator.
        noise: Size of the generator's noise.
        ema: Decay per step of the moving average of the generator's weights, which is what explains.
        precision: `auto` (bf16 where the processor is fast at it), `bf16` or `fp32`.
    """

    steps: int = 1000
    images_per_layer: int = 16
    learning_rate: float = 2e-3
    realism: float = 1.0
    information: float = 1.0
    latent: float = 10.0
    recognition_noise: float = 0.2
    width: int = 96
    blocks: int = 2
    noise: int = 16
    ema: float = 0.99
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name in ("steps", "images_per_layer", "width", "blocks", "noise"):
            if getattr(self, name) < 1:
                raise ConfigError(expected=f"{name} >= 1", got=str(getattr(self, name)), do=f"raise {name}")
        for name in ("realism", "information", "latent", "recognition_noise"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(expected=f"{name} >= 0", got=str(getattr(self, name)), do="weights are not negative")
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(expected="learning_rate > 0", got=str(self.learning_rate), do="try 0.002")
        if not 0 <= self.ema < 1:
            raise ConfigError(expected="0 <= ema < 1", got=str(self.ema), do="try 0.99")


def train_generator(
    classifier: Classifier,
    layers: Sequence[Layer],
    images: ImageSource,
    config: GANConfig,
    *,
    seed: int,
    recognition_network: Classifier | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 20.0,
    on_step: OnStep | None = None,
    devices: int = 1,
) -> Generator:
    """Train one generator for all layers.

    Args:
        classifier: The frozen classifier `f`; it comes back untouched.
        layers: Layers with different latents.
        images: Natural images; their labels are not read.
        config: Settings.
        seed: Of the weights, the noise and the order of the images: the same seed gives the same generator.
        recognition_network: Who reads explanations in the information bound; it has the classifier's classes and
            bounds.
            `None`: the classifier itself, as in the paper.
        checkpoint: File for the state, written every `checkpoint_seconds`. Where it exists the
            training goes on from there, to the weights that no interruption would have given.
        checkpoint_seconds: See `checkpoint`.
        on_step: See `OnStep`. With several devices the others wait for it, so it is to return within minutes.
        devices: How many devices share each step (`interpretgan.gan.multi_device`): the classifier's and the GPUs that
            follow it, or that many processes on a CPU. The generator is the same, up to rounding.

    Returns:
        The moving average of the generator, in eval mode with frozen parameters.

    Raises:
        ConfigError: A recognition network of other classes or bounds, or devices that cannot share the training.
        ModelError: No gradient passes through the classifier.
        TrainingError: A loss is not finite, or the process of another device died.
        RunFolderError: The checkpoint is damaged or of another training, or cannot be written.
    """
    check_team(devices, config.images_per_layer, classifier.device)
    task: dict[str, Any] = {
        "classifier": classifier, "layers": layers, "images": images, "config": config, "seed": seed,
        "recognition_network": recognition_network, "checkpoint": checkpoint,
    }  # fmt: skip
    # Whatever the caller has switched off, a training needs gradients.
    with torch.inference_mode(False), torch.enable_grad(), gathered(devices, classifier.device, task) as team:
        return train_share(team, **task, checkpoint_seconds=checkpoint_seconds, on_step=on_step)


def train_share(
    team: Team,
    *,
    classifier: Classifier,
    layers: Sequence[Layer],
    images: ImageSource,
    config: GANConfig,
    seed: int,
    recognition_network: Classifier | None,
    checkpoint: Path | None,
    checkpoint_seconds: float = math.inf,
    on_step: OnStep | None = None,
) -> Generator:
    """`train_generator` as one process of a team runs it, with the same arguments.

    By default as all processes but the first do, which go on from a checkpoint but write none, and call nobody.
    """
    device = classifier.device
    random = torch.Generator().manual_seed(seed)
    pixels = images.batch(torch.tensor([0]))[0].numel()
    enough = min(CALIBRATION_IMAGES, max(2, CALIBRATION_PIXELS // pixels))
    first, _ = images.batch(torch.randperm(len(images), generator=random)[:enough])
    first = classifier.check_images(first)
    require_gradient(classifier, first)
    image_shape = (first.shape[1], first.shape[2], first.shape[3])
    first_logits, first_latents = capture(classifier, first, layers)
    classes = first_logits.shape[1]
    reader = classifier if recognition_network is None else recognition_network
    _check_recognition_network(reader, first[:1], classes, classifier.bounds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(
            layers, image_shape, bounds=classifier.bounds, width=config.width, blocks=config.blocks, noise=config.noise
        ).to(device)
        discriminator = Discriminator(
            len(layers), classes, image_shape, bounds=classifier.bounds, width=config.width, blocks=config.blocks
        ).to(device)
    generator.calibrate(first_latents)
    average = AveragedModel(generator, multi_avg_fn=_moving_average(config.ema))
    adam_g, adam_d = (
        torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.0, 0.99), fused=True)
        for network in (generator, discriminator)
    )
    networks = (classifier,) if recognition_network is None else (classifier, recognition_network)
    fingerprint = fingerprint_of(
        config, seed, [(each.name, each.shape) for each in layers], content_of(images), image_shape,
        *((network.identity(), network.state_sha256()) for network in networks),
    )  # fmt: skip
    learning: dict[str, nn.Module | torch.optim.Optimizer] = {
        "generator": generator, "discriminator": discriminator, "average": average, "adam_g": adam_g, "adam_d": adam_d
    }  # fmt: skip
    step = 0
    if checkpoint is not None and checkpoint.exists():
        saved = load_checkpoint(checkpoint, fingerprint, torch.device("cpu"))
        for name, part in learning.items():
            part.load_state_dict(saved[name])
        random.set_state(saved["random"])
        step = saved["step"]

    drawn = config.images_per_layer * len(layers)  # by all processes together
    per_layer, count = config.images_per_layer // team.size, drawn // team.size
    layer = torch.arange(len(layers), device=device).repeat_interleave(per_layer)
    # Each layer has images of its own.
    rows = {each.name: slice(i * per_layer, (i + 1) * per_layer) for i, each in enumerate(layers)}
    saved_at = time.monotonic()
    with classifier.borrowed(), reader.borrowed():
        while step < config.steps:
            for optimiser in (adam_g, adam_d):
                optimiser.param_groups[0]["lr"] = config.learning_rate * _schedule(step, config.steps)
            x, _ = images.batch(team.share(torch.randint(len(images), (drawn,), generator=random)))
            x = x.to(device, torch.float32)
            noise = team.share(torch.randn(drawn, config.noise, generator=random)).to(device)
            with torch.no_grad(), capturing(classifier, layers, rows) as latents:
                logits = classifier.run(x)
            seen = logits.float().softmax(dim=1)
            z = [latents[each.name] for each in layers]
            sizes = team.mean(torch.stack([latent_size(real) for real in z]))
            with autocast(device, config.precision):
                fake = generator(z, noise)

            # Phase D: only the discriminator learns.  max_D L_adv
            discriminator.requires_grad_(True)
            with autocast(device, config.precision):
                scores = discriminator(torch.cat([x, fake.detach()]), layer.repeat(2), seen.repeat(2, 1)).float()
            loss_d = discriminator_hinge(scores[:count], scores[count:])
            adam_d.zero_grad()
            torch.autograd.backward(loss_d)
            team.average(discriminator)
            adam_d.step()
            discriminator.requires_grad_(False)

            # Phase G: only the generator learns.  min_G L_adv - λ_I · L_I + λ_z · L_z
            with autocast(device, config.precision):
                with capturing(classifier, layers, rows) as latents:
                    classifier.run(fake)
                blur = team.share(torch.randn(drawn, *image_shape, generator=random))
                explained = reader.run(_blurred(fake, blur, config.recognition_noise, classifier.bounds))
                realism = generator_hinge(discriminator(fake, layer, seen).float())
            information = information_bound(logits, explained)
            latent = torch.stack(
                [latent_consistency(z[i], latents[each.name], sizes[i]) for i, each in enumerate(layers)]
            ).mean()
            loss_g = config.realism * realism - config.information * information + config.latent * latent
            adam_g.zero_grad()
            torch.autograd.backward(loss_g)
            team.average(generator)
            adam_g.step()
            average.update_parameters(generator)

            step += 1
            losses = {
                "loss_d": loss_d, "loss_g": loss_g, "realism": realism, "information": information, "latent": latent
            }  # fmt: skip
            values = dict(zip(losses, team.mean(torch.stack(list(losses.values()))).tolist(), strict=True))
            if not all(math.isfinite(value) for value in values.values()):
                raise TrainingError(
                    expected="finite losses", got=f"{values} at step {step}", do="lower the learning rate"
                )
            if on_step is not None:
                on_step(step, values)
            if checkpoint is not None and time.monotonic() - saved_at > checkpoint_seconds:
                states = {name: part.state_dict() for name, part in learning.items()}
                save_checkpoint(checkpoint, fingerprint, {"step": step, "random": random.get_state(), **states})
                saved_at = time.monotonic()
    trained = average.module
    assert isinstance(trained, Generator)
    return trained.eval().requires_grad_(False)


def _check_recognition_network(reader: Classifier, image: Tensor, classes: int, bounds: tuple[float, float]) -> None:
    same = reader.bounds == bounds
    found = reader.logits(image.to(reader.device)).shape[1] if same else None
    if found != classes:
        raise ConfigError(
            expected=f"a recognition network of {classes} classes for pixels within {list(bounds)}, as the classifier",
            got=f"one of {found}" if same else f"one for pixels within {list(reader.bounds)}",
            do="choose one that was trained on the same classes",
        )


def _blurred(images: Tensor, noise: Tensor, size: float, bounds: tuple[float, float]) -> Tensor:
    """What the recognition network sees: explanations through noise, which artefacts that only it reads do not survive.

    Args:
        images: `[N, C, H, W]`.
        noise: `[N, C, H, W]`, of deviation 1.
        size: Its deviation, as a share of the bounds' width.
        bounds: Range of the pixels.
    """
    return (images + size * (bounds[1] - bounds[0]) * noise.to(images)).clamp(*bounds)


def _schedule(step: int, steps: int) -> float:
    """Share of the learning rate: up over 20 steps, then along half a cosine to a twentieth."""
    return min(1.0, (step + 1) / 20) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _moving_average(decay: float) -> Callable[[Any, Any, Tensor | int], None]:
    @torch.no_grad()
    def update(averaged: Any, current: Any, count: Tensor | int) -> None:
        # Young averages forget faster, so that the random start does not linger.
        weight = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
        torch._foreach_lerp_(averaged, current, weight)

    return update
