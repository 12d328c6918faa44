"""What InterpretGAN and the decoders of `interpretgan.information` share: a network fitted to a classifier's layers."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import nn

from interpretgan.classifier import Classifier, require_classifier
from interpretgan.data import ImageSource
from interpretgan.errors import ConfigError, LayerError, WeightsError
from interpretgan.layers import Layer, distinct, find_layers
from interpretgan.store.network_files import Header, read_network, write_network
from interpretgan.torch_state import as_seed, plain_torch

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)


class Fitted(ABC, Generic[Config, Network]):
    """A network for the layers of a classifier, kept in one file with its settings and what it was fitted to.

    Args:
        classifier: The classifier.
        layers: Its layers, each once. `None`: `fit` finds all of them. Those that hold the same tensor are fitted once:
            `distinct_layers` has one for each tensor, and `rows` for each of `layers` its place there.
        config: Settings of the training. `None`: the defaults.
        seed: Of the training.
    """

    config_type: ClassVar[type[Any]]

    def __init__(
        self,
        classifier: Classifier,
        layers: Sequence[Layer] | None = None,
        *,
        config: Config | None = None,
        seed: int = 0,
    ) -> None:
        require_classifier(classifier)
        self.classifier, self.seed = classifier, as_seed(seed)
        self.config: Config = self.config_type() if config is None else config
        self._network: Network | None = None
        self._fitted_to: Header = {}
        self._seen: list[object] = []
        self.layers: tuple[Layer, ...] = ()
        if layers is not None:
            self._set_layers(layers)

    def _set_layers(self, given: object) -> None:
        layers: list[Any] = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
        names = [getattr(layer, "name", layer) for layer in layers]
        if not all(isinstance(layer, Layer) for layer in layers):
            do = "choose them by name from what find_layers(classifier, images) returns"
            raise LayerError(expected="a list of Layer", got=str(names), do=do)
        if not names or len(set(names)) < len(names):
            do = "pass layers that find_layers returns"
            raise LayerError(expected="at least one layer, each once", got=str(names), do=do)
        self.layers = tuple(layers)
        self.distinct_layers, self.rows = distinct(layers)

    def _find_layers(self, images: ImageSource) -> None:
        """Find the layers on the first images, where none were given."""
        if not self.layers:
            self._set_layers(find_layers(self.classifier, images))

    @property
    def network(self) -> Network:
        """The fitted network; a `ConfigError` where `fit` was not called."""
        if self._network is None:
            raise ConfigError(expected=f"a fitted {type(self).__name__}", got="none", do="call fit(images) first")
        return self._network

    def _fitted(self, network: Network) -> None:
        """Take a network that was fitted to the classifier as it is now."""
        self._network = network.eval().requires_grad_(False)
        self._fitted_to, self._seen = _identity(self.classifier), _versions(self.classifier)

    def _require_its_classifier(self) -> None:
        """Refuse (`ConfigError`) a classifier whose weights changed since: its latents are no longer those."""
        now = _versions(self.classifier)
        if self._seen in ([], now):
            return
        if self._fitted_to != _identity(self.classifier):
            expected = f"the classifier that this {type(self).__name__} was fitted to"
            raise ConfigError(
                expected=expected, got="the same with other weights or normalisation", do="call fit(images) again"
            )
        self._seen = now

    def save(self, path: Path) -> None:
        """Write the network, its layers and settings to one safetensors file, atomically."""
        header = {
            "config": dataclasses.asdict(self.config),  # type: ignore[call-overload]  # every config is a dataclass
            "seed": self.seed,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }
        network = self.network
        write_network(path, network, {**header, "fitted_to": self._fitted_to, **self._header(network)})

    @classmethod
    @plain_torch()
    def load(cls, path: Path, classifier: Classifier) -> Self:
        """Read what `save` wrote, for the same classifier; any other file is a `WeightsError`."""
        what = f"a file that {cls.__name__}.save wrote"
        with read_network(path, what=what) as (header, state):
            layers = [Layer(**layer) for layer in header["layers"]]
            loaded = cls(classifier, layers, config=cls.config_type(**header["config"]), seed=header["seed"])
            network = loaded._build(header)
            if state.keys() != network.state_dict().keys():
                got = "weights of a network that is built differently, as by another version"
                raise WeightsError(expected=f"{what} in {path}", got=got, do="delete it and fit it again")
            network.load_state_dict(state)
            fitted_to = header["fitted_to"]
        if fitted_to != _identity(classifier):
            got = "another one, or the same with other weights, bounds or normalisation"
            do = "load the weights that it was fitted to, or fit it again"
            raise WeightsError(expected=f"the classifier that {path} was fitted to", got=got, do=do)
        loaded._fitted(network.to(classifier.device))
        return loaded

    @abstractmethod
    def _header(self, network: Network) -> Header:
        """Plain values that `_build` needs beside config, seed and layers."""

    @abstractmethod
    def _build(self, header: Header) -> Network:
        """The network without its weights."""


def _versions(classifier: Classifier) -> list[object]:
    """What changes, at no cost, where a weight or what it takes for a pixel may have changed.

    Writes to `.data` are not seen, as torch does not count them. Buffers of whole numbers may count passes.
    """
    tensors = (*classifier.model.parameters(), *classifier.model.buffers())
    weights = [(tensor.data_ptr(), tensor._version) for tensor in tensors if tensor.is_floating_point()]
    return [classifier.bounds, classifier.mean, classifier.std, *weights]


def _identity(classifier: Classifier) -> Header:
    """Which classifier it is, and what it takes for a pixel, as JSON has it."""
    pixels = {"bounds": classifier.bounds, "mean": classifier.mean, "std": classifier.std}
    plain_pixels = {name: None if value is None else list(value) for name, value in pixels.items()}
    return {"sha256": classifier.state_sha256(), **plain_pixels}
