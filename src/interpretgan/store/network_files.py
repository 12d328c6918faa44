"""What was fitted to a classifier, in one file: its weights, its settings, and which classifier that was."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import nn

from interpretgan.classifier import Classifier
from interpretgan.errors import WeightsError
from interpretgan.layers import Layer
from interpretgan.store.files import atomic_write_bytes

Header = dict[str, Any]
Owner = TypeVar("Owner")
Network = TypeVar("Network", bound=nn.Module)


def save_fitted(
    path: Path, network: nn.Module, classifier: Classifier, layers: Sequence[Layer], header: Mapping[str, Any]
) -> None:
    """Write a network to a safetensors file, atomically.

    Args:
        path: The file.
        network: What was fitted.
        classifier: To which classifier; its hash is kept.
        layers: At which layers.
        header: What else is needed to build the network again; plain values.

    Raises:
        RunFolderError: The file cannot be written.
    """
    whole = {
        **header,
        "layers": [dataclasses.asdict(layer) for layer in layers],
        "classifier_sha256": classifier.state_sha256(),
        "pixels": _pixels(classifier),
    }
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    atomic_write_bytes(path, save_tensors(tensors, {"interpretgan": json.dumps(whole)}))


def load_fitted(
    path: Path,
    classifier: Classifier,
    build: Callable[[Header, list[Layer]], tuple[Owner, Network]],
    *,
    what: str,
    again: str,
) -> tuple[Owner, Network]:
    """Read what `save_fitted` wrote, for the same classifier.

    Args:
        path: The file.
        classifier: The classifier.
        build: From the header and the layers to the network, not yet with its weights, and what is to own it.
        what: What such a file is and who wrote it, for the error.
        again: The remedy, likewise.

    Returns:
        The owner, and the network on the classifier's device, in eval mode with frozen parameters.

    Raises:
        WeightsError: The file is missing, truncated, something else, or of another classifier.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["interpretgan"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        layers = [Layer(**{**layer, "shape": tuple(layer["shape"])}) for layer in header["layers"]]
        owner, network = build(header, layers)
        network.load_state_dict(tensors)
        fitted_to = header["classifier_sha256"], header["pixels"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            expected=f"{what} in {path}",
            got=" ".join(str(error).split())[:200] or type(error).__name__,
            do=f"{again}, or check the path",
        ) from error
    if fitted_to != (classifier.state_sha256(), _pixels(classifier)):
        raise WeightsError(
            expected=f"the classifier that {path} was fitted to",
            got="another one, or the same with other weights, bounds or normalisation",
            do=f"load the weights that it was fitted to, or {again}",
        )
    return owner, network.to(classifier.device).eval().requires_grad_(False)


def _pixels(classifier: Classifier) -> Header:
    """What the classifier takes for a pixel, as JSON has it."""
    values = {"bounds": classifier.bounds, "mean": classifier.mean, "std": classifier.std}
    return {name: None if value is None else list(value) for name, value in values.items()}
