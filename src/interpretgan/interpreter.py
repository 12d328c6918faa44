"""InterpretGAN: the features that a classifier uses, layer by layer, as images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data import ImageData, as_source, class_name
from interpretgan.data.pictures import Example, Picture, difference_picture, picture, sheet
from interpretgan.errors import ConfigError, ImageError, kind_of
from interpretgan.gan.fitted_network import Fitted
from interpretgan.gan.generator import Generator
from interpretgan.gan.linear_start import LinearStart
from interpretgan.gan.train import GANConfig, new_generator, train_generator
from interpretgan.judge import Judge, require_same_pixels
from interpretgan.layers import Layer, capture
from interpretgan.statistics import Integers
from interpretgan.store.network_files import Header
from interpretgan.store.progress import OnProgress, reporting
from interpretgan.torch_state import as_seed, plain_torch
from interpretgan.training.precision import Precision, autocast
from interpretgan.training.steps import told

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Predictor(Protocol):
    """Whatever predicts the class that an image shows: a judge."""

    def predict(self, images: Tensor) -> Tensor:
        """Classes `[N]`, int64, of images `[N, C, H, W]`."""


@dataclass(frozen=True)
class Explanation:
    """What each of `L` layers holds of `N` images, and of their adversarial counterparts.

    Natural and adversarial explanations of an image are drawn with the same noise, so they differ only by what the
    perturbation did to the latent. What was not asked for is `None`.
    """

    layers: tuple[str, ...]  #: Names of the layers, in execution order.
    images: Tensor  #: `[N, C, H, W]`, within `bounds`.
    adversarial: Tensor | None  #: `[N, C, H, W]`.
    natural_explanations: Tensor  #: `x̂_l` `[L, N, C, H, W]`.
    adversarial_explanations: Tensor | None  #: `x̂'_l` `[L, N, C, H, W]`.
    bounds: tuple[float, float]  #: Range of the pixels.
    labels: Tensor | None = None  #: True classes `[N]`.
    natural_predictions: Tensor | None = None  #: Of the judge, int64 `[L + 1, N]`; row 0 is the image itself.
    adversarial_predictions: Tensor | None = None  #: The same for the adversarial images.
    indices: Tensor | None = None  #: Which test images these are, int64 `[N]`.

    def __repr__(self) -> str:
        count, height, width = len(self.images), *self.images.shape[2:]
        parts = [f"{count} images of {height}x{width}", f"{len(self.layers)} layers"]
        parts += [f"{self.layers[0]} to {self.layers[-1]}"] if self.layers else []
        parts += ["natural and adversarial" if self.adversarial is not None else "natural"]
        parts += ["with the judge's predictions"] if self.natural_predictions is not None else []
        return f"Explanation({', '.join(parts)})"

    @property
    def difference(self) -> Tensor:
        """Which features the perturbation modified: `x̂'_l - x̂_l`, `[L, N, C, H, W]`; a `ConfigError` without any."""
        if self.adversarial is None or self.adversarial_explanations is None:
            do = "call explain(images, adversarial) with both"
            raise ConfigError(expected="adversarial images", got="none", do=do)
        return self.adversarial_explanations - self.natural_explanations

    @property
    def turns(self) -> tuple[str | None, ...]:
        """For each image the name of the layer at which its class turns under attack, `"image"` for the image itself.

        Only rows whose natural explanation is predicted right count: where it is not, the generator draws badly, and a
        wrong class says nothing about the attack. The turn is the first of these rows from which on none of them has
        an adversarial explanation that is predicted right. `None`: the last of them has one, or no row counts.

        Without labels, judge and adversarial images there is a `ConfigError`.
        """
        if self.labels is None or self.natural_predictions is None or self.adversarial_predictions is None:
            do = "call explain(images, adversarial, labels=..., judge=...)"
            raise ConfigError(expected="labels, a judge and adversarial images", got="not all of them", do=do)
        arrays = (self.labels, self.natural_predictions, self.adversarial_predictions)
        names, rows = ("image", *self.layers), turn_rows(*(array.cpu().numpy() for array in arrays))
        return tuple(None if row < 0 else names[row] for row in rows)

    def to_frame(self) -> pd.DataFrame:
        """A row for each image and layer, the image itself first, with what is known of it.

        `difference` is the root mean square of what the perturbation changed there, in units of the pixels; `natural`
        and `adversarial` are the judge's predictions, and `turn` says whether the class turns there.
        """
        import pandas as pd

        names, count = ("image", *self.layers), len(self.images)
        table: dict[str, Any] = {
            "image": [image for image in range(count) for _ in names], "layer": list(names) * count
        }  # fmt: skip
        if self.labels is not None:
            table["label"] = self.labels.cpu().repeat_interleave(len(names)).numpy()
        for kind in ("natural", "adversarial"):
            predictions: Tensor | None = getattr(self, f"{kind}_predictions")
            if predictions is not None:
                table[kind] = predictions.cpu().T.flatten().numpy()
        if self.adversarial is not None:
            changes = torch.cat([(self.adversarial - self.images)[None], self.difference])
            table["difference"] = changes.square().mean(dim=(2, 3, 4)).sqrt().cpu().T.flatten().numpy()
        if {"label", "natural", "adversarial"} <= table.keys():
            table["turn"] = [turn == name for turn in self.turns for name in names]
        return pd.DataFrame(table)

    def pictures(
        self, classes: Sequence[str] = (), examples: int | None = None
    ) -> tuple[list[Example], tuple[float, float]]:
        """The pictures of the first examples (`None`: of all), with the judge's predictions where there are some.

        Each has a row `natural` and, where there are adversarial images, rows `adversarial` and `difference`; without
        names of the classes their numbers stand. Beside the examples come the differences that are drawn in full
        colour: of the images and of their explanations, 0 where there are none.
        """
        columns, count = ("image", *self.layers), len(self.images)
        sources = {"natural": (self.images, self.natural_explanations, self.natural_predictions)}
        if self.adversarial is not None and self.adversarial_explanations is not None:
            sources["adversarial"] = (self.adversarial, self.adversarial_explanations, self.adversarial_predictions)
        stacks, predictions, scales = {}, {}, (0.0, 0.0)
        for kind, (images, drawn, predicted) in sources.items():
            stacks[kind] = torch.cat([images[None], drawn])[:, :examples].detach().double().cpu().numpy()
            predictions[kind] = [[None] * count] * len(columns) if predicted is None else predicted.tolist()
        if "adversarial" in stacks:
            difference = stacks["adversarial"] - stacks["natural"]
            largest = np.abs(np.nan_to_num(difference).mean(axis=2)).max(axis=(1, 2, 3))
            scales = (float(largest[0]), float(largest[1:].max()))
        labels = [None] * count if self.labels is None else self.labels.tolist()
        known = (self.labels, self.natural_predictions, self.adversarial_predictions)
        turns = [None] * count if any(each is None for each in known) else self.turns
        numbers = [None] * count if self.indices is None else self.indices.tolist()

        def name(number: int | None) -> str | None:
            return None if number is None else class_name(number, classes)

        shown = []
        for example, (label, turn) in enumerate(zip(labels[:examples], turns[:examples], strict=True)):
            rows = {
                kind: [
                    Picture(layer, picture(image[example], self.bounds), name(predicted[example]),
                            None not in (label, predicted[example]) and predicted[example] != label)
                    for layer, image, predicted in zip(columns, stack, predictions[kind], strict=True)
                ]
                for kind, stack in stacks.items()
            }  # fmt: skip
            if "adversarial" in stacks:
                rows["difference"] = [
                    Picture(layer, difference_picture(of_layer[example], scales[min(column, 1)]))
                    for column, (layer, of_layer) in enumerate(zip(columns, difference, strict=True))
                ]
            into = None if turn is None else rows["adversarial"][columns.index(turn)].prediction
            shown.append(Example(name(label), turn, into, rows, numbers[example]))
        return shown, scales

    def plot(self, classes: Sequence[str] = ()) -> Figure:
        """The `pictures` of all images as a figure of matplotlib, see `interpretgan.data.pictures.sheet`."""
        return sheet(self.pictures(classes)[0])


class InterpretGAN(Fitted[GANConfig, Generator]):
    """One generator for all layers of a classifier; those that hold the same tensor share one explanation.

        interpreter = InterpretGAN(classifier).fit(images)
        explanation = interpreter.explain(images, adversarial)

    The seed is that of the training, and of the noise of explanations. For the other arguments, see `Fitted`.
    """

    config_type = GANConfig
    recognition_network_sha256: str | None = None  #: Of the one that it was fitted with, if not the classifier.

    @plain_torch()
    def fit(
        self,
        images: ImageData,
        *,
        recognition_network: Classifier | None = None,
        left_open: Mapping[str, float] | None = None,
        checkpoint: str | Path | None = None,
        on_progress: OnProgress | bool = True,
        devices: int = 1,
    ) -> Self:
        """Train on natural images.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds, or other `ImageData`, read a batch at a time. Layers
                are found on the first of them, where none were given.
            recognition_network: A robust classifier of the same classes, trained apart from the judge, that recognises
                the explanations in place of the explained one. On natural photographs that one is satisfied with
                textures that only it recognises.
            left_open: `Measurement.left_open` of the same layers, which explanations are then held to vary by; with a
                `diversity` in the config.
            checkpoint: File for the state. Where it exists the training goes on from there.
            on_progress: Told how far it is; see `interpretgan.store.progress.OnProgress`.
            devices: How many devices share the training: the classifier's and the GPUs that follow it.

        Raises:
            ConfigError: A recognition network of other classes or bounds, something left open of other layers or
                without diversity, or devices that cannot share the training.
            ImageError, ModelError: Images that the classifier refuses, or no gradient through it.
            TrainingError, RunFolderError: A loss that is not finite, a lost process, or the checkpoint's file.
        """
        if isinstance(images, Tensor):
            images = self.classifier.check_images(images)
        source = as_source(images, None, self.classifier.bounds)
        self._find_layers(source)
        config = self.config.resolved(recognition_network is not None, source.batch(torch.tensor([0]))[0].shape[1])
        assert config.steps is not None
        known = None if left_open is None else self._checked(left_open)
        with reporting(on_progress) as report:
            network = train_generator(
                self.classifier, self.distinct_layers, source, config, seed=self.seed,
                recognition_network=recognition_network, left_open=known,
                checkpoint=None if checkpoint is None else Path(checkpoint), devices=devices,
                on_step=told(report, "generator", config.steps),
            )  # fmt: skip
        self._fitted(network)
        self.recognition_network_sha256 = None if recognition_network is None else recognition_network.state_sha256()
        return self

    def _checked(self, left_open: Mapping[str, float]) -> list[float]:
        """What each of the distinct layers leaves open."""
        names, do = [layer.name for layer in self.distinct_layers], "pass decoders.measure(images).left_open"
        if not self.config.diversity:
            expected = "something left open with a diversity above 0"
            raise ConfigError(expected=expected, got="diversity 0", do="set it in GANConfig, or leave left_open out")
        if missing := [name for name in names if name not in left_open]:
            raise ConfigError(expected=f"what {', '.join(names)} leave open", got=f"none of {missing[0]}", do=do)
        known = [float(left_open[name]) for name in names]
        for name, value in zip(names, known, strict=True):
            if not 0 <= value < math.inf:
                raise ConfigError(expected="mean squared errors >= 0", got=f"{value} at {name}", do=do)
        return known

    @property
    def resolved_config(self) -> GANConfig:
        """The settings that it was fitted with, see `GANConfig.resolved`."""
        config = self.config.resolved(self.recognition_network_sha256 is not None, self.network.image_shape[0])
        return replace(config, image_noise=self.network.image_noise)

    @property
    def natural_start(self) -> LinearStart | None:
        """The start of its training, where it has one that was fitted to latents of natural images alone."""
        return None if self.network.image_noise else self.network.start

    def noise(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Noise `n ~ N(0, I)` for `count` images, `[count, noise]`."""
        drawn = torch.randn(count, self.config.noise, generator=generator, dtype=torch.float32, device="cpu")
        return drawn.to(self.classifier.device)

    def noise_of(self, indices: Sequence[int] | Tensor, *, seed: int | None = None) -> Tensor:
        """Noise of the images with these numbers in their set, `[N, noise]`; of a number it is always the same.

        With the default size of the noise it is that of a diagnosis. `seed=None`: the seed of this object.
        """
        rows = torch.as_tensor(indices, dtype=torch.int64).cpu()
        generator = torch.Generator().manual_seed(self.seed if seed is None else as_seed(seed))
        # Torch draws 16 numbers at a time: a multiple of it begins as every longer one does.
        return self.noise((int(rows.max()) // 16 + 1) * 16, generator=generator)[rows]

    def draw(self, images: Tensor, noise: Tensor, *, precision: Precision = "fp32") -> Tensor:
        """Explanations `[L, N, C, H, W]` of images `[N, C, H, W]`: `x̂_l = G_l(f_{<=l}(x), n)`, without gradient.

        Both are within the classifier's bounds. The noise of an image, `[N, noise]`, is the same at every layer. The
        latents are in full precision, and the generator computes in `precision`. A `ConfigError` where the classifier's
        weights changed since `fit`.
        """
        layers, generator = self.distinct_layers, self.network
        self._require_its_classifier()
        _, latents = capture(self.classifier, images, layers)
        with torch.no_grad(), autocast(images.device, precision):
            drawn = generator([latents[layer.name] for layer in layers], noise.repeat(len(layers), 1))
        explanations: Tensor = drawn.view(len(layers), *images.shape)[self.rows]
        return explanations

    def draw_from(self, layer: Layer, latent: Tensor, noise: Tensor, *, precision: Precision = "fp32") -> Tensor:
        """Explanations `[N, C, H, W]` of latents `[N, *shape]` of a distinct layer, whatever made them, no gradient.

        The noise of an image is `[N, noise]`, and the generator computes in `precision`.
        """
        latents = [latent if each == layer else None for each in self.distinct_layers]
        with torch.no_grad(), autocast(latent.device, precision):
            explanations: Tensor = self.network(latents, noise)
        return explanations

    @plain_torch()
    def explain(
        self,
        images: Tensor,
        adversarial: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        judge: Predictor | None = None,
        indices: Sequence[int] | Tensor | None = None,
        seed: int | None = None,
    ) -> Explanation:
        """Explain images, and with the same noise their adversarial counterparts.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds.
            adversarial: Likewise, `x'` of each image.
            labels: True classes `[N]`, for `Explanation.turns`.
            judge: Predicts the class that each explanation shows.
            indices: The numbers of the images in their set, `[N]`: they set the noise, so that an image looks the same
                whatever else is explained. `None`: 0 to N - 1.
            seed: Of the noise. `None`: the seed of this object.

        Raises:
            ConfigError: `fit` was not called, or the weights changed since, or a judge of other bounds.
            ImageError, LabelError: Images or labels that the classifier refuses, or not one adversarial image for each.
        """
        images, wanted = self.classifier.check_images(images), self.network.image_shape
        if tuple(images.shape[1:]) != wanted:
            expected, got = f"images {list(wanted)}, as it was fitted on", str(list(images.shape[1:]))
            raise ImageError(expected=expected, got=got, do="bring them to that size, or fit again")
        if adversarial is not None:
            adversarial = self.classifier.check_images(adversarial)
            if adversarial.shape != images.shape:
                expected, got = f"one adversarial image per image, {tuple(images.shape)}", str(tuple(adversarial.shape))
                raise ImageError(expected=expected, got=got, do="pass x' in the order of x")
        labels = None if labels is None else self.classifier.check_labels(labels, images)
        numbers = None if indices is None else torch.as_tensor(indices, dtype=torch.int64).cpu()
        if numbers is not None and (numbers.shape != (len(images),) or bool((numbers < 0).any())):
            expected = f"{len(images)} numbers of images, from 0"
            raise ConfigError(expected=expected, got=str(numbers.tolist()), do="pass one per image")
        if isinstance(judge, Judge):
            require_same_pixels(judge, self.classifier)
        elif judge is not None and not hasattr(judge, "predict"):
            do = "make one with train_judge"
            raise ConfigError(expected="a Judge, or what has its predict", got=kind_of(judge), do=do)
        noise = self.noise_of(torch.arange(len(images)) if numbers is None else numbers, seed=seed)
        natural, perturbed = self.draw(images, noise), None if adversarial is None else self.draw(adversarial, noise)
        predicted = None if judge is None else predict_all(judge, images, natural)
        attacked = None
        if judge is not None and adversarial is not None and perturbed is not None:
            attacked = predict_all(judge, adversarial, perturbed)
        names, bounds = tuple(layer.name for layer in self.layers), self.classifier.bounds
        judged = (predicted, attacked)
        return Explanation(names, images, adversarial, natural, perturbed, bounds, labels, *judged, indices=numbers)

    def _header(self, network: Generator) -> Header:
        return {
            "config": asdict(self.resolved_config),
            "image_shape": network.image_shape,
            "smooth": network.smooth,
            "recognition_network_sha256": self.recognition_network_sha256,
        }

    def _build(self, header: Header) -> Generator:
        self.recognition_network_sha256 = header["recognition_network_sha256"]
        layers, shape, bounds = self.distinct_layers, tuple(header["image_shape"]), self.classifier.bounds
        generator = new_generator(self.config, layers, shape, bounds, smooth=header["smooth"])
        generator.image_noise = self.config.image_noise or 0.0
        return generator


def turn_rows(labels: Integers, natural: Integers, adversarial: Integers) -> Integers:
    """The row at which each of `N` images turns, see `Explanation.turns`, 0 for the image itself; -1 for none: `[N]`.

    `labels` are `[N]`, the judge's predictions `natural` and `adversarial` `[L + 1, N]`.
    """
    counts, right = natural == labels, adversarial == labels
    # How many rows from here to the end count and are right.
    right_from_here = (counts & right)[::-1].cumsum(axis=0)[::-1]
    turned = counts & (right_from_here == 0)
    rows: Integers = np.where(turned.any(axis=0), turned.argmax(axis=0), -1)
    return rows


def predict_all(judge: Predictor, images: Tensor, explanations: Tensor) -> Tensor:
    """Classes that a judge predicts of images `[N, ...]` and explanations `[L, N, ...]`: int64 `[L + 1, N]`."""
    return torch.stack([judge.predict(batch) for batch in (images, *explanations)])
