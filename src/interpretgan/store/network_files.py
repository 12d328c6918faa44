"""A network in one safetensors file: its weights, and a header with what is needed to build it again."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from interpretgan.errors import WeightsError, in_a_line
from interpretgan.store.files import atomic_write_bytes

Header = dict[str, Any]


def write_network(path: Path, network: nn.Module, header: Mapping[str, Any]) -> None:
    """Write the state of a network and a header of plain values, atomically."""
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    atomic_write_bytes(path, save_tensors(tensors, {"interpretgan": json.dumps(header)}))


@contextmanager
def read_network(path: Path, *, what: str) -> Iterator[tuple[Header, dict[str, Tensor]]]:
    """The header and the state that `write_network` wrote, for a block that builds the network.

    Where the file is missing, truncated or something else than `what`, or the block fails, there is a `WeightsError`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["interpretgan"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not a mapping
        yield header, state
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        do = "fit it again, or check the path"
        raise WeightsError(expected=f"{what} in {path}", got=in_a_line(error), do=do) from error
