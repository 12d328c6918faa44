"""InterpretGAN: the features that a classifier uses, layer by layer, as images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from interpretgan.classifier import Classifier
from interpretgan.data import ImageSource, as_source
from interpretgan.errors import ConfigError, ImageError, LabelError, LayerError
from interpretgan.gan.generator import Generator
from interpretgan.gan.train import GANConfig, OnStep, train_generator
from interpretgan.judge import Judge, require_same_pixels
from interpretgan.layers import Layer, capture, distinct
from interpretgan.store.network_files import Header, load_fitted, save_fitted


class Predictor(Protocol):
    """Whatever reads the class that an image shows: a judge."""

    def read(self, images: Tensor) -> Tensor:
        """Classes `[N]`, int64, of images `[N, C, H, W]`."""


@dataclass(frozen=True)
class Explanation:
    """What every layer holds of some images, and of their adversarial counterparts.

    `L` layers, `N` images. Natural and adversarial explanations of an image are drawn with the same noise, so they
    differ only by what the perturbation did to the latent.

    Attributes:
        layers: Names of the layers, in execution order.
        images: `[N, C, H, W]`, within `bounds`.
        adversarial: `[N, C, H, W]`, or `None`.
        natural_explanations: `x̂_l` `[L, N, C, H, W]`.
        adversarial_explanations: `x̂'_l` `[L, N, C, H, W]`, or `None`.
        bounds: Range of the pixels.
        labels: True classes `[N]`, or `None`.
        natural_predictions: What the judge reads, int64 `[L + 1, N]`; row 0 is the image itself. `None` without a
            judge.
        adversarial_predictions: The same for the adversarial images.
    """

    layers: tuple[str, ...]
    images: Tensor
    adversarial: Tensor | None
    natural_explanations: Tensor
    adversarial_explanations: Tensor | None
    bounds: tuple[float, float]
    labels: Tensor | None = None
    natural_predictions: Tensor | None = None
    adversarial_predictions: Tensor | None = None

    @property
    def difference(self) -> Tensor:
        """Which features the perturbation modified: `x̂'_l - x̂_l`, `[L, N, C, H, W]`.

        Raises:
            ConfigError: There are no adversarial images.
        """
        if self.adversarial_explanations is None:
            raise ConfigError(
                expected="adversarial images", got="none", do="call explain(images, adversarial) with both"
            )
        return self.adversarial_explanations - self.natural_explanations

    @property
    def turns(self) -> tuple[str | None, ...]:
        """For each image, the first layer from which on the judge never again reads the true class.

        `None` where it reads the true class at the last layer, `"image"` where it misreads the adversarial image and
        every explanation of it.

        Raises:
            ConfigError: Labels, judge or adversarial images are missing.
        """
        if self.labels is None or self.adversarial_predictions is None:
            raise ConfigError(
                expected="labels, a judge and adversarial images",
                got="an explanation without one of them",
                do="call explain(images, adversarial, labels=..., judge=...)",
            )
        wrong = self.adversarial_predictions.cpu() != self.labels.cpu()
        names = ("image", *self.layers)
        # Row l is true where every row from l to the end is wrong.
        stays_wrong = wrong.flip(0).int().cumprod(dim=0).flip(0)
        first = len(names) - stays_wrong.sum(dim=0)
        return tuple(names[int(row)] if row < len(names) else None for row in first)


class InterpretGAN:
    """One generator for all layers of a classifier.

        interpreter = InterpretGAN(classifier, find_layers(classifier, images)).fit(images)
        explanation = interpreter.explain(images, adversarial)

    Layers that hold the same tensor (`Layer.same_as`) share one explanation.

    Args:
        classifier: The classifier to explain.
        layers: Its layers, as `find_layers` gives them.
        config: Settings of the training.
        seed: Of the training, and of the noise where `explain` is given no other.

    Raises:
        LayerError: No layers, or one named twice.
    """

    def __init__(
        self, classifier: Classifier, layers: Sequence[Layer], *, config: GANConfig | None = None, seed: int = 0
    ) -> None:
        names = [layer.name for layer in layers]
        if not names or len(set(names)) < len(names):
            raise LayerError(
                expected="at least one layer, each once", got=str(names), do="pass the list that find_layers returns"
            )
        self.classifier, self.layers, self.seed = classifier, tuple(layers), seed
        self.config = GANConfig() if config is None else config
        self.drawn, self._rows = distinct(layers)
        """The layers that are drawn, the others repeating one of them; and the row of each layer among these."""
        self._generator: Generator | None = None
        self.recognition_network_sha256: str | None = None
        """Of the recognition network that it was fitted with, if that was another one than the classifier."""

    @property
    def generator(self) -> Generator:
        """The trained generator.

        Raises:
            ConfigError: It is not trained yet.
        """
        if self._generator is None:
            raise ConfigError(expected="a trained InterpretGAN", got="no generator", do="call fit(images) first")
        return self._generator

    def fit(
        self,
        images: Tensor | ImageSource,
        *,
        recognition_network: Classifier | None = None,
        checkpoint: Path | None = None,
        on_step: OnStep | None = None,
        devices: int = 1,
    ) -> Self:
        """Train on natural images.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds, or a source that is read a batch at a time
                (an `ImageSet` is brought to the bounds).
            recognition_network: A robust classifier of the same classes, trained apart from the judge, that reads the
                explanations in place of the explained one (`train_generator`). On natural photographs the explained
                one is satisfied with textures that only it can read.
            checkpoint: See `interpretgan.gan.train.train_generator`.
            on_step: Likewise.
            devices: How many devices share the training, likewise.

        Returns:
            This object.

        Raises:
            ConfigError: A recognition network of other classes or bounds, or devices that cannot share the training.
            ImageError: Images that the classifier refuses.
            TrainingError: A loss is not finite, or the process of another device died.
        """
        if isinstance(images, Tensor):
            images = self.classifier.check_images(images)
        self._generator = train_generator(
            self.classifier, self.drawn, as_source(images, None, self.classifier.bounds), self.config, seed=self.seed,
            recognition_network=recognition_network, checkpoint=checkpoint, on_step=on_step, devices=devices,
        )  # fmt: skip
        self.recognition_network_sha256 = None if recognition_network is None else recognition_network.state_sha256()
        return self

    def noise(self, count: int, *, generator: torch.Generator) -> Tensor:
        """Noise `n ~ N(0, I)` for `count` images, `[count, noise]`."""
        return torch.randn(count, self.config.noise, generator=generator).to(self.classifier.device)

    def draw(self, images: Tensor, noise: Tensor) -> Tensor:
        """Explanations of one batch at every layer: `x̂_l = G_l(f_{<=l}(x), n)`.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds.
            noise: `[N, noise]`; an image's noise is the same at every layer.

        Returns:
            `[L, N, C, H, W]` within the bounds, in the order of the layers, in full precision and without gradient.
        """
        generator = self.generator
        _, latents = capture(self.classifier, images, self.drawn)
        with torch.no_grad():
            drawn = generator([latents[layer.name] for layer in self.drawn], noise.repeat(len(self.drawn), 1))
        explanations: Tensor = drawn.view(len(self.drawn), *images.shape)[self._rows]
        return explanations

    def explain(
        self,
        images: Tensor,
        adversarial: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        judge: Predictor | None = None,
        seed: int | None = None,
    ) -> Explanation:
        """Explain images, and with the same noise their adversarial counterparts.

        Args:
            images: `[N, C, H, W]` within the classifier's bounds.
            adversarial: Likewise, `x'` of each image.
            labels: True classes `[N]`, for `Explanation.turns`.
            judge: Reads the class that each explanation shows.
            seed: Of the noise. `None`: the seed of this object.

        Raises:
            ConfigError: `fit` was not called, or a judge of other bounds.
            ImageError: Images that the classifier refuses, or that do not pair up.
            LabelError: Not one label for each image.
        """
        images = self.classifier.check_images(images)
        if adversarial is not None:
            adversarial = self.classifier.check_images(adversarial)
            if adversarial.shape != images.shape:
                raise ImageError(
                    expected=f"one adversarial image per image, {tuple(images.shape)}",
                    got=str(tuple(adversarial.shape)),
                    do="pass x' in the order of x",
                )
        if labels is not None and tuple(labels.shape) != (len(images),):
            raise LabelError(expected=f"labels [{len(images)}]", got=str(tuple(labels.shape)), do="pass one per image")
        if isinstance(judge, Judge):
            require_same_pixels(judge, self.classifier)
        noise = self.noise(len(images), generator=torch.Generator().manual_seed(self.seed if seed is None else seed))
        natural = self.draw(images, noise)
        perturbed = None if adversarial is None else self.draw(adversarial, noise)
        return Explanation(
            layers=tuple(layer.name for layer in self.layers),
            images=images,
            adversarial=adversarial,
            natural_explanations=natural,
            adversarial_explanations=perturbed,
            bounds=self.classifier.bounds,
            labels=labels,
            natural_predictions=None if judge is None else predict_all(judge, images, natural),
            adversarial_predictions=(
                None if judge is None or adversarial is None or perturbed is None
                else predict_all(judge, adversarial, perturbed)
            ),
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write the trained generator, its layers and settings to one safetensors file, atomically.

        Raises:
            ConfigError: `fit` was not called.
            RunFolderError: The file cannot be written.
        """
        header = {
            "config": dataclasses.asdict(self.config),
            "image_shape": self.generator.image_shape,
            "seed": self.seed,
            "recognition_network_sha256": self.recognition_network_sha256,
        }
        save_fitted(path, self.generator, self.classifier, self.layers, header)

    @classmethod
    def load(cls, path: Path, classifier: Classifier) -> InterpretGAN:
        """Read what `save` wrote, for the same classifier.

        Raises:
            WeightsError: The file is missing, truncated, something else, or of another classifier.
        """

        def build(header: Header, layers: list[Layer]) -> tuple[InterpretGAN, Generator]:
            loaded = cls(classifier, layers, config=GANConfig(**header["config"]), seed=header["seed"])
            loaded.recognition_network_sha256 = header.get("recognition_network_sha256")
            return loaded, loaded._build(tuple(header["image_shape"]))

        loaded, generator = load_fitted(
            path, classifier, build, what="a generator that InterpretGAN.save wrote", again="fit it again"
        )
        loaded._generator = generator
        return loaded

    def _build(self, image_shape: tuple[int, int, int]) -> Generator:
        config, bounds = self.config, self.classifier.bounds
        return Generator(
            self.drawn, image_shape, bounds=bounds, width=config.width, blocks=config.blocks, noise=config.noise
        )


def predict_all(judge: Predictor, images: Tensor, explanations: Tensor) -> Tensor:
    """What a judge reads in images `[N, ...]` and explanations `[L, N, ...]`: int64 `[L + 1, N]`, images first."""
    return torch.stack([judge.read(batch) for batch in (images, *explanations)])
