"""Decoders and class probes for all layers of a classifier: how they are trained, and what they measure."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interpretgan.data import ImageData, ImageSource, as_source, content_of, near, sent
from interpretgan.errors import ConfigError, ImageError
from interpretgan.gan.fitted_network import Fitted
from interpretgan.gan.generator import Generator
from interpretgan.gan.latents import Standardise
from interpretgan.gan.linear_start import BATCH as START_BATCH, LinearStart, fit_start
from interpretgan.information.measure import Measurement
from interpretgan.information.probes import MLPProbes, RandomMixture, RandomProjection
from interpretgan.layers import Layer, capture
from interpretgan.store.network_files import Header
from interpretgan.store.progress import OnProgress, Progress, reporting
from interpretgan.store.training_checkpoint import Checkpoint, fingerprint_of
from interpretgan.torch_state import plain_torch
from interpretgan.training.checks import Checked, Count, Decay, NotNegative, Positive
from interpretgan.training.precision import Precision, autocast, fast_convolutions, uses_bf16
from interpretgan.training.recorded import Recorded, recordable, set_rate
from interpretgan.training.steps import MovingAverage, read_now, resumable, told, warm_up_and_cosine

BATCH = 50  # images that are measured at a time, fewer where their latents are large; more would not fit the caches
MEAN_IMAGES = 10_000  # training images that give the mean image and the frequencies of the classes, at most
CALIBRATION_IMAGES = 512  # training images over which the latents are standardised, at most
NUMBERS = 2**26  # of all latents of a batch, that are in memory at a time
LEAST_RATE = 0.02  # share of the peak learning rate at which the cosine ends


@dataclasses.dataclass(frozen=True)
class InformationConfig(Checked):
    """Settings of decoders and probes; one out of range is a `ConfigError`."""

    steps: Count = 250
    batch: Count = 128  #: Training images per step, all seen by every probe; fewer where their latents are very large.
    images_per_layer: Count = 8  #: How many of these each decoder sees.
    learning_rate: Positive = 5e-3  #: Peak of the decoders' AdamW, after a short warm-up, falling along a cosine.
    probe_rate: Positive = 5e-3  #: The same of the probes.
    weight_decay: NotNegative = 0.1  #: Of the probes.
    width: Count = 96  #: Channels of the decoders' trunk.
    blocks: Count = 2  #: Residual blocks of the trunk.
    features: Count = 256  #: Numbers of a latent that its probe sees.
    hidden: Count = 128  #: Units of a probe's hidden layer.
    ema: Decay = 0.98  #: Decay per step of the moving average of all weights, which is what measures.
    precision: Precision = "auto"  #: Of the decoders: `auto` (bf16 where the processor is fast at it), `bf16`, `fp32`.


class DecoderNetwork(nn.Module):
    """Decoders, controls and probes of a classifier's layers, which have different latents, in execution order.

    The decoders are InterpretGAN's generator without its noise: linear decoders, and what a trunk that knows the layer
    adds to them.
    Place 0 is the image, which has a probe and needs no decoder; place `l` is layer `l`. Controls are for those layers
    whose latent is smaller than the one before; `controls` has their indices, from 0. `random` draws the projections;
    the weights come from the global random state.
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
        projections = {i: RandomProjection(shapes[i], shapes[i + 1], random) for i in self.controls}
        self.projections = nn.ModuleList(projections.values())
        controls = [
            Layer(f"control of {layers[i].name}", "", 1, "RandomProjection", x.shape) for i, x in projections.items()
        ]
        self.decoder = Generator(
            [*layers, *controls], image_shape,
            bounds=bounds, width=config.width, blocks=config.blocks, noise=1, linear_start=True,
            smooth=image_shape[0] > 1,  # of enlarged grey images as much is left either way
        )  # fmt: skip
        self.probes = MLPProbes(len(shapes), config.features, config.hidden, classes)

    @torch.no_grad()
    def calibrate(self, places: Sequence[Tensor]) -> None:
        """Standardise by natural images and their latents, one per place."""
        for standard, place in zip(self.standards, places, strict=True):
            assert isinstance(standard, Standardise)
            standard.calibrate(place)
        self.decoder.calibrate(dict(zip(self.decoder.names, self.inputs(places), strict=True)))

    def inputs(self, places: Sequence[Tensor]) -> list[Tensor]:
        """What the decoders see, those of the layers and then the controls."""
        projected = zip(self.controls, self.projections, strict=True)
        return [*places[1:], *(projection(self.standards[i](places[i])) for i, projection in projected)]

    def features(self, places: Sequence[Tensor]) -> Tensor:
        """What the probes see, `[P, N, features]`."""
        mixed = zip(self.mixtures, self.standards, places, strict=True)
        return torch.stack([mixture(standard(place)) for mixture, standard, place in mixed])

    def decode(self, inputs: Sequence[Tensor | None]) -> Tensor:
        """Estimates of `E[x|z_l]`, `[Σ N, C, H, W]`, within the bounds, decoder after decoder."""
        count = sum(len(z) for z in inputs if z is not None)
        decoded: Tensor = self.decoder(inputs, self.mean_image.new_zeros(count, 1))
        return decoded


class Decoders(Fitted[InformationConfig, DecoderNetwork]):
    """Measures what each layer of a classifier still holds of the image, and of its class.

        decoders = Decoders(classifier).fit(train)
        diagnosis = diagnose(interpreter, judge, test, threat_model=threat_model, information=decoders.measure(test))

    For the arguments, see `Fitted`.
    """

    config_type = InformationConfig

    @torch.inference_mode(False)
    @torch.enable_grad()  # whatever the caller has switched off
    @plain_torch()
    def fit(
        self,
        images: ImageData,
        labels: Tensor | None = None,
        *,
        start: LinearStart | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_seconds: float = 20.0,
        on_progress: OnProgress | bool = True,
    ) -> Self:
        """Train on natural training images and their true classes.

        min  mean over decoders of log E‖x - D_l(z_l)‖²  +  mean over places of E[-log q_l(y|z_l)]

        The logarithm weighs each decoder by the inverse of its own error, so that the layers which explain nearly
        everything are trained as well as those which explain little. For the arguments, see `InterpretGAN.fit`; the
        labels `[N]` belong to a tensor of images. `start` is the `natural_start` of an InterpretGAN of the same layers
        and seed, fitted to the same images: what is taken over need not be fitted again.

        Raises:
            ImageError, LabelError, TrainingError: Images or labels that the classifier refuses, a loss is not finite.
            ConfigError: A start of other layers.
        """
        classifier, config, device = self.classifier, self.config, self.classifier.device
        source = as_source(images, labels, classifier.bounds, labelled=True)
        self._find_layers(source)
        layers = self.distinct_layers
        random = torch.Generator().manual_seed(self.seed)
        count = min(config.batch, _most_images(layers))
        order = torch.randperm(len(source), generator=random)
        x, _ = source.batch(order[: max(2, min(CALIBRATION_IMAGES, _most_images(layers)))])
        x = classifier.check_images(x)
        logits, _ = capture(classifier, x[:1], [])
        classes, image_shape = logits.shape[1], tuple(x.shape[1:])
        network = self._build({"image_shape": image_shape, "classes": classes}).to(device)
        network.calibrate(self._places(x))
        assert network.decoder.start is not None

        def latents_of(x: Tensor, chosen: Sequence[int]) -> list[Tensor]:
            inputs = network.inputs(self._places(x))
            return [inputs[index] for index in chosen]

        at_once = min(START_BATCH, _most_images(layers))
        fit_start(network.decoder.start, source, order, classifier.bounds, latents_of, batch=at_once, known=start)
        mean_image, class_bits = self._averages(source, classes, random)
        network.mean_image.copy_(mean_image)
        network.class_bits.copy_(class_bits)
        average = MovingAverage(network, config.ema)
        decoder, probes = list(network.decoder.parameters()), list(network.probes.parameters())
        peaks, decays = (config.learning_rate, config.probe_rate), (0.0, config.weight_decay)
        groups = [
            {"params": parameters, "weight_decay": decay, **recordable(device, peak)}
            for parameters, decay, peak in zip((decoder, probes), decays, peaks, strict=True)
        ]
        adam = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
        fingerprint = fingerprint_of(
            config, self.seed, [(layer.name, layer.shape) for layer in layers], network, content_of(source),
            classifier.identity(), classifier.state_sha256(),
        )  # fmt: skip
        parts = {"network": network, "average": average, "adam": adam}
        state = Checkpoint(checkpoint, fingerprint, every=checkpoint_seconds)
        # Each decoder sees the images that follow those of the decoder before it.
        decoders = len(layers) + len(network.controls)
        seen = torch.arange(config.images_per_layer, device=device)
        rows = [(seen + number * config.images_per_layer) % count for number in range(decoders)]

        def one_step(x: Tensor, y: Tensor) -> dict[str, Tensor]:
            places = self._places(x)
            chosen = zip(network.inputs(places), rows, strict=True)
            with autocast(device, config.precision):
                decoded = network.decode([z[its] for z, its in chosen])
            errors = (decoded - x[torch.cat(rows)]).square().mean(dim=(1, 2, 3)).view(decoders, -1).mean(dim=1)
            probe_loss = F.cross_entropy(network.probes(network.features(places)).flatten(0, 1), y.repeat(len(places)))
            adam.zero_grad()
            torch.autograd.backward(errors.clamp_min(1e-8).log().mean() + probe_loss)
            adam.step()
            return {"loss": errors.detach().mean(), "probe_loss": probe_loss.detach()}

        step_of_all = Recorded(one_step, device)
        fast = fast_convolutions(bf16=uses_bf16(device, config.precision))
        with reporting(on_progress) as report, self.classifier.borrowed(), fast:
            on_step = told(report, "information", config.steps)
            near_source = near(source, device)
            for step, losses in resumable(config.steps, parts, state, random=random, on_step=on_step):
                rate = warm_up_and_cosine(step, config.steps, floor=LEAST_RATE)
                for group, peak in enumerate(peaks):
                    set_rate(adam, peak * rate, group)
                x, y = near_source.batch(torch.randint(len(source), (count,), generator=random))
                terms = step_of_all(sent(x, device), sent(y, device))
                average.update(network, step + 1)
                if read_now(step, config.steps, device):
                    losses.update(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True))
        network.zero_grad()
        network.load_state_dict(average.state)
        self._fitted(network)
        return self

    @torch.no_grad()
    def decode(self, layer: Layer, latent: Tensor) -> Tensor:
        """The estimate of `E[x|z_l]`, `[N, C, H, W]`, from latents `[N, *shape]` of one of the distinct layers."""
        network, others = self.network, [None] * len(self.network.controls)
        inputs = [*(latent if each == layer else None for each in self.distinct_layers), *others]
        return network.decode(inputs)

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
            y = self.classifier.check_labels(y, x)
            totals.append(x.sum(dim=0))
            counts += torch.bincount(y, minlength=classes)
        return sum(totals[1:], totals[0]) / len(chosen), -(counts.clamp_min(1) / counts.sum()).log2()

    @plain_torch()
    def measure(
        self,
        images: ImageData,
        labels: Tensor | None = None,
        *,
        examples: int | None = None,
        on_progress: OnProgress | bool = True,
    ) -> Measurement:
        """Measure on held-out images, which `fit` was not given; on those that it was given less seems left open.

        Images and labels are given as to `fit`, and the first `examples` of them are used (`None`: all). `on_progress`
        is told how many images are done.

        Raises:
            ConfigError, ImageError, LabelError: Not fitted, nothing to measure, or images that the classifier refuses.
        """
        network = self.network
        self._require_its_classifier()
        source = as_source(images, labels, self.classifier.bounds, labelled=True)
        count = len(source) if examples is None else min(examples, len(source))
        if count < 1:
            raise ConfigError(expected="at least one example", got=f"{count}", do="measure some images")
        batches = []
        with reporting(on_progress) as report:
            for indices in torch.split(torch.arange(count), min(BATCH, _most_images(self.distinct_layers))):
                x, y = source.batch(indices)
                x = self.classifier.check_images(x)
                if x.shape[1:] != network.mean_image.shape:
                    expected, got = f"images {list(network.mean_image.shape)}, as in fit", str(list(x.shape[1:]))
                    raise ImageError(expected=expected, got=got, do="bring them to that size, or fit again")
                y = self.classifier.check_labels(y, x)
                batches.append(self._measure(network, x, y))
                report(Progress("information", int(indices[-1]) + 1, count, "image"))
        errors, control_errors, variance, bits, right = (
            torch.cat(parts, dim=-1).cpu().numpy() for parts in zip(*batches, strict=True)
        )
        rows = [0, *(index + 1 for index in self.rows)]
        # Of several layers with one tensor the first one is compared with the layer before.
        controls = np.array([rows.index(index + 1) for index in network.controls], dtype=np.int64)
        names = tuple(layer.name for layer in self.layers)
        settings = {**dataclasses.asdict(self.config), "seed": self.seed}
        return Measurement(errors[rows], control_errors, controls, variance, bits[rows], right[rows], names, settings)

    @torch.no_grad()
    def _measure(self, network: DecoderNetwork, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """Errors, errors of the controls, variance, bits, and whether the probes are right, of one batch."""
        places = self._places(x)
        with autocast(x.device, self.config.precision):  # as in the training
            decoded = network.decode(network.inputs(places)).view(-1, *x.shape)
        errors = (decoded - x).double().square().sum(dim=(2, 3, 4))
        count = len(self.distinct_layers)
        log2 = network.probes(network.features(places)).double().log_softmax(dim=2) / np.log(2)
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
            torch.default_generator.manual_seed(self.seed)
            return DecoderNetwork(
                self.distinct_layers, (channels, height, width), header["classes"], self.config,
                bounds=self.classifier.bounds, random=torch.Generator().manual_seed(self.seed),
            )  # fmt: skip


def _most_images(layers: Sequence[Layer]) -> int:
    """How many images leave their latents at all layers below `NUMBERS`, at least one."""
    return max(1, NUMBERS // sum(math.prod(layer.shape) for layer in layers))
