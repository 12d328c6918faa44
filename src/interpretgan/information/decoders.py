"""The information meter: decoders and probes for all layers of a classifier, and what they measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource, as_source
from interpretgan.errors import ConfigError, LayerError
from interpretgan.information.measure import Measurement
from interpretgan.information.network import Gauge
from interpretgan.information.training import InformationConfig, OnStep, batch_size, build_gauge, train_gauge
from interpretgan.layers import Layer, capture, distinct
from interpretgan.store.network_files import Header, load_fitted, save_fitted

BATCH = 250
"""Images that are measured at a time, where their latents are small."""


class InformationMeter:
    """Measures what each layer of a classifier still holds of the image, and of its class.

        meter = InformationMeter(classifier, find_layers(classifier, images)).fit(train)
        diagnosis = diagnose(interpreter, judge, test, threat_model=threat_model, information=meter.measure(test))

    Args:
        classifier: The classifier to measure.
        layers: Its layers, as `find_layers` gives them; those that hold the same tensor are measured once.
        config: Settings of the training.
        seed: Of the training.

    Raises:
        LayerError: No layers, or one named twice.
    """

    def __init__(
        self, classifier: Classifier, layers: Sequence[Layer], *, config: InformationConfig | None = None, seed: int = 0
    ) -> None:
        names = [layer.name for layer in layers]
        if not names or len(set(names)) < len(names):
            raise LayerError(
                expected="at least one layer, each once", got=str(names), do="pass the list that find_layers returns"
            )
        self.classifier, self.layers, self.seed = classifier, tuple(layers), seed
        self.config = InformationConfig() if config is None else config
        self._measured, self._rows = distinct(layers)
        self._gauge: Gauge | None = None

    def fit(
        self,
        images: Tensor | ImageSource,
        labels: Tensor | None = None,
        *,
        checkpoint: Path | None = None,
        on_step: OnStep | None = None,
    ) -> Self:
        """Train on natural training images and their true classes.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds, or a source that is read a batch at a time.
            labels: True classes `[N]`, with a tensor of images.
            checkpoint: See `interpretgan.information.training.train_gauge`.
            on_step: Likewise.

        Returns:
            This object.

        Raises:
            ImageError, LabelError: Images or labels that the classifier refuses.
            TrainingError: A loss is not finite.
        """
        source = as_source(images, labels, self.classifier.bounds, labelled=True)
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller has switched off
            self._gauge = train_gauge(
                self.classifier, self._measured, source, self.config, seed=self.seed, checkpoint=checkpoint,
                on_step=on_step,
            )  # fmt: skip
        return self

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
            on_batch: Told how many are done.

        Raises:
            ConfigError: `fit` was not called, or nothing to measure.
            ImageError, LabelError: Images or labels that the classifier refuses.
        """
        if self._gauge is None:
            raise ConfigError(expected="a trained InformationMeter", got="none", do="call fit(images) first")
        source = as_source(images, labels, self.classifier.bounds, labelled=True)
        count = len(source) if examples is None else min(examples, len(source))
        if count < 1:
            raise ConfigError(expected="at least one example", got=f"{count}", do="measure some images")
        size = batch_size(self._measured, BATCH)
        parts = []
        for first in range(0, count, size):
            x, y = source.batch(torch.arange(first, min(first + size, count)))
            x = self.classifier.check_images(x)
            y = self.classifier.check_labels(y, x)
            parts.append(self._measure(self._gauge, x, y))
            if on_batch is not None:
                on_batch(first + len(x))
        errors, control_errors, variance, bits, right = (
            np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)
        )
        rows = [0, *(index + 1 for index in self._rows)]
        return Measurement(
            errors=errors[rows],
            control_errors=control_errors,
            # Of several layers with one tensor the first one is compared with the layer before.
            controls=np.array([rows.index(index + 1) for index in self._gauge.controls], dtype=np.int64),
            variance=variance,
            bits=bits[rows],
            right=right[rows] > 0,
            layers=tuple(layer.name for layer in self.layers),
            settings={**dataclasses.asdict(self.config), "seed": self.seed},
        )

    @torch.no_grad()
    def _measure(self, gauge: Gauge, x: Tensor, y: Tensor) -> tuple[np.typing.NDArray[np.float64], ...]:
        """Errors, controls' errors, variance, bits and what the probes tell right (0 or 1), of one batch."""
        _, latents = capture(self.classifier, x, self._measured)
        places = [x, *(latents[layer.name] for layer in self._measured)]
        standardised = gauge.standardise(places)
        decoded = gauge.decode(gauge.decoder_inputs(places, standardised)).view(-1, *x.shape)
        errors = (decoded - x).double().square().sum(dim=(2, 3, 4)).cpu().numpy()
        variance = (x - gauge.mean_image).double().square().sum(dim=(1, 2, 3)).cpu().numpy()
        log2 = gauge.classify(standardised).double().log_softmax(dim=2) / np.log(2)
        bits = log2[:, torch.arange(len(x)), y] + gauge.class_bits[y]
        right = (log2.argmax(dim=2) == y).double()
        count = len(self._measured)
        told = bits.cpu().numpy(), right.cpu().numpy()
        return np.vstack([np.zeros(len(x)), errors[:count]]), errors[count:], variance, *told

    def save(self, path: Path) -> None:
        """Write decoders, probes, layers and settings to one safetensors file, atomically.

        Raises:
            ConfigError: `fit` was not called.
            RunFolderError: The file cannot be written.
        """
        if self._gauge is None:
            raise ConfigError(expected="a trained InformationMeter", got="none", do="call fit(images) first")
        header = {
            "config": dataclasses.asdict(self.config),
            "image_shape": list(self._gauge.mean_image.shape),
            "classes": len(self._gauge.class_bits),
            "seed": self.seed,
        }
        save_fitted(path, self._gauge, self.classifier, self.layers, header)

    @classmethod
    def load(cls, path: Path, classifier: Classifier) -> InformationMeter:
        """Read what `save` wrote, for the same classifier.

        Raises:
            WeightsError: The file is missing, truncated, something else, or of another classifier.
        """

        def build(header: Header, layers: list[Layer]) -> tuple[InformationMeter, Gauge]:
            loaded = cls(classifier, layers, config=InformationConfig(**header["config"]), seed=header["seed"])
            channels, height, width = header["image_shape"]
            gauge = build_gauge(
                loaded._measured, (channels, height, width), header["classes"], loaded.config,
                bounds=classifier.bounds, seed=loaded.seed,
            )  # fmt: skip
            return loaded, gauge

        what = "decoders and probes that InformationMeter.save wrote"
        loaded, gauge = load_fitted(path, classifier, build, what=what, again="fit them again")
        loaded._gauge = gauge
        return loaded
