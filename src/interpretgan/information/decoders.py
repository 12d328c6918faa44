"""Decoders and class probes for all layers of a classifier: how they are trained, and what they measure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretgan.classifier import check_labels
from interpretgan.data import ImageSource, content_of, labelled_source
from interpretgan.errors import ConfigError
from interpretgan.gan.fitted import Fitted
from interpretgan.gan.generator import Generator, Standardise
from interpretgan.information.measure import Measurement
from interpretgan.information.probes import MLPProbes, RandomMixture, RandomProjection
from interpretgan.layers import Layer, capture
from interpretgan.store.checkpoints import Checkpoint, fingerprint_of
from interpretgan.store.network_files import Header
from interpretgan.training.checks import check_settings
from interpretgan.training.precision import autocast
from interpretgan.training.steps import MovingAverage, OnStep, Stateful, resumable, warm_up_and_cosine

BATCH = 250
"""Images that are measured at a time, where their latents are small."""
MEAN_IMAGES = 10_000
"""Training images at most from which the mean image and the frequencies of the classes are taken."""
CALIBRATION_IMAGES = 512
"""Training images at most over which the latents are standardised."""
NUMBERS = 2**26
"""Numbers, of all latents of a batch, that are in memory at a time."""
LEAST_RATE = 0.02
"""Share of the peak learning rate at which the cosine ends."""


@dataclasses.dataclass(frozen=True)
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

    Raises:
        ConfigError: A setting out of range.
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
        """Check every setting."""
        ranges = {
            ">= 1": ("steps", "batch", "images_per_layer", "width", "blocks", "features", "hidden"),
            "> 0": ("learning_rate", "probe_rate"), ">= 0": ("weight_decay",), "from 0 to below 1": ("ema",),
        }  # fmt: skip
        check_settings(self, ranges)


class DecoderNetwork(nn.Module):
    """Decoders, controls and probes of a classifier's layers.

    The decoders are InterpretGAN's generator without its noise: a stem per layer, and one trunk that knows the layer.
    Place 0 is the image, which has a probe and needs no decoder; place `l` is layer `l`.

    Args:
        layers: Layers with different latents, in execution order.
        image_shape: `(C, H, W)`.
        classes: How many the probes tell apart.
        config: Sizes of the networks.
        bounds: Range of the pixels.
        random: Draws the projections; the weights come from the global random state.

    Attributes:
        controls: For each control, the index of its layer (from 0): those whose latent is smaller than the one before.
    """

    mean_image: Tensor
    class_bits: Tensor

    def __init__(
        self,
        layers: Sequence[Layer],
        image_shape: tuple[int, int, int],
        classes: int,
        config: InformationConfig,
        *,
        bounds: tuple[float, float],
        random: torch.Generator,
    ) -> None:
        super().__init__()
        shapes: list[tuple[int, ...]] = [image_shape, *(layer.shape for layer in layers)]
        self.register_buffer("mean_image", torch.zeros(image_shape))
        self.register_buffer("class_bits", torch.zeros(classes))
        self.standards = nn.ModuleList([Standardise(shape, drop_still=True) for shape in shapes])
        self.mixtures = nn.ModuleList([RandomMixture(math.prod(shape), config.features, random) for shape in shapes])
        self.controls = [i for i in range(len(layers)) if math.prod(shapes[i + 1]) < math.prod(shapes[i])]
        projections = [RandomProjection(shapes[i], shapes[i + 1], random) for i in self.controls]
        self.projections = nn.ModuleList(projections)
        controls = [
            Layer(f"control of {layers[i].name}", "", 1, "RandomProjection", projection.shape)
            for i, projection in zip(self.controls, projections, strict=True)
        ]
        # It draws the difference to the mean image, with room to spare: a decoder that drew pixels within the bounds
        # would start far from images that are mostly black, and some end there, saturated.
        room = 2 * (bounds[1] - bounds[0])
        self.bounds = bounds
        self.decoder = Generator(
            [*layers, *controls], image_shape, bounds=(-room, room), width=config.width, blocks=config.blocks, noise=1
        )
        self.probes = MLPProbes(len(shapes), config.features, config.hidden, classes)

    @torch.no_grad()
    def calibrate(self, places: Sequence[Tensor]) -> None:
        """Standardise by natural images and their latents, one per place."""
        for standard, place in zip(self.standards, places, strict=True):
            assert isinstance(standard, Standardise)
            standard.calibrate(place)
        inputs = self.decoder_inputs(places, self.standardise(places))
        self.decoder.calibrate(dict(zip(self.decoder.names, inputs, strict=True)))

    def standardise(self, places: Sequence[Tensor]) -> list[Tensor]:
        """The latents of all places, `[N, C, ...]` each, standardised per channel."""
        return [standard(place) for standard, place in zip(self.standards, places, strict=True)]

    def decoder_inputs(self, places: Sequence[Tensor], standardised: Sequence[Tensor]) -> list[Tensor]:
        """What each decoder sees: the latents of the layers, then the controls'."""
        controls = [projection(standardised[i]) for i, projection in zip(self.controls, self.projections, strict=True)]
        return [*places[1:], *controls]

    def decode(self, inputs: Sequence[Tensor]) -> Tensor:
        """Estimates of `E[x|z_l]`, `[Σ N, C, H, W]`, decoder after decoder; within the bounds in eval mode."""
        count = sum(map(len, inputs))
        decoded: Tensor = self.mean_image + self.decoder(inputs, torch.zeros(count, 1, device=inputs[0].device))
        return decoded if self.training else decoded.clamp(*self.bounds)

    def classify(self, standardised: Sequence[Tensor]) -> Tensor:
        """Logits of the probes `[places, N, K]`."""
        features = [mixture(z) for mixture, z in zip(self.mixtures, standardised, strict=True)]
        logits: Tensor = self.probes(torch.stack(features))
        return logits


class Decoders(Fitted[InformationConfig, DecoderNetwork]):
    """Measures what each layer of a classifier still holds of the image, and of its class.

        decoders = Decoders(classifier).fit(train)
        diagnosis = diagnose(interpreter, judge, test, threat_model=threat_model, information=decoders.measure(test))

    Args:
        classifier: The classifier to measure.
        layers: Its layers. `None`: all that `fit` finds. Those that hold the same tensor are measured once.
        config: Settings of the training.
        seed: Of the training.

    Raises:
        LayerError: An empty list of layers, or one named twice.
    """

    config_type = InformationConfig

    def fit(
        self,
        images: Tensor | ImageSource,
        labels: Tensor | None = None,
        *,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 20.0,
        on_step: OnStep | None = None,
    ) -> Self:
        """Train on natural training images and their true classes.

        min  mean over decoders of log E‖x - D_l(z_l)‖²  +  mean over places of E[-log q_l(y|z_l)]

        The logarithm weighs each decoder by the inverse of its own error, so that the layers which explain nearly
        everything are trained as well as those which explain little.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds, or a source that is read a batch at a time. The
                layers are found on the first of them, where none were given.
            labels: True classes `[N]`, with a tensor of images.
            checkpoint: File for the state, written every `checkpoint_seconds` and at the end. Where it exists the
                training goes on from there, to the weights that no interruption would have given.
            checkpoint_seconds: See `checkpoint`.
            on_step: See `OnStep`.

        Returns:
            This object.

        Raises:
            ImageError, LabelError: Images or labels that the classifier refuses.
            TrainingError: A loss is not finite.
            RunFolderError: The checkpoint is damaged or of another training, or cannot be written.
        """
        source = labelled_source(images, labels, self.classifier.bounds)
        self._find_layers(source)
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has switched off
            self._network = self._train(source, checkpoint, checkpoint_seconds, on_step)
        return self

    def _train(self, images: ImageSource, file: Path | None, seconds: float, on_step: OnStep | None) -> DecoderNetwork:
        classifier, layers, config, device = self.classifier, self.distinct_layers, self.config, self.classifier.device
        random = torch.Generator().manual_seed(self.seed)
        count = min(config.batch, _most_images(layers))
        first = torch.randperm(len(images), generator=random)[: max(2, min(CALIBRATION_IMAGES, _most_images(layers)))]
        x = classifier.check_images(images.batch(first)[0])
        logits, _ = capture(classifier, x[:1], [])
        classes, image_shape = logits.shape[1], tuple(x.shape[1:])
        network = self._build({"image_shape": image_shape, "classes": classes}).to(device)
        network.calibrate(self._places(x))
        mean_image, class_bits = self._averages(images, classes, random)
        network.mean_image.copy_(mean_image)
        network.class_bits.copy_(class_bits)
        average = MovingAverage(network, config.ema)
        decoder, probes = list(network.decoder.parameters()), list(network.probes.parameters())
        groups = [
            {"params": decoder, "weight_decay": 0.0, "peak": config.learning_rate},
            {"params": probes, "weight_decay": config.weight_decay, "peak": config.probe_rate},
        ]
        adam = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        fingerprint = fingerprint_of(
            config, self.seed, [(layer.name, layer.shape) for layer in layers], content_of(images), image_shape,
            classifier.identity(), classifier.state_sha256(),
        )  # fmt: skip
        parts: dict[str, Stateful] = {"network": network, "average": average, "adam": adam}
        state = Checkpoint(file, fingerprint, every=seconds)
        for step, losses in resumable(config.steps, parts, state, random=random, on_step=on_step):
            for group in adam.param_groups:
                group["lr"] = group["peak"] * warm_up_and_cosine(step, config.steps, floor=LEAST_RATE)
            x, y = images.batch(torch.randint(len(images), (count,), generator=random))
            x, y = x.to(device), y.to(device)
            places = self._places(x)
            standardised = network.standardise(places)
            inputs = network.decoder_inputs(places, standardised)
            # Each decoder sees the images that follow those of the decoder before it.
            seen = torch.arange(config.images_per_layer, device=device)
            rows = [(seen + number * config.images_per_layer) % count for number in range(len(inputs))]
            with autocast(device, config.precision):
                decoded = network.decode([z[chosen] for z, chosen in zip(inputs, rows, strict=True)])
            errors = (decoded - x[torch.cat(rows)]).square().mean(dim=(1, 2, 3)).view(len(rows), -1).mean(dim=1)
            probe_loss = F.cross_entropy(network.classify(standardised).flatten(0, 1), y.repeat(len(places)))
            adam.zero_grad()
            torch.autograd.backward(errors.clamp_min(1e-8).log().mean() + probe_loss)
            adam.step()
            average.update(network, step + 1)
            losses |= {"loss": float(errors.detach().mean()), "probe_loss": float(probe_loss.detach())}
        network.load_state_dict(average.state)
        return network.eval().requires_grad_(False)

    def _places(self, x: Tensor) -> list[Tensor]:
        """Images, and their latents at every layer."""
        _, latents = capture(self.classifier, x, self.distinct_layers)
        return [x, *(latents[layer.name] for layer in self.distinct_layers)]

    def _averages(self, images: ImageSource, classes: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mean training image, and `-log2` of each class's frequency (a class never seen being counted once)."""
        device = self.classifier.device
        chosen = torch.randperm(len(images), generator=random)[:MEAN_IMAGES]
        totals, counts = list[Tensor](), torch.zeros(classes, device=device)
        for part in torch.split(chosen, 500):
            x, y = images.batch(part)
            x = x.to(device)
            y = check_labels(y.to(device), len(x), self.classifier, x[:1])
            totals.append(x.sum(dim=0))
            counts += torch.bincount(y, minlength=classes)
        return sum(totals[1:], totals[0]) / len(chosen), -(counts.clamp_min(1) / counts.sum()).log2()

    def measure(
        self,
        images: Tensor | ImageSource,
        labels: Tensor | None = None,
        *,
        examples: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> Measurement:
        """Measure on held-out images.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds, or a source; none that `fit` was given.
            labels: True classes `[N]`, with a tensor of images.
            examples: How many images, from the first. `None`: all.
            on_batch: Called with the number of images that are done.

        Raises:
            ConfigError: `fit` was not called, or nothing to measure.
            ImageError, LabelError: Images or labels that the classifier refuses.
        """
        network = self.network
        source = labelled_source(images, labels, self.classifier.bounds)
        count = len(source) if examples is None else min(examples, len(source))
        if count < 1:
            raise ConfigError(expected="at least one example", got=f"{count}", do="measure some images")
        batches = []
        for indices in torch.split(torch.arange(count), min(BATCH, _most_images(self.distinct_layers))):
            x, y = source.batch(indices)
            x = self.classifier.check_images(x)
            y = check_labels(y, len(x), self.classifier, x[:1])
            batches.append(self._measure(network, x, y))
            if on_batch is not None:
                on_batch(int(indices[-1]) + 1)
        errors, control_errors, variance, bits, right = (
            torch.cat(parts, dim=-1).cpu().numpy() for parts in zip(*batches, strict=True)
        )
        rows = [0, *(index + 1 for index in self.rows)]
        return Measurement(
            errors=errors[rows],
            control_errors=control_errors,
            # Of several layers with one tensor the first one is compared with the layer before.
            controls=np.array([rows.index(index + 1) for index in network.controls], dtype=np.int64),
            variance=variance,
            bits=bits[rows],
            right=right[rows],
            layers=tuple(layer.name for layer in self.layers),
            settings={**dataclasses.asdict(self.config), "seed": self.seed},
        )

    @torch.no_grad()
    def _measure(self, network: DecoderNetwork, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Errors, errors of the controls, variance, bits, and whether the probes are right, of one batch."""
        places = self._places(x)
        standardised = network.standardise(places)
        decoded = network.decode(network.decoder_inputs(places, standardised)).view(-1, *x.shape)
        errors = (decoded - x).double().square().sum(dim=(2, 3, 4))
        count = len(self.distinct_layers)
        log2 = network.classify(standardised).double().log_softmax(dim=2) / np.log(2)
        return (
            torch.cat([torch.zeros_like(errors[:1]), errors[:count]]),
            errors[count:],
            (x - network.mean_image).double().square().sum(dim=(1, 2, 3)),
            log2[:, torch.arange(len(x)), y] + network.class_bits[y],
            log2.argmax(dim=2) == y,
        )

    def _header(self, network: DecoderNetwork) -> Header:
        return {"image_shape": list(network.mean_image.shape), "classes": len(network.class_bits)}

    def _build(self, header: Header) -> DecoderNetwork:
        """Untrained; weights and projections are drawn from the seed."""
        channels, height, width = header["image_shape"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return DecoderNetwork(
                self.distinct_layers, (channels, height, width), header["classes"], self.config,
                bounds=self.classifier.bounds, random=torch.Generator().manual_seed(self.seed),
            )  # fmt: skip


def _most_images(layers: Sequence[Layer]) -> int:
    """How many images leave their latents at all layers below `NUMBERS`, at least one."""
    return max(1, NUMBERS // sum(math.prod(layer.shape) for layer in layers))
