"""Train the generator of all layers: one flat loop, on natural images only, with the classifier frozen.

min_G max_D   L_adv(G, D) - λ_I · L_I(G) + λ_z · L_z(G) + λ_S · S(G)

The gradient that classifier and recognition network send back to an explanation is limited (`limited`): where it would
drown the discriminator's, all explanations become one picture.
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
from interpretgan.attacks.noise import varied_noise
from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource, content_of, near, sent
from interpretgan.errors import ConfigError, TrainingError
from interpretgan.gan import losses as objective
from interpretgan.gan.collapse import Collapse, Watch
from interpretgan.gan.discriminator import Discriminator
from interpretgan.gan.generator import Generator, should_be_smooth
from interpretgan.gan.image_noise import usual_noise, with_noise
from interpretgan.gan.linear_start import fit_start
from interpretgan.gan.multi_device import Team, check_team, gathered
from interpretgan.gan.spread import Spread
from interpretgan.gan.waiting import Waiting, layers_that_wait
from interpretgan.layers import Layer, capture, capturing
from interpretgan.store.training_checkpoint import Checkpoint, fingerprint_of
from interpretgan.training.checks import Checked, Count, Decay, NotNegative, Positive, Share
from interpretgan.training.precision import Precision, autocast, fast_convolutions, uses_bf16
from interpretgan.training.recorded import Recorded, recordable, set_rate
from interpretgan.training.steps import MovingAverage, OnStep, read_now, resumable, warm_up_and_cosine

STRICTER = 10.0  # by this the gradients' limit is divided when a collapsed training is tried again
CALIBRATION_IMAGES = 512  # natural images over which the latents' mean and deviation are taken,
CALIBRATION_PIXELS = 2**22  # fewer where this many pixels are reached before: their latents are in memory at once
GREY_STEPS, COLOUR_STEPS = 300, 1200  # of a training where nothing is said
SLOWER = 0.5  # learning rates where layers wait, as a share: at the usual ones they never take hold
LEAST_RATE = 0.05  # share of the peak learning rate at which the cosine ends


@dataclass(frozen=True)
class GANConfig(Checked):
    """Settings of InterpretGAN's training; one out of range is a `ConfigError`."""

    #: Generator steps; each draws `images_per_layer` explanations at every layer. `None`: see `resolved`.
    steps: Count | None = None
    images_per_layer: Count = 8  #: Natural images per layer and step.
    learning_rate: Positive = 4e-3  #: Peak of the generator's Adam, after a short warm-up, falling along a cosine.
    #: The same of the discriminator's: one that learns fast throws the generator. `None`: see `resolved`.
    discriminator_rate: Positive | None = None
    momentum: Decay = 0.5  #: Of both Adams.
    realism: NotNegative = 1.0  #: Weight of the hinge term `L_adv`.
    information: NotNegative = 3.0  #: Weight λ_I of the information bound.
    #: Weight λ_z of the latent consistency; 0 is the plain method. `None`: see `resolved`.
    latent: NotNegative | None = None
    #: Deviation of the noise before recognition, as a share of the bounds; 0: the plain method. `None`: see `resolved`.
    recognition_noise: NotNegative | None = None
    #: Largest random noise in the images whose latents it explains as the images without it, as a share of the bounds;
    #: 0: it sees latents of natural images alone. `None`: 0.3 on grey images, unless more than a tenth of them would be
    #: classified differently; on others 0. With fewer than four images a layer, not every layer sees every kind.
    image_noise: Share | None = None
    #: Weight λ_S of the energy score, which makes explanations of one latent vary by what it leaves open, the more
    #: surely if `InterpretGAN.fit` is told that. 0: the plain method, whose explanations hardly depend on their noise.
    diversity: NotNegative = 0.0
    #: Largest norm of the gradient that classifier and recognition network send back to an explanation, in multiples of
    #: the mean norm of the discriminator's: what stands out is limited to that. Few networks ever reach it.
    gradient_limit: Positive = 10.0
    linear_start: bool = True  #: Whether the first explanations are those of linear decoders (`LinearStart`).
    width: Count = 96  #: Channels of the trunk and of the discriminator.
    blocks: Count = 2  #: Residual blocks of the trunk, convolutions of the discriminator.
    noise: Count = 16  #: Size of the generator's noise.
    ema: Decay = 0.99  #: Decay per step of the moving average of the generator's weights, which is what explains.
    precision: Precision = "auto"  #: `auto` (bf16 where the processor is fast at it), `bf16` or `fp32`.

    def resolved(self, recognition_network: bool, channels: int) -> GANConfig:
        """The same settings, with those filled in that depend on colour and on whether there is another network.

        `image_noise` depends on what the classifier makes of it: see `interpretgan.gan.image_noise`.

        A robust recognition network hardly recognises artefacts of its own, so less must hold it back: λ_z is 2 and the
        noise 0.05. The classifier itself needs 10 and 0.2. Images with colour need more steps, and a discriminator that
        learns at a twentieth of the generator's rate: a faster one tells explanations from images late or never. On
        grey images it learns at a quarter, where strokes are smooth.
        """
        latent, noise = (2.0, 0.05) if recognition_network else (10.0, 0.2)
        steps, slower = (GREY_STEPS, 4) if channels == 1 else (COLOUR_STEPS, 20)
        usual: dict[str, Any] = {
            "latent": latent, "recognition_noise": noise, "steps": steps,
            "discriminator_rate": self.learning_rate / slower,
        }  # fmt: skip
        return replace(self, **{name: value for name, value in usual.items() if getattr(self, name) is None})


def new_generator(
    config: GANConfig,
    layers: Sequence[Layer],
    image_shape: tuple[int, int, int],
    bounds: tuple[float, float],
    *,
    smooth: bool,
) -> Generator:
    """One that is not trained yet, for layers with different latents."""
    return Generator(
        layers, image_shape, bounds=bounds, width=config.width, blocks=config.blocks, noise=config.noise,
        linear_start=config.linear_start, look_again=True, smooth=smooth,
    )  # fmt: skip


def train_generator(
    classifier: Classifier,
    layers: Sequence[Layer],
    images: ImageSource,
    config: GANConfig,
    *,
    seed: int,
    recognition_network: Classifier | None = None,
    left_open: Sequence[float] | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 20.0,
    on_step: OnStep | None = None,
    devices: int = 1,
    team: Team | None = None,
) -> Generator:
    """The moving average of a generator for layers with different latents, in eval mode with frozen parameters.

    `InterpretGAN.fit` says more about the arguments. Each process of a team calls this for its share, and all but the
    first only read the checkpoint. A training that collapses is tried again with a stricter limit of the gradients; a
    `TrainingError` where that collapses as well.
    """
    if team is None:
        check_team(devices, config.images_per_layer, classifier.device)
        task: dict[str, Any] = {
            "classifier": classifier, "layers": layers, "images": images, "config": config, "seed": seed,
            "recognition_network": recognition_network, "left_open": left_open, "checkpoint": checkpoint,
            "checkpoint_seconds": math.inf,
        }  # fmt: skip
        own = {"checkpoint_seconds": checkpoint_seconds, "on_step": on_step}  # for this process alone
        seen = list[str]()
        for attempt in range(2):
            if attempt:
                task["config"] = replace(config, gradient_limit=config.gradient_limit / STRICTER)
                task["checkpoint"] = checkpoint and checkpoint.with_name(f"{checkpoint.name}.stricter")
            # Whatever the caller has switched off, a training needs gradients.
            with torch.inference_mode(False), torch.enable_grad(), gathered(devices, train_generator, task) as started:
                try:
                    generator = train_generator(team=started, **task | own)
                except Collapse as collapse:
                    seen.append(f"{collapse.seen} after {collapse.steps} steps")
                    continue
            if attempt and checkpoint is not None:  # it tells no more than the first attempt's would
                task["checkpoint"].unlink(missing_ok=True)
            return generator
        raise TrainingError(
            expected="explanations that differ from image to image, and some that the discriminator takes for images",
            got=f"{seen[0]}, and with a stricter limit of the gradients {seen[1]}",
            do="lower the weight of latent consistency (--latent), take a robust recognition network, or fewer layers",
        )
    device, content = classifier.device, content_of(images)
    images = near(images, device)
    one, _ = images.batch(torch.tensor([0]))
    config, pixels = config.resolved(recognition_network is not None, one.shape[1]), one.numel()
    latent_weight, steps = config.latent, config.steps
    assert latent_weight is not None
    assert steps is not None
    assert config.recognition_noise is not None
    assert config.discriminator_rate is not None
    random = torch.Generator().manual_seed(seed)
    enough = min(CALIBRATION_IMAGES, max(2, CALIBRATION_PIXELS // pixels))
    order = torch.randperm(len(images), generator=random)
    first, _ = images.batch(order[:enough])
    first = classifier.check_images(first)
    require_gradient(classifier, first)
    first_logits, first_latents = capture(classifier, first, layers)
    classes, image_shape = first_logits.shape[1], (first.shape[1], first.shape[2], first.shape[3])
    recognition = classifier if recognition_network is None else recognition_network
    _check_recognition_network(recognition, first[:1], classes, classifier.bounds)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone: networks are built there
        smooth = config.linear_start and should_be_smooth(first)
        generator = new_generator(config, layers, image_shape, classifier.bounds, smooth=smooth).to(device)
        sizes: dict[str, Any] = {"bounds": classifier.bounds, "width": config.width, "blocks": config.blocks}
        discriminator = Discriminator(len(layers), classes, image_shape, **sizes).to(device)
    generator.calibrate(first_latents)
    span = classifier.bounds[1] - classifier.bounds[0]
    noise_size = usual_noise(classifier, images) if config.image_noise is None else config.image_noise
    generator.image_noise, deviation, largest = noise_size, config.recognition_noise * span, noise_size * span
    if generator.start is not None:

        def latents_of(x: Tensor, chosen: Sequence[int]) -> list[Tensor]:
            _, found = capture(classifier, x, [layers[index] for index in chosen])
            return [found[layers[index].name] for index in chosen]

        def noised(x: Tensor) -> Tensor:
            if not noise_size:
                return x
            return with_noise(classifier, x, varied_noise(x.shape, largest, random=random).to(device))

        fit_start(generator.start, images, order, classifier.bounds, latents_of, seen=noised)
    waits = layers_that_wait(generator, recognition_network, first_logits, first_latents) & (latent_weight > 0)
    waiting, watch = Waiting(waits).to(device), Watch()
    spread = None if left_open is None else Spread(torch.tensor(left_open)).to(device)
    some_wait = bool(waits.any())
    average = MovingAverage(generator, config.ema)
    slower = SLOWER if some_wait else 1.0
    peaks = (slower * config.learning_rate, slower * config.discriminator_rate)
    adam_g, adam_d = (
        torch.optim.Adam(network.parameters(), betas=(config.momentum, 0.99), fused=True, **recordable(device, peak))
        for network, peak in zip((generator, discriminator), peaks, strict=True)
    )
    networks = (classifier,) if recognition_network is None else (classifier, recognition_network)
    fingerprint = fingerprint_of(
        config, seed, [(layer.name, layer.shape) for layer in layers], generator, discriminator, content, smooth,
        waits.tolist(), spread is not None, "watched",
        *((network.identity(), network.state_sha256()) for network in networks),
    )  # fmt: skip
    state = Checkpoint(checkpoint, fingerprint, every=checkpoint_seconds)
    parts = {
        "generator": generator, "discriminator": discriminator, "average": average, "adam_g": adam_g, "adam_d": adam_d,
        "waiting": waiting, "watch": watch,
    }  # fmt: skip
    if spread is not None:
        parts["spread"] = spread

    drawn = config.images_per_layer * len(layers)  # by all processes together
    per_layer, count = config.images_per_layer // team.size, drawn // team.size
    layer_index = torch.arange(len(layers), device=device).repeat_interleave(per_layer)
    rows = {layer.name: slice(i * per_layer, (i + 1) * per_layer) for i, layer in enumerate(layers)}
    blurs = random if device.type == "cpu" else torch.Generator(device)

    def one_step(
        x: Tensor, added: Tensor, noise: Tensor, blur: Tensor, other: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Improve both networks on images, noise to add to them, and random numbers.

        Returns the losses, and the explanations as `fake`.
        """
        with torch.no_grad(), capturing(classifier, layers, rows) as latents:
            logits = classifier.run(x)
        seen = logits.float().softmax(dim=1)
        z = [latents[layer.name] for layer in layers]
        norms = team.mean(torch.stack([objective.latent_size(real) for real in z]))
        given = z
        if noise_size:  # as `with_noise` says, without classifying the images again
            with torch.no_grad(), capturing(classifier, layers, rows) as latents:
                same = classifier.run((x + added).clamp(*classifier.bounds)).argmax(dim=1) == logits.argmax(dim=1)
            given = [
                torch.where(same[rows[layer.name]].view(-1, *[1] * (real.dim() - 1)), latents[layer.name], real)
                for layer, real in zip(layers, z, strict=True)
            ]
        with autocast(device, config.precision):
            fake = generator(given, noise)

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

        # Phase G: only the generator learns.  min_G L_adv - λ_I · L_I + λ_z · L_z + λ_S · S
        image = fake.detach().requires_grad_()
        with autocast(device, config.precision):
            with capturing(classifier, layers, rows) as latents:
                classifier.run(image)
            # Artefacts that one network alone recognises do not survive noise.
            explained = recognition.run((image + deviation * blur).clamp(*classifier.bounds))
            realism = objective.generator_hinge(discriminator(image, layer_index, seen).float())
        information = objective.information_bound(logits, explained)
        errors = torch.stack(
            [objective.latent_consistency(z[i], latents[layer.name], norms[i]) for i, layer in enumerate(layers)]
        )
        latent, score = errors.mean(), dict[str, Tensor]()
        loss_g = config.realism * realism + latent_weight * latent - config.information * information
        (from_discriminator,) = torch.autograd.grad(config.realism * realism, image)
        (from_latent,) = torch.autograd.grad(latent_weight * latent, image)
        (from_recognition,) = torch.autograd.grad(-config.information * information, image)
        limit = config.gradient_limit * team.mean(_norms(from_discriminator).mean())
        if some_wait:
            usual = team.mean(_norms(from_latent).view(len(layers), -1).mean(dim=1))
            most = usual.masked_fill(~waiting.waits, math.inf).repeat_interleave(per_layer)
            asked = waiting(team.mean(errors.detach())).repeat_interleave(per_layer).view(-1, 1, 1, 1)
            from_discriminator, from_recognition = asked * from_discriminator, asked * limited(from_recognition, most)
        gradient = from_discriminator + limited(from_latent + from_recognition, limit)
        adam_g.zero_grad()
        if other is not None:
            with autocast(device, config.precision):
                again = generator(given, other)
            weights: Tensor | float = 1.0
            if spread is not None:
                moved = (image.detach() - again.detach()).float().flatten(1).square().sum(dim=1)
                weights = spread(team.mean(moved.view(len(layers), -1).mean(dim=1))).repeat_interleave(per_layer)
            apart = objective.energy_score(x, image, again, weights) / span
            of_first, of_second = torch.autograd.grad(config.diversity * apart, (image, again))
            again.backward(of_second)
            gradient = gradient + of_first
            loss_g, score = loss_g + config.diversity * apart, {"energy_score": apart}
        fake.backward(gradient)
        team.average(generator)
        adam_g.step()
        terms = {
            "loss_d": loss_d, "loss_g": loss_g, "realism": realism, "information": information, "latent": latent,
            **score, "fake": fake,
        }  # fmt: skip
        return {name: term.detach() for name, term in terms.items()}

    step_of_both = Recorded(one_step, device, wanted=team.size == 1)
    fast = fast_convolutions(bf16=uses_bf16(device, config.precision))
    with classifier.borrowed(), recognition.borrowed(), fast:
        for step, losses in resumable(steps, parts, state, random=random, on_step=on_step):
            rate = warm_up_and_cosine(step, steps, floor=LEAST_RATE)
            for adam, peak in zip((adam_g, adam_d), peaks, strict=True):
                set_rate(adam, peak * rate)
            x, _ = images.batch(team.share(torch.randint(len(images), (drawn,), generator=random)))
            x = sent(x, device).to(torch.float32)
            noise = sent(team.share(torch.randn(drawn, config.noise, generator=random)), device)
            if blurs is not random:  # as many numbers as pixels are drawn on the GPU itself
                blurs.manual_seed(int(torch.randint(2**62, (), generator=random)))
            blur = team.share(torch.randn(drawn, *image_shape, generator=blurs, device=device))
            added = x[:0]
            if noise_size:
                added = team.share(varied_noise((drawn, *image_shape), largest, random=blurs))
            inputs = [x, added, noise, blur]
            if config.diversity:
                inputs.append(sent(team.share(torch.randn(drawn, config.noise, generator=random)), device))
            terms = step_of_both(*inputs)
            average.update(generator, step)

            fake = terms["fake"]
            loss = terms["loss_d"] if config.realism else None
            watch.look(step + 1, fake, x, loss, layers=len(layers), team=team)
            if read_now(step, steps, device):
                read = {name: term for name, term in terms.items() if term is not fake}
                losses.update(zip(read, team.mean(torch.stack(list(read.values()))).tolist(), strict=True))
    generator.load_state_dict(average.state)
    generator.zero_grad()
    return generator.eval().requires_grad_(False)


def limited(gradient: Tensor, most: Tensor) -> Tensor:
    """A gradient `[N, C, H, W]` whose norm is at most `most` for each image: `g · min(1, most / ‖g‖)`.

    Where `most` is zero, because there is no discriminator to drown, the gradient stays what it is.
    """
    share = (most / _norms(gradient).clamp_min(1e-12)).clamp_max(1)
    return gradient * torch.where(most > 0, share, torch.ones_like(share)).view(-1, 1, 1, 1).to(gradient)


def _norms(gradient: Tensor) -> Tensor:
    norms: Tensor = gradient.float().flatten(1).norm(dim=1)
    return norms


def _check_recognition_network(network: Classifier, image: Tensor, classes: int, bounds: tuple[float, float]) -> None:
    same = network.bounds == bounds
    found = network.logits(image.to(network.device)).shape[1] if same else None
    if found != classes:
        got = f"one of {found}" if same else f"one for pixels within {list(network.bounds)}"
        expected = f"a recognition network of {classes} classes and pixels within {list(bounds)}"
        raise ConfigError(expected=expected, got=got, do="choose one that was trained for the task of the classifier")
