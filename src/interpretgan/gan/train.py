"""Train the generator of all layers: one flat loop, on natural images only, with the classifier frozen.

min_G max_D   L_adv(G, D) - λ_I · L_I(G) + λ_z · L_z(G)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpretgan.attacks import require_gradient
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource, content_of
from interpretgan.errors import ConfigError
from interpretgan.gan import losses as objective
from interpretgan.gan.discriminator import Discriminator
from interpretgan.gan.generator import Generator
from interpretgan.gan.multi_device import Team, check_team, gathered
from interpretgan.layers import Layer, capture, capturing
from interpretgan.store.training_checkpoint import Checkpoint, fingerprint_of
from interpretgan.training.checks import Checked, Count, Decay, NotNegative, Positive
from interpretgan.training.precision import Precision, autocast
from interpretgan.training.steps import MovingAverage, OnStep, resumable, warm_up_and_cosine

CALIBRATION_IMAGES = 512  # natural images over which the latents' mean and deviation are taken,
CALIBRATION_PIXELS = 2**22  # fewer where this many pixels are reached before: their latents are in memory at once
LEAST_RATE = 0.05  # share of the peak learning rate at which the cosine ends


@dataclass(frozen=True)
class GANConfig(Checked):
    """Settings of InterpretGAN's training; one out of range is a `ConfigError`."""

    steps: Count = 1000  #: Generator steps; each draws `images_per_layer` explanations at every layer.
    images_per_layer: Count = 16  #: Natural images per layer and step.
    learning_rate: Positive = 2e-3  #: Peak of both Adams, after a short warm-up, falling along a cosine.
    realism: NotNegative = 1.0  #: Weight of the hinge term `L_adv`.
    information: NotNegative = 1.0  #: Weight λ_I of the information bound.
    #: Weight λ_z of the latent consistency; 0 is the plain method. `None`: see `resolved`.
    latent: NotNegative | None = None
    #: Deviation of the noise before recognition, as a share of the bounds; 0: the plain method. `None`: see `resolved`.
    recognition_noise: NotNegative | None = None
    width: Count = 96  #: Channels of the trunk and of the discriminator.
    blocks: Count = 2  #: Residual blocks of the trunk, convolutions of the discriminator.
    noise: Count = 16  #: Size of the generator's noise.
    ema: Decay = 0.99  #: Decay per step of the moving average of the generator's weights, which is what explains.
    precision: Precision = "auto"  #: `auto` (bf16 where the processor is fast at it), `bf16` or `fp32`.

    def resolved(self, recognition_network: bool) -> GANConfig:
        """The same settings, with those filled in that depend on whether there is a recognition network.

        A robust one hardly recognises artefacts of its own, so less must hold it back: λ_z is 2 and the noise 0.05. The
        classifier itself needs 10 and 0.2.
        """
        latent, noise = (2.0, 0.05) if recognition_network else (10.0, 0.2)
        latent = latent if self.latent is None else self.latent
        noise = noise if self.recognition_noise is None else self.recognition_noise
        return replace(self, latent=latent, recognition_noise=noise)


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
    team: Team | None = None,
) -> Generator:
    """The moving average of a generator for layers with different latents, in eval mode with frozen parameters.

    `InterpretGAN.fit` says more about the arguments. Each process of a team calls this for its share, and all but the
    first only read the checkpoint.
    """
    if team is None:
        check_team(devices, config.images_per_layer, classifier.device)
        task: dict[str, Any] = {
            "classifier": classifier, "layers": layers, "images": images, "config": config, "seed": seed,
            "recognition_network": recognition_network, "checkpoint": checkpoint, "checkpoint_seconds": math.inf,
        }  # fmt: skip
        # Whatever the caller has switched off, a training needs gradients.
        with torch.inference_mode(False), torch.enable_grad(), gathered(devices, train_generator, task) as started:
            task |= {"checkpoint_seconds": checkpoint_seconds, "on_step": on_step}  # for this process alone
            return train_generator(team=started, **task)
    config = config.resolved(recognition_network is not None)
    assert config.latent is not None
    assert config.recognition_noise is not None
    device = classifier.device
    random = torch.Generator().manual_seed(seed)
    pixels = images.batch(torch.tensor([0]))[0].numel()
    enough = min(CALIBRATION_IMAGES, max(2, CALIBRATION_PIXELS // pixels))
    first, _ = images.batch(torch.randperm(len(images), generator=random)[:enough])
    first = classifier.check_images(first)
    require_gradient(classifier, first)
    first_logits, first_latents = capture(classifier, first, layers)
    classes, image_shape = first_logits.shape[1], (first.shape[1], first.shape[2], first.shape[3])
    recognition = classifier if recognition_network is None else recognition_network
    _check_recognition_network(recognition, first[:1], classes, classifier.bounds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {"bounds": classifier.bounds, "width": config.width, "blocks": config.blocks}
        generator = Generator(layers, image_shape, noise=config.noise, **sizes).to(device)
        discriminator = Discriminator(len(layers), classes, image_shape, **sizes).to(device)
    generator.calibrate(first_latents)
    average = MovingAverage(generator, config.ema)
    adam_g, adam_d = (
        torch.optim.Adam(network.parameters(), lr=config.learning_rate, betas=(0.0, 0.99), fused=True)
        for network in (generator, discriminator)
    )
    networks = (classifier,) if recognition_network is None else (classifier, recognition_network)
    fingerprint = fingerprint_of(
        config, seed, [(layer.name, layer.shape) for layer in layers], content_of(images), image_shape,
        *((network.identity(), network.state_sha256()) for network in networks),
    )  # fmt: skip
    state = Checkpoint(checkpoint, fingerprint, every=checkpoint_seconds)
    parts = {
        "generator": generator, "discriminator": discriminator, "average": average, "adam_g": adam_g, "adam_d": adam_d
    }  # fmt: skip

    drawn = config.images_per_layer * len(layers)  # by all processes together
    per_layer, count = config.images_per_layer // team.size, drawn // team.size
    layer_index = torch.arange(len(layers), device=device).repeat_interleave(per_layer)
    rows = {layer.name: slice(i * per_layer, (i + 1) * per_layer) for i, layer in enumerate(layers)}
    deviation = config.recognition_noise * (classifier.bounds[1] - classifier.bounds[0])
    with classifier.borrowed(), recognition.borrowed():
        for step, losses in resumable(config.steps, parts, state, random=random, on_step=on_step):
            for adam in (adam_g, adam_d):
                rate = warm_up_and_cosine(step, config.steps, floor=LEAST_RATE)
                adam.param_groups[0]["lr"] = config.learning_rate * rate
            x, _ = images.batch(team.share(torch.randint(len(images), (drawn,), generator=random)))
            x = x.to(device, torch.float32)
            noise = team.share(torch.randn(drawn, config.noise, generator=random)).to(device)
            with torch.no_grad(), capturing(classifier, layers, rows) as latents:
                logits = classifier.run(x)
            seen = logits.float().softmax(dim=1)
            z = [latents[layer.name] for layer in layers]
            norms = team.mean(torch.stack([objective.latent_size(real) for real in z]))
            with autocast(device, config.precision):
                fake = generator(z, noise)

            # Phase D: only the discriminator learns.  max_D L_adv
            discriminator.requires_grad_(True)
            with autocast(device, config.precision):
                scores = discriminator(torch.cat([x, fake.detach()]), layer_index.repeat(2), seen.repeat(2, 1)).float()
            loss_d = objective.discriminator_hinge(scores[:count], scores[count:])
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
                # Artefacts that one network alone recognises do not survive noise.
                explained = recognition.run((fake + deviation * blur.to(fake)).clamp(*classifier.bounds))
                realism = objective.generator_hinge(discriminator(fake, layer_index, seen).float())
            information = objective.information_bound(logits, explained)
            latent = torch.stack(
                [objective.latent_consistency(z[i], latents[layer.name], norms[i]) for i, layer in enumerate(layers)]
            ).mean()
            loss_g = config.realism * realism - config.information * information + config.latent * latent
            adam_g.zero_grad()
            torch.autograd.backward(loss_g)
            team.average(generator)
            adam_g.step()
            average.update(generator, step)

            terms = {
                "loss_d": loss_d, "loss_g": loss_g, "realism": realism, "information": information, "latent": latent
            }  # fmt: skip
            losses.update(zip(terms, team.mean(torch.stack(list(terms.values()))).tolist(), strict=True))
    generator.load_state_dict(average.state)
    return generator.eval().requires_grad_(False)


def _check_recognition_network(network: Classifier, image: Tensor, classes: int, bounds: tuple[float, float]) -> None:
    same = network.bounds == bounds
    found = network.logits(image.to(network.device)).shape[1] if same else None
    if found != classes:
        got = f"one of {found}" if same else f"one for pixels within {list(network.bounds)}"
        expected = f"a recognition network of {classes} classes and pixels within {list(bounds)}"
        raise ConfigError(expected=expected, got=got, do="choose one that was trained for the task of the classifier")
