"""A network in one safetensors file: its weights, and a header with what is needed to build it again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from interpretgan.errors import WeightsError
from interpretgan.store.files import atomic_write_bytes

Header = dict[str, Any]


def write_network(path: Path, network: nn.Module, header: Mapping[str, Any]) -> None:
    """Write a network, atomically.

    Args:
        path: The file.
        network: Its state is written.
        header: Plain values.

    Raises:
        RunFolderError: The file cannot be written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    atomic_write_bytes(path, save_tensors(tensors, {"interpretgan": json.dumps(header)}))


def read_network(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """The header and the state that `write_network` wrote; to be called inside `reading_network`."""
    with safe_open(path, framework="pt") as file:
        header: Header = json.loads(file.metadata()["interpretgan"])
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a mapping


@contextmanager
def reading_network(path: Path, *, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in the block, which reads a network and builds it, into one clear error.

    Args:
        path: The file.
        what: What should be in it.

    Raises:
        WeightsError: The file is missing, truncated or something else.
    """
    try:
        yield
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            expected=f"{what} in {path}",
            got=" ".join(str(error).split())[:200] or type(error).__name__,
            do="fit it again, or check the path",
        ) from error
